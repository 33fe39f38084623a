"""Cells a second and efficiency by number of workers, as a markdown table.

    python benchmarks/scaling.py [CELLS [SECONDS]]

Every cell sleeps for the given time, so that the figures show what the engine adds, not
how fast the machine computes or how its cores share their caches. The time of the
embedding, references and fit, and the start of the processes, is left out: it is that of
a run of two cells. Efficiency is relative to one worker.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers_grid import Place

BACKENDS = (
    ["-j", "1"],
    ["-j", "2"],
    ["--backend", "dask", "-j", "2"],
)


def seconds(backend: list[str], cells: int, number: float) -> float:
    """Wall time of a run of so many cells, its shared work done before."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        grid = ["-d", "faulty:deed=naps", "-a", "flip", "-q", *backend]
        grid += ["-P", f"faulty.seconds={number:g}"]
        numbers = ",".join(map(str, range(cells)))
        grid += ["-P", f"faulty.number={numbers}"]
        place.run(*grid)
        began = time.perf_counter()
        place.run(*grid, "--rerun", "all", out="again")
        return time.perf_counter() - began


def main(cells: int = 200, number: float = 0.1) -> None:
    """Print the table."""
    print(f"{cells} cells of {number:g} s each\n")
    print("| backend | workers | cells/s | efficiency |")
    print("|---------|---------|---------|------------|")
    for backend in BACKENDS:
        workers = int(backend[-1])
        spent = seconds(backend, cells + 2, number) - seconds(backend, 2, number)
        name = backend[1] if len(backend) > 2 else ("serial", "loky")[workers > 1]
        ideal = cells * number / workers
        print(f"| {name} | {workers} | {cells / spent:.1f} | {ideal / spent:.0%} |")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
