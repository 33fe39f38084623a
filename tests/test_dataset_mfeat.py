import hashlib
import io
import subprocess
import sys
import zipfile
from importlib import resources

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cibench import DataError
from cibench._errors import OptionError
from cibench.spec import Spec, build
from cibench_plugins.datasets import mfeat
from cibench_plugins.datasets.mfeat import VIEWS, Mfeat

FILE = resources.files("cibench_plugins.datasets") / "data" / "mfeat.npz"
SHA256 = "5f9a6d1674f0e06297f74f87b5b5d39b45789c5583a03c0c3d78c608e0510d17"


@pytest.fixture(scope="module")
def data():
    return Mfeat().load()


@pytest.fixture(scope="module")
def arrays():
    with np.load(io.BytesIO(FILE.read_bytes()), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def parts(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def accuracy(data, columns):
    model = LogisticRegression(max_iter=5000)
    model.fit(data.train.features[:, columns].numpy(), data.train.labels.numpy())
    return model.score(data.test.features[:, columns].numpy(), data.test.labels.numpy())


def test_the_shipped_file_is_the_converted_one():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(io.BytesIO(FILE.read_bytes())) as archive:
        dates = {member.date_time for member in archive.infolist()}
    assert dates == {(1980, 1, 1, 0, 0, 0)}


def test_stored_types_and_known_values(arrays):
    assert {key: str(value.dtype) for key, value in arrays.items()} == {
        "fou": "float32",
        "fac": "uint16",
        "kar": "float32",
        "pix": "uint8",
        "zer": "float32",
        "mor": "float32",
        "labels": "uint8",
    }
    assert np.bincount(arrays["labels"]).tolist() == [200] * 10
    # First rows of the CSV files.
    assert arrays["fac"][0, :4].tolist() == [98, 236, 531, 673]
    assert arrays["pix"][0, :5].tolist() == [0, 3, 4, 4, 6]
    first = [1, 0, 0, 133.15, 1.3117, 1620.2]
    np.testing.assert_allclose(arrays["mor"][0], first, rtol=1e-7)
    np.testing.assert_allclose(arrays["mor"].max(), 17572, atol=1)


def test_attribution_lies_beside_the_data():
    text = (FILE.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for words in ("Duin", "10.24432/C5HC70", "CC BY 4.0", "MIT", "Changes"):
        assert words in text


def test_agents_and_splits(data):
    assert data.layout.names == ("fou", "fac", "kar", "pix", "zer", "mor")
    assert data.layout.widths == (76, 216, 64, 240, 47, 6)
    assert data.layout.width == 649
    for part, each in (("train", 128), ("validation", 32), ("test", 40)):
        split = parts(data)[part]
        assert torch.bincount(split.labels).tolist() == [each] * 10
        assert split.features.dtype == torch.float32
        assert torch.isfinite(split.features).all()
        assert split.observation(data.layout).observed.all()


def test_every_prefix_of_a_split_is_balanced(data):
    for split in parts(data).values():
        assert split.labels[:30].tolist() == list(range(10)) * 3


@pytest.mark.parametrize("seed", [0, 1, 999_999])
def test_splits_are_disjoint_and_cover_every_sample(seed):
    order = Mfeat(split_seed=seed)._order()
    assert sorted(order.tolist()) == list(range(2000))


def test_standardized_with_training_statistics_only(data, arrays):
    order = Mfeat()._order().numpy()
    raw = np.hstack([arrays[view].astype(np.float64) for view in VIEWS])
    scaler = StandardScaler().fit(raw[order[:1280]])
    for split, rows in (
        (data.train, order[:1280]),
        (data.validation, order[1280:1600]),
        (data.test, order[1600:]),
    ):
        np.testing.assert_allclose(
            split.features.numpy(), scaler.transform(raw[rows]), atol=1e-5, rtol=1e-5
        )
        np.testing.assert_array_equal(split.labels.numpy(), arrays["labels"][rows])


def test_clean_accuracy_of_all_views_and_of_one(data):
    assert accuracy(data, slice(None)) >= 0.97
    single = {
        name: accuracy(data, columns)
        for name, columns in zip(data.layout.names, data.layout.slices, strict=True)
    }
    assert single["fac"] >= 0.95
    assert single["pix"] >= 0.95
    assert 0.65 <= single["mor"] <= 0.80


def test_identity(data):
    assert data.name == "mfeat"
    assert Mfeat(split_seed=3).load().name == "mfeat:split_seed=3"
    assert Mfeat(split_seed=3).load().fingerprint != data.fingerprint
    assert data.recipe == "mlp-32"
    assert data.licence == "CC BY 4.0"
    assert "10.24432/C5HC70" in data.citation
    assert not data.time_series


def test_fingerprint_is_the_same_in_another_process(data):
    code = (
        "from cibench_plugins.datasets.mfeat import Mfeat;"
        "print(Mfeat().load().fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == data.fingerprint


@pytest.mark.parametrize("value", ["-1", "one", "1000000"])
def test_a_wrong_seed_is_named(value):
    with pytest.raises(OptionError, match=r"dataset mfeat: option split_seed"):
        build("dataset", Mfeat, Spec.parse(f"mfeat:split_seed={value}"))


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 damaged", None])
def test_a_damaged_shipped_file_is_named(monkeypatch, tmp_path, contents):
    (tmp_path / "data").mkdir()
    if contents is not None:
        (tmp_path / "data" / "mfeat.npz").write_bytes(contents)
    monkeypatch.setattr(mfeat.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"mfeat\.npz: expected .*install cibench"):
        Mfeat().load()


def test_the_hook_provides_the_class():
    assert mfeat.cibench_datasets() == [Mfeat]
