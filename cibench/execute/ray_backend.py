"""Tasks on the workers of a Ray cluster: one that runs, or one of this machine."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from .._errors import EnvironmentFault
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
from ._remote import About, Parcel, about, do, sees
from .channel import Event, Listener

OPTIONS: Final = ("address", "store", "wait")


class RayBackend(ClusterBackend):
    """Works as Ray tasks, each of which watches over a child.

    joblib's Ray backend is not used: it cannot give results as they finish. Phases are seen
    of tasks on this machine only.

    Args:
        workers: of a cluster of this machine, if none is named.
        options: `address` of a cluster, or `auto`; `store` and `wait` as with Dask.
        on_event: called with phases of tasks, from any thread.
        cache: folder of artifacts.

    Raises:
        UsageError: an option is wrong.
        EnvironmentFault: there is no such cluster, or it is not what this process is.
    """

    name = "ray"

    def __init__(
        self,
        workers: int,
        options: Mapping[str, str],
        on_event: Callable[[Event], None],
        cache: Path,
    ) -> None:
        given = checked_options(self.name, options, OPTIONS)
        store = check_store(given)
        self.wait = check_wait(given)
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise absent("ray") from error
        self._listener = Listener(on_event)
        self._address = given.get("address", "")
        local = (
            {} if self._address else {"num_cpus": workers, "include_dashboard": False}
        )
        try:
            self._ray.init(
                address=self._address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=False,
                **local,
            )
        except Exception as error:  # of many classes, with the address
            self._ray.shutdown()
            raise EnvironmentFault(
                f"Ray cluster {self._address or 'of this machine'}: expected it to"
                f" answer, got {type(error).__name__}: {error}; check the address and"
                " that its Python and Ray are of the same version as here"
            ) from error
        try:
            self._do = self._ray.remote(num_cpus=1, max_retries=0)(do)
            self._check_worker()
            self.shares_cache = store == "shared" or (
                store == "auto" and all_see(cache, self._sees)
            )
        except BaseException:
            self._ray.shutdown()
            raise
        self._listener.__enter__()
        self.channel = self._listener.address

    def bundles(self) -> bool:
        """See `Backend`."""
        return True

    def close(self) -> None:
        """See `Backend`; Ray ends its workers, and so their children."""
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        self._listener.__exit__(None, None, None)

    def _check_worker(self) -> None:
        self.workers = self._threads() or 1
        try:
            asked = self._ray.remote(max_retries=0)(about).remote()
            found = self._ray.get(asked, timeout=max(self.wait, 60.0))
        except Exception as error:
            raise EnvironmentFault(
                "Ray worker: expected one that can import cibench, got"
                f" {type(error).__name__}: {error}; start workers, and install cibench on"
                " every machine of the cluster"
            ) from error
        if not isinstance(found, About) or found != about():
            raise EnvironmentFault(
                f"Ray worker: expected {about()} as here, got {found}; install the same"
                " version of cibench on every machine of the cluster"
            )

    def _sees(self, token: str) -> list[object]:
        """Whether each machine sees a file."""
        look = self._ray.remote(max_retries=0)(sees)
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        affinity = importlib.import_module("ray.util.scheduling_strategies")
        asked = [
            look.options(
                num_cpus=0,
                scheduling_strategy=affinity.NodeAffinitySchedulingStrategy(
                    node_id=node["NodeID"], soft=False
                ),
            ).remote(token)
            for node in nodes
        ]
        found: list[object] = self._ray.get(asked, timeout=60.0)
        return found

    def _threads(self) -> int:
        try:
            return int(self._ray.cluster_resources().get("CPU", 0))
        except Exception as error:
            raise self._gone(error) from error

    def _submit(self, sent: Parcel, where: str) -> Any:
        try:
            return self._do.remote(sent)
        except Exception as error:
            raise self._gone(error) from error

    def _collect(self, handles: Collection[Any]) -> list[tuple[Any, Back]]:
        try:
            ready, _ = self._ray.wait(list(handles), num_returns=1, timeout=0.5)
        except Exception as error:
            raise self._gone(error) from error
        return [(handle, self._back(handle)) for handle in ready]

    def _back(self, handle: Any) -> Back:
        errors = self._ray.exceptions
        try:
            found: Back = self._ray.get(handle)
        except (errors.WorkerCrashedError, errors.NodeDiedError) as error:
            return Lost(str(error).partition("\n")[0])
        except errors.OutOfMemoryError as error:
            return Lost(str(error).partition("\n")[0])
        except errors.RayTaskError as error:
            return _cause(error)
        except Exception as error:
            raise self._gone(error) from error
        return found

    def _cancel(self, handles: Collection[Any]) -> None:
        for handle in handles:
            with contextlib.suppress(Exception):
                self._ray.cancel(handle, force=True)

    def _gone(self, error: BaseException) -> EnvironmentFault:
        return EnvironmentFault(
            f"Ray cluster {self._address or 'of this machine'}: expected it to run as long"
            f" as this run, got {type(error).__name__}: {error}; finished cells are kept:"
            " start it again and resume the run"
        )


def _cause(error: Any) -> Exception:
    cause = getattr(error, "cause", error)
    if isinstance(cause, ImportError | AttributeError):
        return EnvironmentFault(
            f"Ray worker: expected cibench of the same version as here, got {cause};"
            " install it on every machine of the cluster"
        )
    return cause if isinstance(cause, Exception) else RuntimeError(str(error))
