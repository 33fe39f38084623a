"""Two rounds of masking: a decision that finds the mask which covers all wrong agents.

A mask is a set of q agents that are left out; all C(agents, q) are used. A model answers
without the agents of each mask (first round) and of each two masks together (second
round); where nobody who was heard is left there is no answer, written as -1. A mask is
*stable* if it has an answer and all its second-round answers are that one. The decision is
that of a stable mask or, if there is none, the most frequent answer of the first round,
the smallest class of equal ones.

Two stable masks have the same answer, since they share the one given without both, so it
does not matter which is taken. This is the rule of PatchCleanser: if all first answers are
the same, or a mask in the minority is stable, that is the decision, else the majority.

Source: Xiang, Mahloujifar and Mittal 2022 (PatchCleanser, algorithm 1 and theorem 1), with
    sets of agents for masks of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ablation import all_subsets, vote_counts, whole_subsets


def mask_unions(agents: int, masked: int) -> tuple[Tensor, Tensor]:
    """What is to be asked: each union of two masks, once.

    Returns:
        `(unions, agents)` booleans, the agents left out; and `(masks, masks)` positions
        among them of the union of two masks, the masks themselves on the diagonal.

    Example:
        >>> unions, pairs = mask_unions(3, 1)
        >>> unions.long().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
        >>> pairs.tolist()
        [[0, 3, 4], [3, 1, 5], [4, 5, 2]]
    """
    sizes = range(masked, min(2 * masked, agents) + 1)
    unions = torch.cat([all_subsets(agents, size) for size in sizes])
    sets = [frozenset(row.nonzero().flatten().tolist()) for row in unions]
    place = {members: index for index, members in enumerate(sets)}
    masks = [members for members in sets if len(members) == masked]
    pairs = [[place[one | other] for other in masks] for one in masks]
    return unions, torch.tensor(pairs, dtype=torch.long)


def stable_masks(answers: Tensor, pairs: Tensor) -> Tensor:
    """`(n, masks)`: whether a mask's answer stays when any other agents are masked too.

    Args:
        answers: `(n, unions)` class answered without each union, -1 for none.
        pairs: of `mask_unions`.
    """
    # One mask at a time: all pairs at once would take the square of the memory.
    same = [
        (answers[:, row] == answers[:, row[i], None]).all(dim=1)
        for i, row in enumerate(pairs)
    ]
    return torch.stack(same, dim=1) & (answers[:, pairs.diagonal()] >= 0)


def masked_decision(answers: Tensor, pairs: Tensor, classes: int) -> Tensor:
    """`(n,)` decided classes.

    Args:
        answers, pairs: as in `stable_masks`.
        classes: number of classes.
    """
    first = answers[:, pairs.diagonal()]
    stable = stable_masks(answers, pairs)
    chosen = first.gather(1, stable.to(torch.uint8).argmax(dim=1, keepdim=True))
    majority = vote_counts(first.clamp_min(0), classes, first >= 0).argmax(dim=1)
    return torch.where(stable.any(dim=1), chosen.squeeze(1), majority)


def masking_certified(
    answers: Tensor, observed: Tensor, unions: Tensor, pairs: Tensor, corrupted: int
) -> Tensor:
    """`(n,)`: whether the decision stands whichever heard agents are corrupted.

    It does if every set T of so many heard agents lies in a stable mask. With everybody
    heard and as many corrupted agents as a mask has, this says that the answers for all
    pairs of masks are the same.

    Proof. Let m be a stable mask with T in m, and y its answer. The answers without m and
    without m and another mask do not see T, nor does it matter to whether somebody is left
    in them: whatever T sends, silence included, m stays stable with answer y. Stable masks
    agree, so the decision is y, with the corrupted agents as without them. Fewer corrupted
    agents are in one of these sets; where fewer are heard, all sets of so many agents are
    asked for, one of which has them all.

    Where a mask has as many agents as are corrupted and there are more than two masks,
    this is exact for an adversary that turns every answer which sees T at will: if T is
    no stable mask, it turns all of them to one class that is not the decision, which makes
    another mask stable with that class, or leaves none, and has the majority.

    Args:
        answers: as in `stable_masks`.
        observed: `(n, agents)` booleans: agents heard.
        unions, pairs: of `mask_unions`.
        corrupted: corrupted agents among those heard; they may send anything or nothing.
    """
    if corrupted <= 0:
        return torch.ones_like(answers[:, 0], dtype=torch.bool)
    masks, agents = unions[pairs.diagonal()], unions.shape[1]
    if corrupted > int(masks[0].sum()):
        return torch.zeros_like(answers[:, 0], dtype=torch.bool)
    stable = stable_masks(answers, pairs).to(torch.float32)
    held = torch.ones_like(answers[:, 0], dtype=torch.bool)
    enough = observed.sum(dim=1, keepdim=True) >= corrupted
    for batch in _batches(all_subsets(agents, corrupted).to(unions.device)):
        covered = stable @ whole_subsets(batch, masks).to(torch.float32) > 0.5
        needed = whole_subsets(batch, observed) | ~enough
        held &= (covered | ~needed).all(dim=1)
    return held


def _batches(sets: Tensor, size: int = 256) -> list[Tensor]:
    return [sets[at : at + size] for at in range(0, len(sets), size)]
