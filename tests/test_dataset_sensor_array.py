import json

import numpy as np
import pytest
import torch

from cibench import cli
from cibench._errors import OptionError
from cibench.spec import Spec, build
from cibench_plugins.datasets import sensor_array
from cibench_plugins.datasets.sensor_array import SensorArray


def everything(data):
    return torch.cat(
        [data.train.features, data.validation.features, data.test.features]
    )


@pytest.mark.parametrize("sources", [6, 7, 8])
def test_sixteen_agents_of_eight_see_few_sources(sources):
    plugin = SensorArray(sources=sources, noise=0.0, samples=300)
    data = plugin.load()
    assert data.layout.widths == (8,) * 16
    values = torch.linalg.svdvals(everything(data).double() - plugin.truth().offset)
    assert values[sources - 1] > 1e-2 * values[0]
    assert values[sources] < 1e-5 * values[0]


def test_noise_is_the_stated_ratio():
    clean = everything(SensorArray(noise=0.0).load()).double()
    noisy = everything(SensorArray(noise=0.1).load()).double()
    signal = clean - SensorArray().truth().offset
    ratio = (noisy - clean).square().mean() / signal.square().mean()
    assert 10 * float(ratio.log10()) == pytest.approx(-20, abs=0.1)


def test_no_agent_sees_what_another_sees():
    blocks = SensorArray().truth().basis.reshape(16, -1)
    correlations = torch.corrcoef(blocks) - torch.eye(16)
    assert correlations.abs().max() < 0.6  # 64 numbers each


def test_three_flipped_agents_can_be_corrected_by_least_squares_on_the_others():
    """The data determine the field without any three agents (an independent oracle)."""
    plugin = SensorArray(samples=200)
    data, truth = plugin.load(), plugin.truth()
    heard = np.ones(16, dtype=bool)
    heard[[2, 9, 15]] = False
    columns = np.repeat(heard, 8)
    clean = data.test.features.double().numpy() - truth.offset.numpy()
    basis = truth.basis.numpy()
    found, *_ = np.linalg.lstsq(basis[columns], clean.T[columns], rcond=None)
    missing = basis[~columns] @ found
    error = np.linalg.norm(missing - clean.T[~columns]) / np.linalg.norm(
        clean[:, ~columns]
    )
    assert error < 0.15


def test_identity():
    data = SensorArray(samples=200, sources=6).load()
    assert data.name == "sensor-array:samples=200,sources=6"
    assert data.recipe == "identity"
    assert len(data.class_names) == 10
    assert build("dataset", SensorArray, Spec.parse(data.name)) == SensorArray(
        samples=200, sources=6
    )
    assert SensorArray(samples=200, data_seed=1).load().fingerprint != data.fingerprint
    assert sensor_array.cibench_datasets() == [SensorArray]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("sources=5", r"option sources: integer >= 6 and <= 8 expected, got '5'"),
        ("noise=-1", r"option noise: number >= 0"),
        ("samples=99", r"samples: expected at least 100 for 10 classes, got 99"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        build("dataset", SensorArray, Spec.parse(f"sensor-array:{options}"))


def test_direct_construction_is_checked_too():
    with pytest.raises(ValueError, match="sources: expected 6 to 8, got 9"):
        SensorArray(sources=9)


def test_copur_keeps_its_accuracy_where_projection_loses_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    attack = "flip:agents=3/9/16,amplification=10"
    out = tmp_path / "out"
    command = (
        f"run -q --json --dataset sensor-array:samples=2000 -d copur -a {attack}"
        f" -d manifold-projection --seeds 3 --embedding identity:epochs=20 -o {out}"
    )
    code = cli.invoke(command.split())
    assert code == 0
    capsys.readouterr()
    kept = {"copur": [], "manifold-projection": []}
    for path in (out / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        shares = [record["metrics"][name] for name in ("attacked", "clean")]
        pair = tuple(share["successes"] / share["n"] for share in shares)
        kept[record["defense"]["spec"]].append(pair)
    assert [len(pairs) for pairs in kept.values()] == [3, 3]
    for attacked, clean in kept["copur"]:
        assert attacked >= 0.95 * clean
        assert clean > 0.7
    for attacked, clean in kept["manifold-projection"]:
        assert attacked < 0.3 < clean
