"""Attacks that ask for answers alone: `interpolate`, `square-blocks` and `nes`."""

import pytest
import torch

from cibench import Criterion, Knowledge, KnowledgeError, Victim
from cibench_plugins.attacks.interpolate import Interpolate
from cibench_plugins.attacks.nes import NES, _Estimated
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.attacks.square_blocks import SquareBlocks
from helpers import Plain, layout_of, linear_head, mlp_head, observation_of, seeded

LAYOUT = layout_of(2, 4, 3)
N = 20
QUERIES = [Interpolate(), SquareBlocks(steps=40), NES(steps=5, pairs=3)]


def mask_of(*agents, layout=LAYOUT):
    mask = torch.zeros(N, layout.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def launch(
    attack, center, clean, criterion, mask, *, radius=None, recorded=None, seed=5
):
    """What is sent after the harness' own audit, and the victim."""
    victim = Victim(
        attack.threat.knowledge, undefended=center, defended=center, own=mask,
        recorded=recorded or (clean, criterion.labels),
    )  # fmt: skip
    sent = attack(
        victim, clean, criterion,
        compromised=mask, radius=radius, generator=seeded(seed),
    )  # fmt: skip
    return sent, victim


def answers(center, clean):
    return Criterion(center(clean).logits.argmax(dim=1))


@pytest.fixture
def linear():
    center = Plain(linear_head(LAYOUT.width, 2, seed=1))
    clean = observation_of(LAYOUT, N, seed=2)
    return center, clean, answers(center, clean)


@pytest.fixture
def curved():
    center = Plain(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, N, seed=4)
    return center, clean, answers(center, clean)


@pytest.mark.parametrize("attack", QUERIES, ids=lambda a: a.name)
def test_they_ask_for_no_gradient_and_their_questions_are_counted(attack, curved):
    sent, victim = launch(attack, *curved, mask_of(1, 2))
    asked = {"interpolate": 1 + 5 * 10, "square-blocks": 41, "nes": 6 * 7}[attack.name]
    assert (victim.gradients, victim.queries) == (0, asked * N)
    center, _, criterion = curved
    assert criterion.succeeded(center(sent).logits).float().mean() > 0.3


@pytest.mark.parametrize("attack", QUERIES, ids=lambda a: a.name)
def test_they_never_do_worse_than_the_clean_blocks(attack, curved):
    center, clean, criterion = curved
    sent, _ = launch(attack, *curved, mask_of(1))
    before, after = (criterion.margin(center(x).logits) for x in (clean, sent))
    assert (after <= before).all()


class Rounded(Plain):
    """A center that masks its gradients: features are rounded to halves."""

    def decide(self, observation):
        rounded = (observation.features * 2).round() / 2
        return super().decide(observation.with_features(rounded))


@pytest.mark.parametrize(
    "attack",
    [SquareBlocks(steps=100), NES(steps=20, deviation=0.8)],
    ids=lambda a: a.name,
)
def test_masked_gradients_hide_nothing_from_them(attack):
    center = Rounded(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, N, seed=4)
    criterion = answers(center, clean)
    by_gradient, victim = launch(
        PGD(restarts=1), center, clean, criterion, mask_of(1, 2)
    )
    assert victim.unusable > 0
    assert not criterion.succeeded(center(by_gradient).logits).any()
    sent, _ = launch(attack, center, clean, criterion, mask_of(1, 2))
    assert criterion.succeeded(center(sent).logits).float().mean() > 0.8


def test_the_breakdown_point_of_a_linear_center(linear):
    """On the way to one donor the margin falls evenly and crosses zero at a known share."""
    center, clean, criterion = linear
    other = int((criterion.labels != criterion.labels[0]).nonzero()[0])
    recorded = clean[torch.tensor([0, other])], criterion.labels[[0, other]]
    attack = Interpolate(candidates=1, send="least", reach=4.0)
    sent, _ = launch(attack, *linear, mask_of(0, 1, 2), recorded=recorded)
    donor = torch.where(criterion.labels == criterion.labels[0], other, 0)
    there = clean.features[donor]
    start = criterion.margin(center(clean).logits)
    end = criterion.margin(center(clean.with_features(there)).logits)
    share = start / (start - end)
    expected = clean.features + share[:, None] * (there - clean.features)
    assert torch.allclose(sent.features, expected, atol=0.02, rtol=0.02)
    assert criterion.succeeded(center(sent).logits).all()


def test_the_breakdown_point_is_a_smaller_change(curved):
    center, clean, criterion = curved
    sizes, won = [], []
    for send in ("least", "worst"):
        sent, _ = launch(Interpolate(send=send), *curved, mask_of(1, 2))
        sizes.append((sent.features - clean.features).norm(dim=1))
        won.append(criterion.succeeded(center(sent).logits))
    assert torch.equal(*won)
    assert (sizes[0][won[0]] <= sizes[1][won[0]] + 1e-9).all()
    assert (sizes[0][won[0]] < sizes[1][won[0]]).any()


def test_interpolation_ends_where_it_is_told(curved):
    """With one point at 1 it is a replay of the recording."""
    _, clean, criterion = curved
    sent, _ = launch(Interpolate(points=1, reach=1.0), *curved, mask_of(1))
    own = LAYOUT.slices[1]
    for row in range(N):
        block = sent.features[row, own]
        lenders = torch.isclose(clean.features[:, own], block).all(dim=1).nonzero()
        assert len(lenders) == 1
        lender = int(lenders[0])
        assert lender == row or criterion.labels[lender] != criterion.labels[row]


def test_square_search_reaches_the_corner_of_blocks_of_one_column():
    """There the ball is an interval, and one proposal of 2^m is the best."""
    layout = layout_of(1, 1, 1)
    center = Plain(linear_head(3, 2, seed=1))
    clean = observation_of(layout, N, seed=2)
    criterion = answers(center, clean)
    radius = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    sent, _ = launch(
        SquareBlocks(budget=1.0, steps=60), center, clean, criterion,
        mask_of(0, 2, layout=layout), radius=radius,
    )  # fmt: skip
    weight = center.head.weight.detach()
    slope = (weight[0] - weight[1]).abs()
    least = criterion.margin(center(clean).logits) - 0.5 * slope[0] - slope[2]
    assert torch.allclose(criterion.margin(center(sent).logits), least, atol=1e-4)


def test_estimated_gradients_point_where_the_true_ones_do(curved):
    center, clean, criterion = curved
    victim = Victim(Knowledge.ADAPTIVE, undefended=center, defended=center)
    true, _ = victim.loss_gradient(clean, criterion.margin)
    movable = LAYOUT.expand(mask_of(1, 2))
    deviation = torch.full((LAYOUT.width,), 1e-3, dtype=torch.float64)
    estimated = _Estimated(victim, movable, deviation, 2000, seeded(1))
    found, logits = estimated.loss_gradient(clean, criterion.margin)
    assert torch.equal(logits, center(clean).logits)
    assert (found[~movable] == 0).all()
    true = torch.where(movable, true, 0.0)
    assert (torch.cosine_similarity(found, true) > 0.98).all()
    assert torch.allclose(found.norm(dim=1), true.norm(dim=1), rtol=0.15)


@pytest.mark.parametrize("attack", QUERIES, ids=lambda a: a.name)
def test_a_victim_that_answers_nothing_refuses(attack, curved):
    center, clean, criterion = curved
    victim = Victim(
        Knowledge.OBLIVIOUS, undefended=center, defended=center,
        recorded=(clean, criterion.labels),
    )  # fmt: skip
    with pytest.raises(KnowledgeError):
        attack.run(
            victim, clean, criterion,
            compromised=mask_of(1), radius=None, generator=seeded(),
        )  # fmt: skip
