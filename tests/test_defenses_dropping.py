"""Defenses that drop suspected agents, against brute force and plain re-implementations."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize
from sklearn.linear_model import Ridge

from cibench import Observation, OptionError, UndefendedFusionCenter
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.manifold import FittedManifold, recovery_error
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses._dropping import (
    conformal_quantile,
    strict_minority,
    worst_above,
)
from cibench_plugins.defenses.copur_refit import CoPurRefit, _Refit
from cibench_plugins.defenses.genie import Genie
from cibench_plugins.defenses.l0_consensus import (
    MAX_SETS,
    L0Consensus,
    _Consensus,
    consensus_residual,
    inverse_variances,
    largest_size,
    sets_to_drop,
)
from cibench_plugins.defenses.leave_one_out import (
    LeaveOneOut,
    _Consistency,
    clean_covariance,
    leave_one_out_errors,
    scales,
)
from helpers import (
    affine_manifold,
    everyone,
    identical_blocks,
    layout_of,
    linear_head,
    normal,
    observation_of,
    on_manifold,
    seeded,
)

AGENTS = 7


@pytest.fixture(scope="module")
def synthetic():
    """Training, clean test embeddings: seven agents, a manifold of rank 3, little noise."""
    plugin = Synthetic(
        agents=AGENTS, width=6, rank=3, redundancy=0.5, noise=1e-3, samples=300
    )
    training, test, _ = prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=3),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    return training, test


DEFENSES = {
    "genie": Genie(),
    "genie-manifold": Genie(using="manifold", width=3),
    "leave-one-out": LeaveOneOut(),
    "l0-consensus": L0Consensus(width=3),
    "copur-refit": CoPurRefit(width=3),
    "copur-refit-refit": CoPurRefit(width=3, then="refit"),
}


@pytest.fixture(scope="module")
def centers(synthetic):
    return {
        name: defense.fit(synthetic[0], generator=seeded()).eval()
        for name, defense in DEFENSES.items()
    }


@pytest.fixture(params=list(DEFENSES))
def center(request, centers):
    return centers[request.param]


def told(center, observation, agents=()):
    """The fusion center, told which agents are corrupted if it wants to know."""
    if not hasattr(center, "told"):
        return center
    return center.told(marked(observation, agents))


def marked(observation, agents):
    mask = torch.zeros_like(observation.observed)
    mask[:, list(agents)] = True
    return mask


def flipped(observation, agents, amplification=20.0):
    factor = 1 - (1 + amplification) * marked(observation, agents).double()
    factor = observation.layout.expand(factor).to(observation.features)
    return observation.with_features(observation.features * factor)


def plain_head(layout, classes=2):
    fill = torch.zeros(layout.width, dtype=torch.float64)
    return UndefendedFusionCenter(linear_head(layout.width, classes), fill)


# Shared parts


@given(
    st.integers(0, 12),
    st.floats(0.05, 0.95),
    st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_conformal_quantile_is_the_order_statistic(count, quantile, seed):
    scores = normal(12, 2, seed=seed)
    known = torch.zeros(12, 2, dtype=torch.bool)
    known[torch.randperm(12, generator=seeded(seed))[:count], 0] = True
    known[:, 1] = True
    found = conformal_quantile(scores, known, quantile)
    kept = sorted(scores[known[:, 0], 0].tolist())
    rank = math.ceil((count + 1) * quantile - 1e-9)
    assert float(found[0]) == (kept[min(rank, count) - 1] if kept else math.inf)
    # A fresh score is as likely to fall between any two of the old ones.
    if rank <= count:
        below = sum(score <= float(found[0]) for score in kept)
        assert below / (count + 1) >= quantile - 1e-6
        assert (below - 1) / (count + 1) < quantile


def test_a_quantile_of_round_numbers_takes_their_rank():
    scores = torch.arange(1.0, 100.0, dtype=torch.float64)[:, None]
    known = torch.ones_like(scores, dtype=torch.bool)
    # 99 scores: the 99th of 100 places.
    assert conformal_quantile(scores, known, 0.99).item() == 99.0
    assert conformal_quantile(scores, known, 0.07).item() == 7.0


@pytest.mark.parametrize(
    ("heard", "most", "limit"),
    [
        *((0, None, 0), (1, None, 0), (2, None, 0), (3, None, 1), (6, None, 2)),
        *((7, None, 3), (7, 1, 1), (7, 0, 0), (3, 5, 1)),
    ],
)
def test_fewer_than_half_may_be_dropped(heard, most, limit):
    observed = torch.arange(8)[None] < heard
    assert strict_minority(observed, most).item() == limit


@given(st.integers(0, 500), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_worst_above_takes_the_largest_ratios(seed, limit):
    ratios = normal(1, 6, seed=seed) + 1
    observed = normal(1, 6, seed=seed + 1) > -0.5
    found = worst_above(ratios, observed, torch.tensor([limit]))[0]
    eligible = [a for a in range(6) if observed[0, a] and ratios[0, a] > 1]
    expected = sorted(eligible, key=lambda a: -ratios[0, a])[:limit]
    assert set(found.nonzero().squeeze(1).tolist()) == set(expected)


# Genie


@pytest.mark.parametrize("name", ["genie", "genie-manifold"])
def test_genie_does_not_read_what_it_is_told_is_corrupted(centers, synthetic, name):
    test, bad = synthetic[1], (1, 2, 5, 6)
    genie = centers[name]
    answers = [
        told(genie, test, bad)(flipped(test, bad, amplification)).logits
        for amplification in (-1.0, 3.0, 1e6)
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    dropped = genie.inner(test.without(marked(test, bad)))
    assert torch.equal(answers[0], dropped.logits)
    untold = genie(flipped(test, bad, 1e6)).logits
    assert not torch.allclose(untold, answers[0], atol=1e-2)


def test_genie_recovers_clean_features_beside_a_corrupted_majority(centers, synthetic):
    test, bad = synthetic[1], (0, 2, 4, 5, 6)
    genie = told(centers["genie-manifold"], test, bad)
    purified = genie(flipped(test, bad)).purified.double()
    mean = centers["genie-manifold"].inner.manifold.mean
    assert recovery_error(purified, test, mean).median() < 0.01
    everyone_else = centers["copur-refit-refit"](flipped(test, bad)).purified.double()
    assert (recovery_error(everyone_else, test, mean) > 0.5).double().mean() > 0.3


# Leave one out


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 1, 4, 2)])
@pytest.mark.parametrize("strength", [1e-2, 1.0])
def test_leave_one_out_errors_are_those_of_ridge_regression(widths, strength):
    layout = layout_of(*widths)
    samples = normal(40, layout.width) @ normal(layout.width, layout.width, seed=1)
    covariance = samples.T @ samples / 40
    observation = observation_of(layout, 25, missing=0.4, seed=3)
    centered = observation.filled(0.0)
    found = leave_one_out_errors(covariance, strength, centered, observation)
    for n, heard in enumerate(observation.observed.tolist()):
        for agent, s in enumerate(layout.slices):
            if not heard[agent]:
                assert (found[n, s] == 0).all()
                continue
            others = [
                column
                for a, t in enumerate(layout.slices)
                if heard[a] and a != agent
                for column in range(t.start, t.stop)
            ]
            expected = centered[n, s].numpy()
            if others:
                ridge = Ridge(alpha=40 * strength, fit_intercept=False)
                ridge.fit(samples[:, others].numpy(), samples[:, s].numpy())
                predicted = ridge.predict(centered[n : n + 1, others].numpy())
                expected = expected - predicted.reshape(-1)
            np.testing.assert_allclose(found[n, s].numpy(), expected, atol=1e-9)


def test_clean_covariance_is_pairwise_and_positive():
    layout = layout_of(2, 1, 2)
    observation = observation_of(layout, 400, missing=0.3, seed=2)
    centered = observation.features + observation.features[:, :1]
    found = clean_covariance(centered, observation)
    assert torch.linalg.eigvalsh(found).min() > -1e-12
    for i, j in itertools.product(range(5), range(5)):
        both = (
            observation.observed[:, layout.owner[i]]
            & observation.observed[:, layout.owner[j]]
        )
        expected = (centered[both, i] * centered[both, j]).mean()
        # Nothing was negative here, so that nothing was moved.
        torch.testing.assert_close(found[i, j], expected)
    few = observation_of(layout, 4, missing=0.6, seed=5)
    assert torch.linalg.eigvalsh(clean_covariance(few.features, few)).min() > -1e-12


def test_scales_are_root_mean_squares():
    layout = layout_of(2, 1)
    observed = torch.tensor([[True, True], [True, False]])
    values = torch.tensor([[3.0, 4.0, 5.0], [1.0, 1.0, 9.0]], dtype=torch.float64)
    found = scales(values, Observation(values, observed, layout))
    assert found.tolist() == pytest.approx([math.sqrt(27 / 4), 5.0])
    silent = Observation(values, torch.zeros_like(observed), layout)
    assert scales(values, silent).tolist() == [1.0, 1.0]


def slow_consistency(center, observation):
    """Drop the worst agent, one sample and one agent at a time."""
    result = torch.zeros_like(observation.observed)
    for n in range(len(observation)):
        heard = int(observation.observed[n].sum())
        while int(result[n].sum()) < (heard - 1) // 2:
            rest = observation[n : n + 1].without(result[n : n + 1])
            ratios = center.errors(rest)[0] / center.thresholds
            worst = max(
                rest.observed[0].nonzero().squeeze(1).tolist(), key=lambda a: ratios[a]
            )
            if ratios[worst] <= 1:
                break
            result[n, worst] = True
    return result


def test_leave_one_out_drops_one_after_another(centers, synthetic):
    center, test = centers["leave-one-out"], synthetic[1][:30]
    received = flipped(test, (1, 4)).without(marked(test, (6,)))
    wide = received.with_features(received.features.double())
    found = center.suspects(wide)
    assert torch.equal(found, slow_consistency(center, wide))
    assert (found.sum(1) == 2).double().mean() > 0.5
    only = LeaveOneOut(most=1).fit(synthetic[0], generator=seeded())
    assert only.suspects(wide).sum(1).max() == 1


def test_first_hits_counts_right_accusations():
    layout = layout_of(2, 2, 2)
    latent = normal(300, 2)
    clean = everyone(
        torch.cat([latent] * 3, dim=1) + 0.01 * normal(300, 6, seed=1), layout
    )
    covariance = clean.features.T @ clean.features / 300
    zero, one = torch.zeros(6).double(), torch.ones(3).double()
    center = _Consistency(plain_head(layout), zero, one, covariance, 1.0, None)
    center.calibrate(clean, 0.99)
    received = flipped(clean, (1,), 3.0)
    errors = center.errors(received) / center.thresholds
    right = [row.argmax() == 1 and row.max() > 1 for row in errors]
    found = center.first_hits(received, marked(clean, (1,)))
    assert found == pytest.approx(np.mean(right))
    assert found > 0.8
    assert center.first_hits(received, marked(clean, (0,))) < 0.2
    assert center.first_hits(clean, marked(clean, (0, 1, 2))) < 0.05


# l0 consensus


def lstsq_residual(manifold, features, agents, weights):
    """Weighted squared residual of the best fit to some agents, by NumPy."""
    rows, target = [], []
    for agent in agents:
        s, root = manifold.layout.slices[agent], math.sqrt(weights[agent])
        rows.append(root * manifold.basis[s].numpy())
        target.append(root * (features[s] - manifold.mean[s]).numpy())
    if not rows:
        return 0.0
    a, b = np.concatenate(rows), np.concatenate(target)
    z = np.linalg.lstsq(a, b, rcond=1e-9)[0]
    return float(np.square(a @ z - b).sum())


@pytest.mark.parametrize(("widths", "rank"), [((2,) * 5, 3), ((1, 3, 2, 2, 1), 4)])
def test_consensus_residual_against_lstsq(widths, rank):
    manifold = affine_manifold(widths, rank)
    weights = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)
    observation = observation_of(manifold.layout, 9, missing=0.3)
    sets = sets_to_drop(5, 2)
    everyone_heard = observation.observed.all(dim=0) & ~sets
    found = consensus_residual(manifold, observation, everyone_heard, weights)
    for n, row in itertools.product(range(9), range(len(sets))):
        agents = everyone_heard[row].nonzero().squeeze(1).tolist()
        expected = lstsq_residual(manifold, observation.features[n], agents, weights)
        assert float(found[n, row]) == pytest.approx(expected, abs=1e-7)
    full = observation_of(manifold.layout, 9, seed=3)
    found = consensus_residual(manifold, full, ~sets, weights)
    for n, row in itertools.product(range(9), range(len(sets))):
        agents = (~sets[row]).nonzero().squeeze(1).tolist()
        expected = lstsq_residual(manifold, full.features[n], agents, weights)
        assert float(found[n, row]) == pytest.approx(expected, abs=1e-7)


def test_sets_to_drop_are_all_small_sets():
    found = [tuple(row.nonzero().squeeze(1).tolist()) for row in sets_to_drop(6, 2)]
    assert found == [c for q in range(3) for c in itertools.combinations(range(6), q)]


@pytest.mark.parametrize(("agents", "size"), [(1, 0), (2, 0), (6, 2), (10, 4), (16, 4)])
def test_largest_size_keeps_the_search_small(agents, size):
    assert largest_size(agents) == size
    assert len(sets_to_drop(agents, size)) <= MAX_SETS


def test_too_many_sets_are_refused():
    with pytest.raises(OptionError, match=r"expected at most 4 of 16 agents.*got 6"):
        sets_to_drop(16, 6)


def slow_consensus(center, features, observed):
    """Eq. 4 of one sample: sizes in order, the first that passes."""
    heard = observed.nonzero().squeeze(1).tolist()
    best = ()
    for q in range((len(heard) - 1) // 2 + 1):
        tried = {
            bad: lstsq_residual(
                center.manifold,
                features,
                [a for a in heard if a not in bad],
                center.weights.tolist(),
            )
            for bad in itertools.combinations(heard, q)
        }
        best = min(tried, key=tried.get)
        if tried[best] <= center.thresholds[len(heard) - q]:
            return best
    return best


def test_consensus_drops_the_smallest_set_that_explains():
    manifold = affine_manifold((3,) * 7, 2)
    weights = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
    center = _Consensus(plain_head(manifold.layout), manifold, weights, None)
    clean = everyone(
        on_manifold(manifold, 200) + 0.1 * normal(200, 21, seed=3), manifold.layout
    )
    center.calibrate(clean, 0.9, torch.rand(clean.observed.shape, generator=seeded()))
    assert (center.thresholds.diff() >= 0).all()
    received = observation_of(manifold.layout, 40, missing=0.2, seed=4)
    fresh = on_manifold(manifold, 40, seed=7) + 0.1 * normal(40, 21, seed=8)
    received = received.with_features(fresh)
    # From nothing over one and three bad agents to more than can be told apart.
    for start, bad in ((10, (2,)), (20, (1, 3)), (30, (0, 3, 5, 6))):
        features = received.features.clone()
        part = slice(start, start + 10)
        features[part] = flipped(received[part], bad, 2.0).features
        received = received.with_features(features)
    found = center.suspects(received)
    for n in range(40):
        expected = slow_consensus(center, received.features[n], received.observed[n])
        assert tuple(found[n].nonzero().squeeze(1).tolist()) == expected
    assert not (found & ~received.observed).any()
    assert center.facts == {"code_width": 2, "most": 3, "sets": 64}


def test_consensus_thresholds_cover_clean_samples():
    manifold = affine_manifold((3,) * 6, 2)
    weights = torch.ones(6, dtype=torch.float64)
    center = _Consensus(plain_head(manifold.layout), manifold, weights, None)
    center.samples_per_chunk = 64  # no sample is lost between chunks

    def clean(seed):
        noise = normal(2000, 18, seed=seed)
        return everyone(on_manifold(manifold, 2000, seed=seed) + noise, manifold.layout)

    center.calibrate(clean(1), 0.9, torch.rand((2000, 6), generator=seeded()))
    # Of 3 columns each, 2 are explained: a chi-square law, whoever is kept.
    for kept in range(1, 7):
        law = torch.distributions.Gamma(torch.tensor((3.0 * kept - 2) / 2), 0.5)
        assert float(law.cdf(center.thresholds[kept].float())) == pytest.approx(
            0.9, abs=0.03
        )
    assert float(center.suspects(clean(2)).any(1).double().mean()) == pytest.approx(
        0.1, abs=0.03
    )


def test_weights_are_inverse_residual_variances():
    manifold = affine_manifold((3,) * 8, 2)
    noise = torch.tensor([0.1, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]).double()
    spread = manifold.layout.expand(noise[None]) * normal(4000, 24, seed=2)
    clean = everyone(on_manifold(manifold, 4000) + spread, manifold.layout)
    weights = inverse_variances(manifold, clean)
    ratio = weights[2] / weights[1]
    assert float(ratio) == pytest.approx(0.25, rel=0.25)
    exact = inverse_variances(
        manifold, everyone(on_manifold(manifold, 9), manifold.layout)
    )
    assert torch.isfinite(exact).all()


# CoPur, then drop


def test_refit_residuals_are_those_of_the_geometric_median():
    """On identical blocks Eq. 5 is the geometric median, which SciPy finds too."""
    manifold = identical_blocks(5, 2)
    fitted = FittedManifold(manifold, 0.0, {})
    center = _Refit(plain_head(manifold.layout), fitted, None)
    blocks = normal(20, 5, 2)
    clean = everyone(blocks.flatten(1), manifold.layout)
    found = center.residuals(clean)
    for n in range(20):
        points = blocks[n].numpy()
        tried = [
            scipy_minimize(
                lambda z, points=points: np.linalg.norm(points - z, axis=1).sum(),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-10, "fatol": 1e-14},
            )
            for start in (points.mean(0), *points)
        ]
        median = min(tried, key=lambda result: result.fun).x
        expected = np.linalg.norm(points - median, axis=1)
        np.testing.assert_allclose(found[n].numpy(), expected, atol=2e-4)
    center.calibrate(clean, 0.5)
    assert torch.equal(center.thresholds, found.sort(dim=0).values[10])
    dropped = center.suspects(clean)
    over = found > center.thresholds
    for n in range(20):
        worst = sorted(
            over[n].nonzero().squeeze(1).tolist(),
            key=lambda a: -float(found[n, a] / center.thresholds[a]),
        )
        assert set(dropped[n].nonzero().squeeze(1).tolist()) == set(worst[:2])


def test_refit_drops_no_more_than_asked(synthetic):
    training, test = synthetic
    center = CoPurRefit(width=3, most=1).fit(training, generator=seeded())
    wide = flipped(test.with_features(test.features.double()), (1, 4))
    assert center.suspects(wide).sum(1).tolist() == [1] * len(test)
    assert center.facts == {"manifold": "affine", "code_width": 3}


# All of them


@pytest.mark.parametrize("name", ["leave-one-out", "l0-consensus", "copur-refit"])
@pytest.mark.parametrize("bad", [(3,), (1, 5)])
def test_corrupted_agents_are_found(centers, synthetic, name, bad):
    test = synthetic[1].with_features(synthetic[1].features.double())
    found = centers[name].suspects(flipped(test, bad))
    truth = marked(test, bad)
    assert (found & truth).sum() / truth.sum() > 0.95
    assert (found & ~truth).double().mean() < 0.1
    # One in twenty is what the quantile allows.
    assert centers[name].suspects(test).double().mean() < 0.1


@pytest.mark.parametrize("name", ["leave-one-out", "l0-consensus", "copur-refit"])
def test_what_was_dropped_is_not_read(centers, synthetic, name):
    center, test = centers[name], synthetic[1]
    near, far = flipped(test, (3,), 200.0), flipped(test, (3,), 2000.0)
    alone = marked(test, (3,))

    def dropped(observation):
        return center.rest(observation).observed

    same = (dropped(near) == dropped(far)).all(1) & ~(dropped(near) & alone).any(1)
    assert same.double().mean() > 0.9
    assert torch.equal(center(near).logits[same], center(far).logits[same])
    expected = center.inner(near.without(~dropped(near))).logits
    assert torch.equal(center(near).logits, expected)


def test_the_surrogate_is_the_decision(center, synthetic):
    test = flipped(synthetic[1][:20], (2,))
    knowing = told(center, test, (2,))
    torch.testing.assert_close(
        knowing.differentiable_logits(test), knowing(test).logits, rtol=1e-4, atol=1e-4
    )


def test_the_genie_differentiates_the_decision_of_the_honest(centers, synthetic):
    test = flipped(synthetic[1][:8], (2,))
    knowing = told(centers["genie"], test, (2,))
    leaf = test.features.clone().requires_grad_()
    logits = knowing.differentiable_logits(test.with_features(leaf))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    rest = test.without(marked(test, (2,)))
    expected = centers["genie"].inner(rest.with_features(leaf)).logits[:, 0].sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert (gradient[:, test.layout.slices[2]] == 0).all()
    assert (gradient != 0).any()


def test_every_subset_of_agents_is_answered(center, synthetic):
    masks = torch.tensor(list(itertools.product([False, True], repeat=AGENTS)))
    test = synthetic[1][torch.zeros(len(masks), dtype=torch.long)]
    some = flipped(test, (4,)).without(~masks)
    decision = told(center, some, (4,))(some)
    assert torch.isfinite(decision.logits).all()
    assert torch.isfinite(told(center, some, (4,)).differentiable_logits(some)).all()
    # Missing blocks carry no information.
    values = torch.where(some.layout.expand(masks), some.features, 7.0)
    other = told(center, some, (4,))(some.with_features(values))
    assert torch.equal(other.logits, decision.logits)


def test_a_decision_depends_neither_on_batch_nor_order(center, synthetic):
    test = flipped(synthetic[1][:40], (2,)).without(
        observation_of(synthetic[1].layout, 40, missing=0.8).observed
    )
    whole = told(center, test, (2,))(test).logits
    order = torch.randperm(40, generator=seeded())
    shuffled = told(center, test[order], (2,))(test[order]).logits
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-4, atol=1e-5)
    single = torch.cat(
        [
            told(center, test[n : n + 1], (2,))(test[n : n + 1]).logits
            for n in range(0, 40, 7)
        ]
    )
    torch.testing.assert_close(single, whole[::7], rtol=1e-4, atol=1e-5)


def test_unusable_blocks_are_missing_blocks(center, synthetic):
    test = synthetic[1][:10]
    features = test.features.clone()
    features[:, test.layout.slices[4].start] = torch.nan
    broken = told(center, test)(test.with_features(features))
    missing = told(center, test)(test.without(marked(test, (4,))))
    assert torch.equal(broken.logits, missing.logits)
    assert torch.equal(broken.rejected, marked(test, (4,)))
    # The largest payload that passes the gate.
    features[:, test.layout.slices[4]] = 9e14
    assert torch.isfinite(told(center, test)(test.with_features(features)).logits).all()


def test_fits_are_reproducible(synthetic):
    for defense in (Genie(), LeaveOneOut(), L0Consensus(width=3), CoPurRefit(width=3)):
        one, two = (
            defense.fit(synthetic[0], generator=seeded(3)).state_dict()
            for _ in range(2)
        )
        assert all(torch.equal(one[key], two[key]) for key in one)
