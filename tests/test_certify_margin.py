"""Radii of heads: closed form for linear ones, adversarial search for the others."""

import pytest
import torch
from torch import nn

from cibench._errors import UsageError
from cibench.certify import margin_radius, smallest_lead
from cibench.certify.margin import _read
from helpers import linear_head, normal


def leaky_head(width, classes, hidden, slope, seed=0):
    return nn.Sequential(
        linear_head(width, hidden, seed),
        nn.LeakyReLU(slope) if slope else nn.ReLU(),
        linear_head(hidden, classes, seed + 2),
    )


def test_a_linear_head_has_its_closed_form():
    head = linear_head(5, 4)
    points = normal(50, 5, seed=3)
    radius, classes = margin_radius(head, points)
    logits = head(points)
    assert torch.equal(classes, logits.argmax(1))
    for n in range(50):
        y = int(classes[n])
        nearest = min(
            float(logits[n, y] - logits[n, k])
            / float((head.weight[y] - head.weight[k]).norm())
            for k in range(4)
            if k != y
        )
        assert float(radius[n]) == pytest.approx(nearest)


def test_a_linear_head_falls_just_beyond_its_radius():
    head = linear_head(5, 4)
    points = normal(50, 5, seed=3)
    radius, classes = margin_radius(head, points)
    fell = torch.zeros(50, dtype=torch.bool)
    for k in range(4):
        row = head.weight[k] - head.weight[classes]
        along = row / row.norm(dim=1, keepdim=True).clamp_min(1e-9)
        inside = points + 0.999999 * radius[:, None] * along
        assert torch.equal(head(inside).argmax(1), classes)
        beyond = points + 1.000001 * radius[:, None] * along
        fell |= head(beyond).argmax(1) != classes
    assert fell.all()


def falls_within(head, points, classes, radius, generator):
    """Whether a search on the sphere of a radius finds another class."""
    fell = torch.zeros(len(points), dtype=torch.bool)
    for _ in range(6):
        change = torch.randn(points.shape, generator=generator).double()
        change = change * (radius / change.norm(dim=1))[:, None]
        for _ in range(40):
            change.requires_grad_()
            logits = head(points + change)
            fell |= logits.argmax(1) != classes
            own = logits.gather(1, classes[:, None]).squeeze(1)
            others = logits.scatter(1, classes[:, None], -torch.inf).amax(1)
            (slope,) = torch.autograd.grad((others - own).sum(), change)
            length = slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
            moved = change.detach() + 0.3 * radius[:, None] * slope / length
            size = moved.norm(dim=1, keepdim=True).clamp_min(1e-12)
            change = moved * (radius[:, None] / size).clamp(max=1.0)
    return fell


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("width", "hidden"), [(6, 8), (20, 7), (3, 30)])
def test_no_search_inside_the_radius_finds_another_class(slope, classes, width, hidden):
    head = leaky_head(width, classes, hidden, slope)
    points = 2 * normal(80, width, seed=5)
    radius, decided = margin_radius(head, points)
    generator = torch.Generator().manual_seed(1)
    assert (radius > 0).all()
    assert not falls_within(head, points, decided, radius, generator).any()
    # It is no triviality: a few times as far out many fall.
    assert falls_within(
        head, points, decided, 3 * radius, generator
    ).double().mean() > (0.5)


def test_without_a_kink_the_radius_is_that_of_the_product():
    head = leaky_head(6, 4, 9, 1.0)
    plain = nn.Linear(6, 4, dtype=torch.float64).requires_grad_(False)
    plain.weight.copy_(head[2].weight @ head[0].weight)
    plain.bias.copy_(head[2].weight @ head[0].bias + head[2].bias)
    points = normal(30, 6, seed=3)
    radius, classes = margin_radius(head, points)
    exact, same = margin_radius(plain, points)
    assert torch.equal(classes, same)
    assert (radius <= exact * (1 + 1e-9)).all()
    torch.testing.assert_close(radius, exact, rtol=1e-4, atol=0)


def test_one_hidden_unit_by_hand():
    """`relu(x) - 1` against 0: from x = 3 the classes meet at x = 1."""
    head = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    head.requires_grad_(False)
    head[0].weight.fill_(1.0), head[0].bias.zero_()
    head[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
    head[2].bias.copy_(torch.tensor([-1.0, 0.0]))
    points = torch.tensor([[3.0], [0.5], [-2.0]]).double()
    radius, classes = margin_radius(head, points)
    assert classes.tolist() == [0, 1, 1]
    # From 0.5 and from -2 class 1 holds up to 1; a chord can only say less.
    torch.testing.assert_close(radius[0], torch.tensor(2.0).double(), rtol=1e-5, atol=0)
    assert 0.4 < float(radius[1]) <= 0.5 * (1 + 1e-9)
    assert 2.0 < float(radius[2]) <= 3.0 * (1 + 1e-9)


def test_more_is_found_than_the_product_of_norms():
    head = leaky_head(20, 3, 12, 0.1)
    points = 2 * normal(60, 20, seed=5)
    radius, classes = margin_radius(head, points)
    logits = head(points)
    own = logits.gather(1, classes[:, None])
    gains = head[2].weight[classes][:, None] - head[2].weight
    speed = gains.norm(dim=2) * torch.linalg.matrix_norm(head[0].weight, 2)
    product = ((own - logits) / speed).masked_fill(speed == 0, torch.inf).amin(1)
    assert (radius >= product * (1 - 1e-4)).all()
    assert (radius / product).median() > 1.5


def test_the_smallest_lead_agrees_with_the_radius():
    head = leaky_head(6, 4, 9, 0.2)
    points = normal(40, 6, seed=3)
    radius, classes = margin_radius(head, points)
    assert (smallest_lead(head, points, 0.999 * radius) > 0).all()
    assert (smallest_lead(head, points, 1.01 * radius) <= 0).all()
    logits = head(points)
    top = logits.topk(2, dim=1).values
    torch.testing.assert_close(
        smallest_lead(head, points, torch.tensor(0.0)), top[:, 0] - top[:, 1]
    )
    change = normal(40, 6, seed=9)
    change = change / change.norm(dim=1, keepdim=True)
    for size in (0.01, 0.1, 1.0, 10.0):
        bound = smallest_lead(head, points, torch.tensor(size))
        moved = head(points + size * change)
        own = moved.gather(1, classes[:, None]).squeeze(1)
        others = moved.scatter(1, classes[:, None], -torch.inf).amax(1)
        assert (own - others >= bound - 1e-9).all()


def test_constant_heads_ties_and_single_classes():
    head = leaky_head(3, 2, 4, 0.1)
    head[2].weight.zero_()
    head[2].bias.copy_(torch.tensor([0.0, 1.0]))
    points = normal(5, 3)
    assert margin_radius(head, points)[0].isinf().all()
    head[2].bias.zero_()
    radius, classes = margin_radius(head, points)
    assert radius.tolist() == classes.tolist() == [0.0] * 5
    assert margin_radius(linear_head(3, 1), points)[0].isinf().all()
    assert margin_radius(leaky_head(3, 1, 4, 0.1), points)[0].isinf().all()
    tied = linear_head(3, 2)
    tied.weight[1], tied.bias[1] = tied.weight[0], tied.bias[0]
    assert margin_radius(tied, points)[0].tolist() == [0.0] * 5


def test_pieces_give_the_same(monkeypatch):
    head = leaky_head(6, 4, 9, 0.2)
    points = normal(40, 6, seed=3)
    whole, _ = margin_radius(head, points)
    lead = smallest_lead(head, points, whole / 2)
    monkeypatch.setattr("cibench.certify.margin._WORKING_SET", 1)
    torch.testing.assert_close(margin_radius(head, points)[0], whole)
    torch.testing.assert_close(smallest_lead(head, points, whole / 2), lead)
    assert margin_radius(head, points[:0])[0].shape == (0,)


def test_bad_input():
    deep = nn.Sequential(*leaky_head(3, 3, 3, 0.1), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(
        UsageError, match=r"expected a linear layer, or two.*got Linear,"
    ):
        margin_radius(deep, normal(2, 3))
    with pytest.raises(UsageError, match="expected a slope from 0 to 1, got -1"):
        margin_radius(leaky_head(3, 2, 3, -1.0), normal(2, 3))
    with pytest.raises(UsageError, match="radius: expected finite numbers"):
        smallest_lead(linear_head(3, 2), normal(2, 3), torch.tensor([1.0, torch.inf]))


@pytest.mark.parametrize(("width", "hidden"), [(3, 6), (10, 6), (6, 1)])
def test_the_spread_of_slopes_is_bounded_over_all_corners(width, hidden):
    """A convex norm is largest at a corner of the cube: try all of them."""
    known = _read(leaky_head(width, 2, hidden, 0.2))
    weights = normal(40, hidden, seed=6).abs() * torch.logspace(-2, 2, hidden)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * hidden)
    corners = corners.reshape(-1, hidden)
    sent = (weights[:, None] * corners) @ known.inner
    largest = sent.norm(dim=2).amax(1)
    bound = known.largest(weights)
    assert (bound >= largest * (1 - 1e-12)).all()
    assert (bound <= 1.6 * largest).all()
