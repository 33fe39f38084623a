"""Tasks on the workers of a Dask cluster: one that runs, or one of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from .._errors import EnvironmentFault, UsageError
from ._cluster import (
    Back,
    ClusterBackend,
    Lost,
    absent,
    all_see,
    check_store,
    check_wait,
    checked_options,
)
from ._dask_manners import (
    FAREWELL,
    address_in,
    briefly,
    dask_setup,
    greet,
    in_line,
    quiet,
)
from ._remote import About, Lacking, Parcel, about, do, end, sees
from .channel import DaskListener, Event
from .perform import Work
from .task import Answer

OPTIONS: Final = ("address", "scheduler_file", "store", "wait")
#: Seconds until a scheduler that does not answer counts as unreachable.
CONNECT: Final = 8.0


class DaskBackend(ClusterBackend):
    """Works on Dask workers, each of which watches over children.

    joblib's Dask backend is not used: it ends the whole call when one worker is lost.

    Args:
        workers: of a cluster of this machine, if none is named.
        options: `address` of a scheduler or `scheduler_file`; `store`: `shared` if workers
            see the cache folder, `scheduler` if artifacts are to travel, `auto` to find
            out; `wait`: how long to wait for workers, such as `30m`.
        on_event: called with phases of tasks, from any thread.
        cache: folder of artifacts.

    Raises:
        UsageError: an option is wrong.
        EnvironmentFault: there is no such scheduler, it has no workers, or they are not
            what this process is.
    """

    name = "dask"

    def __init__(
        self,
        workers: int,
        options: Mapping[str, str],
        on_event: Callable[[Event], None],
        cache: Path,
    ) -> None:
        given = checked_options(self.name, options, OPTIONS)
        store = check_store(given)
        if "address" in given and "scheduler_file" in given:
            raise UsageError(
                "--backend-opt: expected address or scheduler_file, got both"
            )
        self.wait = check_wait(given)
        self._runs: set[str] = set()
        self._arrived: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        try:
            self._distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise absent("distributed") from error
        with ExitStack() as opened:
            opened.enter_context(quiet())
            self._client = self._connected(given, workers, opened)
            self._check_workers()
            self.shares_cache = store == "shared" or (
                store == "auto" and all_see(cache, self._see)
            )
            listener = DaskListener(self._client, on_event)
            self.channel = opened.enter_context(listener).address
            self._opened = opened.pop_all()

    def bundles(self) -> bool:
        """See `Backend`."""
        return True

    def run(self, works: Iterable[Work]) -> Iterator[tuple[int, Answer]]:
        """See `Backend`."""

        def noted() -> Iterator[Work]:
            for work in works:
                self._runs.add(work.context.run)
                yield work

        self._arrived = SimpleQueue()
        yield from super().run(noted())

    def close(self) -> None:
        """See `Backend`."""
        if self._runs:
            briefly(lambda: self._client.run(end, tuple(self._runs), on_error="ignore"))
        self._opened.close()

    def _connected(
        self, given: Mapping[str, str], workers: int, opened: ExitStack
    ) -> Any:
        distributed = self._distributed
        if "scheduler_file" in given:
            address = address_in(Path(given["scheduler_file"]), self.wait)
        elif "address" in given:
            address = given["address"]
        else:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,  # of a cell: --memory
                silence_logs=logging.CRITICAL + 1,
                preload=[dask_setup.__module__],
                env={"DASK_LOGGING__DISTRIBUTED": "critical"},
            )
            opened.callback(briefly, lambda: cluster.close(timeout=FAREWELL))
            address = cluster.scheduler_address
        try:
            greet(address, CONNECT)
            client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise EnvironmentFault(
                f"Dask scheduler {address}: expected it to answer within {CONNECT:.0f} s,"
                f" got {in_line(error)}; check the address, that the scheduler runs, and"
                " that no firewall is between"
            ) from error
        opened.callback(briefly, lambda: client.close(timeout=FAREWELL))
        self._address = address
        return client

    def _check_workers(self) -> None:
        """Wait for workers and compare what they are with this process.

        Raises:
            EnvironmentFault: there are none, or they have other software.
        """
        deadline = time.monotonic() + self.wait
        while not (threads := self._threads()):
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"Dask scheduler {self._address}: expected workers within"
                    f" {self.wait:.0f} s, got none; start some, or wait longer with"
                    " --backend-opt wait=30m"
                )
            time.sleep(0.1)
        self.workers = threads
        python = about().python
        versions = self._client.get_versions(check=False)
        for address, found in versions["workers"].items():
            theirs = str((found or {}).get("host", {}).get("python", python))
            if not f"{theirs}.".startswith(f"{python}."):
                raise _other(address, "Python", python, theirs)
        for address, what in self._client.run(about, on_error="return").items():
            if not isinstance(what, About):
                raise _cannot_import(address, what)
            if what.cibench != about().cibench:
                raise _other(
                    address,
                    "cibench",
                    about().cibench,
                    f"{what.cibench} (source hashes)",
                )

    def _see(self, token: str) -> Iterable[object]:
        found: dict[str, object] = self._client.run(sees, token, on_error="return")
        return found.values()

    def _threads(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except (OSError, CancelledError, RuntimeError) as error:
            raise self._gone(error) from error

    def _submit(self, sent: Parcel, where: str) -> Any:
        options: dict[str, Any] = {}
        if where:
            options = {"workers": [where], "allow_other_workers": True}
        key = f"cibench-{sent.work.task.kind}-{uuid.uuid4().hex}"
        try:
            future = self._client.submit(
                do_here, sent, key=key, pure=False, retries=0, **options
            )
        except Exception as error:  # ClosedClientError is of no public class
            raise self._gone(error) from error
        # as_completed never gives a future whose result is lost before it is fetched.
        self._client.loop.add_callback(self._await, future, self._arrived)
        return future

    async def _await(self, future: Any, arrived: SimpleQueue[tuple[Any, Any]]) -> None:
        try:
            (found,) = await self._client.gather([future], asynchronous=True)
        except BaseException as error:  # CancelledError is none of Exception
            found = error.with_traceback(None)  # which holds this frame, and the future
        arrived.put((future, found))

    def _collect(self, handles: Collection[Any]) -> list[tuple[Any, Back]]:
        found = []
        with contextlib.suppress(Empty):
            found.append(self._arrived.get(timeout=0.1))
            while True:
                found.append(self._arrived.get_nowait())
        return [(future, self._back(result)) for future, result in found]

    def _back(self, result: Any) -> Back:
        if isinstance(result, tuple | Lacking):
            return result
        if isinstance(result, CancelledError | asyncio.CancelledError):
            raise self._gone(result)
        if type(result).__name__ == "KilledWorker":
            return Lost(f"worker {result.last_worker.address}")
        if isinstance(result, ImportError | AttributeError) or "deserializ" in str(
            result
        ):
            return _cannot_import("of the cluster", result)
        assert isinstance(result, Exception)
        return result

    def _cancel(self, handles: Collection[Any]) -> None:
        if handles:
            futures = list(handles)
            briefly(lambda: self._client.cancel(futures, force=True))

    def _gone(self, error: BaseException) -> EnvironmentFault:
        return EnvironmentFault(
            f"Dask scheduler {self._address}: expected it to run as long as this run, got"
            f" {in_line(error)}; finished cells are kept: start it again and resume the run"
        )


def do_here(received: Parcel) -> tuple[int, Answer] | Lacking:
    """Do a work on a Dask worker, which says who it is if it lacks something."""
    found = do(received)
    if isinstance(found, Lacking):
        worker: Any = importlib.import_module("distributed").get_worker()
        return replace(found, worker=worker.address)
    return found


def _cannot_import(which: str, error: object) -> EnvironmentFault:
    text = in_line(error) if isinstance(error, BaseException) else str(error)
    return EnvironmentFault(
        f"Dask worker {which}: expected cibench of the same version as here, got {text};"
        " install it on the scheduler and every worker"
    )


def _other(which: str, what: str, ours: str, theirs: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"Dask worker {which}: expected {what} {ours} as here, got {theirs}; install the"
        f" same version of {what} on every worker"
    )
