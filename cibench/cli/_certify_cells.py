"""What `certify` does with a grid: find out, certify cell by cell, print."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..execute.settings import Settings
from ..grid import Cell, expand
from ..registry import default_registry
from ._certify_given import parse_numbers
from ._certify_tables import percent, print_json, tables
from ._options import default_cache, parse_seeds
from ._progress import one_line

if TYPE_CHECKING:
    from ..certification.certifying import Certified
    from ..execute.runner import Runner


def certify_cells(params: Mapping[str, Any]) -> int:
    """Certify a grid and print it; return the exit code.

    Raises:
        UsageError, EmptySelectionError, EnvironmentFault: something in it is wrong; found
            before anything is trained.
    """
    corrupted = parse_numbers(params["corrupted"])
    seeds = parse_seeds(params["seeds"])
    if params["plugin_files"]:
        from ..execute.ship import add_file

        for path in params["plugin_files"]:
            add_file(path)
    if params["sweep"] is not None:
        from ._certify_sweep import certify_sweep

        return certify_sweep(params, corrupted or [1], seeds)
    cells = grid(params, seeds)
    rows = list(certified_rows(params, cells, corrupted, taken_apart=False))
    if params["as_json"]:
        print_json(rows)
    else:
        from ._show import print_table

        for table in tables(rows):
            print_table(table)
    return exit_code(rows)


def grid(
    params: Mapping[str, Any], seeds: Sequence[int], parameters: Sequence[str] = ()
) -> list[Cell]:
    """The cells of the options; a certificate knows no attack.

    Args:
        parameters: options to vary beside those of `-P`.
    """
    return expand(
        default_registry(),
        datasets=params["datasets"],
        attacks=["none"],
        defenses=params["defenses"],
        seeds=seeds,
        parameters=[*params["parameters"], *parameters],
        embedding=params["embedding"],
    )


def certified_rows(
    params: Mapping[str, Any],
    cells: Sequence[Cell],
    corrupted: Sequence[int] | None,
    *,
    taken_apart: bool,
) -> Iterator[Certified]:
    """Certify cells, with progress on standard error unless `quiet`.

    Args:
        corrupted: numbers of corrupted agents; None for 1, 2, ... until nothing stands.
        taken_apart: whether to give the numbers of purifiers' certificates.
    """
    from ..certification.certifying import certified, foresee

    with _runner(params) as runner:
        known = foresee(
            cells,
            runner,
            corrupted=corrupted,
            missing=params["missing"],
            warn=lambda text: say(f"warning: {text}"),
        )
        at = 0

        def report(phase: str, done: int, total: int) -> None:
            if params["verbose"] and not done and not params["quiet"]:
                say(f"[{at + 1}/{len(cells)}] {phase}")

        runner.report = report
        for at, row in enumerate(
            certified(
                cells,
                runner,
                corrupted=corrupted,
                missing=params["missing"],
                taken_apart=taken_apart,
                known=known,
            ),
            start=1,
        ):
            if not params["quiet"]:
                say(f"[{at}/{len(cells)}] {title(row)}: {_outcome(row)}")
            yield row


@contextmanager
def _runner(params: Mapping[str, Any]) -> Iterator[Runner]:
    """What computes here, with a cache that lasts or one for this command."""
    from ..execute.runner import Runner
    from ._session import check_device

    check_device(params["device"])
    with tempfile.TemporaryDirectory(prefix="cibench-") as scratch:
        yield Runner(
            Settings(
                device=params["device"],
                data_dir=params["data_dir"],
                cache=Path(scratch) if params["no_cache"] else default_cache(),
                threads=params["threads"],
                samples=params["limit"],
            )
        )


def title(row: Certified) -> str:
    """A row in a few words."""
    return f"{row.dataset} · {row.defense} · seed {row.seed}"


def _outcome(row: Certified) -> str:
    if row.standing is None:
        return f"failed: {row.error}"
    parts = [f"clean {percent(row.standing.clean)} %"]
    for number, share in row.standing.corrupted.items():
        parts.append(f"{percent(share)} % certified at {number}")
    return f"{', '.join(parts)} ({row.seconds:.1f} s)"


def exit_code(rows: Sequence[Certified]) -> int:
    """1 if a row failed, with the reason as the last line."""
    failed = [row for row in rows if row.error]
    if not failed:
        return 0
    say(
        f"error: {len(failed)} of {len(rows)} cells failed; first: {title(failed[0])}:"
        f" {failed[0].error}"
    )
    return 1


def say(text: str) -> None:
    click.echo(one_line(text), err=True)
