"""The partition certificate against brute force over everything an adversary can do."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench.certify import partition_certified


@st.composite
def partitions(draw):
    """Groups of agents, who is heard, one sample's votes and how many are corrupted."""
    agents = draw(st.integers(1, 5))
    groups = draw(st.integers(1, agents))
    classes = draw(st.integers(2, 3))
    favorite = draw(st.integers(0, classes - 1))
    vote = st.one_of(st.just(favorite), st.integers(0, classes - 1))
    votes = draw(st.lists(vote, min_size=groups, max_size=groups))
    heard = draw(st.lists(st.booleans(), min_size=agents, max_size=agents))
    if draw(st.booleans()):
        heard = [True] * agents
    return groups, votes, heard, draw(st.integers(0, agents)), classes


def decision(votes, classes):
    """The most frequent class; `max` returns the first of equal ones. None: no vote."""
    cast = [v for v in votes if v is not None]
    return max(range(classes), key=lambda c: (cast.count(c), -c))


@settings(max_examples=250, deadline=None)
@given(partitions())
def test_the_certificate_is_brute_force_over_agents_and_votes(partition):
    groups, votes, heard, corrupted, classes = partition
    members = [
        [i for i, h in enumerate(heard) if h and i % groups == g] for g in range(groups)
    ]
    cast = [v if m else None for v, m in zip(votes, members, strict=True)]
    before = decision(cast, classes)
    present = [i for i, h in enumerate(heard) if h]
    held = True
    for bad in itertools.combinations(present, min(corrupted, len(present))):
        # A group votes as it is unless one of its agents is corrupted; then for anything,
        # or, if nobody else is left in it, not at all.
        choices = [
            [vote]
            if vote is None or not set(m) & set(bad)
            else [*range(classes), *([None] if set(m) <= set(bad) else [])]
            for vote, m in zip(cast, members, strict=True)
        ]
        held &= all(decision(v, classes) == before for v in itertools.product(*choices))
    counted = torch.tensor([[bool(m) for m in members]])
    found = partition_certified(torch.tensor([votes]), counted, corrupted, classes)
    assert found.tolist() == [held]


def test_by_hand():
    """7 votes for class 1, 2 for class 0, which wins ties: two may be wrong."""
    votes = torch.tensor([[1] * 7 + [0] * 2])
    counted = torch.ones_like(votes, dtype=torch.bool)
    held = [bool(partition_certified(votes, counted, q, 3)) for q in range(5)]
    assert held == [True, True, True, False, False]
    turned = 1 - votes
    held = [bool(partition_certified(turned, counted, q, 3)) for q in range(5)]
    assert held == [True, True, True, False, False]
    level = torch.tensor([[0, 0, 0, 0, 0, 1]])
    six = torch.ones_like(level, dtype=torch.bool)
    assert bool(partition_certified(level, six, 2, 2))
    assert not bool(partition_certified(1 - level, six, 2, 2))
