"""Ways to differentiate a defense, against finite differences and closed forms."""

import pytest
import torch

from cibench import (
    Criterion,
    Decision,
    FusionCenter,
    Knowledge,
    KnowledgeError,
    OracleFusionCenter,
    Victim,
)
from cibench.manifold import FittedManifold
from cibench.watch import Watch
from cibench_plugins.attacks._best import Best
from cibench_plugins.attacks._routes import Routed
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.defenses._fixed_steps import FixedSteps
from cibench_plugins.defenses.copur import _Converged
from helpers import (
    Plain,
    affine_manifold,
    autoencoder,
    everyone,
    layout_of,
    linear_head,
    normal,
    on_manifold,
    seeded,
)

WIDTHS = (3, 3, 4, 4)
EVERYONE = torch.ones(6, 4, dtype=torch.bool)


def margin_of(criterion):
    return lambda logits: criterion.margin(logits)


def victim_of(center, knowledge=Knowledge.ADAPTIVE, **named):
    undefended = named.pop("undefended", center)
    return Victim(knowledge, undefended=undefended, defended=center, **named)


def converged(manifold, tau=None):
    head = linear_head(manifold.layout.width, 3)
    return _Converged(FittedManifold(manifold, 0.0, {}), head, tau, 200)


def fixed(manifold, released=False):
    head = linear_head(manifold.layout.width, 3)
    return FixedSteps(FittedManifold(manifold, 0.0, {}), head, 10.0, released=released)


def noisy(manifold, samples=6, size=0.3):
    clean = on_manifold(manifold, samples) if manifold.family == "affine" else (
        manifold.decode(normal(samples, manifold.rank)))  # fmt: skip
    return everyone(
        clean + size * normal(samples, manifold.layout.width, seed=4), manifold.layout
    )


def differences(center, observation, criterion, step=1e-6):
    """Central differences of the margin of the decision itself."""
    columns = []
    for column in range(observation.layout.width):
        shift = torch.zeros_like(observation.features[:1])
        shift[:, column] = step
        ahead, behind = (
            criterion.margin(
                center(observation.with_features(observation.features + s)).logits
            )
            for s in (shift, -shift)
        )
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("released", [False, True])
def test_unrolled_fixed_steps_have_the_decisions_own_derivative(released):
    center = fixed(autoencoder(WIDTHS, 3), released)
    observation = noisy(center.manifold)
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    found, logits = victim_of(center).loss_gradient(
        observation, criterion.margin, route="unrolled"
    )
    assert torch.allclose(logits, center(observation).logits)
    expected = differences(center, observation, criterion)
    # A leaky ReLU may turn over within the step of a difference.
    near = (found - expected).abs() <= 1e-4 * (1 + expected.abs())
    assert near.double().mean() > 0.97
    surrogate, _ = victim_of(center).loss_gradient(observation, criterion.margin)
    assert not torch.allclose(surrogate, expected, rtol=1e-2)


def test_the_unrolled_fit_of_a_smooth_point_has_the_implicit_derivative():
    center = converged(affine_manifold(WIDTHS, 3))
    observation = noisy(center.manifold)
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    expected = differences(center, observation, criterion)
    for route in ("surrogate", "implicit", "unrolled"):
        found, logits = victim_of(center).loss_gradient(
            observation, criterion.margin, route=route
        )
        assert torch.allclose(logits, center(observation).logits)
        likeness = torch.nn.functional.cosine_similarity(found, expected)
        assert (likeness > (0.95 if route == "unrolled" else 0.999)).all(), route


def test_a_rejected_block_keeps_a_derivative_where_it_is_unrolled():
    """The implicit one decays like 1 / ||r_j||; through the first steps it does not."""
    center = converged(affine_manifold(WIDTHS, 2))
    observation = noisy(center.manifold, size=0.0)
    far = observation.features.clone()
    far[:, -4:] += 1e4 * normal(6, 4, seed=7)
    observation = observation.with_features(far)
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    sizes = {}
    for route in ("surrogate", "unrolled", "bpda"):
        found, _ = victim_of(center).loss_gradient(
            observation, criterion.margin, route=route
        )
        sizes[route] = float(found[:, -4:].norm(dim=1).mean())
    assert sizes["bpda"] > 1e3 * sizes["surrogate"]


@pytest.mark.parametrize("make", [converged, fixed])
def test_bpda_is_the_derivative_of_the_projection(make):
    manifold = affine_manifold(WIDTHS, 3)
    center = make(manifold)
    observation = noisy(manifold)
    route = "bpda" if make is converged else "surrogate"
    found, _ = victim_of(center).loss_gradient(
        observation, lambda logits: logits[:, 0], route=route
    )
    projection = manifold.basis @ manifold.basis.T
    expected = (center.head.weight[0] @ projection).expand(6, -1)
    assert torch.allclose(found, expected.to(found))


@pytest.mark.parametrize("route", ["surrogate", "unrolled", "bpda"])
def test_pieces_of_a_batch_have_the_gradients_of_the_whole(route, monkeypatch):
    center = converged(affine_manifold(WIDTHS, 3))
    observation = noisy(center.manifold, samples=7)
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    whole = victim_of(center).loss_gradient(observation, criterion.margin, route=route)
    monkeypatch.setattr(_Converged, "samples_per_gradient", lambda self, route: 3)
    pieces = victim_of(center).loss_gradient(observation, criterion.margin, route=route)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_memory_of_a_graph_through_all_steps_is_bounded():
    center = fixed(autoencoder((32,) * 10, 150, hidden=200))
    whole = center.samples_per_gradient("surrogate")
    assert 1 <= center.samples_per_gradient("unrolled") < whole
    eq5 = converged(affine_manifold((32,) * 10, 8))
    unrolled = eq5.samples_per_gradient("unrolled")
    assert unrolled == eq5.samples_per_gradient("surrogate") // 12


def test_a_model_without_a_route_is_differentiated_as_it_is():
    center = Plain(linear_head(14, 3))
    observation = everyone(normal(6, 14), layout_of(*WIDTHS))
    victim = victim_of(center)
    assert victim.routes == ("surrogate",)
    assert victim.manifold is None
    loss = margin_of(Criterion(torch.zeros(6, dtype=torch.long)))
    one, other = (
        victim.loss_gradient(observation, loss, route=route)[0]
        for route in ("surrogate", "unrolled")
    )
    assert torch.equal(one, other)


def test_what_each_knowledge_grants_of_routes_and_manifold():
    center = converged(affine_manifold(WIDTHS, 3))
    adaptive = victim_of(center, undefended=Plain(linear_head(14, 3)))
    assert adaptive.routes == ("surrogate", "unrolled", "bpda")
    assert torch.equal(adaptive.manifold.basis, center.manifold.basis)
    adaptive.manifold.basis.zero_()
    assert center.manifold.basis.any()  # what the adversary holds is a copy
    weaker = adaptive.transfer()
    assert weaker.knowledge is Knowledge.FUSION
    assert weaker.routes == ("surrogate",)
    assert weaker.manifold is None
    for knowledge in (Knowledge.OBLIVIOUS, Knowledge.QUERY):
        victim = victim_of(center, knowledge)
        assert victim.routes == ()
        assert victim.manifold is None
        with pytest.raises(KnowledgeError, match="expected knowledge of fusion or ada"):
            victim.transfer()


def test_knowledge_cannot_be_raised_by_writing():
    victim = victim_of(Plain(linear_head(14, 3)), Knowledge.OBLIVIOUS)
    with pytest.raises(AttributeError):
        victim.knowledge = Knowledge.ADAPTIVE


class Told(OracleFusionCenter):
    """Answers with who it was told is corrupted."""

    def decide_told(self, observation, corrupted):
        return Decision(logits=corrupted.double() + 0 * observation.features[:, :4])


def test_a_part_of_the_samples_is_asked_of_what_was_told_for_them():
    corrupted = torch.rand(6, 4, generator=seeded()) < 0.5
    center = Told().told(corrupted)
    observation = everyone(normal(6, 14), layout_of(*WIDTHS))
    victim = victim_of(center, own=corrupted)
    rows = torch.tensor([4, 1])
    part = victim.part(rows)
    assert torch.equal(part.logits(observation[rows]), corrupted[rows].double())
    gradient, logits = part.loss_gradient(observation[rows], lambda z: z.sum(dim=1))
    assert torch.equal(logits, corrupted[rows].double())
    assert gradient.shape == (2, 14)
    assert (victim.queries, victim.gradients) == (2, 2)
    assert (part.queries, part.gradients) == (2, 2)


class Shaken(FusionCenter):
    """A linear model under noise that is a function of the input's digits."""

    def __init__(self):
        super().__init__()
        self.weight = normal(14, 2)

    def decide(self, observation):
        seed = int(observation.features.detach().numpy().tobytes().__hash__()) % 2**31
        noise = normal(len(observation), 2, seed=seed)
        values = observation.features @ self.weight
        return Decision(logits=values * (1 + 10 * noise))


def test_draws_average_over_noise_that_is_a_function_of_the_input():
    observation = everyone(normal(6, 14, seed=3), layout_of(*WIDTHS))
    victim = victim_of(Shaken())

    def away(draws):
        routed = Routed(victim, "surrogate", draws, seeded(1))
        found, _ = routed.loss_gradient(observation, lambda z: z[:, 0])
        return float((found - Shaken().weight[:, 0]).norm())

    assert away(1) == away(1)
    assert away(100) < 0.5 * away(1)
    assert victim.gradients == 6 * (1 + 1 + 1 + 100)


def test_pgd_asks_along_the_route_and_as_often_as_it_says():
    center = converged(affine_manifold(WIDTHS, 3))
    observation = noisy(center.manifold)
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[:, 3] = True
    sent = {}
    for gradient in ("surrogate", "unrolled", "bpda"):
        victim = victim_of(center)
        attack = PGD(steps=4, restarts=1, draws=2, gradient=gradient)
        sent[gradient] = attack.run(
            victim, observation, criterion,
            compromised=mask, radius=None, generator=seeded(),
        ).features  # fmt: skip
        assert victim.gradients == 6 * 5 * 2
    assert not torch.equal(sent["surrogate"], sent["unrolled"])
    assert not torch.equal(sent["surrogate"], sent["bpda"])


def test_shipped_purifiers_name_their_routes():
    """What a reader of docs/defenses.md may ask for."""
    assert set(converged(affine_manifold(WIDTHS, 3)).routes) == {"unrolled", "bpda"}
    assert set(fixed(autoencoder(WIDTHS, 3)).routes) == {"unrolled"}


class Changing(FusionCenter):
    """Answers with other logits if asked about a part of a batch: a plugin may not."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def decide(self, observation):
        return Decision(logits=observation.features @ self.weight)

    def of_samples(self, samples):
        return Changing(-self.weight)

    narrowed = of_samples


def test_a_defense_cannot_be_another_for_a_part_of_the_samples():
    center = Changing(normal(14, 2))
    observation = everyone(normal(6, 14), layout_of(*WIDTHS))
    victim = victim_of(center)
    rows = torch.tensor([3, 0])
    part = victim.part(rows).logits(observation[rows])
    assert torch.equal(part, victim.logits(observation)[rows])


def test_what_was_asked_of_a_part_is_watched():
    center = Plain(linear_head(14, 2))
    observation = everyone(normal(6, 14), layout_of(*WIDTHS))
    criterion = Criterion(center(observation).logits.argmax(dim=1))
    own = torch.ones(6, 4, dtype=torch.bool)
    watch = Watch(observation, criterion, own, None)
    victim = victim_of(center, watch=watch)
    rows = torch.tensor([4, 1, 2])
    far = -100 * observation.features
    wrong = criterion.succeeded(center(observation.with_features(far)).logits)
    assert wrong[rows].any()
    victim.part(rows).part(torch.tensor([True, True, False])).logits(
        observation.with_features(far)[rows[:2]]
    )
    expected = wrong.clone()
    expected[[0, 2, 3, 5]] = False
    assert torch.equal(watch.found, expected)


def test_gradients_of_votes_and_of_the_undefended_are_not_on_trial():
    class Flat(Plain):
        @property
        def routes(self):
            return {"votes": lambda o: 0 * self.surrogate(o)}

    center = Flat(linear_head(14, 2))
    still = Plain(torch.nn.Linear(14, 2, dtype=torch.float64).requires_grad_(False))
    still.head.weight.zero_()
    observation = everyone(normal(6, 14), layout_of(*WIDTHS))
    victim = victim_of(center, undefended=still)
    victim.loss_gradient(observation, lambda z: z[:, 0], route="votes")
    victim.transfer().loss_gradient(observation, lambda z: z[:, 0])
    assert (victim.gradients, victim.unusable) == (12, 0)
    plain = victim_of(still)
    plain.loss_gradient(observation, lambda z: z[:, 0])
    assert plain.unusable == 6


class Refusing(FusionCenter):
    """Abstains below a lead."""

    def decide(self, observation):
        logits = observation.features[:, :3]
        lead = logits.topk(2, dim=1).values.diff(dim=1).abs().squeeze(1)
        return Decision(logits=logits, abstained=lead < 1.0)


@pytest.mark.parametrize("target", [None, 1])
def test_a_refusal_is_no_target_reached_but_the_true_class_left(target):
    layout = layout_of(*WIDTHS)
    clean = everyone(torch.zeros(2, 14, dtype=torch.float64), layout)
    features = clean.features.clone()
    features[0, :3] = torch.tensor([0.0, 5.0, 0.0])  # decided
    features[1, :3] = torch.tensor([0.0, 0.5, 0.0])  # refused
    goal = None if target is None else torch.full((2,), target)
    criterion = Criterion(torch.tensor([0, 0]), goal)
    best = Best(victim_of(Refusing()), criterion)
    best.offer(clean.with_features(features))
    assert best.success.tolist() == [True, target is None]
