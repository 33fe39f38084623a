"""Options that several verbs share, and what they mean."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from ._completing import parameters, plugins, specs, suites

F = TypeVar("F", bound=Callable[..., Any])

#: Seeds of each preset; `quick` also takes part of the test samples.
PRESETS = {"quick": 1, "standard": 3, "full": 10}


def defenses(default: str) -> Callable[[F], F]:
    """The option that selects defenses, with its default."""
    return click.option(
        "-d",
        "--defense",
        "defenses",
        multiple=True,
        default=(default,),
        show_default=True,
        metavar="SPEC",
        shell_complete=specs("defense"),
        help="NAME or NAME:option=value,...; repeatable; all or a glob.",
    )


DATASETS = click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=("mfeat",),
    show_default=True,
    metavar="SPEC",
    shell_complete=specs("dataset"),
    help="Data set; repeatable; all or a glob.",
)
PARAMETERS = click.option(
    "-P",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME.OPTION=V1,V2",
    shell_complete=parameters,
    help="Try each value of an option of a selected plugin; repeatable.",
)
EMBEDDING = click.option(
    "--embedding",
    metavar="SPEC",
    help="Embedding recipe, such as linear-32:agent_dropout=0.3 (see ls recipes).",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each computation.",
)
DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="A torch device."
)
PLUGIN_FILES = click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Load plugins from a Python file, without packaging; repeatable.",
)
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CIBENCH_DATA",
    help="Folder of your own data files (CIBENCH_DATA).",
)
JOBS = click.option(
    "-j",
    "--jobs",
    default="1",
    show_default=True,
    metavar="N|auto",
    help="Cells at a time; auto: as many as there are cores.",
)
TIMEOUT = click.option(
    "--timeout",
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Most time for one cell, fit or embedding, such as 90, 20m, 1h30m or none.",
)
MEMORY = click.option(
    "--memory",
    default="auto",
    show_default=True,
    metavar="SIZE",
    help="Most memory of one cell, such as 4G or none; auto: 90 % of the machine's.",
)
ISOLATION = click.option(
    "--isolation",
    type=click.Choice(["process", "none"]),
    default="process",
    show_default=True,
    help="none: without a process for the cells, to debug a plugin; a crash"
    " then ends the run.",
)


def default_cache() -> Path:
    """Where artifacts are kept: `CIBENCH_CACHE`, or the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("CIBENCH_CACHE")
    return Path(given) if given else user_cache_path("cibench")


def new_run() -> Path:
    """A fresh folder name below `runs/`, unique without relying on the second."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{secrets.token_hex(3)}"


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


def typed_names(ctx: click.Context) -> set[str]:
    """Names of the parameters that were given, on the command line or by a variable."""
    default = click.core.ParameterSource.DEFAULT
    return {
        name for name in ctx.params if ctx.get_parameter_source(name) is not default
    }


def check_together(typed: Collection[str]) -> None:
    """Refuse options that contradict each other.

    Raises:
        click.UsageError: they do.
    """
    if {"suite", "config"} <= set(typed):
        raise click.UsageError("expected one of --suite and -c/--config, got both")
    if "protocols" in typed and not {"suite", "config"} & set(typed):
        raise click.UsageError(
            "--protocol: expected --suite or -c with it, got neither"
        )


def _applied(command: F, options: list[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def selection(command: F) -> F:
    """Options that say which cells: the same for `run`, `plan` and `cache explain`."""
    return _applied(
        command,
        [
            click.option(
                "--suite",
                metavar="NAME",
                shell_complete=suites,
                help="A shipped study instead of -d, -a, --dataset (see ls suites).",
            ),
            click.option(
                "-c",
                "--config",
                type=click.Path(path_type=Path),
                help="A study from a TOML file; the command line beats the file.",
            ),
            click.option(
                "--protocol",
                "protocols",
                multiple=True,
                metavar="NAME",
                help="Only this protocol of the study; repeatable.  [default: all]",
            ),
            defenses("copur"),
            click.option(
                "-a",
                "--attack",
                "attacks",
                multiple=True,
                default=("pgd",),
                show_default=True,
                metavar="SPEC",
                shell_complete=specs("attack"),
                help="Attack; parts joined by + are run in turn; repeatable; all or a"
                " glob.",
            ),
            DATASETS,
            PARAMETERS,
            click.option(
                "--exclude",
                "exclude",
                multiple=True,
                metavar="TERM[/TERM]",
                shell_complete=plugins,
                help="Leave out the cells that every term matches: names, globs or"
                " seed=N, such as copur/pgd; repeatable.",
            ),
            click.option(
                "--seeds",
                default="3",
                show_default=True,
                metavar="N|LIST",
                help="Repetitions with their own training: a count, or seeds such as"
                " 0,4,7; a study has its own default.",
            ),
            click.option(
                "--preset",
                type=click.Choice(list(PRESETS)),
                default="standard",
                show_default=True,
                help="quick: 1 seed, 100 test samples; standard: 3 seeds; full: 10.",
            ),
            click.option(
                "--quick",
                is_flag=True,
                help="The same as --preset quick: for trying out; records are marked"
                " partial.",
            ),
            click.option(
                "--limit",
                type=click.IntRange(min=1),
                metavar="N",
                help="Use N test samples at most; records are marked partial.",
            ),
            EMBEDDING,
            PLUGIN_FILES,
        ],
    )


def computation(command: F) -> F:
    """Options that say how numbers are computed; they are part of a cell's key."""
    return _applied(
        command,
        [
            DEVICE,
            THREADS,
            DATA_DIR,
        ],
    )


def execution(command: F) -> F:
    """Options that say where and within which limits work is done."""
    return _applied(
        command,
        [
            JOBS,
            click.option(
                "--backend",
                type=click.Choice(["serial", "loky", "dask", "ray"]),
                help="Where cells are run.  [default: serial for -j 1, else loky]",
            ),
            click.option(
                "--backend-opt",
                "backend_options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Option of dask or ray, such as address=tcp://host:8786;"
                " repeatable (docs/scaling.md).",
            ),
            TIMEOUT,
            MEMORY,
            ISOLATION,
        ],
    )
