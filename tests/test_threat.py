import itertools
import re

import pytest
import torch

from cibench import AgentSelection, Criterion, ThreatModelError
from helpers import layout_of, normal, seeded

LAYOUT = layout_of(2, 1, 3, 1, 2)


@pytest.mark.parametrize(
    ("rule", "agents"),
    [
        ("none", ()),
        ("all", (0, 1, 2, 3, 4)),
        ("last", (4,)),
        ("2", (1,)),
        ("c", (2,)),
        ("5/1", (0, 4)),
        ("2-4", (1, 2, 3)),
        ("3-3", (2,)),
        ("e/1-2", (0, 1, 4)),
    ],
)
def test_fixed_rules(rule, agents):
    selection = AgentSelection(rule)
    assert selection.fixed(LAYOUT) == agents
    assert list(selection.sets(LAYOUT)) == [agents]
    assert not (selection.is_worst)
    assert not (selection.is_random)
    ((chosen, mask),) = selection.masks(LAYOUT, 3, seeded())
    assert chosen == agents
    assert mask.tolist() == [[a in agents for a in range(5)]] * 3


@pytest.mark.parametrize(
    "rule", ["", "random", "random:", "random:0", "worst:x", "worst:-1"]
)
def test_rules_that_cannot_be_parsed(rule):
    with pytest.raises(ThreatModelError, match=f"worst:q with q >= 1.*got '{rule}'"):
        AgentSelection(rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("6", "agent number: expected 1 to 5, got 6"),
        ("0", "agent number: expected 1 to 5, got 0"),
        ("2-9", "agent number: expected 1 to 5, got 9"),
        ("f", "expected one of a, b, c, d, e or a number from 1 to 5, got 'f'"),
        ("a/", "got ''"),
        ("4-2", "expected a rising range, got '4-2'"),
        ("a/1", "expected each agent once, got 'a/1'"),
        ("1-3/2", "expected each agent once, got '1-3/2'"),
        ("random:6", "agents=random:6: expected at most 5 compromised agents"),
        ("worst:6", "agents=worst:6: expected at most 5 compromised agents"),
    ],
)
def test_rules_that_do_not_fit_the_layout(rule, message):
    selection = AgentSelection(rule)
    with pytest.raises(ThreatModelError, match=re.escape(message)):
        selection.check(LAYOUT)
    with pytest.raises(ThreatModelError, match=re.escape(message)):
        next(selection.masks(LAYOUT, 2, seeded()))


def test_check_accepts_what_fits():
    for rule in ("none", "all", "random:5", "worst:5", "1-5"):
        AgentSelection(rule).check(LAYOUT)


@pytest.mark.parametrize("q", [1, 2, 5])
def test_random_rule_draws_q_agents_for_each_sample(q):
    selection = AgentSelection(f"random:{q}")
    assert selection.is_random
    ((chosen, mask),) = selection.masks(LAYOUT, 2000, seeded(3))
    assert chosen is None
    assert (mask.sum(1) == q).all()
    # Binomial deviation is at most 0.011; five of them.
    assert (mask.double().mean(0) - q / 5).abs().max() < 0.056
    ((_, again),) = selection.masks(LAYOUT, 2000, seeded(3))
    assert torch.equal(mask, again)
    if q < 5:
        assert len({tuple(row) for row in mask.tolist()}) > 1


@pytest.mark.parametrize("q", [1, 2, 3, 5])
def test_worst_rule_enumerates_every_set_once(q):
    selection = AgentSelection(f"worst:{q}")
    assert selection.is_worst
    expected = list(itertools.combinations(range(5), q))
    assert list(selection.sets(LAYOUT)) == expected
    found = list(selection.masks(LAYOUT, 2, seeded()))
    assert [agents for agents, _ in found] == expected
    for agents, mask in found:
        assert mask.tolist() == [[a in agents for a in range(5)]] * 2


def test_too_many_sets_are_refused():
    wide = layout_of(*(1,) * 12)
    assert len(list(AgentSelection("worst:5").sets(wide))) == 792
    from cibench import AgentLayout

    wider = AgentLayout(tuple(f"a{i}" for i in range(14)), (1,) * 14)
    with pytest.raises(ThreatModelError, match="at most 1000 sets, got 2002; choose"):
        AgentSelection("worst:5").check(wider)


# Criterion


@pytest.fixture
def logits():
    return normal(60, 4, seed=5)


LABELS = torch.arange(60) % 4


def test_untargeted_margin_against_brute_force(logits):
    criterion = Criterion(LABELS)
    for row, label, margin, success in zip(
        logits.tolist(),
        LABELS.tolist(),
        criterion.margin(logits).tolist(),
        criterion.succeeded(logits).tolist(),
        strict=True,
    ):
        others = [value for k, value in enumerate(row) if k != label]
        assert margin == row[label] - max(others)
        assert success == (row.index(max(row)) != label)
        assert success == (margin < 0)
    assert criterion.eligible.all()


def test_targeted_margin_against_brute_force(logits):
    target = (LABELS + torch.arange(60) // 7) % 4
    criterion = Criterion(LABELS, target)
    for n, row in enumerate(logits.tolist()):
        goal = int(target[n])
        others = [value for k, value in enumerate(row) if k != goal]
        assert float(criterion.margin(logits)[n]) == max(others) - row[goal]
        success = bool(criterion.succeeded(logits)[n])
        assert success == (row.index(max(row)) == goal)
        assert success == (float(criterion.margin(logits)[n]) < 0)
        assert bool(criterion.eligible[n]) == (goal != int(LABELS[n]))
    assert not criterion.eligible.all()


@pytest.mark.parametrize("targeted", [False, True])
def test_losses_fall_towards_success_and_are_sample_wise(logits, targeted):
    criterion = Criterion(LABELS, (LABELS + 1) % 4 if targeted else None)
    probabilities = (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
    if targeted:
        expected = -probabilities[torch.arange(60), (LABELS + 1) % 4]
    else:
        expected = probabilities[torch.arange(60), LABELS]
    torch.testing.assert_close(criterion.cross_entropy(logits), expected)
    part = criterion[torch.tensor([3, 50])]
    assert torch.equal(part.margin(logits[[3, 50]]), criterion.margin(logits)[[3, 50]])


def test_margin_has_a_usable_gradient(logits):
    values = logits.clone().requires_grad_()
    Criterion(LABELS).margin(values).sum().backward()
    assert torch.isfinite(values.grad).all()
    assert torch.equal(values.grad.sum(1), torch.zeros(60, dtype=torch.float64))
    assert (values.grad[torch.arange(60), LABELS] == 1).all()


def test_of_resolves_targets():
    labels = torch.tensor([0, 1, 1])
    two, three = ("no", "yes"), ("no", "yes", "maybe")
    assert Criterion.of("any", labels, three).target is None
    assert Criterion.of("other", labels, two).target.tolist() == [1, 0, 0]
    assert Criterion.of("maybe", labels, three).target.tolist() == [2, 2, 2]
    assert Criterion.of("1", labels, three).target.tolist() == [1, 1, 1]
    # A class may be called by a number: names come first.
    assert Criterion.of("1", labels, ("1", "0")).target.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("other", "target=other: expected a data set of two classes, got 3; name"),
        ("3", "expected any, other, a class (a, b, c) or an index below 3, got '3'"),
        ("d", "got 'd'"),
        ("-1", "got '-1'"),
        ("", "got ''"),
    ],
)
def test_of_refuses_unknown_targets(target, message):
    with pytest.raises(ThreatModelError, match=re.escape(message)):
        Criterion.of(target, torch.zeros(2, dtype=torch.long), ("a", "b", "c"))
