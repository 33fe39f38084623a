"""`cibench run`: the selected cells, a table on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._options import computation, execution, selection, typed_names


@click.command("run", short_help="Run defenses against attacks and print a table.")
@selection
@computation
@execution
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the records; in one that has some, only what is missing is run."
    "  [default: runs/<time>]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with an interrupted run: its own selection, what is missing.",
)
@click.option(
    "--rerun",
    multiple=True,
    metavar="WHAT",
    help="Compute again: failed, timeout, killed, out-of-memory, all, or the cells of a"
    " plugin by name; repeatable.",
)
@click.option(
    "--witnesses",
    is_flag=True,
    help="Keep what each attack sent, so that anyone can score it again (see submit).",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor keep artifacts.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option(
    "--json-log",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write every event as a line of JSON; - for standard error.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Report phases, plainly.")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> int:
    """Run every selected defense against every selected attack.

    Each row comes with its references from the same run: the undefended fusion center
    under its own attack, and the genie that is told which agents are corrupted.

    \b
    cibench run --defense copur --attack pgd
    cibench run -d none -d copur -a flip:agents=8-10,amplification=10 \\
        --dataset extrasensory --data-dir DIR --seeds 5
    cibench run -d all -a all -P copur.tau=500,1000 --exclude vflip/replay -j 8
    cibench run --suite copur-table1 --data-dir DIR
    """  # noqa: D301
    typed = typed_names(ctx)
    if params["resume"] is not None:
        from ._manifest import resumed

        params, typed = resumed(ctx, params, typed)
    from ._chosen import wanted
    from ._run_cells import run_wanted

    stored = params.pop("study", None)
    return run_wanted(wanted(params, typed, stored))
