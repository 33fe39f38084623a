"""Vote certificates against brute force over everything an adversary can do to votes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench.certify import (
    affected_votes,
    all_subsets,
    drawn_subsets,
    infeasible,
    known_certified,
    largest_certifiable,
    setwise_certified,
    size_certified,
    vote_counts,
    whole_subsets,
)
from helpers import seeded


@st.composite
def elections(draw):
    """A complete family, one sample's votes, who is heard, and how many are corrupted."""
    agents = draw(st.integers(2, 5))
    size = draw(st.integers(1, agents - 1))
    classes = draw(st.integers(2, 3))
    members = all_subsets(agents, size)
    # Lopsided votes: certificates hold for them, and the interesting cases are near.
    favorite = draw(st.integers(0, classes - 1))
    vote = st.one_of(st.just(favorite), st.integers(0, classes - 1))
    votes = draw(st.lists(vote, min_size=len(members), max_size=len(members)))
    heard = draw(st.lists(st.booleans(), min_size=agents, max_size=agents))
    if draw(st.booleans()):
        heard = [True] * agents
    observed = torch.tensor([heard])
    corrupted = draw(st.integers(0, agents))
    return members, torch.tensor([votes]), observed, corrupted, classes


def leader(votes, classes):
    """The majority of a list of votes; `max` returns the first of equal ones."""
    return max(range(classes), key=lambda c: (votes.count(c), -c))


def outlasts(members, votes, counted, bad, classes):
    """Whether no choice of the votes that `bad` agents reach changes the majority."""
    cast = [(set(m), v) for m, v, c in zip(members, votes, counted, strict=True) if c]
    before = leader([v for _, v in cast], classes)
    safe = [v for m, v in cast if not m & bad]
    reached = len(cast) - len(safe)
    # The order of votes does not matter, so multisets are all there is. A vote of class
    # `classes` is one that is not cast, as when a corrupted agent falls silent.
    return all(
        leader([v for v in (*safe, *flips) if v < classes], classes) == before
        for flips in itertools.combinations_with_replacement(
            range(classes + 1), reached
        )
        if len(safe) or set(flips) != {classes}
    )


def as_lists(members, votes, counted):
    sets = [[i for i, m in enumerate(row) if m] for row in members.tolist()]
    return sets, votes[0].tolist(), counted[0].tolist()


@settings(max_examples=120, deadline=None)
@given(elections())
def test_certificates_are_those_of_brute_force_over_all_flips(election):
    members, votes, observed, corrupted, classes = election
    counted = whole_subsets(members, observed)
    if not counted.any():
        return
    lists = as_lists(members, votes, counted)
    agents = members.shape[1]
    truth = {
        bad: outlasts(*lists, set(bad), classes)
        for bad in itertools.combinations(range(agents), corrupted)
    }
    setwise = setwise_certified(votes, members, counted, corrupted, classes)
    assert setwise.tolist() == [all(truth.values())]
    for bad, held in truth.items():
        mask = torch.zeros(agents, dtype=torch.bool)
        mask[list(bad)] = True
        known = known_certified(votes, members, counted, mask, classes)
        assert known.tolist() == [held]
    counts = vote_counts(votes, classes, counted)
    size = int(members[0].sum())
    affected = affected_votes(observed.sum(1), size, corrupted)
    by_size = size_certified(counts, affected)
    # Never stronger than what is exact.
    assert not by_size.any() or setwise.all()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 7), st.integers(2, 3), st.integers(0, 8), st.randoms())
def test_the_size_certificate_is_brute_force_over_any_so_many_votes(
    total, classes, affected, random
):
    """Exact for an adversary that picks which votes it reaches."""
    votes = [0 if random.random() < 0.7 else random.randrange(classes)] * (total > 0)
    votes += [random.randrange(classes) for _ in range(total - len(votes))]
    affected = min(affected, total)
    before = leader(votes, classes)
    held = all(
        leader([*kept, *flips], classes) == before
        for kept in itertools.combinations(votes, total - affected)
        for flips in itertools.combinations_with_replacement(range(classes), affected)
    )
    counts = torch.tensor([[votes.count(c) for c in range(classes)]])
    # Turning a vote for a third class gains one, so `2 * affected` is exact only where
    # the majority has that many votes to lose.
    found = bool(size_certified(counts, affected))
    assert found <= held
    if int(counts.max()) >= affected:
        assert found == held


def test_setwise_gains_on_size_for_many_subsets():
    """The certified shares quoted for M = 10: 1.00 against 0.895, 0.595 against 0.55."""
    gains = {}
    for size, corrupted, share in ((4, 1, 0.9), (2, 2, 0.85)):
        members = all_subsets(10, size)
        draw = torch.rand((200, len(members)), generator=seeded(size))
        votes = (draw > share).long()
        counted = torch.ones_like(votes, dtype=torch.bool)
        exact = setwise_certified(votes, members, counted, corrupted, 2)
        heard = torch.full((200,), 10)
        bound = size_certified(
            vote_counts(votes, 2), affected_votes(heard, size, corrupted)
        )
        assert not (bound & ~exact).any()
        gains[size] = int(exact.sum()) - int(bound.sum())
    assert gains[4] > 0
    assert gains[2] > 0


def test_known_sets_may_differ_between_samples():
    members = all_subsets(4, 1)
    votes = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0]])
    counted = torch.ones_like(votes, dtype=torch.bool)
    corrupted = torch.tensor([[False, False, True, False], [True, False, False, False]])
    # Without agent 3 there are only votes for 0; without agent 1 it is 2 to 1 and a loss
    # makes it a tie, which goes to class 0.
    assert known_certified(votes, members, counted, corrupted, 2).all()
    turned = 1 - votes
    found = known_certified(turned, members, counted, corrupted, 2)
    assert found.tolist() == [True, False]


def test_ties_go_to_the_smallest_class():
    members = all_subsets(4, 1)
    counted = torch.ones((2, 4), dtype=torch.bool)
    votes = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 0]])
    assert setwise_certified(votes, members, counted, 1, 2).tolist() == [True, False]
    assert size_certified(vote_counts(votes, 2), 1).tolist() == [True, False]


def test_work_in_pieces_gives_the_same_answer(monkeypatch):
    members = all_subsets(8, 2)
    votes = (torch.rand((40, len(members)), generator=seeded(3)) > 0.75).long()
    counted = torch.rand((40, len(members)), generator=seeded(4)) > 0.1
    whole = setwise_certified(votes, members, counted, 1, 2)
    assert 0 < int(whole.sum()) < 40
    monkeypatch.setattr("cibench.certify.ablation._WORKING_SET", 1)
    assert torch.equal(setwise_certified(votes, members, counted, 1, 2), whole)


@pytest.mark.parametrize(("agents", "size"), [(5, 1), (6, 3), (10, 5), (4, 4), (3, 0)])
def test_all_subsets_are_distinct_and_complete(agents, size):
    members = all_subsets(agents, size)
    assert members.shape == (math.comb(agents, size), agents)
    assert (members.sum(1) == size).all()
    assert len(torch.unique(members, dim=0)) == len(members)


def test_drawn_subsets_are_distinct_seeded_and_uniform():
    drawn = drawn_subsets(12, 4, 200, seeded(1))
    assert drawn.shape == (200, 12)
    assert (drawn.sum(1) == 4).all()
    assert len(torch.unique(drawn, dim=0)) == 200
    assert torch.equal(drawn, drawn_subsets(12, 4, 200, seeded(1)))
    assert not torch.equal(drawn, drawn_subsets(12, 4, 200, seeded(2)))
    # Each agent is in a third of the subsets: 66.7 of 200, deviation below 6.7.
    share = torch.stack([drawn_subsets(12, 4, 200, seeded(i)).sum(0) for i in range(9)])
    assert (share.double().mean(0) - 200 / 3).abs().max() < 10
    # So is each pair in 3 of 33.
    pair = drawn_subsets(12, 4, 450, seeded(7)).long()
    together = (pair.T @ pair).double()
    assert (together.triu(1).sum() / 66 - 450 / 11).abs() < 1e-9
    assert together.triu(1)[together.triu(1) > 0].min() > 15
    # All of them, in order, where no more are to be had.
    assert torch.equal(drawn_subsets(5, 2, 10, seeded()), all_subsets(5, 2))
    assert torch.equal(drawn_subsets(5, 2, 11, seeded()), all_subsets(5, 2))


def test_drawn_votes_converge_to_all_votes():
    members = all_subsets(12, 4)
    # A vote that depends on who is in the subset.
    weight = torch.linspace(-1, 1.4, 12)
    everyone = ((members.float() @ weight) > 0).double().mean()
    errors = []
    for draws in (20, 100, 400, len(members)):
        error = [
            ((drawn_subsets(12, 4, draws, seeded(i)).float() @ weight) > 0)
            .double()
            .mean()
            - everyone
            for i in range(20)
        ]
        errors.append(float(torch.stack(error).square().mean().sqrt()))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2] > 0
    assert errors[3] < 1e-12


def test_only_subsets_heard_as_a_whole_count():
    members = all_subsets(3, 2)
    observed = torch.tensor([[True, True, False], [True, True, True], [False] * 3])
    expected = [[True, False, False], [True, True, True], [False] * 3]
    assert whole_subsets(members, observed).tolist() == expected
    votes = torch.tensor([[1, 0, 0]] * 3)
    counts = vote_counts(votes, 2, whole_subsets(members, observed))
    assert counts.tolist() == [[0, 1], [2, 1], [0, 0]]


def test_affected_votes_count_subsets_that_meet_the_corrupted():
    for agents, size, corrupted in itertools.product(range(1, 7), (1, 2, 3), range(4)):
        bad = set(range(min(corrupted, agents)))
        met = sum(
            bool(bad & set(s)) for s in itertools.combinations(range(agents), size)
        )
        found = affected_votes(torch.tensor([agents]), size, corrupted)
        assert found.tolist() == [met]
    assert affected_votes(torch.empty(0, dtype=torch.long), 2, 1).shape == (0,)


@pytest.mark.parametrize(
    ("agents", "size", "most"),
    [(10, 1, 4), (10, 2, 2), (10, 3, 1), (10, 4, 1), (10, 5, 0), (4, 1, 1), (4, 2, 0)],
)
def test_what_a_unanimous_vote_can_outlast(agents, size, most):
    assert largest_certifiable(agents, size) == most
    members = all_subsets(agents, size)
    votes = torch.ones((1, len(members)), dtype=torch.long)
    counted = torch.ones_like(votes, dtype=torch.bool)
    for corrupted in range(agents + 1):
        held = bool(setwise_certified(votes, members, counted, corrupted, 2))
        assert held == (corrupted <= most)
        assert (infeasible(agents, size, corrupted) is None) == held


def test_infeasible_says_why():
    assert infeasible(10, 5, 2) == (
        "2 of 10 agents are in 196 of 252 subsets of size 5: not even a unanimous vote can"
        " be certified; keep fewer agents"
    )
    assert "only a unanimous vote for the first class" in infeasible(4, 2, 1)
