"""Where tasks are done: here, in processes of this machine, on a cluster.

A backend takes numbered works and gives their answers as they finish, in any order; it
takes no more works than it can soon begin, so that a grid of any size needs no memory.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from .._errors import EnvironmentFault
from .channel import Event, Listener
from .perform import Work, close_children, follow, perform
from .task import Answer

#: How often a work is tried again when the process that was to watch over it died.
TRIES = 3


class WorkersLost(EnvironmentFault):
    """Processes or machines of the backend died; what they had begun is not done."""


class Backend(ABC):
    """Does works. A context manager; leaving it ends everything it started."""

    name: str
    workers: int = 1
    #: Where phases are sent to, empty if nowhere.
    channel: str = ""
    #: Process whose end ends the workers; 0 for none.
    owner: int = 0
    #: Whether the workers read and write the main process's cache folder.
    shares_cache: bool = True

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def run(self, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
        """Do works; give their numbers and answers as they finish.

        Raises:
            WorkersLost: try those that have no answer again.
        """

    def bundles(self) -> bool:
        """Whether plugins have to be sent along."""
        return False

    @abstractmethod
    def close(self) -> None:
        """End everything this backend started."""


class SerialBackend(Backend):
    """One work after another, watched over by the main process."""

    name = "serial"

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._listener = Listener(on_event)
        self._listener.__enter__()
        self.channel = self._listener.address

    def run(self, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
        """See `Backend`."""
        return map(perform, works)

    def close(self) -> None:
        """See `Backend`."""
        close_children()
        self._listener.__exit__(None, None, None)


class LokyBackend(Backend):
    """Processes of this machine, through joblib; each watches over a child."""

    name = "loky"

    def __init__(self, workers: int, on_event: Callable[[Event], None]) -> None:
        self.workers = workers
        self.owner = os.getpid()
        self._listener = Listener(on_event)
        self._listener.__enter__()
        self.channel = self._listener.address

    def run(self, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
        """See `Backend`."""
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import (
            BrokenProcessPool,
            TerminatedWorkerError,
        )

        parallel = Parallel(
            n_jobs=self.workers,
            backend="loky",
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=2 * self.workers,
            # From the start: a worker may never get a work, and would wait for one.
            initializer=follow,
            initargs=(self.owner,),
        )
        try:
            yield from parallel(delayed(perform)(work) for work in works)
        except (BrokenProcessPool, TerminatedWorkerError) as error:
            self._shut()
            raise WorkersLost(f"a worker process died: {error}") from error

    def close(self) -> None:
        """See `Backend`."""
        self._shut()
        self._listener.__exit__(None, None, None)

    def _shut(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def insistent(backend: Backend, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
    """Every work's answer, even if workers die: tried again, then given up as killed."""
    begun: dict[int, Work] = {}
    tries: dict[int, int] = {}
    rest = iter(works)

    def noted(some: Iterable[Work]) -> Iterator[Work]:
        for work in some:
            begun[work.number] = work
            yield work

    again: list[Work] = []
    while True:
        try:
            for number, answer in backend.run(noted(itertools.chain(again, rest))):
                del begun[number]
                yield number, answer
            return
        except WorkersLost as error:
            again = []
            for number, work in list(begun.items()):
                tries[number] = tries.get(number, 0) + 1
                if tries[number] < TRIES:
                    again.append(work)
                    continue
                del begun[number]
                yield number, Answer(status="killed", reason=str(error))
