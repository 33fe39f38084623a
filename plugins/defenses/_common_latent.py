"""One linear map per agent to a common latent: MAXVAR generalized canonical correlation.

    minimize over G, A_i   sum over agents i of || K_i (G - X_i A_i) ||^2 + ridge,
    subject to G' K G = I,   K = sum of K_i,

with X_i the centered clean blocks and K_i the samples that heard agent i. Solved by one
eigenproblem of the width of the joint embedding, whatever the number of samples.

Source: Kettenring 1971 (MAXVAR); van de Velden and Takane 2012 (missing blocks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cibench import Observation, mean_features


@dataclass(frozen=True, eq=False)
class CommonLatent:
    """Maps of each agent's block to the latent they share.

    Args:
        mean: `(width,)` mean of clean features.
        maps: `(width, rank)` rows of each agent's map A_i.
        latent: `(n, rank)` G on the training split, columns of unit mean square.
        correlations: `(rank,)` share of each column of G that an average agent explains.
    """

    mean: Tensor
    maps: Tensor
    latent: Tensor
    correlations: Tensor


def latent_points(mean: Tensor, maps: Tensor, observation: Observation) -> Tensor:
    """`(n, agents, rank)` what each agent alone says of the latent; 0 where missing."""
    centered = _centered(mean, observation)
    points = [centered[:, s] @ maps[s] for s in observation.layout.slices]
    return torch.stack(points, dim=1)


def fit_common_latent(train: Observation, rank: int, ridge: float) -> CommonLatent:
    """Fit the maps on clean training embeddings.

    Args:
        train: clean embeddings.
        rank: width of the latent, at most that of the joint embedding.
        ridge: added to each block's variances, as a share of their mean.
    """
    mean = mean_features(train).double()
    values, layout = _centered(mean, train), train.layout
    heard = train.observed.sum(dim=1, keepdim=True).clamp_min(1)
    halves = [
        _inverse_root(values[:, s].T @ values[:, s], ridge) for s in layout.slices
    ]
    root = torch.block_diag(*halves)  # type: ignore[no-untyped-call]
    whitened = values @ root
    matrix = whitened.T @ (whitened / heard)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    eigenvalues, vectors = eigenvalues[-rank:].flip(0), vectors[:, -rank:].flip(1)
    latent = (whitened / heard) @ (vectors * eigenvalues.clamp_min(1e-12).rsqrt())
    latent *= heard.sum().double().sqrt()
    maps = root @ root @ (values.T @ latent)
    return CommonLatent(mean, maps, latent, eigenvalues)


def inverse_residuals(points: Tensor, latent: Tensor, observed: Tensor) -> Tensor:
    """`(agents,)` weights: inverse root mean square distance to the latent, largest 1."""
    squares = (points - latent[:, None]).square().sum(2) * observed
    count = observed.sum(dim=0)
    mean = squares.sum(dim=0) / count.clamp_min(1)
    # An agent never heard while fitting says nothing of the latent.
    distance = torch.where(count > 0, mean, latent.square().sum(1).mean()).sqrt()
    floor = 1e-3 * distance.median() + 1e-300
    weights = 1.0 / torch.maximum(distance, floor)
    return weights / weights.max()


def _centered(mean: Tensor, observation: Observation) -> Tensor:
    known = observation.layout.expand(observation.observed)
    return torch.where(known, observation.filled(0.0).double() - mean, 0.0)


def _inverse_root(scatter: Tensor, ridge: float) -> Tensor:
    """`(d, d)` symmetric inverse root of a scatter matrix with a ridge."""
    size = scatter.diagonal().mean()
    values, vectors = torch.linalg.eigh(scatter)
    # A block without any variance maps to 0, whatever its ridge.
    safe = (values.clamp_min(0.0) + (ridge + 1e-12) * size).clamp_min(1e-300)
    roots = torch.where(size > 0, safe.rsqrt(), 0.0)
    inverse: Tensor = (vectors * roots) @ vectors.T
    return inverse
