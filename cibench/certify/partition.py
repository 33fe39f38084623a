"""A vote over disjoint groups of agents, and what wrong agents can change of it.

Each group that somebody was heard of casts one vote, which depends on its own agents
alone; the most frequent class is the decision, the smallest of equal ones.

Source: Hammoudeh and Lowd 2024 (feature partition aggregation), with agents as features;
    Levine and Feizi 2021 (deep partition aggregation, the rule for ties).
"""

from __future__ import annotations

from torch import Tensor

from .ablation import size_certified, vote_counts


def partition_certified(
    votes: Tensor, counted: Tensor, corrupted: int, classes: int
) -> Tensor:
    """`(n,)`: whether the decision stands whichever heard agents are corrupted.

    Exact for an adversary that turns the votes of the groups it is in at will.

    Proof. Groups are disjoint, so q corrupted agents among those heard are in at most
    `a = min(q, groups that vote)` voting groups, and can be in any a of them. The decision
    y leads every other class c by `n_y - n_c - [c < y]` votes, the bracket being 1 where c
    wins ties. A vote turned from y to c costs 2 of it, any other change, a vote that falls
    silent included, costs less: y stands if the lead is at least 2 a. If it is less for
    some c, a votes turned from y to c, or all of y's if it has fewer, bring y down.

    Args:
        votes: `(n, groups)` class each group votes for.
        counted: `(n, groups)` booleans: groups that vote, those with an agent heard.
        corrupted: corrupted agents among those heard; they may send anything or nothing.
        classes: number of classes.
    """
    reached = counted.sum(dim=1).clamp_max(corrupted)
    return size_certified(vote_counts(votes, classes, counted), reached)
