"""A run that is killed at any moment goes on from there: nothing lost, nothing twice."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest

from helpers_grid import DATA, FAULTS, RECIPE, Place, until

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("kill_resume")

CELLS = 60
GRID = [
    *("run", "--dataset", DATA, "--embedding", RECIPE, "--seeds", "4"),
    *("-a", "flip", "-P", "flip.amplification=1,2,3,5,10"),
    *("-d", "faulty:deed=dawdles", "-P", "faulty.number=1,2,3"),
]
KILLS = 20


class Launcher:
    """Starts commands that need not import torch themselves."""

    def __init__(self, place):
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, "-P", FAULTS / "launcher.py"],
            cwd=place.folder,
            env=place.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, *words):
        """The pid of a command that runs."""
        return self._asked("log", *words)

    def wait(self, pid):
        """The exit code of a command, once it has ended."""
        return self._asked(pid)

    def _asked(self, *line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The numbers of the grid, run without interruption."""
    place = Place(tmp_path_factory.mktemp("clean"))
    place.call(*GRID, "-o", "out", "-q")
    assert len(place.numbers()) == CELLS
    return place.numbers()


@pytest.fixture
def place(tmp_path):
    """A folder in which no process is left afterwards."""
    place = Place(tmp_path)
    yield place
    assert place.emptied()


def files(place):
    """Records of finished cells, each with what changes if it is written again."""
    found = {}
    for path in (place.folder / "out" / "cells").glob("*.json"):
        content = path.read_bytes()
        if json.loads(content)["status"] == "ok":
            about = path.stat()
            found[path.name] = about.st_ino, about.st_mtime_ns, content
    return found


def test_killed_at_20_random_moments_a_run_loses_nothing(place, clean):
    draw = random.Random(20)
    launcher = Launcher(place)
    finished, longest, early = {}, 5.0, 0
    for number in range(KILLS):
        known = (place.folder / "out" / "run.json").exists()
        words = ["run", "--resume", "out"] if known else [*GRID, "-o", "out"]
        began = time.monotonic()
        pid = launcher.start(*words, "-j", "2")
        # In turn: some cells later, or at any time from the start to the first cells.
        goal = len(finished) + draw.randint(1, 3)
        limit = 120.0 if number % 2 == 0 else 1.2 * longest * draw.random()
        came = until(lambda goal=goal: len(files(place)) >= goal, limit)
        if number == 0:
            longest = time.monotonic() - began
        time.sleep(0.05 * draw.random())
        os.kill(pid, signal.SIGKILL)
        assert launcher.wait(pid) == -signal.SIGKILL
        # The launcher itself carries the mark too.
        assert until(lambda: len(place.living()) == 1, 15), place.living()
        now = files(place)
        assert finished.items() <= now.items(), "a finished cell was lost or rewritten"
        early += now == finished
        assert came or number % 2, (place.folder / "log").read_text()
        finished = now
    assert early < KILLS / 2 + 1
    assert KILLS / 2 <= len(finished) < CELLS
    pid = launcher.start("run", "--resume", "out", "-j", "2")
    assert launcher.wait(pid) == 0, (place.folder / "log").read_text()
    launcher.close()
    assert finished.items() <= files(place).items()
    assert place.numbers() == clean


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_with_the_command_that_goes_on(place, clean, number, jobs):
    process = place.start(*GRID, "-o", "out", "-j", jobs)
    assert until(lambda: len(files(place)) >= 5, 120)
    # A terminal sends Ctrl-C to all processes in the foreground.
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    out, error = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 130, error
    assert out == ""
    assert place.emptied()
    last = error.splitlines()[-1]
    finished = files(place)
    said = f"interrupted; {len(finished)} of {CELLS} cells are finished and kept"
    assert last.startswith(said)
    statuses = [record.status for record in place.records().values()]
    # None if the signal came between two cells; and answers that were on their way are not
    # taken in any more.
    assert statuses.count("interrupted") <= 2 * int(jobs)
    assert set(statuses) <= {"ok", "interrupted"}
    _, command = last.split("go on with: ")
    program, *words = shlex.split(command)
    assert program == "cibench"
    place.call(*words, "-q")
    assert finished.items() <= files(place).items()
    assert place.numbers() == clean


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_cell_that_is_stopped_has_a_record_that_says_so(place, jobs):
    cell = ["-a", "flip", "-d", "faulty:deed=naps", "-P", "faulty.seconds=600"]
    process = place.start(
        *("run", "--dataset", DATA, "--embedding", RECIPE, "--seeds", "1", *cell),
        *("-o", "out", "-j", jobs, "--json-log", "events"),
    )
    events = place.folder / "events"

    def began():
        lines = events.read_text().splitlines() if events.exists() else []
        found = [json.loads(line) for line in lines]
        return any(
            event["event"] == "phase" and event["stage"] == "evaluate"
            for event in found
        )

    assert until(began, 120)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    (record,) = place.records().values()
    assert (record.status, record.reason) == ("interrupted", "the run was interrupted")


def test_an_interrupted_rerun_keeps_the_numbers_there_were(place, clean):
    place.call(*GRID, "-o", "out", "-q")
    before = files(place)
    process = place.start("run", "--resume", "out", "--rerun", "all", "--no-cache")
    assert until(lambda: files(place) != before, 120)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert files(place).keys() == before.keys()
    assert place.numbers() == clean
