"""l0 consensus: the fewest agents whose removal leaves the others on the manifold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    Capabilities,
    FusionCenter,
    Manifold,
    Observation,
    OptionError,
    Training,
    hookimpl,
)

from .. import papers
from ._dropout_head import fit_dropout_head
from ._dropping import (
    DROP_CHANCE,
    DroppingFusionCenter,
    Most,
    Quantile,
    conformal_quantile,
    strict_minority,
)
from ._purified import MEMORY, Width, manifold_recipe

#: Most sets of agents that are tried per sample.
MAX_SETS = 5000


def sets_to_drop(agents: int, most: int) -> Tensor:
    """`(sets, agents)` booleans: every set of at most `most` agents, small ones first.

    Raises:
        OptionError: there are more than `MAX_SETS`.
    """
    total = sum(comb(agents, q) for q in range(most + 1))
    if total > MAX_SETS:
        raise OptionError(
            f"l0-consensus most: expected at most {largest_size(agents)} of {agents} agents"
            f" ({MAX_SETS} sets), got {most} ({total} sets)"
        )
    chosen = torch.zeros(total, agents, dtype=torch.bool)
    every = (c for q in range(most + 1) for c in combinations(range(agents), q))
    for row, members in enumerate(every):
        chosen[row, list(members)] = True
    return chosen


def largest_size(agents: int) -> int:
    """Most agents, fewer than half of them, whose sets number `MAX_SETS` at most."""
    sizes, total = 0, 1
    while 2 * (sizes + 1) < agents and total + comb(agents, sizes + 1) <= MAX_SETS:
        sizes += 1
        total += comb(agents, sizes)
    return sizes


def consensus_residual(
    manifold: Manifold, observation: Observation, kept: Tensor, weights: Tensor
) -> Tensor:
    """`(n, sets)` least-squares residual of an affine manifold to the agents kept.

    The minimum over z of `sum over kept i of weights_i ||[h - D(z)]_i||^2`, by the normal
    equations in the Gram matrix of each block.

    Args:
        manifold: an affine one.
        kept: `(sets, agents)` agents that count, heard in every sample.
        weights: `(agents,)` weight of each block.
    """
    n, rank = len(observation), manifold.rank
    origin = torch.zeros(1, rank).to(manifold.mean)
    away = observation.filled(0.0).double() - manifold.decode(origin)
    away = torch.where(manifold.layout.expand(observation.observed), away, 0.0)
    count = kept.to(away.dtype) * weights
    slopes = manifold.pullbacks(origin.expand(n, rank), away)
    gram = manifold.gram(origin, count)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # Where the agents kept do not determine z, any z that fits them will do.
    diagonal += 1e-11 * diagonal.mean(dim=1, keepdim=True) + 1e-300
    factor = torch.linalg.cholesky_ex(gram).L
    half = torch.linalg.solve_triangular(
        factor, torch.einsum("sa,nar->srn", count, slopes), upper=False
    )
    energy = manifold.layout.block_norms(away).square() @ count.T
    left: Tensor = (energy - half.square().sum(dim=1).T).clamp_min(0.0)
    return left


@final
class _Consensus(DroppingFusionCenter):
    """Eq. 4 by enumeration.

    Args:
        inner: decides on the agents that are left.
        manifold: an affine one.
        weights: `(agents,)` inverse clean variance of each agent's residual.
        most: limit of agents dropped, or None.
    """

    weights: Tensor
    thresholds: Tensor
    sets: Tensor

    def __init__(
        self, inner: FusionCenter, manifold: Manifold, weights: Tensor, most: int | None
    ) -> None:
        super().__init__(inner)
        self.manifold = manifold
        self.most = most
        agents, rank = manifold.layout.agents, manifold.rank
        # Half of the agents and more are never dropped: their sets need no search.
        most = min(largest_size(agents) if most is None else most, (agents - 1) // 2)
        sets = sets_to_drop(agents, most).to(weights.device)
        self.register_buffer("weights", weights)
        self.register_buffer("sets", sets)
        # Infinite until calibrated: by number of agents kept.
        infinite = torch.full((agents + 1,), torch.inf).to(weights)
        self.register_buffer("thresholds", infinite)
        floats = len(sets) * (2 * rank + 2 * agents)
        self.samples_per_chunk = max(1, MEMORY // (8 * floats))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The size of the search."""
        sizes = self.sets.sum(dim=1)
        return {
            "code_width": self.manifold.rank,
            "most": int(sizes.max()),
            "sets": len(sizes),
        }

    def calibrate(self, clean: Observation, quantile: float, draw: Tensor) -> None:
        """Set thresholds to quantiles of what random agents leave on clean samples.

        One random set per sample and number of agents, of those heard.

        Args:
            draw: `(n, agents)` uniform random numbers that order the agents.
        """
        draw = draw.to(clean.features.device).masked_fill(~clean.observed, 2.0)
        order = draw.argsort(dim=1).argsort(dim=1)
        counts = torch.arange(len(self.thresholds), device=order.device)
        kept = (order[:, None] < counts[:, None]) & clean.observed[:, None]
        known = clean.observed.sum(1, keepdim=True) >= counts
        left = torch.cat(
            [
                consensus_residual(
                    self.manifold, clean[at : at + 1], kept[at], self.weights
                )
                for at in range(len(clean))
            ]
        )
        found = conformal_quantile(left, known, quantile)
        # More agents leave more. A number never heard together takes the next smaller's.
        found = torch.where(known.any(dim=0), found, 0.0)
        self.thresholds = found.cummax(dim=0).values

    def suspicion(self, observation: Observation) -> Tensor:
        # What all that were heard leave: the first set drops nobody.
        found = torch.zeros_like(observation.observed, dtype=torch.float64)
        for heard, rows in _patterns(observation):
            left = consensus_residual(
                self.manifold, observation[rows], heard[None], self.weights
            )
            found = found.index_add(
                0,
                rows,
                (left / self.thresholds[heard.sum()]).sqrt().expand(-1, len(heard)),
            )
        return found

    def suspects(self, observation: Observation) -> Tensor:
        found = torch.zeros_like(observation.observed)
        for _, rows in _patterns(observation):
            found[rows] = self._suspects(observation[rows])
        return found

    def _suspects(self, observation: Observation) -> Tensor:
        """`suspects` for samples in which the same agents were heard."""
        heard = observation.observed
        kept = heard[0] & ~self.sets
        sizes = self.sets.sum(dim=1)
        limit = strict_minority(heard, self.most).clamp_max(int(sizes.max()))
        # Dropping who was not heard is the same as a smaller set.
        allowed = ~(self.sets & ~heard[:, None]).any(dim=2)
        allowed &= sizes <= limit[:, None]
        left = consensus_residual(self.manifold, observation, kept, self.weights)
        fits = allowed & (left <= self.thresholds[kept.sum(dim=1)])
        fewest = torch.where(fits, sizes, self.sets.shape[1]).amin(dim=1)
        size = torch.where(fits.any(dim=1), fewest, limit)
        candidate = allowed & (sizes == size[:, None])
        best = left.masked_fill(~candidate, torch.inf).argmin(dim=1)
        return self.sets[best]


def _patterns(observation: Observation) -> Iterator[tuple[Tensor, Tensor]]:
    """Who was heard, `(agents,)`, and the samples of which that is true.

    The Gram matrices depend on who was heard alone, and few patterns occur.
    """
    patterns, which = torch.unique(observation.observed, dim=0, return_inverse=True)
    for index, heard in enumerate(patterns):
        yield heard, (which == index).nonzero().squeeze(1)


@final
@dataclass(frozen=True, kw_only=True)
class L0Consensus(AbstractDefense):
    """Drop the smallest set of agents whose removal leaves a fit to the manifold.

    Solves Eq. 4 exactly by trying every set: for q = 0, 1, ... agents, the affine manifold
    is fitted by least squares to the others; the first q for which some residual is below
    a threshold is taken, with the set of least residual. Residuals are weighed by each
    agent's clean variance; thresholds, one per number of agents kept, are quantiles on
    clean validation data. Where no set passes, the best of the largest ones is dropped. A
    head trained with dropped agents decides on the rest.

    Args:
        quantile: share of clean residuals that stay below a threshold.
        most: most agents dropped, always fewer than half of those heard; none allows as
            many as give 5000 sets at most.
        width: width of the manifold's code; none selects it by recovery.

    Source: Liu, Xie, Koyejo and Li 2022, Eq. 4.
    """

    name: ClassVar[str] = "l0-consensus"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, Eq. 4"
    bibtex: ClassVar[str] = papers.COPUR
    capabilities: ClassVar[Capabilities] = Capabilities(optimizes_at_inference=True)

    quantile: Quantile = 0.95
    most: Most = None
    width: Width = None

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the manifold, weigh the agents, calibrate and train the head."""
        clean = training.validation
        # First: whether the head is stored or trained decides how much randomness it takes.
        draw = torch.rand(clean.observed.shape, generator=generator)
        head = fit_dropout_head(training, chance=DROP_CHANCE, generator=generator)
        manifold = training.manifold(manifold_recipe("affine", self.width)).manifold
        weights = inverse_variances(manifold, training.train)
        center = _Consensus(head, manifold, weights, self.most)
        wide = replace(clean, features=clean.filled(0.0).double())
        center.calibrate(wide, self.quantile, draw)
        return center


def inverse_variances(manifold: Manifold, clean: Observation) -> Tensor:
    """`(agents,)` inverse mean square per column of what the projection leaves."""
    filled = clean.filled(manifold.mean).double()
    squares = manifold.layout.block_norms(
        filled - manifold.reconstruct(filled)
    ).square()
    widths = torch.tensor(manifold.layout.widths).to(squares)
    count = clean.observed.sum(dim=0)
    mean = (squares * clean.observed).sum(dim=0) / count.clamp_min(1) / widths
    typical = mean[count > 0].mean().clamp_min(1e-300)
    # An agent that is explained exactly must not outweigh all others without bound.
    mean = torch.where(count > 0, mean, typical)
    return typical / torch.maximum(mean, 1e-6 * typical)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `l0-consensus`."""
    return [L0Consensus]
