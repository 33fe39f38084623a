"""`cibench reproduce RUN CELL`: one cell once more from its record, and what differs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._errors import UsageError
from ._completing import cells
from ._finding import find_cell
from ._options import DATA_DIR
from ._reproduced import print_json, print_result, tell_surroundings

if TYPE_CHECKING:
    from ..execute.describing import Described
    from ..grid import Cell
    from ..results import CellRecord, RunFolder

#: Options that a run's own limits stand for unless they are given.
_LIMITS = {"timeout": "1h", "memory": "auto", "isolation": "process"}


@click.command("reproduce", short_help="Run one cell again and compare.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cell", shell_complete=cells)
@click.option(
    "--tol",
    "tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How far numbers may be off, relative to the old one where that is above 1, and"
    " which share of decisions may differ.",
)
@DATA_DIR
@click.option(
    "--dataset",
    metavar="SPEC",
    help="The record's data set with options that say where its files are.",
)
@click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Load plugins from a Python file, without packaging; repeatable.",
)
@click.option("--device", help="A torch device.  [default: the record's]")
@click.option("--cached", is_flag=True, help="Take embeddings and fits from the cache.")
@click.option("--timeout", metavar="TIME", help="Most time.  [default: the run's]")
@click.option("--memory", metavar="SIZE", help="Most memory.  [default: the run's]")
@click.option(
    "--isolation",
    type=click.Choice(["process", "none"]),
    help="none: without a process of its own, to debug a plugin.  [default: the run's]",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the new record and log.  [default: none are kept]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
def command(run: Path, cell: str, **params: Any) -> int:
    """Run the cell CELL of the run in folder RUN again, from its record, and compare.

    CELL may be any part of a cell's id that fits one cell only. Everything is computed anew
    with the record's options, seed, recipe and threads. What differs around it, such as
    versions or sources, is told first. The exit code is 0 if all results are equal, else 4;
    a failed cell is reproduced by failing for the same reason.

    \b
    cibench reproduce runs/x copur--0
    cibench reproduce runs/x copur--0 --tol 1e-3 --device cuda
    """  # noqa: D301
    from ..results import RunFolder
    from ..results.comparison import compare

    source = RunFolder(run)
    record = source.read_one(find_cell(source, cell))
    out = params["out"]
    if out is not None and (
        out.resolve() == run.resolve() or (out / "run.json").exists()
    ):
        raise UsageError(
            f"-o {out}: expected a folder for the new record that is no run, got a run,"
            " whose records it might replace"
        )
    with _folder(out) as folder:
        try:
            new = _computed(record, source, folder, params)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was compared", err=True)
            return 130
    found = compare(record, new, tolerance=params["tolerance"])
    if params["as_json"]:
        print_json(run, record, new, found)
    else:
        print_result(record, new, found, params["tolerance"])
    return 0 if found.same else 4


def _computed(
    record: CellRecord, source: RunFolder, folder: RunFolder, params: dict[str, Any]
) -> CellRecord:
    """The record of the cell, computed again into another folder.

    Raises:
        CibenchError: it cannot be, because of what is installed or given.
    """
    from ..execute.engine import Engine
    from ..execute.known import Known
    from ..execute.settings import Settings
    from ._options import default_cache
    from ._progress import progress
    from ._rebuild import rebuilt, samples_of, threads_of
    from ._session import Execution, check_device, session, torch_version

    if params["plugin_files"]:
        from ..execute.ship import add_file

        for path in params["plugin_files"]:
            add_file(path)
    cell = rebuilt(record, source, params["dataset"])
    execution = Execution.of(_execution(source, params))
    settings = Settings(
        device=check_device(params["device"] or record.device),
        data_dir=params["data_dir"],
        cache=default_cache() if params["cached"] else None,
        threads=threads_of(record),
        samples=samples_of(record),
    )
    with session(execution, settings) as opened:
        described = opened.describe([cell])
        _check_data(record, cell, described, quiet=params["quiet"])
        if not params["as_json"]:
            tell_surroundings(record, cell, described, opened.settings)
        with progress(1, quiet=params["quiet"], verbose=False) as shown:
            engine = Engine(
                cells=[cell],
                described=described,
                known=Known(folder, None, ["all"]),
                settings=opened.settings,
                folder=folder,
                backend=opened.backend,
                context=opened.context,
                torch_version=torch_version(),
                observer=shown,
            )
            opened.on_event = engine.note
            (done,) = engine.run()
            shown.finished(done)
    return folder.read_one(done.cell)


def _execution(source: RunFolder, params: dict[str, Any]) -> dict[str, Any]:
    """Options of execution: those given, else the run's own, else the defaults."""
    from ._manifest import read_manifest

    run: dict[str, Any] = {}
    if (source.path / "run.json").exists():
        for one in read_manifest(source).invocations:
            run |= one.options
    limits = {
        name: params[name] or run.get(name) or default
        for name, default in _LIMITS.items()
    }
    return {"jobs": 1, "backend": "serial", "backend_options": (), **limits}


@contextmanager
def _folder(out: Path | None) -> Iterator[RunFolder]:
    """The folder for the new record: the one given, or one that is removed again."""
    from ..results import RunFolder

    if out is not None:
        folder = RunFolder(out)
        folder.create()
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cibench-") as temporary:
        folder = RunFolder(Path(temporary))
        folder.create()
        yield folder


def _check_data(
    record: CellRecord, cell: Cell, described: Described, *, quiet: bool
) -> None:
    """Say that the data differs; the numbers show what that means.

    Raises:
        CibenchError: it cannot be read, though it could for the record.
    """
    from ..execute.describing import error_of, place_of
    from ._rebuild import lacking_location

    fault = described.faults.get(place_of(cell))
    if fault is not None and record.fingerprint:
        error = error_of(fault)
        if fault.fault == "":
            raise error
        raise type(error)(f"{error}; {lacking_location(cell)}") from error
    facts = described.facts.get(place_of(cell))
    if facts is None or facts.fingerprint == record.fingerprint or quiet:
        return
    click.echo(
        f"warning: data set {cell.dataset.spec}: expected the data of the record"
        f" ({record.fingerprint[:12] or 'none'}), got {facts.fingerprint[:12]}; the"
        " numbers may differ for that reason",
        err=True,
    )
