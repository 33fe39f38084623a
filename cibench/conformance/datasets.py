"""What a data set keeps: disjoint splits, one fingerprint everywhere, no network."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import cloudpickle
import torch
from torch import Tensor

from .._errors import DataError
from ..dataset import AgentDataset, Split
from ..embedding.recipe import recipe_of
from .check import Broken, NotApplicable, check, expect
from .disturb import disturb
from .trial import DatasetTrial, data_folder


@check(
    "dataset",
    why="embeddings, attacks and tables are made from what it says of itself.",
    mend="return an AgentDataset from `load`: float32 features with NaN for what was not"
    " recorded, int64 labels, class names, an embedding recipe, citation and licence.",
)
def check_loads(trial: DatasetTrial) -> None:
    """It loads, and says what it is."""
    loaded = trial.loaded
    expect(isinstance(loaded, AgentDataset), "an AgentDataset", type(loaded).__name__)
    recipe_of(loaded.recipe)
    for split in (loaded.train, loaded.validation, loaded.test):
        expect(
            split.features.dtype == torch.float32,
            "features of float32",
            f"{split.features.dtype}",
        )
        expect(
            split.labels.dtype == torch.int64,
            "labels of int64",
            f"{split.labels.dtype}",
        )
    names = loaded.class_names
    expect(len(set(names)) == len(names), "class names that differ", f"{names}")
    expect(bool(loaded.licence.strip()), "a licence", "none")
    expect(loaded.layout.agents >= 2, "at least two agents", f"{loaded.layout.agents}")


@check(
    "dataset",
    why="a test sample that was trained on counts as right for the wrong reason.",
    mend="split by sample, by person or by stretch of time before anything is copied.",
)
def check_splits_are_disjoint(trial: DatasetTrial) -> None:
    """No sample of one split is in another, beyond what repeats within the splits."""
    loaded = trial.loaded
    rows = {
        name: _rows(split)
        for name, split in (
            ("training", loaded.train),
            ("validation", loaded.validation),
            ("test", loaded.test),
        )
    }
    # Coarse sensors repeat themselves: what repeats within a split may do so between two.
    repeated = 1 - len(set(rows["training"])) / len(rows["training"])
    for one, other in (
        ("training", "test"),
        ("validation", "test"),
        ("training", "validation"),
    ):
        held = set(rows[one])
        share = sum(row in held for row in rows[other]) / len(rows[other])
        expect(
            share <= 2 * repeated,
            f"samples in the {other} split that are not in the {one} split",
            f"{100 * share:.1f} % that are, where {100 * repeated:.1f} % of training"
            " samples repeat another",
        )


def _rows(split: Split) -> list[bytes]:
    values = split.features.contiguous().numpy()
    return [row.tobytes() for row in values]


@check(
    "dataset",
    why="the fingerprint is the identity of the data in every cache key; data that differ"
    " between two processes give results that nobody can rerun. `load` on a cluster has no"
    " network, and a run that downloads is not repeatable.",
    mend="draw from a generator with a seed of its own, sort what a folder or a set lists,"
    " and leave downloads to `downloads` and `cibench data fetch`.",
)
def check_same_everywhere_without_network(trial: DatasetTrial) -> None:
    """Another process, with other hash and random seeds and no network, loads the same."""
    expected = trial.loaded.fingerprint
    disturb(3)
    again = trial.plugin.load(data_dir=data_folder()).fingerprint
    expect(again == expected, f"fingerprint {expected[:12]} again", again[:12])
    found = _elsewhere(trial)
    if found.get("network"):
        raise Broken("`load` without network", f"a call of {found['network']}")
    if "error" in found:
        raise Broken("the same in another process", str(found["error"]))
    expect(
        found["fingerprint"] == expected,
        f"fingerprint {expected[:12]} in another process",
        str(found["fingerprint"])[:12],
    )


_CHILD = """
import json, pickle, sys
path, folder = json.loads(sys.argv[1])
sys.path[:] = path
from cibench.conformance.disturb import disturb
disturb(9)
touched = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        touched.append(event)
        raise OSError("conformance: no network here")
sys.addaudithook(watch)
found = {}
from pathlib import Path
try:
    plugin = pickle.loads(sys.stdin.buffer.read())
except BaseException as error:
    print("cibench:" + json.dumps({"unknown": str(error)}))
    sys.exit()
try:
    loaded = plugin.load(data_dir=None if folder is None else Path(folder))
    found["fingerprint"] = loaded.fingerprint
except BaseException as error:
    found["error"] = f"{type(error).__name__}: {error}"
found["network"] = touched[0] if touched else ""
print("cibench:" + json.dumps(found))
"""


def _elsewhere(trial: DatasetTrial) -> dict[str, str]:
    """Load in another process that may not touch the network.

    A class that cannot be imported there, as one of a test file, goes with its code.
    """
    found = _child(trial, pickle.dumps(trial.plugin))
    if "unknown" in found:
        cloudpickle.register_pickle_by_value(sys.modules[type(trial.plugin).__module__])
        found = _child(trial, cloudpickle.dumps(trial.plugin))
    if "unknown" in found:
        return {"error": found["unknown"]}
    return found


def _child(trial: DatasetTrial, plugin: bytes) -> dict[str, str]:
    folder = data_folder()
    given = json.dumps([sys.path, None if folder is None else str(folder.absolute())])
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, given],
        input=plugin,
        capture_output=True,
        check=False,
    )
    lines = [
        line[8:]
        for line in done.stdout.decode(errors="replace").splitlines()
        if line.startswith("cibench:")
    ]
    if not lines:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {"error": f"exit status {done.returncode}: {''.join(told)}"}
    found: dict[str, str] = json.loads(lines[-1])
    return found


@check(
    "dataset",
    why="users without the files are to read what is missing and where to get it.",
    mend="set `files_needed`, let `present` look for the files, and raise cibench.DataError"
    " from `load` where one is not there.",
)
def check_absent_files(trial: DatasetTrial) -> None:
    """Without its files `present` is false and `load` says so; without need it loads."""
    plugin = trial.plugin
    if not plugin.files_needed:
        expect(plugin.present(data_dir=None), "`present`, as it needs no files", "not")
        raise NotApplicable("it needs no files")
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        expect(
            not plugin.present(data_dir=empty),
            "`present` to be false for an empty folder",
            "true",
        )
        try:
            plugin.load(data_dir=empty)
        except DataError as error:
            expect(len(str(error)) > 20, "a DataError that says what to do", str(error))
        else:
            raise Broken("a DataError for an empty folder", "data")


@check(
    "dataset",
    why="a column that holds the label, or no trace of it, makes every defense look alike.",
    mend="look at the accuracy of each agent alone: one column decides everything.",
)
def check_labels_are_not_a_column(trial: DatasetTrial) -> None:
    """No column of an agent, by its values or its gaps, tells the labels of all samples."""
    loaded = trial.loaded
    features, labels = loaded.train.features, loaded.train.labels
    for column in range(features.shape[1]):
        values = features[:, column]
        gaps = values.isnan()
        agent = loaded.layout.names[int(loaded.layout.owner[column])]
        if gaps.any():
            there = set(labels[~gaps].tolist())
            expect(
                not there or not there.isdisjoint(labels[gaps].tolist()),
                "gaps that do not depend on the label alone",
                f"column {column} (of agent {agent}), missing for some classes always and"
                " for the others never",
            )
        else:
            expect(
                not _tells(values, labels, len(loaded.class_names)),
                "no column that is the label",
                f"column {column} (of agent {agent}), which has one value per class",
            )


def _tells(values: Tensor, labels: Tensor, classes: int) -> bool:
    kinds = [set(values[labels == label].tolist()) for label in range(classes)]
    return all(len(kind) == 1 for kind in kinds) and len(set.union(*kinds)) == classes
