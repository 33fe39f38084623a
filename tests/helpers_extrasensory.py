"""Generated ExtraSensory files, and where the real one may lie."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

PAPER_USER = "0BFC35E2-4817-4865-BFA7-764742302A2D"
HEADER_FILE = Path(__file__).parent / "data" / "extrasensory_header.txt"
FEATURES = slice(1, 226)
#: Columns without any value in the paper user's file too.
EMPTY = (
    "location:min_altitude",
    "location:max_altitude",
    "location:best_vertical_accuracy",
    "lf_measurements:proximity",
    "lf_measurements:relative_humidity",
    "lf_measurements:screen_brightness",
    "lf_measurements:temperature_ambient",
)


def header() -> list[str]:
    """The 278 column names of every user's file."""
    return HEADER_FILE.read_text(encoding="utf-8").split()


def real_data_dir() -> Path | None:
    """Folder that holds the paper user's real file, if this machine has it."""
    folders = [Path(__file__).parents[1] / ".." / "shared" / "data"]
    if given := os.environ.get("CIBENCH_DATA"):
        folders.insert(0, Path(given))
    name = f"{PAPER_USER}.features_labels.csv.gz"
    for folder in folders:
        if any((place / name).is_file() for place in (folder, folder / "extrasensory")):
            return folder
    return None


def write_user(
    folder: Path, *, rows: int = 2600, seed: int = 0, user: str = PAPER_USER
) -> Path:
    """Write `<user>.features_labels.csv.gz` in the real format, the same each time.

    `SITTING` changes every few minutes, is 1 in about 60 % of the rows, unknown in
    about 20 %, and shifts every feature a little: a linear model learns it. The compass
    is missing in about 30 % of the rows, the watch accelerometer in about 5 %, and the
    columns `EMPTY` everywhere. `FIX_walking` is the opposite of `SITTING`, `LOC_home`
    is always 1, the other labels are unknown. Fewer than 2502 rows need
    `split=chronological`.
    """
    rng = np.random.default_rng(seed)
    names = header()
    place = {name: i for i, name in enumerate(names)}
    table = np.full((rows, len(names)), np.nan)
    sitting = np.repeat(rng.random(rows) < 0.6, 5)[:rows].astype(float)
    shift = rng.normal(size=225) * 0.6
    features = rng.normal(size=(rows, 225)) + (2 * sitting[:, None] - 1) * shift
    table[:, FEATURES] = features.round(3) * 10.0 ** rng.integers(-2, 4, 225)
    for prefix, share in (("watch_heading:", 0.3), ("watch_acceleration:", 0.05)):
        columns = [i for i, name in enumerate(names) if name.startswith(prefix)]
        table[np.ix_(rng.random(rows) < share, columns)] = np.nan
    table[:, [place[name] for name in EMPTY]] = np.nan
    known = rng.random(rows) < 0.8
    table[:, place["label:SITTING"]] = np.where(known, sitting, np.nan)
    table[:, place["label:FIX_walking"]] = np.where(known, 1 - sitting, np.nan)
    table[:, place["label:LOC_home"]] = 1
    table[:, place["timestamp"]] = 1_444_000_000 + 60 * np.arange(rows)
    table[:, place["label_source"]] = 2
    return write_table(folder / f"{user}.features_labels.csv.gz", names, table)


def text_of(names: list[str], table: np.ndarray, missing: str = "") -> str:
    """CSV text as in the real files: carriage returns, nothing for a missing value."""
    lines = [",".join(names)]
    lines += [
        ",".join(missing if cell != cell else f"{cell:.10g}" for cell in row)
        for row in table.tolist()
    ]
    return "\r\n".join(lines) + "\r\n"


def write_table(path: Path, names: list[str], table: np.ndarray) -> Path:
    """Write a packed file whose bytes depend on the contents alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text_of(names, table).encode()
    path.write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
    return path
