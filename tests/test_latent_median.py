"""The latent median against SciPy, scikit-learn and an independent eigen-solution."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.optimize import minimize
from sklearn.cross_decomposition import CCA

from cibench import SOLVER_STATUS, OptionError
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.manifold import recovery_error
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses._common_latent import (
    fit_common_latent,
    inverse_residuals,
    latent_points,
)
from cibench_plugins.defenses._geometric_median import GeometricMedian
from cibench_plugins.defenses.latent_median import LatentMedian
from helpers import (
    everyone,
    layout_of,
    linear_head,
    normal,
    observation_of,
    seeded,
)

STATUS = [name for name, _ in SOLVER_STATUS]


@pytest.fixture(scope="module")
def synthetic():
    """Every agent sees the whole latent of rank 3."""
    plugin = Synthetic(
        agents=7, width=6, rank=3, redundancy=1.0, noise=0.05, samples=300
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
    return LatentMedian(width=3).fit(synthetic[0], generator=seeded()).eval()


def flipped(observation, agents, amplification=20.0):
    features = observation.features.clone()
    for agent in agents:
        features[:, observation.layout.slices[agent]] *= -amplification
    return observation.with_features(features)


def silenced(observation, agents):
    mask = torch.zeros_like(observation.observed)
    mask[:, list(agents)] = True
    return observation.without(mask)


# The geometric median


@pytest.mark.parametrize(("agents", "width"), [(5, 2), (4, 3), (9, 1)])
def test_median_minimizes_the_weighted_distances(agents, width):
    weights = torch.linspace(0.4, 1.0, agents, dtype=torch.float64)
    points = normal(12, agents, width)
    points[3:6, 0] *= 1e4
    known = observation_of(layout_of(*(1,) * agents), 12, missing=0.3).observed
    found, status = GeometricMedian(weights, width).solve(points, known)
    assert (status == STATUS.index("converged")).all()
    for n in range(12):
        p, w = points[n, known[n]].numpy(), weights[known[n]].numpy()

        def value(z, p=p, w=w):
            return float((w * np.linalg.norm(p - z, axis=1)).sum())

        starts = [np.median(p, axis=0), *p]
        theirs = min(
            minimize(
                value, s, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
            ).fun
            for s in starts
        )
        assert value(found[n].numpy()) <= theirs * (1 + 1e-7) + 1e-9


def test_median_of_a_line_is_the_weighted_median():
    points = torch.tensor([[[0.0], [1.0], [10.0]]], dtype=torch.float64)
    known = torch.ones(1, 3, dtype=torch.bool)
    for weights, expected in (([1, 1, 1], 1.0), ([5, 1, 1], 0.0), ([1, 1, 9], 10.0)):
        solver = GeometricMedian(torch.tensor(weights, dtype=torch.float64), 1)
        assert solver.solve(points, known)[0].item() == pytest.approx(
            expected, abs=1e-6
        )


def test_a_minority_of_the_weight_cannot_move_the_median_far():
    points = normal(30, 7, 3)
    known = torch.ones(30, 7, dtype=torch.bool)
    solver = GeometricMedian(torch.ones(7, dtype=torch.float64), 3)
    honest = points[:, :4].norm(dim=2).amax(1)
    for size in (1e2, 1e6, 1e12):
        points[:, 4:] = size
        # Lopuhaa and Rousseeuw 1991: within 2 (1 - e) / (1 - 2 e) of the honest radius.
        bound = honest * 2 * (4 / 7) / (1 - 6 / 7)
        assert (solver.solve(points, known)[0].norm(dim=1) <= bound).all()
    points[:, 3:] = 1e6
    assert solver.solve(points, known)[0].norm(dim=1).min() > 1e5


def test_median_of_nobody_is_zero():
    solver = GeometricMedian(torch.ones(3, dtype=torch.float64), 2)
    nobody = torch.zeros(2, 3, dtype=torch.bool)
    found, status = solver.solve(normal(2, 3, 2), nobody)
    assert torch.equal(found, torch.zeros(2, 2, dtype=torch.float64))
    assert status.tolist() == [STATUS.index("no-agents")] * 2


def test_implicit_derivative_against_finite_differences():
    weights = torch.linspace(0.4, 1.0, 6, dtype=torch.float64)
    solver, points = GeometricMedian(weights, 2), normal(12, 6, 2)
    points[:, 5] *= 30
    known = torch.ones(12, 6, dtype=torch.bool)
    known[2, 1] = False
    leaf = points.clone().requires_grad_()
    found = solver.differentiable(leaf, known)
    torch.testing.assert_close(found, solver.solve(points, known)[0])
    # At a point itself there is a kink.
    gap = (points - found.detach()[:, None]).norm(dim=2).amin(1)
    smooth = gap > 0.2
    assert smooth.sum() >= 3
    slopes = [
        torch.autograd.grad(found[:, k].sum(), leaf, retain_graph=True)[0]
        for k in range(2)
    ]
    h = 1e-4
    for agent, column in itertools.product((0, 5), range(2)):
        up, down = points.clone(), points.clone()
        up[:, agent, column] += h
        down[:, agent, column] -= h
        difference = (solver.solve(up, known)[0] - solver.solve(down, known)[0]) / (
            2 * h
        )
        slope = torch.stack([s[:, agent, column] for s in slopes], dim=1)
        torch.testing.assert_close(
            slope[smooth], difference[smooth], atol=1e-4, rtol=1e-3
        )


# The common latent


def shared(widths, samples=400, rank=2, noise=0.3, missing=0.0):
    """Blocks that see a common latent through their own maps, with noise."""
    layout, latent = layout_of(*widths), normal(samples, rank, seed=9)
    blocks = [
        latent @ normal(rank, width, seed=agent)
        + noise * normal(samples, width, seed=20 + agent)
        for agent, width in enumerate(widths)
    ]
    observation = observation_of(layout, samples, missing=missing, seed=4)
    return observation.with_features(torch.cat(blocks, dim=1) + 1.5), latent


def test_maps_are_the_generalized_eigenvectors():
    """Independently: SciPy's eigenproblem of the whole against the block diagonal."""
    train, _ = shared((3, 4, 2))
    found = fit_common_latent(train, 2, 0.0)
    x = (train.features - train.features.mean(0)).numpy()
    whole = x.T @ x
    blocks = np.zeros_like(whole)
    for s in train.layout.slices:
        blocks[s, s] = whole[s, s]
    values, vectors = eigh(whole, blocks)
    np.testing.assert_allclose(
        found.correlations.numpy() * 3, values[::-1][:2], rtol=1e-9
    )
    for k in range(2):
        theirs, ours = x @ vectors[:, -1 - k], found.latent[:, k].numpy()
        assert abs(np.corrcoef(theirs, ours)[0, 1]) == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(found.latent.square().mean(0), torch.ones(2).double())


def test_two_agents_agree_with_canonical_correlation():
    train, _ = shared((3, 4))
    found = fit_common_latent(train, 2, 0.0)
    points = latent_points(found.mean, found.maps, train).numpy()
    cca = CCA(n_components=2, scale=False, tol=1e-12, max_iter=5000)
    blocks = [train.features[:, s].numpy() for s in train.layout.slices]
    theirs = cca.fit_transform(*blocks)
    for k in range(2):
        for agent in range(2):
            ours = np.corrcoef(points[:, agent, k], theirs[agent][:, k])[0, 1]
            assert abs(ours) == pytest.approx(1.0, abs=1e-5)
        rho = np.corrcoef(theirs[0][:, k], theirs[1][:, k])[0, 1]
        assert float(found.correlations[k]) == pytest.approx((1 + rho) / 2, abs=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_each_map_is_a_ridge_regression_of_the_latent(ridge, missing):
    train, _ = shared((3, 4, 2), missing=missing)
    found = fit_common_latent(train, 2, ridge)
    for agent, s in enumerate(train.layout.slices):
        heard = train.observed[:, agent]
        x = (train.features - found.mean)[heard][:, s].numpy()
        strength = np.sqrt(ridge * np.square(x).sum() / x.shape[1])
        a = np.concatenate([x, strength * np.eye(x.shape[1])])
        b = np.concatenate([found.latent[heard].numpy(), np.zeros((x.shape[1], 2))])
        expected = np.linalg.lstsq(a, b, rcond=None)[0]
        np.testing.assert_allclose(found.maps[s].numpy(), expected, atol=1e-8)
    # G' K G is the identity, times the number of blocks heard.
    weighted = found.latent * train.observed.sum(1, keepdim=True)
    gram = found.latent.T @ weighted / train.observed.sum()
    torch.testing.assert_close(gram, torch.eye(2).double(), atol=1e-8, rtol=0)


def test_the_latent_is_found_with_and_without_missing_blocks():
    for missing in (0.0, 0.4):
        train, latent = shared((3, 4, 2, 3, 3), noise=0.05, missing=missing)
        found = fit_common_latent(train, 2, 1e-6)
        basis = torch.cat([found.latent, torch.ones(400, 1).double()], dim=1)
        left = latent - basis @ torch.linalg.lstsq(basis, latent).solution
        assert left.square().mean() < (0.01 if missing == 0 else 0.05)


def test_weights_are_inverse_distances():
    latent = normal(500, 2)
    noise = torch.tensor([0.1, 0.2, 0.4]).double()[None, :, None]
    points = latent[:, None] + noise * normal(500, 3, 2, seed=3)
    observed = torch.ones(500, 3, dtype=torch.bool)
    found = inverse_residuals(points, latent, observed)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.25], rel=0.1)
    observed[:, 1] = False
    assert float(inverse_residuals(points, latent, observed)[1]) < 0.2
    exact = inverse_residuals(latent[:, None].expand(-1, 3, -1), latent, observed)
    assert torch.isfinite(exact).all()


def test_a_constant_agent_says_nothing():
    train, _ = shared((3, 4, 2))
    features = train.features.clone()
    features[:, train.layout.slices[1]] = 2.0
    found = fit_common_latent(train.with_features(features), 2, 1e-2)
    assert (found.maps[train.layout.slices[1]] == 0).all()
    assert torch.isfinite(found.maps).all()


# The defense


def test_features_are_recovered_beside_corrupted_and_missing_agents(center, synthetic):
    test = synthetic[1]
    for bad, gone in (((), ()), ((6,), ()), ((0, 3, 6), ()), ((1, 6), (2,))):
        decision = center(silenced(flipped(test, bad), gone))
        error = recovery_error(decision.purified.double(), test, center.mean)
        assert error.median() < 0.15
        assert (decision.status == STATUS.index("converged")).all()
        agree = decision.logits.argmax(1) == center(test).logits.argmax(1)
        assert agree.double().mean() > 0.95
    broken = center(flipped(test, (0, 1, 2, 3)))
    assert recovery_error(broken.purified.double(), test, center.mean).median() > 0.5


def test_clean_accuracy_is_that_of_the_undefended(center, synthetic):
    training, test, labels = synthetic
    ours = (center(test).logits.argmax(1) == labels).double().mean()
    theirs = (training.undefended(test).logits.argmax(1) == labels).double().mean()
    assert ours > theirs - 0.05


def test_the_width_is_selected_by_recovery(synthetic):
    center = LatentMedian().fit(synthetic[0], generator=seeded())
    errors = {
        int(name.removeprefix("recovery ")): value
        for name, value in center.facts.items()
        if name.startswith("recovery")
    }
    assert set(errors) == {2, 4, 8, 16, 32}
    assert center.facts["latent_width"] == min(errors, key=errors.get)
    assert errors[4] < errors[2]  # the latent has three dimensions
    assert center.facts["largest_weight_share"] < 0.5


def test_a_width_beyond_the_embedding_is_refused(synthetic):
    with pytest.raises(OptionError, match=r"latent-median width: expected at most 42"):
        LatentMedian(width=43).fit(synthetic[0], generator=seeded())


def test_the_surrogate_is_the_decision_with_its_derivative(center, synthetic):
    test = flipped(synthetic[1][:6], (2,), 3.0)
    wide = test.with_features(test.features.double())
    head, center.head = center.head, linear_head(3, 2)
    try:
        leaf = wide.features.clone().requires_grad_()
        logits = center.differentiable_logits(wide.with_features(leaf))
        torch.testing.assert_close(logits, center(wide).logits)
        (slope,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
        for seed in range(4):
            along = normal(*leaf.shape, seed=seed)
            h = 1e-5
            up, down = (
                center(wide.with_features(wide.features + sign * h * along)).logits[
                    :, 0
                ]
                for sign in (1, -1)
            )
            torch.testing.assert_close(
                (slope * along).sum(1), (up - down) / (2 * h), atol=1e-3, rtol=1e-2
            )
    finally:
        center.head = head


def test_every_subset_of_agents_is_answered(center, synthetic):
    masks = torch.tensor(list(itertools.product([False, True], repeat=7)))
    test = synthetic[1][torch.zeros(len(masks), dtype=torch.long)]
    some = flipped(test, (4,)).without(~masks)
    decision = center(some)
    assert torch.isfinite(decision.logits).all()
    assert torch.isfinite(center.differentiable_logits(some)).all()
    assert int(decision.status[0]) == STATUS.index("no-agents")
    torch.testing.assert_close(decision.purified[0].double(), center.mean)
    hidden = torch.where(some.layout.expand(masks), some.features, 1e6)
    assert torch.equal(center(some.with_features(hidden)).logits, decision.logits)


def test_a_decision_depends_neither_on_batch_nor_order(center, synthetic):
    test = flipped(synthetic[1][:40], (2,))
    whole = center(test).logits
    order = torch.randperm(40, generator=seeded())
    torch.testing.assert_close(center(test[order]).logits, whole[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(center, "samples_per_chunk", 3)
        torch.testing.assert_close(center(test).logits, whole)


def test_huge_payloads_are_answered(center, synthetic):
    test = synthetic[1][:20]
    features = test.features.clone()
    features[:, test.layout.slices[4]] = 9e14
    answer = center(test.with_features(features))
    error = recovery_error(answer.purified.double(), test, center.mean)
    assert error.median() < 0.15


def test_fits_are_reproducible(center, synthetic):
    again = LatentMedian(width=3).fit(synthetic[0], generator=seeded()).state_dict()
    for key, value in center.state_dict().items():
        assert torch.equal(again[key], value)


def test_dtype_follows_the_input(center, synthetic):
    test = everyone(synthetic[1].features[:3], synthetic[1].layout)
    assert center(test).logits.dtype == test.features.dtype
    assert center(test).purified.dtype == test.features.dtype
