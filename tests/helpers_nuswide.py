"""Generated NUS-WIDE folders in the exact official layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CONCEPTS = ("buildings", "grass", "animal", "water", "person")
#: Columns of each image feature, in alphabetical order as in the archive.
WIDTHS = {"CH": 64, "CM55": 225, "CORR": 144, "EDH": 73, "WT": 128}
FEATURES = "NUS_WID_Low_Level_Features/Low_Level_Features"


@dataclass(frozen=True)
class Truth:
    """What a generated folder says, by split (`Train`, `Test`)."""

    labels: dict[str, np.ndarray]
    image: dict[str, dict[str, np.ndarray]]
    tags: dict[str, np.ndarray]


def number(value: float) -> str:
    """As in the archive: `1` and `0` are written without a point."""
    return f"{value:.6g}"


def text_of(values: np.ndarray, separator: str) -> str:
    """A line per row, with the separator after each number, the last one included."""
    return "".join(
        "".join(number(v) + separator for v in row) + "\n" for row in values.tolist()
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii", newline="")


def write_folder(root: Path, *, train=60, test=40, seed=0, whole=False) -> Truth:
    """Write the folder `root`; `whole` writes features of all images in one file.

    About one row in three has none or several of the concepts. Features carry the class
    of their row; no two rows are the same. In the variant `whole` the images of the splits
    are mixed, and names are written with a backslash.
    """
    rng = np.random.default_rng(seed)
    counts = {"Train": train, "Test": test}
    labels, image, tags = {}, {}, {}
    for part, n in counts.items():
        flags = np.zeros((n, len(CONCEPTS)), dtype=int)
        flags[np.arange(n), rng.integers(0, len(CONCEPTS), n)] = 1
        flags[rng.random(n) < 0.15] = 0
        flags[rng.random(n) < 0.15, :2] = 1
        labels[part] = flags
        image[part] = {
            x: np.array(
                [
                    [float(number(v)) for v in row]
                    for row in (rng.random((n, w)) + flags.sum(axis=1)[:, None])
                ]
            )
            for x, w in WIDTHS.items()
        }
        tags[part] = (rng.random((n, 1000)) < 0.02).astype(int)
        write(root / f"NUS_WID_Tags/{part}_Tags1k.dat", text_of(tags[part], "\t"))
    if whole:
        _write_whole(root, counts, labels, image, rng)
        return Truth(labels, image, tags)
    for part in counts:
        for i, concept in enumerate(CONCEPTS):
            write(
                root / f"Groundtruth/TrainTestLabels/Labels_{concept}_{part}.txt",
                "".join(f"{v}\n" for v in labels[part][:, i]),
            )
        for x, values in image[part].items():
            write(root / FEATURES / f"{part}_Normalized_{x}.dat", text_of(values, " "))
    return Truth(labels, image, tags)


def _write_whole(root, counts, labels, image, rng) -> None:
    total = sum(counts.values())
    order = rng.permutation(total)
    names = [f"folder\\{i:04d}_{rng.integers(10**6)}.jpg" for i in range(total)]
    rows = {"Train": order[: counts["Train"]], "Test": order[counts["Train"] :]}
    for part, name in (("Train", "TrainImagelist"), ("Test", "TestImagelist")):
        listed = "".join(names[i] + "\r\n" for i in rows[part])
        write(root / f"ImageList/{name}.txt", listed)
    write(root / "ImageList/Imagelist.txt", "".join(n + "\r\n" for n in names))
    for i, concept in enumerate(CONCEPTS):
        every = np.empty(total, dtype=int)
        for part in counts:
            every[rows[part]] = labels[part][:, i]
        write(
            root / f"Groundtruth/AllLabels/Labels_{concept}.txt",
            "".join(f"{v}\n" for v in every),
        )
    for x, width in WIDTHS.items():
        every = np.empty((total, width))
        for part in counts:
            every[rows[part]] = image[part][x]
        write(root / FEATURES / f"Normalized_{x}.dat", text_of(every, " "))
