"""CoPur and manifold projection against known manifolds and plain re-implementations."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cibench import SOLVER_STATUS, Observation, robust_fit
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.manifold import AffineManifold, FittedManifold, recovery_error
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses._chain import Chain
from cibench_plugins.defenses._eq6 import eq6, refine
from cibench_plugins.defenses._fixed_steps import FixedSteps
from cibench_plugins.defenses._lbfgs import minimize_each
from cibench_plugins.defenses._released import released_purify
from cibench_plugins.defenses.copur import CoPur, _Converged
from cibench_plugins.defenses.manifold_projection import ManifoldProjection
from cibench_plugins.defenses.none import NoDefense
from helpers import (
    affine_manifold,
    autoencoder,
    everyone,
    identical_blocks,
    layout_of,
    linear_head,
    mlp_head,
    normal,
    observation_of,
    on_manifold,
    seeded,
)

STATUS = [name for name, _ in SOLVER_STATUS]


def converged(manifold, head, tau, max_iterations=200):
    """CoPur's converged solver on a manifold that is known, not fitted."""
    return _Converged(FittedManifold(manifold, 0.0, {}), head, tau, max_iterations)


def prepared(plugin):
    return prepare(
        plugin.load(),
        dataclasses.replace(RECIPES["identity"], epochs=3),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module")
def synthetic():
    """Training, clean test embeddings: ten agents, a manifold of rank 3, little noise."""
    plugin = Synthetic(width=6, rank=3, redundancy=0.5, noise=1e-3, samples=200)
    training, test, _ = prepared(plugin)
    return training, test


def known_manifold(plugin):
    """The affine manifold the generator draws from."""
    truth, data = plugin.truth(), plugin.load()
    basis = torch.linalg.qr(truth.basis).Q
    return AffineManifold(data.layout, truth.offset, basis)


def flipped(observation, agents, amplification=20.0):
    features = observation.features.clone()
    for agent in agents:
        features[:, observation.layout.slices[agent]] *= -amplification
    return observation.with_features(features)


def silenced(observation, agents):
    mask = torch.zeros_like(observation.observed)
    mask[:, list(agents)] = True
    return observation.without(mask)


# Recovery


@pytest.mark.parametrize("tau", [2.0, None])
@pytest.mark.parametrize(
    ("bad", "gone"),
    [((), ()), ((9,), ()), ((0, 4, 9), ()), ((7, 9), (2, 3)), ((), (5, 6))],
)
def test_copur_recovers_clean_features(bad, gone, tau):
    plugin = Synthetic(agents=10, width=8, rank=3, redundancy=0.8, samples=60)
    manifold, data = known_manifold(plugin), plugin.load()
    clean = data.test.observation(data.layout)
    clean = clean.with_features(clean.features.double())
    center = converged(manifold, linear_head(80, 2), tau, 200)
    decision = center(silenced(flipped(clean, bad), gone))
    error = recovery_error(decision.purified, clean, manifold.mean)
    assert error.max() < 1e-5
    assert torch.equal(decision.logits.argmax(1), center.head(clean.features).argmax(1))
    # What arrived was not nearly clean, and projecting it is no remedy.
    if bad:
        projected = manifold.reconstruct(flipped(clean, bad).features)
        assert recovery_error(projected, clean, manifold.mean).median() > 0.5


@pytest.mark.parametrize("agents", [5, 6])
@pytest.mark.parametrize("tau", [2.0, None])
def test_identical_blocks_are_recovered_up_to_half_of_the_agents(agents, tau):
    """c(T) = 1 - q/M, so recovery is certain below M/2 and lost above."""
    plugin = Synthetic(agents=agents, width=4, rank=2, redundancy=1.0, samples=40)
    manifold, data = known_manifold(plugin), plugin.load()
    clean = data.test.observation(data.layout)
    clean = clean.with_features(clean.features.double())
    center = converged(manifold, linear_head(4 * agents, 2), tau, 400)
    for q in range(agents):
        decision = center(flipped(clean, range(agents - q, agents)))
        error = recovery_error(decision.purified, clean, manifold.mean)
        if 2 * q < agents:
            assert error.max() < 1e-5
        elif 2 * q > agents:
            assert error.min() > 0.5


def test_a_fitted_copur_recovers(synthetic):
    training, test = synthetic
    center = CoPur(width=3).fit(training, generator=seeded())
    mean = center.manifold.mean
    received = flipped(test, (2, 9))
    error = recovery_error(center(received).purified.double(), test, mean)
    assert error.median() < 3e-3
    assert error.max() < 0.1
    projection = ManifoldProjection(width=3).fit(training, generator=seeded())
    naive = recovery_error(projection(received).purified.double(), test, mean)
    assert naive.min() > 5 * error.max()
    assert (center(received).status == STATUS.index("converged")).all()


# The optimizer


def each(function):
    """Autograd values and gradients of a function of `(k, p)` points and indices."""

    def objective(points, samples):
        leaf = points.detach().clone().requires_grad_()
        value = function(leaf, samples)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    return objective


def ones(n):
    return torch.ones(n, dtype=torch.float64)


def rosenbrock(points, samples):
    a, b = points.unbind(1)
    return (1 - a) ** 2 + (10.0 * (samples + 1)) * (b - a**2) ** 2


def test_minimize_each_on_quadratics_of_different_conditioning():
    roots = normal(5, 6, 6) * torch.logspace(-1, 1, 5).double()[:, None, None]
    matrices = roots @ roots.mT + 0.1 * torch.eye(6, dtype=torch.float64)
    vectors = normal(5, 6, seed=1)

    def quadratic(points, samples):
        product = torch.einsum("ni,nij,nj->n", points, matrices[samples], points)
        return 0.5 * product - (vectors[samples] * points).sum(1)

    start = normal(5, 6, seed=2)
    found = minimize_each(
        each(quadratic),
        start,
        reach=ones(5),
        scale=ones(5),
        max_iterations=500,
        tolerance=1e-15,
    )
    exact = torch.linalg.solve(matrices, vectors[:, :, None]).squeeze(2)
    torch.testing.assert_close(found.point, exact, rtol=1e-5, atol=1e-5)
    assert found.converged.all()
    for n in range(5):

        def value(x, n=n):
            points, samples = torch.from_numpy(x)[None], torch.tensor([n])
            v, g = each(quadratic)(points, samples)
            return float(v[0]), g[0].numpy()

        theirs = minimize(value, start[n].numpy(), jac=True, method="L-BFGS-B").fun
        assert float(found.value[n]) <= theirs + 1e-9 * abs(theirs)


def test_minimize_each_on_rosenbrock_valleys():
    start = torch.tensor([[-1.2, 1.0], [2.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    found = minimize_each(
        each(rosenbrock),
        start,
        reach=ones(3),
        scale=ones(3),
        max_iterations=500,
        tolerance=1e-14,
    )
    torch.testing.assert_close(
        found.point, torch.ones(3, 2, dtype=torch.float64), rtol=0, atol=1e-4
    )
    # A sample's path is its own.
    for n in range(3):

        def alone(points, samples, n=n):
            return each(rosenbrock)(points, samples + n)

        single = minimize_each(
            alone,
            start[n : n + 1],
            reach=ones(1),
            scale=ones(1),
            max_iterations=500,
            tolerance=1e-14,
        )
        torch.testing.assert_close(
            single.point[0], found.point[n], rtol=1e-12, atol=1e-12
        )


def test_minimize_each_never_rises_and_leaves_the_start_alone():
    start = normal(6, 2, seed=4)
    before = start.clone()
    last, _ = each(rosenbrock)(start, torch.arange(6))
    for limit in range(1, 12):
        found = minimize_each(
            each(rosenbrock),
            start,
            reach=ones(6),
            scale=ones(6),
            max_iterations=limit,
            tolerance=0.0,
        )
        assert (found.value <= last).all()
        value, _ = each(rosenbrock)(found.point, torch.arange(6))
        torch.testing.assert_close(found.value, value)
        last = found.value
    assert not found.converged.any()
    assert torch.equal(start, before)


# Eq. 6


def plain_eq6(manifold, observation, received, point, tau, eps):
    """Eq. 6 of one sample, written out."""
    image = manifold.reconstruct(point[None])[0]
    total = 0.0
    for agent, s in enumerate(manifold.layout.slices):
        if observation.observed[0, agent]:
            total += ((received[s] - point[s]).square().sum() + eps**2).sqrt()
        total += tau * ((image[s] - point[s]).square().sum() + eps**2).sqrt()
    return total


@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_eq6_value_and_gradient_against_autograd(make):
    manifold = make((2, 3, 1), 2)
    observation = observation_of(manifold.layout, 6, missing=0.4)
    received, point = normal(6, 6, seed=1), normal(6, 6, seed=2)
    eps = normal(6, 1, seed=3).abs()
    value, gradient = eq6(
        Chain(manifold, torch.float64),
        observation.with_features(point),
        received,
        1.7,
        eps,
    )
    for n in range(6):
        leaf = point[n].clone().requires_grad_()
        one = observation[n : n + 1]
        expected = plain_eq6(manifold, one, received[n], leaf, 1.7, eps[n, 0])
        (slope,) = torch.autograd.grad(expected, leaf)
        torch.testing.assert_close(value[n], expected.detach())
        torch.testing.assert_close(gradient[n], slope)


@pytest.mark.parametrize("tau", [0.5, 2.0, 50.0])
@pytest.mark.parametrize("make", [affine_manifold, autoencoder])
def test_refine_never_raises_the_objective(make, tau):
    manifold = make((3,) * 5, 2)
    observation = observation_of(manifold.layout, 8, missing=0.2, seed=5)
    observation = observation.with_features(3 * observation.features)
    fit = robust_fit(manifold, observation)
    start = manifold.decode(fit.code)
    found = {}

    def spy(objective, begin, **options):
        found["result"] = minimize_each(objective, begin, **options)
        found["start"] = begin
        return found["result"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cibench_plugins.defenses._eq6.minimize_each", spy)
        purified, _ = refine(manifold, observation, fit, tau=tau)
    torch.testing.assert_close(found["start"], start)
    point = found["result"].point
    torch.testing.assert_close(purified, manifold.reconstruct(point))
    lower = 0
    for n in range(8):
        received = observation.filled(0.0)[n]
        value = partial(
            plain_eq6, manifold, observation[n : n + 1], received, tau=tau, eps=0.0
        )
        before, after = float(value(point=start[n])), float(value(point=point[n]))
        # The descent is on smoothed norms: by a hundredth of the typical residual.
        assert after <= before * 1.02
        lower += after < before * 0.999
    if tau < 1:
        assert lower > 0


def test_a_large_penalty_keeps_the_point_on_the_manifold():
    """For tau -> inf Eq. 6 becomes Eq. 5."""
    manifold = affine_manifold((3,) * 6, 2)
    observation = everyone(3 * normal(6, 18), manifold.layout)
    fit = robust_fit(manifold, observation)
    purified, _ = refine(manifold, observation, fit, tau=1e6)
    torch.testing.assert_close(purified, manifold.decode(fit.code), rtol=0, atol=1e-3)


# The released algorithm, one sample at a time


def plain_released(
    manifold, received, heard, *, tau, all_agents, stop_below, steps=(100, 10)
):
    """The published steps for one sample: autograd, no batch, no merged layers."""
    widths = manifold.layout.widths

    def rms(vector):
        parts = []
        for part in vector.split(widths):
            square = part.square().mean()
            # At zero the released code divides by zero; the subgradient 0 is taken.
            parts.append(square.sqrt() if square > 0 else part.sum() * 0.0)
        return torch.stack(parts)

    def descend(point, loss, count, rate):
        for _ in range(count):
            leaf = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf), leaf)
            if gradient.norm() < stop_below:
                break
            point = leaf.detach() - rate * gradient
        return point

    def image(point):
        return manifold.reconstruct(point[None])[0]

    weight = torch.ones(len(widths)).double() if all_agents else heard.double()
    point = descend(
        image(received),
        lambda p: (weight * rms(image(p) - received)).sum(),
        steps[0],
        0.1,
    )
    point = descend(
        image(point),
        lambda p: (heard * rms(p - received)).sum() + tau * rms(image(p) - p).sum(),
        steps[1],
        1e-3,
    )
    return image(point)


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 4, 1)])
@pytest.mark.parametrize("released", [False, True])
# On an affine manifold the residual of stage 2 is rounding, and so is its direction.
@pytest.mark.parametrize(("make", "tau"), [(affine_manifold, 0.0), (autoencoder, 5.0)])
def test_released_purify_against_a_plain_reading(make, tau, released, widths):
    manifold = make(widths, 2)
    observation = observation_of(manifold.layout, 4, missing=0.3, seed=2)
    observation = observation.with_features(2 * observation.features)
    assert not observation.observed.all()
    # A bound that some gradients pass and others do not.
    stop_below = 0.4 if released else 0.0
    received = observation.filled(0.0)
    options = {"tau": tau, "all_agents": released, "stop_below": stop_below}
    batched = released_purify(
        Chain(manifold, torch.float64), observation, received.clone(), **options
    )
    plain = [
        plain_released(manifold, received[n], observation.observed[n], **options)
        for n in range(4)
    ]
    torch.testing.assert_close(batched, torch.stack(plain), rtol=1e-9, atol=1e-9)


def test_released_purify_leaves_its_arguments_alone():
    manifold = autoencoder((3, 3, 3), 2)
    observation = observation_of(manifold.layout, 4)
    received = observation.filled(0.0)
    before = received.clone()
    released_purify(
        Chain(manifold, torch.float64),
        observation,
        received,
        tau=5.0,
        all_agents=False,
        stop_below=0.0,
    )
    assert torch.equal(received, before)
    assert torch.equal(observation.features, before)


def test_stop_below_freezes_single_samples():
    manifold = affine_manifold((3, 3, 3), 2)
    on = on_manifold(manifold, 1)
    received = torch.cat([on, on + 5 * normal(1, 9, seed=4)])
    observation = everyone(received, manifold.layout)
    purify = partial(
        released_purify,
        Chain(manifold, torch.float64),
        tau=1e-3,
        all_agents=False,
    )
    stopped = purify(observation, received, stop_below=1e9)
    torch.testing.assert_close(stopped, manifold.reconstruct(received))
    moving = purify(observation, received, stop_below=0.0)
    assert (moving - stopped)[1].norm() > 1e-2


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_step_divides_by_a_zero_residual(widths, dtype):
    layout = layout_of(*widths)
    identity = torch.eye(9, dtype=torch.float64)
    # Of full rank, without offset: every residual is zero to the last bit.
    manifold = AffineManifold(layout, torch.zeros(9, dtype=torch.float64), identity)
    received = normal(4, 9).to(dtype)
    observation = everyone(received, layout)
    chain = Chain(manifold, dtype)
    assert torch.equal(chain.forward(received)[0], received)
    for tau in (1.0, 1000.0):
        purified = released_purify(
            chain, observation, received, tau=tau, all_agents=False, stop_below=0.0
        )
        assert torch.equal(purified, received)
    center = converged(manifold, linear_head(9, 2).to(dtype), 2.0, 50)
    decision = center(observation)
    torch.testing.assert_close(decision.purified, received, rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.functional.jacobian(
        lambda f: center.differentiable_logits(observation.with_features(f)).sum(),
        received,
    )
    assert torch.isfinite(gradient).all()


# Any purifying fusion center


@pytest.fixture(
    params=["converged", "eq5", "mlp", "paper", "released", "projection", "none"],
    scope="module",
)
def center(request, synthetic):
    defense = {
        "converged": CoPur(width=3),
        "eq5": CoPur(width=3, refine=False),
        "mlp": CoPur(manifold="mlp", width=3, max_iterations=30),
        "paper": CoPur(solver="paper", width=3),
        "released": CoPur(solver="released", width=3),
        "projection": ManifoldProjection(width=3),
        "none": NoDefense(),
    }[request.param]
    return defense.fit(synthetic[0], generator=seeded())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38, 2e15])
def test_unusable_blocks_are_missing_blocks(center, synthetic, value):
    test = synthetic[1][:12]
    columns = test.layout.slices[4]
    features = test.features.clone()
    features[::2, columns.start + 1] = value
    bad = torch.zeros_like(test.observed)
    bad[::2, 4] = True
    unusable, missing = center(test.with_features(features)), center(test.without(bad))
    assert torch.equal(unusable.logits, missing.logits)
    assert torch.equal(unusable.rejected, bad)
    if missing.purified is not None:
        assert torch.equal(unusable.purified, missing.purified)
    gradient = torch.autograd.functional.jacobian(
        lambda f: center.differentiable_logits(test.with_features(f)).sum(), features
    )
    assert torch.isfinite(gradient).all()
    assert (gradient[::2, columns] == 0).all()
    assert (gradient[1::2, columns] != 0).any()


def test_a_decision_does_not_depend_on_chunks(center, synthetic):
    test = flipped(synthetic[1][:23], (3,), 5.0)
    if isinstance(center, FixedSteps):
        # Steps of tau = 1000 along a residual of rounding size: what float32 leaves of
        # it differs between batch sizes, as in the released code.
        head = copy.deepcopy(center.head).double()
        center = FixedSteps(center.fitted, head, center.tau, released=center.released)
        test = test.with_features(test.features.double())
    whole = center(test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(center, "samples_per_chunk", 7)
        parts = center(test)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=2e-5, atol=2e-5)
    if whole.status is not None:
        assert torch.equal(parts.status, whole.status)


@pytest.mark.parametrize("tau", [2.0, None])
def test_converged_in_float64_is_independent_of_chunks(tau):
    manifold = affine_manifold((4,) * 7, 3)
    center = converged(manifold, mlp_head(28, 3), tau, 200)
    received = on_manifold(manifold, 23) + 0.1 * normal(23, 28, seed=5)
    received[:, -4:] *= -10
    observed = observation_of(manifold.layout, 23, missing=0.2).observed
    observation = Observation(received, observed, manifold.layout)
    whole = center(observation)
    center.samples_per_chunk = 7
    parts = center(observation)
    torch.testing.assert_close(parts.purified, whole.purified, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-8, atol=1e-8)
    assert torch.equal(parts.status, whole.status)


def test_nobody_heard_is_answered_with_the_mean(synthetic):
    training, test = synthetic
    nobody = test[:3].without(torch.ones_like(test.observed[:3]))
    for refined in (True, False):
        center = CoPur(width=3, refine=refined).fit(training, generator=seeded())
        decision = center(nobody)
        assert (decision.status == STATUS.index("no-agents")).all()
        mean = center.manifold.mean.float().expand(3, -1)
        torch.testing.assert_close(decision.purified, mean, rtol=0, atol=1e-5)


def test_manifold_projection_is_the_head_on_the_projection(synthetic):
    training, test = synthetic
    center = ManifoldProjection(width=3).fit(training, generator=seeded())
    gone = torch.zeros_like(test.observed)
    gone[::3, 2] = True
    received = test.without(gone)
    filled = torch.where(
        test.layout.expand(gone), center.manifold.mean, test.features.double()
    )
    basis, mean = center.manifold.basis, center.manifold.mean
    projected = mean + (filled - mean) @ basis @ basis.T
    torch.testing.assert_close(
        center(received).purified, projected.float(), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        center(received).logits, center.head(projected.float()), rtol=1e-5, atol=1e-5
    )


def test_statuses_and_variants_of_the_solver(synthetic):
    training, test = synthetic
    for solver in ("paper", "released"):
        center = CoPur(solver=solver, width=3).fit(training, generator=seeded())
        assert (center(test[:4]).status == STATUS.index("fixed-steps")).all()
    assert (center.tau, center.released) == (1000.0, True)
    short = CoPur(width=3, max_iterations=2, refine=False)
    center = short.fit(training, generator=seeded())
    assert (
        center(flipped(test[:4], (1,))).status == STATUS.index("max-iterations")
    ).all()
    curved = CoPur(manifold="mlp", width=3).fit(training, generator=seeded())
    assert curved.tau == 2.0
    assert CoPur(tau=0.5).fit(training, generator=seeded()).tau == 0.5
    # On an affine manifold Eq. 6 has the solution of Eq. 5 (next test): it is not run.
    assert CoPur().fit(training, generator=seeded()).tau is None


@pytest.mark.parametrize("tau", [1.0, 2.0, 1000.0])
def test_eq6_on_an_affine_manifold_has_the_solution_of_eq5(tau):
    manifold = affine_manifold((4,) * 7, 3)
    received = on_manifold(manifold, 20) + 0.1 * normal(20, 28, seed=5)
    received[:, -4:] *= -10
    observed = torch.ones(20, 7, dtype=torch.bool)
    observation = Observation(received, observed, manifold.layout)
    fit = robust_fit(manifold, observation)
    start = manifold.decode(fit.code)
    chain = Chain(manifold, torch.float64)
    tiny = torch.full((20, 1), 1e-12, dtype=torch.float64)

    def value(point):
        return eq6(chain, observation.with_features(point), received, tau, tiny)[0]

    for seed, size in enumerate((1e-3, 1e-1, 1.0)):
        moved = start + size * normal(20, 28, seed=seed)
        assert (value(moved) >= value(start) * (1 - 1e-9)).all()
    purified, _ = refine(manifold, observation, fit, tau=tau)
    torch.testing.assert_close(purified, start, rtol=1e-3, atol=1e-3)


def test_the_surrogate_of_the_released_solver_is_its_own_answer(synthetic):
    training, test = synthetic
    center = CoPur(solver="paper", width=3).fit(training, generator=seeded())
    received = flipped(test[:5], (1,))
    torch.testing.assert_close(
        center.differentiable_logits(received), center(received).logits
    )


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_purifying_does_not_depend_on_units(unit):
    manifold = affine_manifold((4,) * 7, 3)
    received = on_manifold(manifold, 8) + 0.1 * normal(8, 28, seed=5)
    received[:, -4:] *= -10
    scaled = AffineManifold(manifold.layout, unit * manifold.mean, manifold.basis)
    here, there = (
        converged(m, linear_head(28, 2), 0.7)(everyone(h, m.layout)).purified
        for m, h in ((manifold, received), (scaled, unit * received))
    )
    # Eq. 6 moves the point by 2.4 here; after 60 iterations paths differ by rounding.
    torch.testing.assert_close(there / unit, here, rtol=0, atol=0.3)


def test_identical_blocks_give_the_geometric_median():
    manifold = identical_blocks(5, 2)
    blocks = normal(5, 2)
    point = np.zeros(2)
    found = minimize(
        lambda z: np.linalg.norm(blocks.numpy() - z, axis=1).sum(),
        point,
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-14},
    ).x
    center = converged(manifold, linear_head(10, 2), None)
    purified = center(everyone(blocks.reshape(1, 10), manifold.layout)).purified
    assert purified[0, :2].tolist() == pytest.approx(found.tolist(), abs=1e-6)
