"""VFLIP's votes by hand, and its masked autoencoder by a plain re-implementation."""

import dataclasses
import itertools

import pytest
import torch

from cibench import AgentLayout, Observation
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses._masked_autoencoder import (
    MaskedAutoencoder,
    random_agents,
)
from cibench_plugins.defenses.vflip import VFLIP, _Vote
from helpers import layout_of, normal, observation_of, seeded


@pytest.fixture(scope="module")
def synthetic():
    """Every agent sees the whole latent of rank 2, so each predicts every other."""
    plugin = Synthetic(
        agents=6, width=4, rank=2, redundancy=1.0, noise=0.05, samples=600
    )
    training, test, labels = prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=5),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    return training, test, labels


@pytest.fixture(scope="module")
def center(synthetic):
    return VFLIP(hidden=32, epochs=60).fit(synthetic[0], generator=seeded()).eval()


def marked(observation, agents):
    mask = torch.zeros_like(observation.observed)
    mask[:, list(agents)] = True
    return mask


def flipped(observation, agents, amplification=20.0):
    factor = 1 - (1 + amplification) * marked(observation, agents).double()
    factor = observation.layout.expand(factor).to(observation.features)
    return observation.with_features(observation.features * factor)


def small_autoencoder(layout, seed=0):
    mean, unit = normal(layout.width, seed=seed), normal(layout.width, seed=1).abs() + 1
    return MaskedAutoencoder(mean, unit, layout.agents, 5, seeded(seed)).eval()


# The autoencoder


def test_the_autoencoder_reads_kept_blocks_and_the_mask_only():
    layout = layout_of(2, 3, 1)
    autoencoder = small_autoencoder(layout)
    observation = observation_of(layout, 6, missing=0.5)
    first, _, second, _, third = autoencoder.layers
    with torch.no_grad():
        for n in range(6):
            known = layout.expand(observation.observed[n : n + 1])[0]
            values = (observation.features[n] - autoencoder.mean) / autoencoder.unit
            values = torch.where(known, values, 0.0)
            x = torch.cat([values, observation.observed[n].double()])
            x = (first.weight @ x + first.bias).clamp_min(0)
            x = (second.weight @ x + second.bias).clamp_min(0)
            expected = third.weight @ x + third.bias
            torch.testing.assert_close(autoencoder(observation)[n], expected)
            predicted = expected * autoencoder.unit + autoencoder.mean
            torch.testing.assert_close(
                autoencoder.complete(observation)[n],
                torch.where(known, observation.features[n], predicted),
            )


def test_random_agents_keep_one_at_least_and_only_who_was_heard():
    observation = observation_of(layout_of(1, 1, 1, 1, 1), 4000, missing=0.5)
    kept = random_agents(observation, seeded(3)).observed
    assert not (kept & ~observation.observed).any()
    assert kept.any(dim=1).all()
    # Every number of agents occurs: votes are cast on one, completion on many.
    whole = dataclasses.replace(
        observation, observed=torch.ones_like(observation.observed)
    )
    counts = random_agents(whole, seeded(4)).observed.sum(1)
    assert torch.bincount(counts, minlength=6)[1:].min() > 200
    nobody = whole.without(whole.observed)
    assert not random_agents(nobody, seeded(5)).observed.any()


def test_the_autoencoder_completes_missing_blocks(center, synthetic):
    test = synthetic[1]
    gone = marked(test, (1, 4))
    purified = center.inner(test.without(gone)).purified
    columns = test.layout.expand(gone)
    error = (purified - test.features)[columns].square().mean()
    spread = (test.features - test.features.mean(0))[columns].square().mean()
    assert error < 0.2 * spread
    assert torch.equal(purified[~columns], test.features[~columns])


# The votes


def voter(layout, most=None):
    autoencoder = small_autoencoder(layout)
    return _Vote(torch.nn.Identity(), autoencoder, most)


def test_scores_are_errors_of_predictions_from_one_agent():
    layout = layout_of(2, 3, 1)
    center, observation = voter(layout), observation_of(layout, 5, missing=0.3)
    found = center.scores(observation)
    autoencoder = center.autoencoder
    for n, j in itertools.product(range(5), range(3)):
        if not observation.observed[n, j]:
            continue
        only = torch.zeros(1, 3, dtype=torch.bool)
        only[0, j] = True
        single = Observation(observation.features[n : n + 1], only, layout)
        away = autoencoder.standard(observation[n : n + 1]) - autoencoder(single)
        torch.testing.assert_close(found[n, j], layout.block_norms(away)[0])


def test_a_majority_of_the_other_heard_agents_decides(monkeypatch):
    layout = AgentLayout(tuple("abcde"), (1,) * 5)
    center = voter(layout)
    center.thresholds = 2 * torch.rand(5, 5, generator=seeded(1), dtype=torch.float64)
    observation = observation_of(layout, 300, missing=0.3, seed=4)
    scores = 3 * torch.rand(300, 5, 5, generator=seeded(2), dtype=torch.float64)
    monkeypatch.setattr(center, "scores", lambda given: scores)
    found = center.suspects(observation)
    for n in range(300):
        heard = observation.observed[n].nonzero().squeeze(1).tolist()
        share = {}
        for i in heard:
            others = [j for j in heard if j != i]
            votes = sum(bool(scores[n, j, i] > center.thresholds[j, i]) for j in others)
            if 2 * votes > len(others):
                excess = [
                    float(scores[n, j, i] / center.thresholds[j, i]) for j in others
                ]
                middle = sorted(excess)[(len(excess) - 1) // 2]
                share[i] = (votes / len(others), middle)
        limit = (len(heard) - 1) // 2
        worst = sorted(share, key=lambda i: share[i], reverse=True)[:limit]
        ours = found[n].nonzero().squeeze(1).tolist()
        assert sorted(ours) == sorted(worst)


def test_thresholds_are_quantiles_of_clean_errors_of_pairs():
    layout = layout_of(2, 1, 2)
    center, clean = voter(layout), observation_of(layout, 199, missing=0.2, seed=6)
    center.calibrate(clean, 0.9)
    scores = center.scores(clean)
    for j, i in itertools.permutations(range(3), 2):
        both = clean.observed[:, j] & clean.observed[:, i]
        above = (scores[both, j, i] > center.thresholds[j, i]).double().mean()
        assert 0.1 - 2 / int(both.sum()) <= float(above) <= 0.1


# The defense


@pytest.mark.parametrize("bad", [(3,), (0, 5)])
def test_corrupted_agents_are_found_and_predicted_anew(center, synthetic, bad):
    test, labels = synthetic[1], synthetic[2]
    received = flipped(test, bad)
    dropped = test.observed & ~center.rest(received).observed
    truth = marked(test, bad)
    assert (dropped & truth).sum() / truth.sum() > 0.9
    assert (dropped & ~truth).double().mean() < 0.15
    decision = center(received)
    columns = test.layout.expand(truth & dropped)
    away = torch.where(columns, decision.purified - test.features, 0.0)
    spread = torch.where(columns, test.features - test.features.mean(0), 0.0)
    assert away.norm(dim=1).median() < 0.5 * spread.norm(dim=1).median()
    clean = (center(test).logits.argmax(1) == labels).double().mean()
    assert (decision.logits.argmax(1) == labels).double().mean() > clean - 0.1
    assert center(test).purified.sub(test.features).eq(0).double().mean() > 0.9


def test_the_surrogate_is_the_decision(center, synthetic):
    test = flipped(synthetic[1][:20], (2,))
    torch.testing.assert_close(center.differentiable_logits(test), center(test).logits)
    silent = torch.zeros_like(test.observed)
    silent[:, 2] = True
    test = test.without(silent)
    test = test[(center.rest(test).observed == test.observed).all(dim=1)]
    assert len(test) > 10
    gradient = torch.autograd.functional.jacobian(
        lambda f: center.differentiable_logits(test.with_features(f)).sum(),
        test.features,
    )
    assert (gradient[:, test.layout.slices[2]] == 0).all()
    # The others move the decision directly and through what is predicted from them.
    leaf = test.features.clone().requires_grad_()
    kept = test.with_features(leaf)
    head = center.inner.undefended.head
    filled = center.inner.autoencoder.complete(kept)
    expected = torch.autograd.grad(head(filled).sum(), leaf)[0]
    torch.testing.assert_close(gradient, expected)


def test_every_subset_of_agents_is_answered(center, synthetic):
    masks = torch.tensor(list(itertools.product([False, True], repeat=6)))
    test = synthetic[1][torch.zeros(len(masks), dtype=torch.long)]
    some = flipped(test, (4,)).without(~masks)
    decision = center(some)
    assert torch.isfinite(decision.logits).all()
    silent = center.inner.undefended(some[:1]).logits
    torch.testing.assert_close(decision.logits[:1], silent)
    hidden = torch.where(some.layout.expand(masks), some.features, 1e6)
    assert torch.equal(center(some.with_features(hidden)).logits, decision.logits)


def test_a_decision_depends_neither_on_batch_nor_order(center, synthetic):
    test = flipped(synthetic[1][:30], (2,))
    whole = center(test).logits
    order = torch.randperm(30, generator=seeded())
    torch.testing.assert_close(center(test[order]).logits, whole[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(center, "samples_per_chunk", 4)
        torch.testing.assert_close(center(test).logits, whole)


def test_huge_payloads_are_dropped(center, synthetic):
    test = synthetic[1][:20]
    features = test.features.clone()
    features[:, test.layout.slices[4]] = 9e14
    received = test.with_features(features)
    assert torch.isfinite(center(received).logits).all()
    assert not center.rest(received).observed[:, 4].any()


def test_fits_are_reproducible(synthetic):
    one, two = (
        VFLIP(hidden=8, epochs=2).fit(synthetic[0], generator=seeded()).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
