"""`cibench run`: the selected cells, a table on standard output."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch


def parse_seeds(text: str) -> list[int]:
    """`3` is seeds 0, 1, 2; `0,4,7` are those seeds.

    Raises:
        click.BadParameter: neither.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts if part) or not parts[0]:
        raise click.BadParameter(
            f"expected a count such as 3 or seeds such as 0,4,7, got {text!r}",
            param_hint="--seeds",
        )
    if len(parts) > 1:
        return [int(part) for part in parts if part]
    count = int(text)
    if count < 1:
        raise click.BadParameter(
            f"expected at least 1 seed, got {text!r}", param_hint="--seeds"
        )
    return list(range(count))


def parse_device(text: str) -> torch.device:
    """A torch device that exists here.

    Raises:
        click.BadParameter: it does not.
    """
    import torch

    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # `meta` holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(
            f"expected a device of this machine such as cpu or cuda, got {text!r}"
            f" ({reason})",
            param_hint="--device",
        ) from None
    return device


def default_cache() -> Path:
    """Where artifacts are kept: `CIBENCH_CACHE`, or the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("CIBENCH_CACHE")
    return Path(given) if given else user_cache_path("cibench")


def new_run() -> Path:
    """A fresh folder name below `runs/`, unique without relying on the second."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{secrets.token_hex(3)}"


def check_selection(typed: Collection[str]) -> None:
    """Refuse options that contradict each other; a study selects by itself.

    Args:
        typed: names of the parameters that were given.

    Raises:
        click.UsageError: they do.
    """
    study = {"suite": "--suite", "config": "-c/--config"}
    given = [flag for name, flag in study.items() if name in typed]
    if len(given) > 1:
        raise click.UsageError("expected one of --suite and -c/--config, got both")
    if not given and "protocols" in typed:
        raise click.UsageError(
            "--protocol: expected --suite or -c with it, got neither"
        )
    own = {
        "defenses": "-d/--defense",
        "attacks": "-a/--attack",
        "datasets": "--dataset",
        "embedding": "--embedding",
    }
    surplus = [flag for name, flag in own.items() if name in typed]
    if given and surplus:
        raise click.UsageError(
            f"expected {given[0]} alone to say what is run, got {', '.join(surplus)} too;"
            " write it into a study file and run that with -c (docs/suites.md)"
        )


@click.command("run", short_help="Run defenses against attacks and print a table.")
@click.option(
    "--suite",
    metavar="NAME",
    help="Run a shipped study instead of -d, -a, --dataset (see ls suites).",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Run a study from a TOML file.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="Only this protocol of the study; repeatable.  [default: all]",
)
@click.option(
    "-d",
    "--defense",
    "defenses",
    multiple=True,
    default=("copur",),
    show_default=True,
    metavar="SPEC",
    help="Defense: NAME or NAME:option=value,...; repeatable; all or a glob.",
)
@click.option(
    "-a",
    "--attack",
    "attacks",
    multiple=True,
    default=("pgd",),
    show_default=True,
    metavar="SPEC",
    help="Attack; parts joined by + are run in turn; repeatable; all or a glob.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=("mfeat",),
    show_default=True,
    metavar="SPEC",
    help="Data set; repeatable.",
)
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    metavar="N|LIST",
    help="Repetitions with their own training: a count, or seeds such as 0,4,7; a study"
    " has its own default.",
)
@click.option("--device", default="cpu", show_default=True, help="A torch device.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each computation.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CIBENCH_DATA",
    help="Folder of your own data files (CIBENCH_DATA).",
)
@click.option(
    "--embedding",
    metavar="SPEC",
    help="Embedding recipe, such as linear-32:agent_dropout=0.3 (see ls recipes).",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the records.  [default: runs/<time>]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option(
    "--quick",
    is_flag=True,
    help="One seed, 100 test samples: for trying out; records are marked partial.",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor keep artifacts.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Report phases, plainly.")
@click.pass_context
def command(
    ctx: click.Context,
    suite: str | None,
    config: Path | None,
    protocols: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    datasets: tuple[str, ...],
    seeds: str,
    device: str,
    threads: int,
    data_dir: Path | None,
    embedding: str | None,
    out: Path | None,
    as_json: bool,
    quick: bool,
    no_cache: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run every selected defense against every selected attack.

    Each row comes with its references from the same run: the undefended fusion center
    under its own attack, and the genie that is told which agents are corrupted.

    \b
    cibench run --defense copur --attack pgd
    cibench run -d none -d copur -a flip:agents=8-10,amplification=10 \\
        --dataset extrasensory --data-dir DIR --seeds 5
    cibench run --suite copur-table1 --data-dir DIR
    """  # noqa: D301
    typed = {
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    check_selection(typed)
    chosen = parse_seeds(seeds)
    if quick:
        chosen = chosen[:1]
    study = suite is not None or config is not None
    cells = []
    if not study:
        from ..grid import expand
        from ..registry import default_registry

        cells = expand(
            default_registry(),
            datasets=datasets,
            attacks=attacks,
            defenses=defenses,
            seeds=chosen,
        )

    from ..execute.runner import Runner, Settings
    from ..results import RunFolder
    from ..results.table import tables
    from ._run_cells import finish, run_cells

    settings = Settings(
        device=parse_device(device),
        data_dir=data_dir,
        cache=None if no_cache else default_cache(),
        embedding=embedding,
        threads=threads,
        quick=quick,
    )
    if study:
        from ._run_study import run_study

        return run_study(
            config=config,
            suite=suite,
            protocols=protocols,
            seeds=chosen if "seeds" in typed else None,
            settings=settings,
            out=out or new_run(),
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
    folder = RunFolder(out or new_run())
    runner = Runner(settings)
    runner.check(cells)
    folder.create()
    outcome = run_cells([(runner, cells)], folder, quiet=quiet, verbose=verbose)
    return finish(outcome, tables(outcome.all), folder, as_json=as_json, quiet=quiet)
