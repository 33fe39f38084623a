"""Upper bounds: ascent of the ratio that the constants are about, from many starts.

With corrupted agents T and honest ones S among those heard, the ratio at y is

    (g ||y|| + sum_T ||B_j y||) / sum_S ||B_i y||,

with g = 0 for the leverage constant. A step linearizes the numerator and bounds the square
of the denominator by `(sum_S w_i) (sum_S ||B_i y||^2 / w_i)`; both are tight at the present
y with w_i = ||B_i y||, so the ratio never falls:

    y <- (sum_S B_i' B_i / w_i)^-1 (g y / ||y|| + sum_T B_j' B_j y / ||B_j y||).

For the recovery rate, g is set to `(sum_S - sum_T) / ||y||` before a step: there the ratio
is 1, so it is at least 1 after the step, which says that the rate has not risen. Once the
rate is negative g is held at 0, and the ratio alone goes on rising.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .blocks import Blocks
from .family import Family

#: How many of the best points are kept, and the most steps they then make.
SCHEDULE = ((16, 8), (4, 12), (1, 100))
#: Random points that an ascent starts from, beside those that suggest themselves.
RANDOM = 12
#: Numbers in the working set.
_WORKING_SET = 2**24


def starts(blocks: Blocks, sets: Family, generator: torch.Generator) -> Tensor:
    """`(sets, starts, rank)`: random, seen best by the corrupted, least by the honest."""
    drawn = torch.randn((RANDOM, blocks.rank), generator=generator, dtype=torch.float64)
    random = drawn.to(blocks.values).expand(len(sets), -1, -1)
    flat = blocks.grams.reshape(len(blocks.values), -1)
    chosen = [random]
    # Eigenvalues rise: the last vectors are seen best, the first least.
    for seeing, end in ((sets.corrupted, slice(-4, None)), (sets.honest, slice(4))):
        gram = (seeing.to(flat) @ flat).reshape(-1, blocks.rank, blocks.rank)
        chosen.append(torch.linalg.eigh(gram).eigenvectors[:, :, end].transpose(1, 2))
    return normalize(torch.cat(chosen, dim=1), dim=2)


def height(blocks: Blocks, sets: Family, y: Tensor, *, rate: bool) -> Tensor:
    """`(sets, points)` what is to be maximal at `(sets, points, rank)` points.

    The ratio, or, for the recovery rate, minus the rate.
    """
    norms = blocks.norms(y)
    bad = (norms * sets.corrupted[:, None]).sum(2)
    good = (norms * sets.honest[:, None]).sum(2)
    return (bad - good) / y.norm(dim=2) if rate else bad / good.clamp_min(1e-300)


def ascend(
    blocks: Blocks,
    sets: Family,
    points: Tensor,
    *,
    rate: bool,
    schedule: tuple[tuple[int, int], ...] = SCHEDULE,
) -> Tensor:
    """The best point found for each pair of sets.

    Args:
        blocks: the decoder.
        sets: the pairs.
        points: `(sets, points, rank)` where to start.
        rate: ascend for the recovery rate rather than for the leverage constant.
        schedule: how many points are kept, and their most steps, in turn; one at the end.

    Returns:
        `(sets, rank)` of unit length.
    """
    for keep, steps in schedule:
        if points.shape[1] > keep:
            values = height(blocks, sets, points, rate=rate)
            best = values.topk(keep, dim=1).indices[:, :, None]
            points = points.gather(1, best.expand(-1, -1, blocks.rank))
        size = max(1, _WORKING_SET // (points.shape[1] * blocks.rank**2))
        points = torch.cat(
            [
                _climb(blocks, sets.part(part), points[part], steps, rate)
                for part in torch.split(
                    torch.arange(len(sets), device=points.device), size
                )
            ]
        )
    return points[:, 0]


def _climb(blocks: Blocks, sets: Family, y: Tensor, steps: int, rate: bool) -> Tensor:
    before = height(blocks, sets, y, rate=rate)
    for step in range(steps):
        y = _step(blocks, sets, y, rate)
        if step % 4 == 3:
            after = height(blocks, sets, y, rate=rate)
            if bool((after - before <= 1e-9 * after.abs()).all()):
                break
            before = after
    return y


def _step(blocks: Blocks, sets: Family, y: Tensor, rate: bool) -> Tensor:
    honest, corrupted = sets.honest[:, None].double(), sets.corrupted[:, None].double()
    images = blocks.images(y)
    norms: Tensor = torch.linalg.vector_norm(images, dim=3)
    # Blocks that vanish at the best point would have infinite weight.
    sizes = norms.clamp_min(1e-9 * norms.mean(2, keepdim=True)).clamp_min(1e-300)
    units = images * (corrupted / sizes)[..., None]
    slope = units.flatten(2) @ blocks.flat
    if rate:
        length = y.norm(dim=2, keepdim=True)
        g = (norms * (honest - corrupted)).sum(2, keepdim=True) / length
        slope = slope + g.clamp_min(0.0) * y / length
    gram = (honest / sizes) @ blocks.grams.reshape(len(blocks.values), -1)
    gram = gram.reshape(*y.shape, blocks.rank)
    diagonal = gram.diagonal(dim1=2, dim2=3)
    diagonal += 1e-14 * diagonal.mean(2, keepdim=True)
    factor, info = torch.linalg.cholesky_ex(gram)
    new = normalize(torch.cholesky_solve(slope[..., None], factor).squeeze(3), dim=2)
    # Where the corrupted agents see nothing, or the matrix is not positive: stay.
    usable = (info == 0)[..., None] & new.isfinite().all(2, keepdim=True)
    return torch.where(usable & (new != 0).any(2, keepdim=True), new, y)
