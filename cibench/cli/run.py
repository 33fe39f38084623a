"""`cibench run`: the selected cells, a table on standard output."""

from __future__ import annotations

import datetime
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._errors import ContractError

if TYPE_CHECKING:
    import torch

    from ..results import CellRecord


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


@click.command("run", short_help="Run defenses against attacks and print a table.")
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
    help="Repetitions with their own training: a count, or seeds such as 0,4,7.",
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
def command(
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
    """  # noqa: D301
    chosen = parse_seeds(seeds)
    if quick:
        chosen = chosen[:1]

    from ..grid import expand
    from ..registry import default_registry

    registry = default_registry()
    cells = expand(
        registry, datasets=datasets, attacks=attacks, defenses=defenses, seeds=chosen
    )

    from ..execute.runner import Runner, Settings
    from ..results import RunFolder
    from ..results.table import tables
    from ._progress import progress
    from ._show import print_table

    settings = Settings(
        device=parse_device(device),
        data_dir=data_dir,
        cache=None if no_cache else default_cache(),
        embedding=embedding,
        threads=threads,
        quick=quick,
    )
    folder = RunFolder(out or new_run())
    runner = Runner(settings)
    runner.check(cells)
    folder.create()

    records: list[CellRecord] = []
    stored = 0
    trouble: list[ContractError] = []
    with progress(len(cells), quiet=quiet, verbose=verbose) as shown:
        runner.report = shown.phase
        for cell, record, cached in runner.run(cells):
            folder.write(record)
            records.append(record)
            stored += cached
            shown.finished(cell, record, cached)
            try:
                registry.notify_finished(record)
            except ContractError as error:
                trouble.append(error)  # an observer must not cost the run
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(records) + b"\n")
    else:
        for table in tables(records):
            print_table(table)
    if not quiet:
        again = f", {stored} of them already known" if stored else ""
        click.echo(f"{len(records)} cells{again}; records in {folder.path}", err=True)
    failed = [r for r in records if r.status not in ("ok", "skipped")]
    if failed:
        click.echo(
            f"error: {len(failed)} of {len(records)} cells failed; first:"
            f" {failed[0].cell}: {failed[0].reason}",
            err=True,
        )
        return 1
    if trouble:
        raise trouble[0]
    return 0
