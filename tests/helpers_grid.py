"""Small grids through the real command line, and what must be equal between them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cibench.results.comparison import numbers
from cibench.results.record import decode

PROGRAM = Path(sys.executable).with_name("cibench")
FAULTS = Path(__file__).with_name("faults")
DATA = "synthetic:agents=3,rank=2,samples=40,width=3"
RECIPE = "identity:batch=10,epochs=3"
#: Marks every process that a `Place` starts.
MARK = "CIBENCH_TEST_PLACE"


class Place:
    """A folder to run commands in, with a cache of its own and the faulty plugins."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.cache = self.folder / "cache"

    def environment(self, **more):
        path = os.pathsep.join(
            filter(None, [str(FAULTS), os.environ.get("PYTHONPATH")])
        )
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("CIBENCH_DATA", "CIBENCH_DEBUG", "FORCE_COLOR")
        }
        return {
            **kept,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "CIBENCH_CACHE": str(self.cache),
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
            MARK: str(self.folder),
            **more,
        }

    def start(self, *words, **more):
        """A command that runs, in a session of its own; its output goes to pipes."""
        return subprocess.Popen(
            [PROGRAM, *words],
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def call(self, *words, code=0, **more):
        """A command that ended with a code: its standard output and error."""
        process = self.start(*words, **more)
        try:
            out, error = process.communicate(timeout=240)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == code, error.decode()
        return out.decode(), error.decode()

    def run(self, *words, out="out", code=0, data=DATA, seeds="1", **more):
        """`cibench run` on the small data set."""
        given = ["--dataset", data, "--embedding", RECIPE, "--seeds", seeds, "-o", out]
        return self.call("run", *words, *given, code=code, **more)

    def living(self):
        """Processes that commands of this place started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    process.environ().get(MARK) == str(self.folder)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def emptied(self, seconds=15.0):
        """Whether all processes end within a time; those left are ended then."""
        ended = until(lambda: not self.living(), seconds)
        if not ended:
            print("left:", [(p.pid, p.cmdline()) for p in self.living()])
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()
        return ended

    def records(self, out="out"):
        """The records of a run by id."""
        files = sorted((self.folder / out / "cells").glob("*.json"))
        return {path.stem: decode(path.read_bytes()) for path in files}

    def numbers(self, out="out"):
        """What must be equal, of the finished cells of a run, by id."""
        found = self.records(out).items()
        return {name: numbers(each) for name, each in found if each.status == "ok"}


def until(condition, seconds=60.0):
    """Wait until a condition holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
