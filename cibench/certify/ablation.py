"""Votes of a base model over subsets of agents, and what a wrong agent can change.

Every function works on a fixed family of subsets, so nothing is random and no confidence
level is needed: for all C(agents, size) subsets the results are those of randomized
ablation in the limit of infinitely many draws, for a drawn family they are exact for it.

A corrupted agent owns the votes of the subsets it is in; the others are as without it. That
a corrupted agent falls silent is covered: a vote that is not cast weighs less than one
turned round. Ties go to the smallest class index.

Source: Levine and Feizi 2020 (the bound by size), with whole blocks as the units; the tie
rule as in Levine and Feizi 2021 (deep partition aggregation).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

#: Numbers in the working set of `setwise_certified`.
_WORKING_SET = 2**24


def all_subsets(agents: int, size: int) -> Tensor:
    """`(subsets, agents)` booleans: every subset of a size, in lexicographic order.

    Example:
        >>> all_subsets(3, 2).long().tolist()
        [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    """
    members = list(itertools.combinations(range(agents), size))
    index = torch.tensor(members, dtype=torch.long).reshape(len(members), size)
    empty = torch.zeros((len(members), agents), dtype=torch.bool)
    return empty.scatter(1, index, value=True)


def drawn_subsets(
    agents: int, size: int, draws: int, generator: torch.Generator
) -> Tensor:
    """`(draws, agents)` distinct random subsets of a size; all of them if there are fewer.

    Each set of `draws` subsets is equally likely.
    """
    if draws >= math.comb(agents, size):
        return all_subsets(agents, size)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        scores = torch.rand((draws, agents), generator=generator)
        chosen = scores.argsort(dim=1)[:, :size].sort(dim=1).values
        # A dict keeps the order of the draws: the first distinct ones are what counts.
        found |= dict.fromkeys(map(tuple, chosen.tolist()))
    index = torch.tensor(list(found)[:draws], dtype=torch.long).reshape(draws, size)
    return torch.zeros((draws, agents), dtype=torch.bool).scatter(1, index, value=True)


def whole_subsets(members: Tensor, observed: Tensor) -> Tensor:
    """`(n, subsets)`: which subsets consist of observed agents only.

    Args:
        members: `(subsets, agents)` booleans.
        observed: `(n, agents)` booleans.
    """
    absent = (~observed).to(torch.float32) @ members.T.to(torch.float32)
    return absent < 0.5


def vote_counts(votes: Tensor, classes: int, counted: Tensor | None = None) -> Tensor:
    """`(n, classes)` votes per class.

    Args:
        votes: `(n, subsets)` class each subset votes for.
        counted: `(n, subsets)` subsets that vote; None for all.
    """
    weights = torch.ones_like(votes) if counted is None else counted.to(votes.dtype)
    counts = votes.new_zeros((len(votes), classes))
    return counts.scatter_add(1, votes, weights)


def size_certified(counts: Tensor, affected: Tensor | int) -> Tensor:
    """`(n,)`: whether the majority stands if `affected` votes are turned round.

    Args:
        counts: `(n, classes)` votes.
        affected: votes that the corrupted agents can reach, `(n,)` or one number.

    Source: Levine and Feizi 2020, Theorem 1, with the votes counted rather than estimated.
    """
    affected = torch.as_tensor(affected, device=counts.device)
    return _lead(counts) >= 2 * affected


def affected_votes(heard: Tensor, size: int, corrupted: int) -> Tensor:
    """`(n,)` subsets of a size that meet a corrupted agent, if every subset votes.

    Args:
        heard: `(n,)` number of agents observed.
        size: agents in a subset.
        corrupted: corrupted agents among those heard.
    """
    most = int(heard.max()) if len(heard) else 0
    table = [math.comb(m, size) - _comb(m - corrupted, size) for m in range(most + 1)]
    return torch.tensor(table, device=heard.device)[heard]


def setwise_certified(
    votes: Tensor,
    members: Tensor,
    counted: Tensor,
    corrupted: int,
    classes: int,
) -> Tensor:
    """`(n,)`: whether the majority stands whichever set of agents is corrupted.

    Exact for an adversary that turns the votes of the subsets it is in at will, and never
    weaker than `size_certified`. One 0/1 matrix product over C(agents, corrupted) sets.

    Args:
        votes: `(n, subsets)` class each subset votes for.
        members: `(subsets, agents)` booleans.
        counted: `(n, subsets)` subsets that vote.
        corrupted: number of corrupted agents.
        classes: number of classes.
    """
    agents = members.shape[1]
    # Corrupting one agent more only takes more votes away, so sets that include a missing
    # agent never decide and need not be left out.
    sets = itertools.combinations(range(agents), min(corrupted, agents))
    ballots = _ballots(votes, counted, classes)
    leader, held = _leader(ballots.sum(0)), torch.ones_like(counted[:, 0])
    block = max(1, _WORKING_SET // max(1, members.shape[0], ballots[0].numel()))
    while held.any() and (batch := list(itertools.islice(sets, block))):
        mask = torch.zeros((len(batch), agents), dtype=torch.bool)
        index = torch.tensor(batch, dtype=torch.long).reshape(len(batch), -1)
        mask = mask.scatter(1, index, value=True).to(members.device)
        apart = whole_subsets(members, ~mask).to(ballots.dtype)
        clean = (apart @ ballots.flatten(1)).reshape(len(batch), *ballots.shape[1:])
        held &= _stands(clean, leader, counted.sum(1)).all(dim=0)
    return held


def known_certified(
    votes: Tensor,
    members: Tensor,
    counted: Tensor,
    corrupted: Tensor,
    classes: int,
) -> Tensor:
    """`(n,)`: whether the majority stands if these agents are corrupted.

    Args:
        votes, members, counted, classes: as in `setwise_certified`.
        corrupted: `(n, agents)` or `(agents,)` booleans.
    """
    apart = whole_subsets(members, ~corrupted.expand(len(votes), -1))
    leader = _leader(vote_counts(votes, classes, counted))
    clean = vote_counts(votes, classes, counted & apart)
    return _stands(clean[None], leader, counted.sum(1))[0]


def largest_certifiable(agents: int, size: int) -> int:
    """Most corrupted agents for which a unanimous vote is certified, whatever its class.

    Example:
        >>> [largest_certifiable(10, size) for size in (1, 2, 4, 5)]
        [4, 2, 1, 0]
    """
    passing = (q for q in range(agents + 1) if infeasible(agents, size, q) is None)
    return max(passing, default=0)


def infeasible(agents: int, size: int, corrupted: int) -> str | None:
    """Why no vote can be certified, or None if a unanimous one is.

    Args:
        agents: agents heard.
        size: agents in a subset; all C(agents, size) subsets vote.
        corrupted: corrupted agents.
    """
    total, clean = math.comb(agents, size), _comb(agents - corrupted, size)
    if 2 * clean > total:
        return None
    reach = "not even a unanimous vote can"
    if 2 * clean == total:
        reach = "only a unanimous vote for the first class, which ties favor, can"
    return (
        f"{corrupted} of {agents} agents are in {total - clean} of {total} subsets of size"
        f" {size}: {reach} be certified; keep fewer agents"
    )


def _comb(agents: int, size: int) -> int:
    """Binomial coefficient; 0 for fewer agents than none."""
    return math.comb(agents, size) if agents >= 0 else 0


def _ballots(votes: Tensor, counted: Tensor, classes: int) -> Tensor:
    """`(subsets, n, classes)` votes as 0/1 numbers; float32 counts below 2**24 exactly."""
    ballots = nn.functional.one_hot(votes, classes) * counted[:, :, None]
    return ballots.transpose(0, 1).to(torch.float32).contiguous()


def _leader(counts: Tensor) -> Tensor:
    """`(n,)` class with most votes: `argmax` returns the first of equal ones."""
    return counts.argmax(dim=1)


def _lead(counts: Tensor) -> Tensor:
    """`(n,)` votes by which the majority leads, less one where it would lose a tie."""
    return _ahead(counts, _leader(counts)[:, None])


def _ahead(counts: Tensor, leader: Tensor) -> Tensor:
    """`(..., n)` lead of a class over the best other one, ties as they are broken."""
    classes = torch.arange(counts.shape[-1], device=counts.device)
    rivals = (counts + (classes < leader)).masked_fill(classes == leader, -1)
    return counts.gather(-1, leader).squeeze(-1) - rivals.amax(dim=-1)


def _stands(clean: Tensor, leader: Tensor, total: Tensor) -> Tensor:
    """`(sets, n)`: `leader` keeps its majority if all votes not in `clean` turn round."""
    mine = leader[None, :, None].expand(*clean.shape[:-1], 1)
    return _ahead(clean, mine) >= total - clean.sum(dim=-1)
