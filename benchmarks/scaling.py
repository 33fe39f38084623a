"""Cells a second and efficiency by number of workers, as a markdown table.

    python benchmarks/scaling.py [CELLS [SECONDS]]

Every cell sleeps for the given time, so that the figures show what the engine adds, not
how fast the machine computes or how its cores share their caches. The rate is that between
the first and the last record: embedding, fits and the start of processes are left out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers_grid import Place

BACKENDS = (
    ["-j", "1"],
    ["-j", "2"],
    ["--backend", "dask", "-j", "2"],
)


def rate(backend: list[str], cells: int, number: float) -> float:
    """Cells a second of a run of so many cells of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        numbers = ",".join(map(str, range(cells)))
        grid = ["-d", f"faulty:deed=naps,seconds={number:g}", "-a", "flip", "-q"]
        place.run(*grid, "-P", f"faulty.number={numbers}", *backend)
        records = (place.folder / "out" / "cells").glob("*.json")
        times = sorted(path.stat().st_mtime for path in records)
        assert len(times) == cells
        return (cells - 1) / (times[-1] - times[0])


def main(cells: int = 200, number: float = 0.1) -> None:
    """Print the table."""
    print(f"{cells} cells of {number:g} s each\n")
    print("| backend | workers | cells/s | efficiency |")
    print("|---------|---------|---------|------------|")
    for backend in BACKENDS:
        workers = int(backend[-1])
        name = backend[1] if len(backend) > 2 else ("serial", "loky")[workers > 1]
        found = rate(backend, cells, number)
        share = found * number / workers
        print(f"| {name} | {workers} | {found:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
