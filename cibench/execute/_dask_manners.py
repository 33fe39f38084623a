"""Manners towards Dask: where its scheduler is, its log kept quiet, brief farewells."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from .._errors import EnvironmentFault

#: Seconds that each step of closing may take.
FAREWELL: Final = 8.0


def address_in(path: Path, wait: float) -> str:
    """The scheduler's address in the file that it wrote.

    Raises:
        EnvironmentFault: there is no such file within `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"scheduler file {path}: expected a file that a Dask scheduler wrote"
                    f" (dask scheduler --scheduler-file), got {in_line(error)}"
                ) from error
        time.sleep(0.1)


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the main process: Dask calls this in workers that preload it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def greet(address: str, seconds: float) -> None:
    """Shake hands with a scheduler: a `Client` waits forever for one that is mute.

    Raises:
        OSError, ValueError, TypeError: it does not answer in time, or cannot be asked.
    """
    distributed: Any = importlib.import_module("distributed")
    core: Any = importlib.import_module("distributed.core")

    async def shake() -> None:
        security = distributed.Security().get_connection_args("client")
        connecting = core.connect(address, timeout=seconds, **security)
        comm = await asyncio.wait_for(connecting, seconds + 1)
        await comm.close()

    with ThreadPoolExecutor(1) as thread:  # here a loop may be running
        thread.submit(asyncio.run, shake()).result()


def in_line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}".partition("\n")[0] if text else name


def briefly(step: Callable[[], object]) -> None:
    """Take a step of closing; do without it if it fails or takes long."""

    def attempt() -> None:
        with contextlib.suppress(Exception, CancelledError):
            step()

    thread = threading.Thread(target=attempt, daemon=True, name="cibench-closing")
    thread.start()
    thread.join(FAREWELL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's own log and warnings about large tasks off standard error."""
    dask: Any = importlib.import_module("dask")
    names = ["distributed", "tornado", "tornado.application"]
    names += [
        n for n in logging.root.manager.loggerDict if n.startswith("distributed.")
    ]
    before = {name: logging.getLogger(name).level for name in names}
    settings = {
        "distributed.admin.large-graph-warning-threshold": "1GB",
        # Lost workers are counted here, fairly: see ClusterBackend.
        "distributed.scheduler.allowed-failures": 0,
    }
    with dask.config.set(settings):
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
