"""Silent agents: how many may vanish without a changed decision, by trying all sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import ContractError, UsageError
from ..observation import Observation

#: `n` samples to their `(n,)` classes, negative where it abstains; not random.
Classify = Callable[[Observation], Tensor]


def missing_tolerance(
    classify: Classify, observation: Observation, most: int
) -> Tensor:
    """`(n,)` largest number of agents whose silence never changes the decision.

    Guarantee: if the result is t, then for each set of at most t agents the decision with
    that set missing, besides whoever is missing already, is the decision on `observation`.
    If t < `most`, there is a set of t + 1 agents for which it is not, or no more than t
    agents are heard and their number is returned.

    Proof: every set of heard agents is tried, by size; a sample counts up to the first
    size at which one changes it. `classify` must be a function of the sample alone, not of
    its batch or of chance. Nothing is assumed of it otherwise, so no smaller number of
    questions would do.

    A sample on which it abstains tolerates 0: there is no decision to stand. Abstaining
    when agents are missing is a change.

    Args:
        classify: the decision.
        observation: `n` samples as received.
        most: largest number of silent agents tried, from 0. Up to C(agents, 1) + ... +
            C(agents, most) questions for each sample; those that have fallen are not
            asked again.

    Raises:
        ContractError: `classify` does not give one integer for each sample.
        UsageError: `most` is negative.
    """
    if most < 0:
        raise UsageError(f"most: expected at least 0 agents, got {most}")
    n, agents = observation.observed.shape
    held = torch.zeros(n, dtype=torch.long, device=observation.observed.device)
    if n == 0:
        return held
    decided = _answers(classify, observation)
    standing = decided >= 0
    for size in range(1, min(most, agents) + 1):
        # Sets with a missing agent are smaller sets of heard ones: tried before.
        standing = standing & (observation.observed.sum(dim=1) >= size)
        for members in itertools.combinations(range(agents), size):
            gone = torch.zeros_like(observation.observed[0])
            gone[list(members)] = True
            asked = (standing & observation.observed[:, gone].all(dim=1)).nonzero()
            rows = asked.squeeze(1)
            if len(rows) == 0:
                continue
            found = _answers(classify, observation[rows].without(gone[None]))
            standing[rows] = found == decided[rows]
        held[standing] = size
        if not standing.any():
            break
    return held


def _answers(classify: Classify, observation: Observation) -> Tensor:
    found = classify(observation)
    if found.shape != (len(observation),) or found.is_floating_point():
        raise ContractError(
            f"classify: expected an integer for each of {len(observation)} samples, got"
            f" {found.dtype} of shape {tuple(found.shape)}"
        )
    return found.to(observation.observed.device)
