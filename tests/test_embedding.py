"""Encoders and the undefended fusion center: trained alike, on what is allowed."""

import dataclasses
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import helpers_extrasensory as extrasensory
from cibench import AgentDataset, Observation, Split, Standardizer, Training
from cibench.embedding import RECIPES, EmbeddingRecipe, prepare
from cibench.embedding.modules import Encoders, mlp
from cibench.embedding.train import (
    batches,
    drop_agents,
    fit_embedding,
    mean_features,
    minimize,
)
from cibench.execute.store import ArtifactStore, checksum
from cibench.grid import expand
from cibench.registry import default_registry
from cibench_plugins.datasets.synthetic import Synthetic
from helpers import layout_of, normal, observation_of, run_cells, seeded

CPU = torch.device("cpu")
FAST = EmbeddingRecipe(block=4, head=8, epochs=4, agent_dropout=0.3)


@pytest.fixture(scope="module")
def easy():
    return Synthetic(agents=4, width=6, rank=2, samples=400, margin=0.3).load()


@pytest.fixture(scope="module")
def holes(easy):
    """The easy data set with every fourth block missing, and single values too."""
    generator = seeded(3)

    def holed(split):
        lost = torch.rand(len(split), 4, generator=generator) < 0.25
        lost = easy.layout.expand(lost)
        lost |= torch.rand(lost.shape, generator=generator) < 0.05
        return Split(split.features.masked_fill(lost, torch.nan), split.labels)

    return replace(
        easy, train=holed(easy.train), validation=holed(easy.validation),
        test=holed(easy.test),
    )  # fmt: skip


def prepared(dataset, recipe=FAST, seed=0, store=None):
    return prepare(
        dataset, recipe, seed=seed, store=store or ArtifactStore(None),
        device=CPU,
    )  # fmt: skip


def weights(training):
    return checksum(dict(training.undefended.state_dict()))


def accuracy(training, observation, labels):
    return float(
        (training.undefended(observation).logits.argmax(1) == labels).float().mean()
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_same_seed_trains_the_same_bytes(holes, name):
    recipe = replace(RECIPES[name], epochs=3)
    (one, clean, _), (two, again, _) = (prepared(holes, recipe) for _ in range(2))
    assert weights(one) == weights(two)
    assert torch.equal(one.train.features, two.train.features)
    assert torch.equal(clean.features, again.features)
    other, *_ = prepared(holes, recipe, seed=1)
    assert weights(other) != weights(one)
    assert other.key != one.key


def test_training_leaves_the_global_generator_alone(easy):
    one, *_ = prepared(easy)
    torch.rand(3)  # another state
    state = torch.get_rng_state()
    two, *_ = prepared(easy)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(one) == weights(two)


def test_a_stored_embedding_is_the_trained_one(holes, tmp_path):
    store = ArtifactStore(tmp_path)
    trained = prepared(holes, store=store)
    stored = prepared(holes, store=store)
    fresh = prepared(holes)
    for training, clean, labels in (stored, fresh):
        assert weights(training) == weights(trained[0])
        assert torch.equal(clean.features, trained[1].features)
        assert torch.equal(labels, trained[2])


def test_no_test_sample_is_within_reach(holes):
    """Other test samples change nothing a defense can see but the key."""
    turned = replace(
        holes, test=Split(holes.test.features.flip(0) * 3, holes.test.labels.flip(0))
    )
    (one, *_), (two, *_) = prepared(holes), prepared(turned)
    assert weights(one) == weights(two)
    for name in ("train", "validation"):
        left, right = getattr(one, name), getattr(two, name)
        assert torch.equal(left.features, right.features)
        assert torch.equal(left.observed, right.observed)
    sizes = {len(holes.train), len(holes.validation)}
    for part in dataclasses.fields(Training):
        value = getattr(one, part.name)
        assert not isinstance(value, AgentDataset | Split), part.name
        if isinstance(value, Observation):
            assert len(value) in sizes


def test_nothing_learns_after_training(holes):
    training, clean, _ = prepared(holes)
    assert not training.undefended.training
    assert not any(p.requires_grad for p in training.undefended.parameters())
    assert not any(
        part.features.requires_grad
        for part in (training.train, training.validation, clean)
    )


def test_missing_agents_are_passed_on_and_their_values_do_not_matter(holes):
    training, clean, labels = prepared(holes)
    assert torch.equal(clean.observed, holes.test.observation(holes.layout).observed)
    assert not clean.observed.all()
    assert torch.equal(labels, holes.test.labels)
    expected = training.undefended(clean).logits
    gone = ~clean.layout.expand(clean.observed)
    for value in (torch.nan, torch.inf, 1e30, -5.0):
        other = clean.with_features(clean.features.masked_fill(gone, value))
        assert torch.equal(training.undefended(other).logits, expected)


@pytest.mark.parametrize("recipe", [FAST, replace(FAST, block=None)])
def test_what_is_under_a_missing_block_does_not_matter_to_training(easy, recipe):
    """An agent that is missing as a whole: NaN in one run, masked values in the other."""
    generator = seeded(1)
    encoders = Encoders(easy.layout, recipe, generator)
    raw = easy.test.observation(easy.layout)
    observed = torch.rand(raw.observed.shape, generator=generator) < 0.7
    hidden = ~easy.layout.expand(observed)
    left = encoders(replace(raw, observed=observed))
    for value in (torch.nan, 77.0):
        features = raw.features.masked_fill(hidden, value)
        right = encoders(Observation(features, observed, easy.layout))
        assert torch.equal(left.features, right.features)


def test_a_value_that_was_not_recorded_counts_as_its_mean(easy):
    encoders = Encoders(easy.layout, FAST, seeded())
    features = easy.test.features.clone()
    features[:, 2] = torch.nan
    zero = features.nan_to_num(0.0)
    left = encoders(Split(features, easy.test.labels).observation(easy.layout))
    right = encoders(Split(zero, easy.test.labels).observation(easy.layout))
    assert left.observed.all()
    assert torch.equal(left.features, right.features)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_the_fill_is_the_training_mean(holes, fill):
    training, *_ = prepared(holes, replace(FAST, fill=fill))
    train, layout = training.train, training.layout
    for agent, columns in enumerate(layout.slices):
        heard = train.features[train.observed[:, agent], columns].double()
        expected = heard.mean(0) if fill == "mean" else torch.zeros(heard.shape[1])
        assert torch.allclose(
            training.undefended.fill[columns].double(), expected.double(), atol=1e-5
        )


def test_mean_features_by_hand():
    layout = layout_of(1, 2)
    features = torch.tensor([[1.0, 10, 20], [3, torch.nan, torch.nan], [8, 30, 50]])
    observed = torch.tensor([[True, True], [True, False], [False, True]])
    found = mean_features(Observation(features, observed, layout))
    assert found.tolist() == [2.0, 20.0, 35.0]
    nobody = torch.tensor([[True, False]] * 3)
    assert mean_features(Observation(features, nobody, layout)).tolist() == [4, 0, 0]


@settings(max_examples=40, deadline=None)
@given(chance=st.floats(0, 0.999), missing=st.floats(0, 0.9), seed=st.integers(0, 999))
def test_agent_dropout_never_drops_the_last_agent(chance, missing, seed):
    observed = torch.rand(64, 5, generator=seeded(seed)) >= missing
    kept = drop_agents(observed, chance, seeded(seed + 1))
    assert not (kept & ~observed).any()
    assert torch.equal(kept.any(dim=1), observed.any(dim=1))
    assert observed.shape == kept.shape


def test_agent_dropout_drops_about_its_share():
    observed = torch.ones(4000, 10, dtype=torch.bool)
    assert torch.equal(drop_agents(observed, 0.0, seeded()), observed)
    share = 1 - drop_agents(observed, 0.3, seeded()).double().mean()
    assert share == pytest.approx(0.3, abs=0.01)


def test_batches_cover_every_sample_once():
    found = list(batches(23, 5, seeded()))
    assert [len(b) for b in found] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(found).tolist()) == list(range(23))


class Stepper(nn.Module):
    """One parameter that each step moves by about the learning rate."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(
    ("losses", "patience", "best", "epochs"),
    [
        ([5.0, 3.0, 4.0, 4.0, 9.0, 1.0], 3, 2, 5),  # stops before the 1.0
        ([5.0, 3.0, 4.0, 4.0, 1.0, 9.0], 3, 5, 6),
        ([5.0, 3.0, 3.0, 3.0, 3.0, 3.0], 9, 2, 6),  # a tie is no improvement
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 1, 3),
        ([5.0, torch.nan, 4.0, 9.0, 9.0, 9.0], 9, 3, 6),
        ([torch.inf] * 6, 2, 0, 2),  # nothing usable: the first weights
    ],
)
def test_the_weights_of_the_lowest_validation_loss_are_kept(
    losses, patience, best, epochs
):
    module, seen = Stepper(), []
    values = iter(losses)

    def validation_loss():
        seen.append(module.value.item())
        return torch.tensor(next(values))

    found = minimize(
        module, lambda indices: -module.value, validation_loss,
        n=4, epochs=len(losses), patience=patience, batch=4, learning_rate=0.1,
        weight_decay=0.0, generator=seeded(),
    )  # fmt: skip
    assert len(seen) == epochs
    assert len(set(seen)) == epochs  # the weights did move
    assert found == (losses[best - 1] if best else torch.inf)
    assert module.value.item() == (seen[best - 1] if best else 0.0)


def test_training_stops_when_it_is_good_enough():
    module, seen = Stepper(), []

    def validation_loss():
        seen.append(1)
        return torch.tensor(1.0 / len(seen))

    found = minimize(
        module, lambda indices: -module.value, validation_loss, n=1, epochs=50,
        patience=50, batch=1, learning_rate=0.1, weight_decay=0.0, generator=seeded(),
        good_enough=0.25,
    )  # fmt: skip
    assert found == 0.25
    assert len(seen) == 4


def test_only_the_validation_loss_selects(easy):
    """Validation labels that are wrong choose other weights; the training is the same."""
    recipe = replace(FAST, epochs=30, patience=30)
    wrong = Split(easy.validation.features, 1 - easy.validation.labels)
    good, bad = (
        fit_embedding(data, recipe, seeded(), CPU)
        for data in (easy, replace(easy, validation=wrong))
    )

    def share(fitted):
        encoders, undefended = fitted
        embedded = encoders(easy.test.observation(easy.layout))
        right = undefended(embedded).logits.argmax(1) == easy.test.labels
        return float(right.float().mean())

    assert share(good) > 0.9
    assert share(bad) < share(good)


@pytest.mark.parametrize("name", ["identity", "mlp-32", "linear-32"])
def test_an_easy_data_set_is_learnt(easy, name):
    training, clean, labels = prepared(easy, RECIPES[name])
    assert accuracy(training, clean, labels) > 0.9


def test_agent_dropout_prepares_for_missing_agents(easy):
    silent = torch.zeros(1, 4, dtype=torch.bool)
    silent[0, 1:3] = True

    recipe = EmbeddingRecipe(block=8, epochs=60, agent_dropout=0.4)
    training, clean, labels = prepared(easy, recipe)
    assert accuracy(training, clean.without(silent), labels) > 0.8


def test_identity_passes_raw_blocks_on(holes):
    training, clean, _ = prepared(holes, replace(RECIPES["identity"], epochs=1))
    assert training.layout == holes.layout
    raw = holes.test.observation(holes.layout)
    assert torch.equal(clean.filled(0.0), raw.filled(0.0).nan_to_num(0.0))


def test_layers_are_drawn_from_the_generator_alone():
    left, right = (mlp((3, 5, 2), 0.5, seeded(4)) for _ in range(2))
    assert checksum(dict(left.state_dict())) == checksum(dict(right.state_dict()))
    assert [type(layer) for layer in left] == [nn.Linear, nn.LeakyReLU, nn.Linear]
    assert left[0].weight.abs().max() <= 1.0
    assert not left[0].bias.any()


def test_encoders_see_their_own_agent_only():
    layout = layout_of(2, 3, 1)
    encoders = Encoders(layout, replace(FAST, hidden=5), seeded()).double()
    clean = observation_of(layout, 6)
    moved = clean.features.clone()
    moved[:, layout.slices[1]] += normal(6, 3, seed=9)
    left, right = encoders(clean), encoders(clean.with_features(moved))
    differs = (left.features != right.features).any(0)
    assert differs.tolist() == [False] * 4 + [True] * 4 + [False] * 4


# Standardization, on which "the mean is 0" rests.


def test_standardization_by_hand():
    features = torch.tensor(
        [[1.0, 5.0, torch.nan], [3.0, 5.0, torch.nan], [torch.nan] * 3]
    )
    scale = Standardizer.fit(features)
    found = scale(features)
    assert found.dtype == torch.float32
    assert found[:2, 0].tolist() == [-1.0, 1.0]
    assert found[:2, 1].tolist() == [0.0, 0.0]
    assert found[2].isnan().all()
    assert found[:, 2].isnan().all()
    assert scale(torch.tensor([[2.0, 6.0, 1.0]]))[0, :2].tolist() == [0.0, 1.0]


# The attack proves something: with one agent it breaks what is not defended.


def undefended_under(attack, dataset, **options):
    cells = expand(
        default_registry(),
        datasets=[dataset], attacks=[attack], defenses=["none"], seeds=[0],
    )  # fmt: skip
    ((_, record, _),) = run_cells(cells, **options)
    assert record.status == "ok", record.reason
    return record


@pytest.mark.parametrize("knowledge", ["adaptive", "fusion"])
def test_pgd_with_one_agent_breaks_the_undefended_mfeat(knowledge):
    record = undefended_under(f"pgd:knowledge={knowledge}", "mfeat")
    assert record.metrics.clean.value > 0.9
    assert record.metrics.attacked.value < 0.05
    assert "attack-too-weak" not in record.flags


@pytest.mark.parametrize("knowledge", ["adaptive", "fusion"])
def test_pgd_with_one_agent_breaks_the_undefended_extrasensory(knowledge):
    folder = extrasensory.real_data_dir()
    if folder is None:
        pytest.skip("needs the real ExtraSensory file (CIBENCH_DATA)")
    record = undefended_under(
        f"pgd:knowledge={knowledge}", "extrasensory", data_dir=folder
    )
    assert record.metrics.clean.value > record.metrics.majority_share
    assert record.metrics.attacked.value < 0.05
    assert "attack-too-weak" not in record.flags
