import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cibench import DataError
from cibench._errors import OptionError, UsageError
from cibench.spec import Spec, build
from cibench_plugins.datasets import features
from cibench_plugins.datasets.features import Features

N = 30


def blocks(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "features/cam10": rng.normal(size=(N, 2)).astype(np.float32),
        "features/cam2": rng.normal(size=(N, 3)).astype(np.float32),
        "labels": np.arange(N) % 3 + 5,
    }


@pytest.fixture
def write(tmp_path):
    """Write a file; return the configured plugin."""

    def make(arrays=None, kind=".npz", **options):
        arrays = blocks() if arrays is None else arrays
        path = tmp_path / f"embedded{kind}"
        if kind == ".npz":
            np.savez(path, **arrays)
        else:
            save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
        return Features(path=str(path), **options)

    return make


def everything(data):
    parts = (data.train, data.validation, data.test)
    return torch.cat([s.features for s in parts]), torch.cat([s.labels for s in parts])


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_blocks_are_passed_on_as_they_are(write, kind):
    given = blocks() | {"split": np.repeat([0, 1, 2], [18, 5, 7])}
    data = write(given, kind).load()
    assert data.layout.names == ("cam2", "cam10")
    assert data.layout.widths == (3, 2)
    assert data.recipe == "identity"
    assert data.class_names == ("5", "6", "7")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [18, 5, 7]
    found, labels = everything(data)
    expected = np.hstack([given["features/cam2"], given["features/cam10"]])
    np.testing.assert_array_equal(found, expected)
    assert labels.tolist() == (given["labels"] - 5).tolist()


def test_one_array_with_widths_is_the_same(write):
    given = blocks()
    wide = np.hstack([given["features/cam2"], given["features/cam10"]])
    other = {"features": wide, "widths": np.array([3, 2]), "labels": given["labels"]}
    found, expected = write(other).load(), write(given).load()
    assert found.layout.names == ("agent1", "agent2")
    assert found.layout.widths == (3, 2)
    assert torch.equal(found.train.features, expected.train.features)


def test_the_split_is_stratified_and_seeded(write):
    data = write().load()
    assert [
        torch.bincount(s.labels).tolist()
        for s in (data.train, data.validation, data.test)
    ] == [[6] * 3, [2] * 3, [2] * 3]
    rows, _ = everything(data)
    assert len(torch.unique(rows, dim=0)) == N
    assert write().load().fingerprint == data.fingerprint
    assert write(split_seed=1).load().fingerprint != data.fingerprint


def test_rows_of_nan_are_missing_agents(write):
    given = blocks() | {"split": np.repeat([0, 1, 2], 10)}
    given["features/cam2"][[3, 25]] = np.nan
    data = write(given).load()
    observed = data.test.observation(data.layout).observed
    assert observed.tolist() == [[i != 5, True] for i in range(10)]


def test_scaling_is_by_training_rows(write):
    given = blocks() | {"split": np.repeat([0, 1, 2], 10)}
    data = write(given, standardize="train").load()
    wide = np.hstack([given["features/cam2"], given["features/cam10"]]).astype(float)
    train = wide[:10]
    expected = (wide[20:] - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(data.test.features, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16", "uint8"])
def test_other_types_become_float32(write, dtype):
    given = blocks()
    given["features/cam2"] = (given["features/cam2"] * 9).astype(dtype)
    given["labels"] = given["labels"].astype("uint8")
    data = write(given).load()
    assert data.train.features.dtype == torch.float32
    ours = {tuple(row) for row in everything(data)[0][:, :3].tolist()}
    assert ours == {tuple(map(float, row)) for row in given["features/cam2"]}


def without(*names):
    return {k: v for k, v in blocks().items() if k not in names}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("labels"), r"expected labels, and .*, got features/cam10, features"),
        ({"labels": np.zeros(3)}, r"expected labels, and .*, got labels"),
        (blocks() | {"widths": np.ones(2)}, r"expected labels, and"),
        (blocks() | {"extra": np.ones(2)}, r"expected labels, and .*extra"),
        (blocks() | {"labels": np.arange(N - 1)}, r"labels of shape \(30,\).*\(29,\)"),
        (blocks() | {"labels": np.arange(N) / 2}, r"whole numbers in labels"),
        (
            blocks() | {"features/cam2": np.ones((N + 1, 2))},
            r"rows in features/cam10 as in features/cam2, 31, got 30",
        ),
        (blocks() | {"features/cam2": np.ones(N)}, r"cam2 of shape \(n, width\), got"),
        (blocks() | {"features/cam2": np.ones((N, 0))}, r"of shape \(n, width\)"),
        (blocks() | {"features/cam2": np.ones((N, 1), complex)}, r"real numbers"),
        (blocks() | {"split": np.full(N, 3)}, r"expected split of 0 .*, got 3"),
        (blocks() | {"split": np.zeros(2)}, r"split of shape \(30,\)"),
        (blocks() | {"split": np.zeros(N)}, r"validation split: expected at least one"),
        (blocks() | {"labels": np.arange(N)}, r"3 rows of each class, got 1 of '0'"),
        (
            {"features": np.ones((N, 4)), "widths": [2, 3], "labels": np.arange(N)},
            r"sum to the 4 columns of features, got \[2, 3\]",
        ),
        (
            {"features": np.ones((N, 4)), "widths": [4, 0], "labels": np.arange(N)},
            r"whole numbers >= 1",
        ),
        (
            blocks() | {"features/cam2": np.full((N, 1), np.inf)},
            r"expected finite features",
        ),
    ],
)
def test_arrays_that_disagree_are_named(write, arrays, message):
    with pytest.raises(DataError, match=message) as raised:
        write(arrays).load()
    assert "\n" not in str(raised.value)


def test_agents_need_names(write):
    given = blocks()
    given["features/2 x"] = given.pop("features/cam2")
    with pytest.raises(UsageError, match=r"agent name .*, got '2 x'"):
        write(given).load()


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_damaged_files_are_named(write, tmp_path, kind):
    plugin = write(kind=kind)
    path = tmp_path / f"embedded{kind}"
    whole = path.read_bytes()
    for damaged in (b"", b"not one", whole[: len(whole) // 2], whole[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"embedded\S+: expected a whole"):
            plugin.load()


def test_no_objects_are_unpickled(write):
    given = blocks() | {"labels": np.array([{}] * N, dtype=object)}
    with pytest.raises(DataError, match=r"expected a whole .npz file of numbers"):
        write(given).load()
    given = blocks() | {"labels": np.array(["a"] * N)}
    with pytest.raises(DataError, match=r"expected a whole .npz file of numbers"):
        write(given).load()


def test_files_are_asked_for(tmp_path):
    assert not Features().present()
    with pytest.raises(DataError, match=r"features: expected the option path=FILE"):
        Features().load()
    with pytest.raises(DataError, match=r"expected path to be a file"):
        Features(path=str(tmp_path)).load()
    (tmp_path / "a.pt").write_text("")
    with pytest.raises(DataError, match=r"ends in .npz or .safetensors, got .pt"):
        Features(path=str(tmp_path / "a.pt")).load()


def test_locations_stay_out_of_the_name(write):
    plugin = write(title="ward", split_seed=4)
    assert plugin.present()
    assert plugin.load().name == "features:split_seed=4,title=ward"
    assert features.cibench_datasets() == [Features]
    with pytest.raises(OptionError, match="option standardize: none or train"):
        build("dataset", Features, Spec.parse("features:standardize=all"))
