"""What Dask and Ray have in common: few works in flight, retries, options."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .._errors import EnvironmentFault, OutputError, UsageError
from ..results.folder import make_writable
from ..spec import did_you_mean
from ._remote import Lacking, Parcel, parcel
from .backends import TRIES, Backend
from .limits import parse_duration
from .perform import Work
from .task import Answer

#: Works at a worker's thread, so that it has the next when one is done.
AHEAD: Final = 2
#: Seconds between two looks at how many workers there are.
LOOK: Final = 2.0
#: Seconds without any worker, at least, until a run gives up.
PATIENCE: Final = 60.0
#: How artifacts reach workers: a common folder, with the tasks, or whichever is possible.
STORES: Final = ("auto", "shared", "scheduler")


class Lost(Exception):
    """The worker that did a work died."""


#: What came back for a work, or why nothing did.
Back = tuple[int, Answer] | Lacking | Exception


@dataclass(eq=False)
class _Flight:
    work: Work
    lost: int = 0


class ClusterBackend(Backend):
    """Sends works to a cluster, a few for each worker, and takes in what comes back.

    A work whose worker died is tried again, `TRIES` times in all: the last time alone, so
    that none is given up for what another did.
    """

    #: Seconds to wait for workers.
    wait: float = 10.0

    @abstractmethod
    def _submit(self, sent: Parcel, where: str) -> Any:
        """Send a parcel, to a worker if one is named and it can be; give a handle."""

    @abstractmethod
    def _collect(self, handles: Collection[Any]) -> list[tuple[Any, Back]]:
        """What came back, after waiting for a short time.

        Raises:
            EnvironmentFault: nothing will come back any more.
        """

    @abstractmethod
    def _threads(self) -> int:
        """How many works the cluster does at a time."""

    @abstractmethod
    def _cancel(self, handles: Collection[Any]) -> None:
        """Do without some works."""

    def run(self, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
        """See `Backend`."""
        rest, suspects = iter(works), deque[_Flight]()
        flying: dict[Any, _Flight] = {}
        capacity = _Capacity(self._threads, self.wait)

        def launch(flight: _Flight, lacks: Lacking | None = None) -> None:
            where = lacks.worker if lacks else ""
            flying[self._submit(parcel(flight.work, lacks), where)] = flight

        def fill() -> None:
            while len(flying) < capacity():
                work = next(rest, None)
                if work is None:
                    break
                launch(_Flight(work))
            if not flying and suspects:
                launch(suspects.popleft())

        try:
            fill()
            while flying:
                fill()  # workers may have come
                for handle, back in self._collect(flying.keys()):
                    flight = flying.pop(handle)
                    if isinstance(back, Lacking):
                        launch(flight, back)
                        continue
                    if isinstance(back, Lost):
                        flight.lost += 1
                        if flight.lost < TRIES - 1:
                            launch(flight)
                            continue
                        if flight.lost < TRIES:
                            suspects.append(flight)
                            fill()
                            continue
                    answer = _answer(flight, back)
                    fill()
                    yield flight.work.number, answer
        finally:
            self._cancel(flying.keys())


def _answer(flight: _Flight, back: Back) -> Answer:
    """The answer to a work.

    Raises:
        EnvironmentFault: the worker is not what a run needs.
    """
    if isinstance(back, tuple):
        return back[1]
    if isinstance(back, Lost):
        reason = f"its worker died, {flight.lost} times: {back}"
        return Answer(status="killed", reason=reason)
    if isinstance(back, EnvironmentFault):
        raise back
    return Answer(status="failed", reason=f"{type(back).__name__}: {back}")


class _Capacity:
    """How many works may be in flight; looks at the cluster now and then.

    Raises:
        EnvironmentFault: when called, if there was no worker for long.
    """

    def __init__(self, threads: Callable[[], int], wait: float) -> None:
        self._look, self._patience = threads, max(wait, PATIENCE)
        self._threads, self._at, self._alive = 1, -LOOK, time.monotonic()

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self._at >= LOOK:
            found = self._look()
            self._at = now
            if found:
                self._threads, self._alive = found, now
            elif now - self._alive > self._patience:
                raise EnvironmentFault(
                    f"the cluster has had no worker for {self._patience:.0f} s: expected"
                    " one at least; finished cells are kept: start workers and resume"
                    " the run"
                )
        return AHEAD * self._threads


def checked_options(
    backend: str, given: Mapping[str, str], known: Collection[str]
) -> dict[str, str]:
    """The options of `--backend-opt`.

    Raises:
        UsageError: one is unknown.
    """
    for key in given:
        if key not in known:
            raise UsageError(
                f"--backend-opt {key}: expected one of {', '.join(sorted(known))} for"
                f" --backend {backend}, got {key!r}{did_you_mean(key, sorted(known))}"
            )
    return dict(given)


def check_store(given: Mapping[str, str]) -> str:
    """The option `store`.

    Raises:
        UsageError: it is not one of `STORES`.
    """
    store = given.get("store", "auto")
    if store not in STORES:
        raise UsageError(
            f"--backend-opt store: expected one of {', '.join(STORES)}, got {store!r}"
        )
    return store


def check_wait(given: Mapping[str, str]) -> float:
    """The option `wait` in seconds.

    Raises:
        UsageError: it is not a time.
    """
    try:
        wait = parse_duration(given.get("wait", "10s"))
    except UsageError as error:
        raise UsageError(f"--backend-opt wait: {error}") from error
    return float("inf") if wait is None else wait


def all_see(cache: Path, ask: Callable[[str], Iterable[object]]) -> bool:
    """Whether every worker sees a file that was just written to the cache folder.

    Args:
        ask: asks every worker for the file.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    token = cache.absolute() / f".seen-{uuid.uuid4().hex}"
    try:
        make_writable(cache)
        token.touch()
    except OSError as error:
        raise OutputError(
            f"cache folder {cache}: expected a writable folder, got {error.strerror}; set"
            " CIBENCH_CACHE or use --no-cache"
        ) from error
    try:
        return all(each is True for each in ask(str(token)))
    finally:
        token.unlink(missing_ok=True)


def absent(package: str) -> EnvironmentFault:
    """The error for a backend whose package is not installed."""
    extra = {"distributed": "dask"}.get(package, package)
    return EnvironmentFault(
        f"--backend {extra}: expected {package}, got none; pip install 'cibench[{extra}]'"
    )
