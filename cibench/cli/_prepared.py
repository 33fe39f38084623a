"""What a verb that selects cells finds out before anything runs, the same for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._errors import UnknownPluginError, UsageError
from ..execute.engine import Engine
from ..execute.known import RERUN, Known
from ..execute.settings import Settings
from ..results import RunFolder
from ..spec import did_you_mean
from ._chosen import Chosen, Wanted, choose
from ._session import Execution, Session, check_device, session, torch_version

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.describing import Described
    from ..grid import Cell


class _Silent:
    """Shows nothing."""

    def stage(self, name: str, tasks: int) -> None:
        """See `Observer`."""

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """See `Observer`."""

    def event(self, event: Event) -> None:
        """See `Observer`."""


@dataclass(frozen=True)
class Prepared:
    """Cells with what was found of their data sets, in an open session.

    Args:
        unavailable: data sets of a study that are left out, and why.
    """

    chosen: Chosen
    described: Described
    unavailable: Mapping[str, str]
    session: Session

    def engine(
        self, folder: RunFolder, *, cached: bool, rerun: Sequence[str] = ()
    ) -> Engine:
        """The engine of a run into a folder; it shows nothing until it has an observer.

        Args:
            cached: whether records of the cache count.
            rerun: as `Known` takes it.
        """
        opened = self.session
        records = opened.settings.cache if cached else None
        return Engine(
            cells=self.chosen.cells,
            described=self.described,
            known=Known(folder, records, rerun, witnesses=opened.settings.witnesses),
            settings=opened.settings,
            folder=folder,
            backend=opened.backend,
            context=opened.context,
            torch_version=torch_version(),
            observer=_Silent(),
        )


def settings_of(asked: Wanted, cache: Path | None) -> Settings:
    """How cells are computed, from the options of `_options.computation`.

    Args:
        cache: folder of artifacts and records; None keeps nothing.
    """
    params: Mapping[str, Any] = asked.params
    return Settings(
        device=str(params["device"]),
        data_dir=params["data_dir"],
        cache=cache,
        threads=params["threads"],
        samples=asked.samples,
        witnesses=bool(params.get("witnesses")),
    )


@contextmanager
def prepared(
    asked: Wanted,
    execution: Execution,
    settings: Settings,
    *,
    rerun: Sequence[str] = (),
) -> Iterator[Prepared]:
    """Choose cells and look at their data sets, as `run` does before it runs them.

    Raises:
        UsageError, EmptySelectionError, EnvironmentFault: something in it is wrong.
    """
    # Before any process starts: children find plugin files as this process does.
    if asked.params["plugin_files"]:
        from ..execute.ship import add_file

        for path in asked.params["plugin_files"]:
            add_file(path)
    with session(execution, settings) as opened:
        try:
            chosen = choose(asked)
        except UnknownPluginError as error:
            if asked.params.get("resume") is None or asked.params["plugin_files"]:
                raise
            raise UnknownPluginError(
                f"{error}; if it came from a file, add --plugin FILE"
            ) from error
        check_rerun(rerun, chosen.cells)
        if execution.backend in ("serial", "loky"):
            check_device(settings.device)
        opened.ship(chosen.cells)
        described = opened.describe(chosen.cells)
        unavailable: Mapping[str, str] = {}
        if chosen.study is not None:
            from ._run_study import available

            chosen, unavailable = available(chosen, described)
        described.check(chosen.cells)
        for spec, reason in unavailable.items():
            shown = " ".join(reason.split())
            click.echo(f"warning: {spec} is left out: {shown}", err=True)
        yield Prepared(chosen, described, unavailable, opened)


def check_rerun(words: Sequence[str], cells: Sequence[Cell]) -> None:
    """Refuse words that name nothing.

    Raises:
        UsageError: neither a status nor a plugin of the run.
    """
    if not words:
        return
    names = sorted({plugin.entry.name for cell in cells for plugin in cell.plugins})
    known = ["all", *RERUN, *names]
    for word in words:
        if word not in known:
            raise UsageError(
                f"--rerun {word}: expected all, {', '.join(RERUN)} or a plugin of the"
                f" run ({', '.join(names)}), got {word!r}{did_you_mean(word, known)}"
            )
