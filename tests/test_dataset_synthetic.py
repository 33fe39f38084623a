import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench import DataError
from cibench._errors import OptionError
from cibench.spec import Spec, build
from cibench_plugins.datasets import synthetic
from cibench_plugins.datasets.synthetic import Synthetic


def splits(data):
    return data.train, data.validation, data.test


def everything(data):
    """All features (float64) and labels, in the order they were generated."""
    features = torch.cat([split.features for split in splits(data)]).double()
    return features, torch.cat([split.labels for split in splits(data)])


def latent_of(plugin, features):
    """Latent vectors recovered from noise-free features."""
    truth = plugin.truth()
    return torch.linalg.lstsq(truth.basis, (features - truth.offset).T).solution.T


def singular_values(features):
    return torch.linalg.svdvals(features - features.mean(dim=0))


@pytest.mark.parametrize("rank", [1, 4, 9])
@pytest.mark.parametrize("redundancy", [0.0, 0.5, 1.0])
def test_affine_features_have_exactly_the_rank(rank, redundancy):
    data = Synthetic(rank=rank, redundancy=redundancy, samples=200).load()
    values = singular_values(everything(data)[0])
    assert values[rank - 1] > 1e-2 * values[0]
    assert values[rank] < 1e-5 * values[0]


def test_samples_lie_on_the_manifold_of_truth():
    plugin = Synthetic(agents=3, width=5, rank=2, samples=60, imbalance=1.0)
    features, _ = everything(plugin.load())
    truth = plugin.truth()
    assert truth.basis.shape == (15, 2)
    assert truth.offset.shape == (15,)
    rebuilt = truth.offset + latent_of(plugin, features) @ truth.basis.T
    torch.testing.assert_close(rebuilt, features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("nonlinearity", [0.0, 0.7])
def test_full_redundancy_gives_identical_blocks_up_to_scale(nonlinearity):
    plugin = Synthetic(
        agents=4, redundancy=1.0, imbalance=1.5, nonlinearity=nonlinearity, samples=50
    )
    data = plugin.load()
    features, _ = everything(data)
    blocks = [features[:, columns] for columns in data.layout.slices]
    for i, block in enumerate(blocks):
        scaled = blocks[0] * math.exp(-1.5 * i / 3)
        torch.testing.assert_close(block, scaled, atol=1e-6, rtol=1e-5)


def test_redundancy_is_the_correlation_of_blocks():
    for redundancy in (0.0, 0.5, 1.0):
        plugin = Synthetic(agents=2, width=3000, redundancy=redundancy)
        first, second = plugin.truth().basis.reshape(2, -1)
        found = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
        assert found == pytest.approx(redundancy, abs=0.05)


def test_imbalance_scales_whole_blocks():
    plain, scaled = Synthetic(agents=3), Synthetic(agents=3, imbalance=2.0)
    factor = torch.exp(torch.tensor([0.0, -1.0, -2.0]).double()).repeat_interleave(16)
    torch.testing.assert_close(
        scaled.truth().basis, plain.truth().basis * factor[:, None]
    )
    torch.testing.assert_close(scaled.truth().offset, plain.truth().offset * factor)


def test_noise_is_relative_to_the_clean_root_mean_square():
    clean, _ = everything(Synthetic().load())
    noisy, _ = everything(Synthetic(noise=0.25).load())
    spread = clean - Synthetic().truth().offset
    ratio = (noisy - clean).square().mean().sqrt() / spread.square().mean().sqrt()
    assert ratio.item() == pytest.approx(0.25, rel=0.02)


def test_nonlinearity_leaves_the_affine_manifold():
    flat = singular_values(everything(Synthetic().load())[0])
    bent = singular_values(everything(Synthetic(nonlinearity=0.5).load())[0])
    assert flat[4] < 1e-5 * flat[0]
    assert bent[4] > 1e-2 * bent[0]


@pytest.mark.parametrize(("classes", "margin"), [(2, 1.0), (3, 0.5), (7, 0.1)])
def test_margins_hold_by_brute_force(classes, margin):
    plugin = Synthetic(classes=classes, margin=margin, samples=210, rank=5)
    features, labels = everything(plugin.load())
    directions = plugin.truth().directions.tolist()
    for latent, label in zip(
        latent_of(plugin, features).tolist(), labels.tolist(), strict=True
    ):
        scores = [
            sum(a * b for a, b in zip(direction, latent, strict=True))
            for direction in directions
        ]
        others = [score for i, score in enumerate(scores) if i != label]
        assert scores[label] - max(others) >= margin - 1e-4


def test_a_knob_moves_nothing_it_does_not_name():
    plain, _ = everything(Synthetic(samples=40).load())
    for changed in (
        Synthetic(samples=40, noise=1.0),
        Synthetic(samples=40, margin=0.5),
    ):
        for ours, theirs in zip(changed.truth(), Synthetic().truth(), strict=True):
            assert torch.equal(ours, theirs)
    nearly, _ = everything(Synthetic(samples=40, noise=1e-9).load())
    torch.testing.assert_close(nearly, plain)


def test_identity_and_shares():
    data = Synthetic().load()
    assert [len(split) for split in splits(data)] == [500, 200, 300]
    assert data.name == "synthetic"
    assert data.recipe == "identity"
    assert data.layout.agents == 10
    assert data.layout.width == 160
    other = Synthetic(data_seed=1, rank=3).load()
    assert other.name == "synthetic:data_seed=1,rank=3"
    assert other.fingerprint != data.fingerprint
    assert Synthetic().load().fingerprint == data.fingerprint
    assert synthetic.cibench_datasets() == [Synthetic]


def test_fingerprint_is_the_same_in_another_process():
    code = (
        "from cibench_plugins.datasets.synthetic import Synthetic;"
        "print(Synthetic(noise=0.1, classes=3).load().fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    here = Synthetic(noise=0.1, classes=3).load().fingerprint
    assert done.stdout.strip() == here


@settings(max_examples=60, deadline=None)
@given(
    agents=st.integers(2, 4),
    width=st.integers(1, 5),
    rank=st.integers(1, 5),
    redundancy=st.sampled_from([0.0, 0.3, 1.0]),
    noise=st.floats(0, 2),
    nonlinearity=st.floats(0, 2),
    margin=st.floats(0, 0.2),
    imbalance=st.floats(0, 5),
    classes=st.integers(2, 4),
    extra=st.integers(0, 15),
    data_seed=st.integers(0, 99),
)
def test_any_knobs_give_a_sound_data_set_or_a_reason(**knobs):
    samples = 10 * knobs["classes"] + knobs.pop("extra")
    limit = knobs["width"] * (1 if knobs["redundancy"] == 1 else knobs["agents"])
    if knobs["rank"] > limit or (knobs["rank"] == 1 and knobs["classes"] > 2):
        with pytest.raises(ValueError, match=r"(rank|classes): expected .*, got"):
            Synthetic(**knobs, samples=samples)
        return
    plugin = Synthetic(**knobs, samples=samples)
    try:
        data = plugin.load()
    except DataError as error:  # a class whose region hardly any draw falls into
        assert knobs["classes"] > 2
        assert "choose a smaller margin" in str(error)  # noqa: PT017
        return
    features, labels = everything(data)
    assert features.shape == (samples, knobs["agents"] * knobs["width"])
    assert torch.isfinite(features).all()
    for split in splits(data):
        counts = torch.bincount(split.labels, minlength=knobs["classes"])
        assert counts.max() - counts.min() <= 1
    assert labels.tolist() == [i % knobs["classes"] for i in range(samples)]
    assert plugin.load().fingerprint == data.fingerprint
    assert build("dataset", Synthetic, Spec.parse(data.name)) == plugin


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("agents=1", r"option agents: integer >= 2 expected, got '1'"),
        ("redundancy=1.5", r"option redundancy: number .* expected, got '1.5'"),
        ("noise=-1", r"option noise: number >= 0 expected"),
        ("noise=inf", r"noise: expected a finite number >= 0, got inf"),
        ("margin=nan", r"option margin"),
        ("rank=161", r"rank: expected at most 160 .*, got 161"),
        ("rank=17,redundancy=1", r"rank: expected at most 16 .*, got 17"),
        ("rank=1,classes=3", r"classes: expected 2 with rank 1, got 3"),
        ("samples=19", r"samples: expected at least 20 for 2 classes, got 19"),
        ("nois=1", r"unknown option 'nois' \(did you mean 'noise'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        build("dataset", Synthetic, Spec.parse(f"synthetic:{options}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": 1}, r"agents: expected a finite integer >= 2, got 1"),
        ({"rank": 2.5}, r"rank: expected a finite integer >= 1, got 2.5"),
        ({"noise": math.nan}, r"noise: expected a finite number >= 0, got nan"),
    ],
)
def test_direct_construction_is_checked_too(options, message):
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)


def test_a_margin_out_of_reach_is_named():
    with pytest.raises(DataError, match=r"margin 50 in 2 classes, got \[0, 0\]"):
        Synthetic(margin=50.0, samples=20).load()


def test_linear_rule_separates_the_classes():
    data = Synthetic(margin=1.0, samples=400).load()
    train, target = data.train.features.numpy(), data.train.labels.numpy()
    design = np.c_[train, np.ones(len(train))]
    rule, *_ = np.linalg.lstsq(design, 2.0 * target - 1, rcond=1e-4)
    test = np.c_[data.test.features.numpy(), np.ones(len(data.test))]
    assert ((test @ rule > 0) == data.test.labels.numpy()).mean() >= 0.95


def test_shares_are_disjoint_samples():
    features, _ = everything(Synthetic(samples=100).load())
    for first, second in itertools.combinations(features[:20], 2):
        assert not torch.equal(first, second)
    assert len(torch.unique(features, dim=0)) == 100
