"""Limited-memory BFGS for many independent problems at once.

Source: Nocedal and Wright 2006, algorithms 7.4 and 7.5, with Armijo backtracking. Every
sample has its own step length, history and stopping; finished samples cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Maps `(k, p)` points and `(k,)` sample indices to `(k,)` values and `(k, p)` gradients.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

HISTORY = 6
ARMIJO = 1e-4
HALVINGS = 12


@dataclass(frozen=True, eq=False)
class Minimum:
    """Result of `minimize_each`: points `(n, p)`, values `(n,)`, converged `(n,)`."""

    point: Tensor
    value: Tensor
    converged: Tensor


def minimize_each(
    objective: Objective,
    start: Tensor,
    *,
    reach: Tensor,
    scale: Tensor,
    max_iterations: int,
    tolerance: float,
) -> Minimum:
    """Minimize `n` independent functions; a sample's value never rises.

    Args:
        objective: values and gradients at some points of some samples.
        start: `(n, p)` first points.
        reach: `(n,)` length of the first step tried, in the units of the points.
        scale: `(n,)` size of a change of the value that matters.
        max_iterations: limit per sample.
        tolerance: a sample has converged when a step lowers its value by less than this
            share of `scale`. It also stops, without having converged, where no step
            along the search direction lowers the value.
    """
    point, active = start.clone(), torch.arange(len(start), device=start.device)
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    value, slope = objective(point, active)
    x, f, g = point, value.clone(), slope
    history: list[tuple[Tensor, Tensor]] = []
    for _ in range(max_iterations):
        if len(active) == 0:
            break
        direction = -_two_loop(g, history)
        downhill = (direction * g).sum(1)
        uphill = downhill >= 0
        direction = torch.where(uphill[:, None], -g, direction)
        downhill = torch.where(uphill, -g.square().sum(1), downhill)
        size = torch.ones_like(f)
        if not history:
            size = reach / torch.linalg.vector_norm(g, dim=1).clamp_min(1e-30)
        new_x, new_f, new_g = x.clone(), f.clone(), g.clone()
        waiting = torch.arange(len(active), device=x.device)
        for _ in range(HALVINGS):
            trial = x[waiting] + size[waiting, None] * direction[waiting]
            trial_f, trial_g = objective(trial, active[waiting])
            lower = trial_f <= f[waiting] + ARMIJO * size[waiting] * downhill[waiting]
            done = waiting[lower]
            new_x[done], new_f[done], new_g[done] = (
                trial[lower],
                trial_f[lower],
                trial_g[lower],
            )
            waiting = waiting[~lower]
            if len(waiting) == 0:
                break
            size[waiting] *= 0.4
        history = [*history[1 - HISTORY :], (new_x - x, new_g - g)]
        failed = torch.zeros_like(f, dtype=torch.bool)
        failed[waiting] = True
        settled = f - new_f <= tolerance * scale[active] + 1e-300
        stopping = settled | failed
        x, f, g = new_x, new_f, new_g
        point[active], value[active] = x, f
        converged[active[settled & ~failed]] = True
        keep = ~stopping
        active, x, f, g = active[keep], x[keep], f[keep], g[keep]
        history = [(s[keep], y[keep]) for s, y in history]
    return Minimum(point, value, converged)


def _two_loop(gradient: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Approximate inverse Hessian times the gradient; pairs without curvature skipped."""
    q = gradient.clone()
    memory = []
    scale = torch.ones_like(gradient[:, :1])
    for s, y in reversed(history):
        curvature = (s * y).sum(1, keepdim=True)
        # Their angle, not their size: the rule must not depend on units.
        lengths = s.square().sum(1, keepdim=True) * y.square().sum(1, keepdim=True)
        good = curvature > 1e-10 * lengths.sqrt()
        rho = torch.where(good, 1.0 / curvature, 0.0)
        alpha = rho * (s * q).sum(1, keepdim=True)
        q -= alpha * y
        memory.append((s, y, rho, alpha))
    if history:
        s, y = history[-1]
        curvature = (s * y).sum(1, keepdim=True)
        size = y.square().sum(1, keepdim=True)
        scale = torch.where(curvature > 0, curvature / size.clamp_min(1e-300), 1.0)
    q *= scale
    for s, y, rho, alpha in reversed(memory):
        q += s * (alpha - rho * (y * q).sum(1, keepdim=True))
    return q
