"""How far a computed fit is from the best one: a duality gap for the convex purifier.

The fit of an affine manifold to the blocks that were heard,

    F(z) = sum over heard i of || r_i ||,   r_i = h_i - b_i - W_i z,

has the dual `max sum <y_i, h_i - b_i>` over `||y_i|| <= 1` with `sum W_i' y_i = 0`. For
any such y and any z' the definition of the norm gives `F(z') >= sum <y_i, r_i(z')> =
sum <y_i, r_i(z)>`, so that

    F(z) - min F <= sum (||r_i|| - <y_i, r_i>),   for every z, converged or not.

1. y comes from `F_eps = sum sqrt(||r_i||^2 + eps^2)`: at its minimizer the gradients
   `r_i / sqrt(||r_i||^2 + eps^2)` are feasible and at most eps short for each block. That
   also settles the blocks that fit exactly, whose `r_i / ||r_i||` means nothing. Damped
   Newton steps from z follow it for falling eps; z itself is not moved.
2. On the way y meets the equation after the correction `w_i W_i H^-1 sum W_j' y_j` with
   `w_i = 1 / sqrt(||r_i||^2 + eps^2)`, `H = sum w_i W_i' W_i`, which spares far blocks; it
   is then divided by its largest block norm if that is above 1. The best y counts.
3. What rounding leaves of the equation, `e = sum W_i' y_i`, is paid for. A minimizer z*
   has `|<e, z* - z>| <= ||e||_(G^+) ||W (z* - z)||` with G = sum W_i' W_i, and
   `||W (z* - z)|| <= F(z*) + F(z) <= 2 F(z)`. Directions that the heard blocks see with
   less than 1e-8 of the strongest count as unseen. The rounding of sums is bounded by
   `4 width 2^-52 F(z)` and added. Both are relative to F: beside a payload of 1e12 no gap
   below about 0.1 can be shown in float64.

Source: Fenchel duality for sums of norms, as in Andersen, Christiansen, Conn and Overton
    2000; Liu, Xie, Koyejo and Li 2022, Eq. 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UsageError
from ..observation import Observation

#: Smoothing relative to the median residual or to the size of a block, from and to.
_COARSE, _FINE = 1e-1, 1e-10
#: Steps along falling eps.
_STEPS = 40
#: Numbers in the working set.
_WORKING_SET = 2**23


@dataclass(frozen=True, eq=False)
class DualityGap:
    """What `duality_gap` finds for `n` codes; all float64.

    Args:
        gap: `(n,)` bound of `F(z) - min F`, at least 0; in the units of the features.
        objective: `(n,)` F(z).
        multipliers: `(n, width)` y of the bound, 0 under missing blocks: block norms at
            most 1 and `W' y = 0`, up to rounding.
    """

    gap: Tensor
    objective: Tensor
    multipliers: Tensor


def duality_gap(
    weight: Tensor, offset: Tensor, observation: Observation, code: Tensor
) -> DualityGap:
    """Bound by how much codes miss the least sum of block norms.

    Args:
        weight: `(width, r)` matrix W; of any rank.
        offset: `(width,)` vector b.
        observation: `n` samples h; missing blocks do not enter.
        code: `(n, r)` codes z, from any solver.

    Returns:
        The gap, which is small where the code is good and sound for every code.

    Raises:
        UsageError: shapes disagree, or a number that enters is not finite.
    """
    found = [part.best() for part in _followers(weight, offset, observation, code)]
    return DualityGap(
        torch.cat([each.gap for each in found]),
        torch.cat([each.objective for each in found]),
        torch.cat([each.multipliers for each in found]),
    )


def proved_gap(
    weight: Tensor,
    offset: Tensor,
    observation: Observation,
    code: Tensor,
    multipliers: Tensor,
) -> DualityGap:
    """The bound that given multipliers prove for given codes.

    Args:
        weight, offset, observation, code: as in `duality_gap`.
        multipliers: `(n, width)` any numbers. Blocks are scaled down to norm 1 together
            and corrected for the dual's equation as above, but with `1 - ||y_i||` for w:
            by those that have room. Whichever proves more counts.
    """
    found, rest = [], multipliers.double()
    for part in _followers(weight, offset, observation, code):
        y = torch.where(part.known, rest[: len(part.known)], 0.0)
        rest = rest[len(part.known) :]
        y = part.scaled(y)
        room = part.heard * (1 - part.layout.block_norms(y)).clamp_min(1e-12)
        met = part.corrected(y, room, part.gram(room), part.pull(y))
        before, after = part.gap(y), part.gap(met)
        y = torch.where((after < before)[:, None], met, y)
        found.append((torch.minimum(before, after), part.objective, y))
    return DualityGap(*(torch.cat(same) for same in zip(*found, strict=True)))


def _followers(
    weight: Tensor, offset: Tensor, observation: Observation, code: Tensor
) -> Iterator[_Follower]:
    """Parts of the batch that bound the memory taken, arguments checked."""
    n, width = observation.features.shape
    rank = weight.shape[-1]
    for name, given, shape in (
        ("weight", weight, (width, rank)),
        ("offset", offset, (width,)),
        ("code", code, (n, rank)),
    ):
        if given.shape != shape or not bool(torch.isfinite(given).all()):
            raise UsageError(
                f"{name}: expected finite numbers of shape {shape}, got"
                f" {tuple(given.shape)}"
            )
    values = observation.filled(0.0)
    if not bool(torch.isfinite(values).all()):
        raise UsageError("observation: expected finite heard blocks, got others")
    weight, offset, code = weight.double(), offset.double(), code.double()
    received = observation.with_features(values.double() - offset)
    size = max(1, _WORKING_SET // (rank * rank + 8 * width))
    for start in range(0, max(1, n), size):
        part = slice(start, start + size)
        yield _Follower(weight, received[part], code[part])


class _Follower:
    """Newton steps along falling eps from a batch of codes, and the multipliers met.

    Codes are in coordinates `z = T x` in which the Gram matrix of the heard rows is the
    identity, or zero where they do not see z at all.
    """

    def __init__(self, weight: Tensor, received: Observation, code: Tensor) -> None:
        self.layout = received.layout
        self.heard = received.observed
        self.known = self.layout.expand(self.heard)
        self.grams = torch.stack([weight[s].T @ weight[s] for s in self.layout.slices])
        patterns, which = torch.unique(self.heard, dim=0, return_inverse=True)
        gram = torch.einsum("pm,mrs->prs", patterns.to(weight), self.grams)
        values, vectors = torch.linalg.eigh(gram)
        top = values[:, -1:].clamp_min(1e-300)
        seen = values > 1e-14 * top
        scale = torch.where(seen, values.clamp_min(1e-300).rsqrt(), 0.0)
        # What they hardly see is left as it is, and its share of the equation paid for.
        dim = torch.where(seen, 0.0, torch.maximum(values, 1e-16 * top).rsqrt())
        self.faint = (vectors * dim[:, None])[which]
        self.unit = (vectors * scale[:, None])[which]
        self.blind = torch.diag_embed((~seen).to(weight))[which]
        self.weight = weight
        self.first = torch.where(
            self.known, received.filled(0.0) - code @ weight.T, 0.0
        )
        self.lengths = self.layout.block_norms(self.first)
        self.objective = self.lengths.sum(dim=1)
        self.sizes = self.layout.block_norms(received.filled(0.0))

    def best(self) -> DualityGap:
        """The least gap along the way."""
        typical = _median(self.lengths, self.heard)
        size = _median(self.sizes, self.heard)
        coarse = (_COARSE * typical).clamp_min(1e-300)
        fine = (_FINE * torch.maximum(size, typical)).clamp_min(1e-300)
        coarse = torch.maximum(coarse, fine)
        gap, y = self.objective, torch.zeros_like(self.first)  # y = 0 is feasible
        residual = self.first
        newton = torch.zeros_like(coarse)
        for step in range(_STEPS):
            # Half of the steps go down, every other one settles.
            share = min(1.0, (step // 2) / (_STEPS // 2 - 1))
            eps = coarse ** (1 - share) * fine**share
            norms = torch.hypot(self.layout.block_norms(residual), eps)
            weights = self.heard / norms
            plain = residual * self.layout.expand(weights)
            slope = self.pull(plain)
            gram = self.gram(weights)
            met = self.corrected(plain, weights, gram, slope)
            here = self.gap(met)
            # A sample's bound is settled there, so that it does not depend on the batch.
            better = (here < gap) & (gap > fine.squeeze(1))
            gap = torch.where(better, here, gap)
            y = torch.where(better[:, None], met, y)
            if bool((gap <= fine.squeeze(1)).all()):
                break
            curved = gram - newton[:, :, None] * self._radial(residual, weights)
            moved = self._step(curved, slope)
            trial = residual - torch.where(self.known, moved @ self.weight.T, 0.0)
            after = torch.hypot(self.layout.block_norms(trial), eps)
            falls = ((after - norms) * self.heard).sum(dim=1) <= 0
            falls &= torch.isfinite(trial).all(dim=1)
            residual = torch.where(falls[:, None], trial, residual)
            newton = torch.where(falls[:, None], 0.5 * (1 + newton), 0.0)
        return DualityGap(gap, self.objective, y)

    def pull(self, vector: Tensor) -> Tensor:
        """`(n, r)` T' W' vector."""
        pulled: Tensor = self.unit.mT @ (vector @ self.weight)[:, :, None]
        return pulled.squeeze(2)

    def gram(self, weights: Tensor) -> Tensor:
        """`(n, r, r)` T' H T, and the identity where nothing is seen."""
        gram = torch.einsum("nm,mrs->nrs", weights, self.grams)
        scale = weights.amax(dim=1).clamp_min(1e-300)[:, None, None]
        found: Tensor = self.unit.mT @ gram @ self.unit + scale * self.blind
        return found

    def _radial(self, residual: Tensor, weights: Tensor) -> Tensor:
        """`(n, r, r)` what the norms' curvature lacks along the residuals."""
        along = residual * self.layout.expand(weights**1.5)
        each = [along[:, s] @ self.weight[s] for s in self.layout.slices]
        rows = torch.stack(each, dim=1) @ self.unit
        found: Tensor = rows.mT @ rows
        return found

    def _step(self, gram: Tensor, slope: Tensor) -> Tensor:
        """`(n, r)` change of the code; none where the matrix is not definite."""
        factor, info = torch.linalg.cholesky_ex(gram)
        moved = torch.cholesky_solve(slope[:, :, None], factor)
        moved = torch.where((info == 0)[:, None, None], moved, 0.0)
        step: Tensor = self.unit @ moved
        return step.squeeze(2)

    def corrected(
        self, plain: Tensor, weights: Tensor, gram: Tensor, slope: Tensor
    ) -> Tensor:
        """`(n, width)` multipliers that meet the equation, block norms at most 1."""
        back = self._step(gram, slope) @ self.weight.T
        met = plain - torch.where(self.known, back, 0.0) * self.layout.expand(weights)
        return self.scaled(met)

    def scaled(self, y: Tensor) -> Tensor:
        """`(n, width)` multipliers of block norms at most 1."""
        largest = self.layout.block_norms(y).amax(dim=1, keepdim=True)
        return y / largest.clamp_min(1.0)

    def gap(self, y: Tensor) -> Tensor:
        """`(n,)` what these multipliers prove, rounding included."""
        lost = (self.lengths - self._products(y)).clamp_min(0.0)
        pulled = (y @ self.weight)[:, :, None]
        left = torch.linalg.vector_norm(
            (self.unit + self.faint).mT @ pulled, dim=(1, 2)
        )
        rounding = 4 * y.shape[1] * torch.finfo(y.dtype).eps
        found = lost.sum(dim=1) + (2 * left + rounding) * self.objective
        return torch.where(torch.isfinite(found), found, torch.inf)

    def _products(self, y: Tensor) -> Tensor:
        """`(n, agents)` inner products of the blocks of y and of the residuals."""
        sums = torch.zeros_like(self.lengths)
        return sums.index_add_(1, self.layout.owner.to(y.device), y * self.first)


def _median(values: Tensor, known: Tensor) -> Tensor:
    """`(n, 1)` median over known entries; 0 if there is none."""
    middle = values.masked_fill(~known, torch.nan).nanmedian(dim=1, keepdim=True)
    return middle.values.nan_to_num(0.0)
