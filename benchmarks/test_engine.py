"""What the grid engine costs beside the work itself.

    OMP_NUM_THREADS=1 pytest benchmarks/test_engine.py -s

A thousand cells of some milliseconds each, computed by the command line and by a plain
loop in one process; the resuming of a finished run of ten thousand cells; the memory of
the main process. Times depend on the machine and on its load: only the comparison of two
measurements of one run is of interest. Goals: at most 20 ms per cell over the work, the
same memory for any number of cells, less than 5 s to resume.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cibench.cli import invoke
from cibench.execute.blank import cell_id
from cibench.execute.engine import Engine
from cibench.results.record import decode, encode
from helpers_grid import DATA, RECIPE, Place

GIVEN = ["--dataset", DATA, "--embedding", RECIPE]

#: The cells one after another, in order, in one process, without records on disk.
LOOP = """
import sys, tempfile
from pathlib import Path
from cibench.execute.runner import Runner
from cibench.execute.settings import Settings
from cibench.grid import expand
from cibench.registry import default_registry

selection = eval(sys.argv[1])
with tempfile.TemporaryDirectory() as cache:
    runner = Runner(Settings(cache=Path(cache)))
    for cell in expand(default_registry(), **selection):
        runner.evaluate(cell)
"""

#: A command that says on standard error how much memory its process had at most.
MEASURED = """
import resource, sys
from cibench.cli import invoke

code = invoke(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def selected(cells):
    """Options for so many cells: ten attacks, ten defenses, and seeds."""
    powers = ",".join(map(str, range(1, 11)))
    quantiles = ",".join(f"0.{90 + i}" for i in range(10))
    return [
        *("-a", "flip", "-P", f"flip.amplification={powers}"),
        *("-d", "norm-clip", "-P", f"norm-clip.quantile={quantiles}"),
        *("--seeds", str(cells // 100)),
    ]


def called(place, program, *words):
    """Standard error of a program with the command's words."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        cwd=place.folder, env=place.environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stderr


def plain(place, cells):
    """Compute the cells in a plain loop."""
    options = selected(cells)
    chosen = {
        "datasets": [DATA],
        "attacks": ["flip"],
        "defenses": ["norm-clip"],
        "seeds": list(range(cells // 100)),
        "parameters": options[3::4][:2],
        "embedding": RECIPE,
    }
    called(place, LOOP, repr(chosen))


def ran(place, cells, *words):
    """Run the cells; the peak of the main process's memory in bytes."""
    given = ["run", *selected(cells), *GIVEN, "-o", "out", "-q", *words]
    return 1024 * int(re.search(r"peak (\d+)", called(place, MEASURED, *given))[1])


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_thousand_cells(benchmark, tmp_path, jobs):
    began = time.perf_counter()
    plain(Place(tmp_path), 1000)
    alone = time.perf_counter() - began
    began = time.perf_counter()
    benchmark.pedantic(lambda: ran(Place(tmp_path), 1000, "-j", jobs), rounds=1)
    whole = time.perf_counter() - began
    # What the same work takes if it is divided perfectly.
    cost = whole - alone / int(jobs)
    benchmark.extra_info["milliseconds per cell over the work"] = round(cost, 2)
    print(
        f"\n-j {jobs}: {whole:.1f} s beside {alone:.1f} s in a plain loop:"
        f" {cost:.1f} ms per cell over the work itself"
    )


def test_the_memory_of_the_main_process(benchmark, tmp_path):
    peaks = {}
    for cells in (200, 1000, 2000):
        place = Place(tmp_path / str(cells))
        place.folder.mkdir()
        peaks[cells] = ran(place, cells, "--json")
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update({str(k): v for k, v in peaks.items()})
    print("\n" + ", ".join(f"{k} cells: {v / 2**20:.0f} MiB" for k, v in peaks.items()))


def test_resuming_ten_thousand_finished_cells(benchmark, tmp_path, monkeypatch):
    place = Place(tmp_path)
    monkeypatch.setenv("CIBENCH_CACHE", str(place.cache))
    monkeypatch.chdir(tmp_path)
    words = ["run", *selected(10_000), *GIVEN, "-o", "out", "-q"]
    # The first run computes one cell; its record stands for those of all others.
    assert invoke(["run", *selected(100), *GIVEN, "-o", "one", "-q", "--exclude",
                   "flip:amplification=[2-9]*", "--isolation", "none"]) == 0  # fmt: skip
    record = decode(next((place.folder / "one" / "cells").iterdir()).read_bytes())
    engines = []

    def nothing(self):
        engines.append(self)
        return iter(())

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "run", nothing)
        assert invoke([*words, "--isolation", "none"]) == 0
    (engine,) = engines
    for cell in engine.cells:
        key = engine.keys(cell).cell
        copy = msgspec.structs.replace(record, cell=cell_id(cell, key), key=key)
        engine.folder.file(copy.cell).write_bytes(encode(copy))
    decided, run = [], Engine.run

    def timed(self):
        began = time.perf_counter()
        found = list(run(self))
        decided.append(time.perf_counter() - began)
        assert {done.source for done in found} == {"folder"}
        return iter(found)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "run", timed)
        benchmark.pedantic(
            lambda: invoke(["run", "--resume", "out", "-q", "--isolation", "none"]),
            rounds=1,
        )
    manifest = json.loads((place.folder / "out" / "run.json").read_text())
    assert manifest["invocations"][-1]["cells"] == 10_000
    benchmark.extra_info["seconds to decide"] = round(decided[0], 2)
    print(f"\n10000 finished cells: decided in {decided[0]:.2f} s")
