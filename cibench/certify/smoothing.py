"""Randomized smoothing from vote counts: limits, tests and radii, sample by sample.

A smoothed classifier answers the class that a base model gives most often when Gaussian
noise N(0, sigma^2 I) is added to its input. If that class has probability at least p > 1/2
at x, no perturbation of Euclidean norm below sigma Phi^-1(p) changes the answer. Here p is
bounded from counted votes, so a radius holds with probability 1 - alpha over their noise.

Source: Cohen, Rosenfeld and Kolter 2019, theorem 1 and the algorithms PREDICT and CERTIFY.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .._errors import UsageError


def lower_limit(counts: Tensor, draws: int, alpha: float) -> Tensor:
    """One-sided Clopper-Pearson limits: each covers its proportion with chance 1 - alpha.

    Args:
        counts: `(n,)` successes among `draws`.
        draws: trials per count.
        alpha: chance that a limit is above its proportion, in (0, 1).

    Returns:
        `(n,)` float64 limits, 0 where there is no success.
    """
    from scipy.special import betaincinv

    _check(counts, draws, alpha)
    k = counts.detach().cpu().double().numpy()
    # The limit solves P(Bin(draws, p) >= k) = alpha, which has no root for k = 0.
    limit = betaincinv(np.maximum(k, 1.0), draws - k + 1.0, alpha)
    return torch.from_numpy(np.where(k > 0, limit, 0.0)).to(counts.device)


def two_sided_test(first: Tensor, second: Tensor) -> Tensor:
    """`(n,)` p-values of fair-coin tests: are two classes equally likely?

    Args:
        first: `(n,)` votes for one class.
        second: `(n,)` votes for the other class.

    Without any vote the p-value is 1.
    """
    from scipy.special import betainc

    a, b = (t.detach().cpu().double().numpy() for t in (first, second))
    total, fewer = a + b, np.minimum(a, b)
    # P(Bin(total, 1/2) <= fewer) as an incomplete beta function; twice it by symmetry.
    tail = betainc(np.maximum(total - fewer, 1.0), fewer + 1.0, 0.5)
    p_value = np.where(total > 0, np.minimum(1.0, 2.0 * tail), 1.0)
    return torch.from_numpy(p_value).to(first.device)


def smoothed_prediction(votes: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """PREDICT: the class of most votes, and whether the runner-up is too close.

    Args:
        votes: `(n, classes)` counts.
        alpha: chance of answering another class than the smoothed classifier's.

    Returns:
        `(n,)` classes, ties to the smallest, and `(n,)` booleans: abstain.
    """
    _check(votes, int(votes.sum(dim=1).amax()) if len(votes) else 1, alpha)
    winner = votes.argmax(dim=1)
    top = votes.gather(1, winner[:, None])
    others = votes.scatter(1, winner[:, None], 0)
    p_value = two_sided_test(top.squeeze(1), others.amax(dim=1))
    return winner, p_value > alpha


def smoothed_radius(
    selection: Tensor, votes: Tensor, *, sigma: float, alpha: float
) -> tuple[Tensor, Tensor]:
    """CERTIFY: choose a class from some votes, bound its probability from fresh ones.

    Args:
        selection: `(n, classes)` counts that choose the class.
        votes: `(n, classes)` counts from noise independent of the former.
        sigma: standard deviation of the noise.
        alpha: chance that a radius is too large, sample by sample.

    Returns:
        `(n,)` float64 Euclidean radius, 0 where it abstains; and the `(n,)` class it holds
        for.
    """
    draws = votes.sum(dim=1)
    if len(votes) and int(draws.amin()) != int(draws.amax()):
        raise UsageError(
            "smoothed_radius: expected the same number of votes for every sample, got"
            f" {int(draws.amin())} to {int(draws.amax())}"
        )
    chosen = selection.argmax(dim=1)
    counts = votes.gather(1, chosen[:, None]).squeeze(1)
    total = int(draws[0]) if len(votes) else 1
    return _radius(lower_limit(counts, total, alpha), sigma), chosen


def largest_radius(draws: int, *, sigma: float, alpha: float) -> float:
    """The radius of a unanimous vote: no number of draws this small certifies more.

    Closed form: `sigma * Phi^-1(alpha ** (1 / draws))`.

    Example:
        >>> round(largest_radius(1000, sigma=1.0, alpha=0.001), 2)
        2.46
    """
    unanimous = torch.tensor([draws])
    return float(_radius(lower_limit(unanimous, draws, alpha), sigma))


def _radius(limit: Tensor, sigma: float) -> Tensor:
    # Up to 1/2 nothing is certified: Phi^-1(1/2) = 0.
    radius: Tensor = sigma * torch.special.ndtri(limit.clamp(0.5, 1.0))
    return radius


def _check(counts: Tensor, draws: int, alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise UsageError(f"alpha: expected a number between 0 and 1, got {alpha:g}")
    if draws < 1:
        raise UsageError(f"draws: expected at least 1, got {draws}")
    if len(counts) and not 0 <= int(counts.amin()) <= int(counts.amax()) <= draws:
        raise UsageError(
            f"counts: expected values from 0 to the {draws} draws, got"
            f" {int(counts.amin())} to {int(counts.amax())}"
        )
