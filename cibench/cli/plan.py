"""`cibench plan`: what a run would do, and how long it might take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._options import computation, execution, selection, typed_names


@click.command(
    "plan", short_help="Print what a run would do, and how long it might take."
)
@selection
@computation
@execution
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the run; records in it need not be computed.  [default: none]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="What is missing from an interrupted run: its own selection.",
)
@click.option(
    "--rerun",
    multiple=True,
    metavar="WHAT",
    help="As if computed again: failed, timeout, killed, out-of-memory, all, or the cells"
    " of a plugin by name; repeatable.",
)
@click.option("--no-cache", is_flag=True, help="As if nothing were stored.")
@click.option("--long", is_flag=True, help="A line for each cell.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Only the first line.")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Print what `cibench run` with the same options would do; run and write nothing.

    Cells are chosen and data sets looked at as for a run. Times and memory are what
    earlier runs with this cache took: where there is no history they are unknown, and
    where other work stands in for it the plan says so.

    \b
    cibench plan -d all -a all -j 8
    cibench plan --resume runs/<time> --long
    """  # noqa: D301
    typed = typed_names(ctx)
    if params["resume"] is not None:
        from ._manifest import resumed

        params, typed = resumed(ctx, params, typed)
    from ._chosen import wanted
    from ._plan_cells import plan_wanted

    stored = params.pop("study", None)
    plan_wanted(wanted(params, typed, stored))
