"""The ensemble against its members, votes against all votes, false points by their cost."""

import itertools

import pytest
import torch

from cibench import Criterion, Decision, FusionCenter, Knowledge, Victim
from cibench.certify import all_subsets, setwise_certified
from cibench.manifold import FittedManifold, robust_fit
from cibench_plugins.attacks._latent import false_points, objectives
from cibench_plugins.attacks._members import MEMBERS
from cibench_plugins.attacks._standing import Standing
from cibench_plugins.attacks.ablation_votes import AblationVotes
from cibench_plugins.attacks.collusion import Collusion
from cibench_plugins.attacks.ensemble import Ensemble
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.defenses.copur import _Converged
from cibench_plugins.defenses.randomized_ablation import _Ablation
from helpers import (
    Plain,
    affine_manifold,
    autoencoder,
    everyone,
    layout_of,
    linear_head,
    mlp_head,
    normal,
    on_manifold,
    seeded,
)

WIDTHS = (3, 3, 4, 4, 3)
N = 12


def purifier(rank=3):
    manifold = affine_manifold(WIDTHS, rank)
    head = linear_head(manifold.layout.width, 3)
    head.bias.copy_(-head.weight @ manifold.mean)  # every class is decided somewhere
    return _Converged(FittedManifold(manifold, 0.0, {}), head, None, 200)


def ablation(keep=2, classes=3):
    layout = layout_of(*WIDTHS)
    base = mlp_head(layout.width + layout.agents, classes, hidden=8)
    return _Ablation(base, all_subsets(layout.agents, keep)).eval()


def scene(center, *agents, size=0.5):
    """Clean samples that are decided as labelled, a victim and who is compromised."""
    layout = layout_of(*WIDTHS)
    manifold = affine_manifold(WIDTHS, 3)
    noise = size * normal(N, layout.width, seed=6)
    clean = everyone(on_manifold(manifold, N) + noise, layout)
    recorded = everyone(on_manifold(manifold, 60, seed=8), layout)
    criterion = Criterion(center(clean).logits.argmax(dim=1))
    mask = torch.zeros(N, layout.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    victim = Victim(
        Knowledge.ADAPTIVE, undefended=Plain(linear_head(layout.width, 3, seed=9)),
        defended=center, own=mask,
        recorded=(recorded, center(recorded).logits.argmax(dim=1)),
    )  # fmt: skip
    return clean, criterion, mask, victim


def standing(attack, center, clean, criterion, mask, victim, radius=None):
    """`(n,)` samples that are decided rightly under the attack, and what was sent."""
    sent = attack(
        victim, clean, criterion, compromised=mask, radius=radius, generator=seeded(1)
    )
    return ~criterion.succeeded(center(sent).logits), sent


@pytest.mark.slow
@pytest.mark.parametrize("make", [purifier, ablation])
@pytest.mark.parametrize("agents", [(4,), (0, 3)])
def test_it_breaks_whatever_one_of_its_members_breaks(make, agents):
    center = make()
    world = scene(center, *agents)
    whole, _ = standing(Ensemble(steps=10), center, *world)
    left = torch.ones(N, dtype=torch.bool)
    for name in MEMBERS:
        alone, _ = standing(Ensemble(steps=10, members=name), center, *world)
        left &= alone
    # Later members start from other draws of the generator: not sample by sample.
    assert whole.sum() <= left.sum() + 1
    assert whole.sum() < N


@pytest.mark.parametrize("name", list(MEMBERS))
def test_every_member_does_something_somewhere(name):
    """No member is an empty promise: alone, with two of five agents, it breaks samples."""
    broken = 0
    for make in (purifier, ablation):
        center = make()
        alone, _ = standing(
            Ensemble(steps=10, members=name), center, *scene(center, 0, 3)
        )
        broken += int((~alone).sum())
    assert broken > 0


def test_a_sample_that_fell_costs_nothing_more():
    center = Plain(linear_head(layout_of(*WIDTHS).width, 3, seed=2))
    clean, criterion, mask, victim = scene(center, 3, 4)
    left, _ = standing(Ensemble(), center, clean, criterion, mask, victim)
    assert not left.any()
    # Clean answers and a few payloads, instead of hundreds of gradients each.
    assert victim.gradients < 60 * N


def test_it_asks_nothing_of_samples_that_it_cannot_reach():
    center = purifier()
    clean, criterion, mask, victim = scene(center)
    left, sent = standing(Ensemble(), center, clean, criterion, mask, victim)
    assert left.all()
    assert torch.equal(sent.features, clean.features)
    assert (victim.queries, victim.gradients) == (N, 0)


def test_it_may_fall_silent_and_stays_within_its_budget():
    center = purifier()
    clean, criterion, mask, victim = scene(center, 4)
    radius = torch.full((5,), 0.3, dtype=torch.float64)
    _, sent = standing(
        Ensemble(steps=6, budget=0.3), center, clean, criterion, mask, victim, radius
    )
    change = clean.layout.block_norms(sent.features - clean.features)
    assert (change[sent.observed] <= 0.3 * (1 + 1e-5)).all()
    assert (change[:, :4] == 0).all()
    assert sent.observed[:, :4].all()
    _, silent = standing(
        Ensemble(members="payloads"), center, *scene(center, 4, size=1.0)
    )
    assert (~silent.observed[:, 4]).any()


@pytest.mark.parametrize("members", ["", "pgdd", "pgd/", "all/pgd"])
def test_members_are_checked(members):
    with pytest.raises(ValueError, match=r"members: expected all, or some of payloads"):
        Ensemble(members=members)


def test_the_same_seed_sends_the_same():
    center = purifier()
    one, other = (
        standing(Ensemble(steps=6), center, *scene(center, 4))[1].features
        for _ in range(2)
    )
    assert torch.equal(one, other)


def reachable(center, clean, criterion, mask):
    """`(n,)` whether some blocks of the compromised agents may turn the vote: all votes."""
    logits, _ = center.logits(clean)
    votes = logits.argmax(dim=2)[:, :-1]
    members = center.members
    found = []
    for row in range(len(clean)):
        ours = (members & mask[row]).any(dim=1)
        label = int(criterion.labels[row])
        kept = torch.bincount(votes[row][~ours], minlength=3)
        best = kept.clone()
        wins = False
        for other in range(3):
            if other != label:
                best = kept.clone()
                best[other] += int(ours.sum())
                wins |= int(best.argmax()) != label
        found.append(wins)
    return torch.tensor(found)


@pytest.mark.parametrize("agents", [(4,), (0, 3)])
def test_votes_are_won_where_they_can_be_and_never_where_they_cannot(agents):
    center = ablation()
    clean, criterion, mask, victim = scene(center, *agents)
    left, _ = standing(AblationVotes(), center, clean, criterion, mask, victim)
    possible = reachable(center, clean, criterion, mask)
    assert not (~left & ~possible).any()
    certified = setwise_certified(
        center.logits(clean)[0].argmax(2)[:, :-1], center.members,
        torch.ones(N, len(center.members), dtype=torch.bool), len(agents), 3,
    )  # fmt: skip
    assert not (~left & certified).any()
    by_pgd, _ = standing(PGD(), center, *scene(center, *agents))
    assert left.sum() <= by_pgd.sum() + 1


def test_what_voters_lack_is_their_margin():
    center = ablation()
    clean, *_ = scene(center)
    logits, counted = center.logits(clean)
    expected = torch.zeros(N, 3, dtype=torch.float64)
    for row, column in itertools.product(range(N), range(3)):
        each = []
        for answers, counts in zip(logits[row], counted[row], strict=True):
            others = torch.cat([answers[:column], answers[column + 1 :]])
            if counts:
                each.append(max(0.0, float(others.max() - answers[column])))
        expected[row, column] = -sum(each) / len(each)
    assert torch.allclose(center.votes(clean), expected)


def test_without_votes_it_descends_the_margin():
    center = Plain(linear_head(layout_of(*WIDTHS).width, 3, seed=2))
    left, _ = standing(AblationVotes(steps=20), center, *scene(center, 3, 4))
    assert not left.any()


def curved(*agents):
    """CoPur on an autoencoder, points of its manifold, some of five agents corrupted."""
    manifold = autoencoder((4,) * 5, 2)
    head = linear_head(20, 3)
    head.bias.copy_(-head.weight @ manifold.decode(normal(200, 2)).mean(dim=0))
    center = _Converged(FittedManifold(manifold, 0.0, {}), head, None, 200)
    clean = everyone(manifold.decode(normal(N, 2)), manifold.layout)
    criterion = Criterion(center(clean).logits.argmax(dim=1))
    mask = torch.zeros(N, 5, dtype=torch.bool)
    mask[:, list(agents)] = True
    return center, clean, criterion, mask


def test_objectives_are_what_the_fit_costs_at_either_point():
    center, clean, _, mask = curved(2, 3, 4)
    manifold = center.manifold
    code = normal(N, 2, seed=3)
    point, true = manifold.decode(code), manifold.reconstruct(clean.features)
    sent = torch.where(manifold.layout.expand(mask), point, clean.features)
    norms = manifold.layout.block_norms
    expected = norms(sent - point).sum(dim=1), norms(sent - true).sum(dim=1)
    found = objectives(manifold, clean, mask, code)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other)


def test_a_curved_fit_follows_false_points():
    """Three of five agents send one false point: the fit believes them."""
    center, clean, criterion, mask = curved(2, 3, 4)
    manifold = center.manifold
    victim = Victim(Knowledge.ADAPTIVE, undefended=center, defended=center, own=mask)
    points = false_points(
        victim, clean, criterion, manifold, mask, normal(N, 2, seed=3),
        steps=30, slack=1.1,
    )  # fmt: skip
    sent = torch.where(manifold.layout.expand(mask), points, clean.features)
    fit = robust_fit(manifold, clean.with_features(sent))
    found = manifold.decode(fit.code)
    nearer = (found - points).norm(dim=1) < (found - clean.features).norm(dim=1)
    assert nearer.double().mean() > 0.8


def test_collusion_knows_a_curved_manifold():
    center, clean, criterion, mask = curved(0, 1)
    manifold = center.manifold
    recorded = everyone(manifold.decode(normal(40, 2, seed=5)), manifold.layout)
    labels = center(recorded).logits.argmax(dim=1)

    def left(kind):
        victim = kind(
            Knowledge.ADAPTIVE, undefended=center, defended=center, own=mask,
            recorded=(recorded, labels),
        )  # fmt: skip
        attack = Collusion(width=2, steps=20)
        return int(standing(attack, center, clean, criterion, mask, victim)[0].sum())

    assert left(Victim) < left(_Blind)


class _Blind(Victim):
    """Keeps its manifold to itself."""

    manifold = None


class Chancy(FusionCenter):
    """Answers rightly three times out of four, by chance, whatever is sent."""

    def __init__(self):
        super().__init__()
        self.drawn = seeded(7)

    def decide(self, observation):
        lucky = torch.rand(len(observation), generator=self.drawn) < 0.25
        wrong = lucky & (observation.features[:, -1] != 0)
        return Decision(logits=torch.stack([1.0 - 2.0 * wrong, 0.0 * wrong], dim=1))


def test_one_lucky_answer_is_no_success():
    layout = layout_of(*WIDTHS)
    clean = everyone(torch.zeros(400, layout.width, dtype=torch.float64), layout)
    mask = torch.zeros(400, layout.agents, dtype=torch.bool)
    mask[:, -1] = True
    center = Chancy()
    victim = Victim(Knowledge.ADAPTIVE, undefended=center, defended=center)
    criterion = Criterion(torch.zeros(400, dtype=torch.long))
    standing = Standing(victim, clean, criterion, mask, None)
    standing.attempt(lambda left: left.clean.with_features(left.clean.features + 1.0))
    # A chance of 1/4 each time, asked again three times: 1/256 of 400.
    assert len(standing.rows) > 390


def test_a_fit_leaves_a_manifolds_state_alone():
    manifold = affine_manifold((9,) * 4, 2)
    before = set(manifold.state_dict())
    robust_fit(manifold, everyone(on_manifold(manifold, 5), manifold.layout))
    assert set(manifold.state_dict()) == before
