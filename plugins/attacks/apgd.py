"""Auto-PGD: step sizes find themselves, several losses, a sweep of radii."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl, project

from .. import papers
from ._descent import Adam, Differentiated, block_scale, descend
from ._routes import Draws, Route, Routed
from ._starts import start

#: Radii tried where nothing bounds the attack, in norms of the agents' clean blocks.
RADII = (0.5, 1.0, 2.0, 5.0, 10.0, 100.0)
#: Weight of the new step against the last one's direction.
MOMENTUM = 0.75
#: Share of steps between checkpoints that must improve, or the step is halved.
ENOUGH = 0.75
#: First step of the descent without a radius, in units of the block's root mean square,
#: and the factor between steps.
STEP, GROWTH = 0.5, 1.05

Loss = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class APGD(AbstractAttack):
    """Projected descent whose steps halve by themselves, for each sample and loss.

    Every block moves in a Euclidean ball, along its own gradient. Where nothing bounds
    the attack, balls of several radii are tried, then growing steps of Adam without any,
    and the best point of all is kept, for a purifier may follow a small change and reject
    a large one. Of two classes, or with a
    target, the loss is the logit margin; else cross-entropy, then the margin to each of
    the most likely wrong classes.

    Args:
        agents: compromised agents.
        knowledge: `adaptive` attacks the whole defended pipeline, `fusion` the undefended
            fusion center only.
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.
        steps: gradient steps from each start.
        restarts: starts for each loss and radius: the clean embedding, then other samples'
            blocks and noise in turn.
        classes: most wrong classes that have a loss of their own.
        gradient: which derivative of the defense, as in `pgd`.
        draws: gradients that are averaged over the defense's randomness (EOT).

    Source: Croce and Hein 2020, algorithm 1, in the product of the blocks' balls.
    """

    name: ClassVar[str] = "apgd"
    citation: ClassVar[str] = (
        "Croce, Hein: Reliable evaluation of adversarial robustness... ICML 2020"
    )
    bibtex: ClassVar[str] = papers.CROCE

    knowledge: Literal["adaptive", "fusion"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None
    steps: Annotated[int, Meta(ge=1)] = 50
    restarts: Annotated[int, Meta(ge=1)] = 1
    classes: Annotated[int, Meta(ge=0)] = 3
    gradient: Route = "surrogate"
    draws: Draws = 1

    def run(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        """Return the best point of all losses, radii and starts, sample by sample."""
        movable = observation.layout.expand(compromised)
        scale = block_scale(observation)
        radii = [radius] if radius is not None else radii_of(observation, scale)
        best = observation.features
        logits = victim.logits(observation)
        # Margins are those of the form that is differentiated, the clean one included.
        lowest = torch.full_like(best[:, 0], torch.inf)
        routed = Routed(victim, self.gradient, self.draws, generator)
        for loss in losses(criterion, logits, self.classes):
            for ball in [*radii, None] if radius is None else radii:
                for restart in range(self.restarts):
                    begin = start(restart, observation, movable, scale, generator)
                    if ball is None:
                        found, margin = descend(
                            routed,
                            observation,
                            criterion,
                            start=begin,
                            movable=movable,
                            steps=self.steps,
                            rule=Adam(STEP * scale, GROWTH),
                            loss=lambda _, z, loss=loss: loss(z),  # type: ignore[misc]
                            radius=None,
                        )
                    else:
                        found, margin = auto_descend(
                            routed,
                            observation,
                            criterion,
                            loss,
                            start=begin,
                            movable=movable,
                            radius=ball,
                            steps=self.steps,
                        )
                    better = margin < lowest
                    best = torch.where(better[:, None], found, best)
                    lowest = torch.where(better, margin, lowest)
        return observation.with_features(best)


def losses(criterion: Criterion, logits: Tensor, classes: int) -> Iterator[Loss]:
    """The margin for a target or two classes; else cross-entropy, then single classes.

    Args:
        logits: `(n, classes)` on the clean embedding: the likeliest wrong classes first.
        classes: most wrong classes that have a loss of their own.
    """
    if criterion.target is not None or logits.shape[1] == 2:
        yield criterion.margin
        return
    yield criterion.cross_entropy
    own = criterion.labels[:, None]
    wrong = logits.scatter(1, own, -torch.inf).argsort(dim=1, descending=True)
    for rank in range(min(classes, logits.shape[1] - 1)):
        yield _between(own, wrong[:, rank, None])


def _between(own: Tensor, aim: Tensor) -> Loss:
    """The margin of one class over another, `(n, 1)` indices each."""

    def margin(logits: Tensor) -> Tensor:
        return (logits.gather(1, own) - logits.gather(1, aim)).squeeze(1)

    return margin


def checkpoints(steps: int) -> list[int]:
    """Steps after which progress is judged, as Croce and Hein space them."""
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # 1e-9: 100 * 0.41 is no more than 41 steps.
    found = (math.ceil(share * steps - 1e-9) for share in shares[1:])
    return sorted({step for step in found if step <= steps})


def radii_of(observation: Observation, scale: Tensor) -> list[Tensor]:
    """Radii to try, `(agents,)` each."""
    layout = observation.layout
    norms = layout.block_norms(scale[None]).squeeze(0)
    return [factor * norms for factor in RADII]


def auto_descend(
    victim: Differentiated,
    observation: Observation,
    criterion: Criterion,
    loss: Loss,
    *,
    start: Tensor,
    movable: Tensor,
    radius: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """`(n, width)` points of smallest margin and the `(n,)` margins."""
    layout = observation.layout
    current = project(start, observation, radius)
    last, point = current, current
    size = torch.full_like(current[:, :1], 2.0)
    lowest = torch.full_like(current[:, 0], torch.inf)
    least = lowest.clone()
    best = current
    improved = torch.zeros_like(lowest)
    before_size, before_least = size, least
    judged, marks = 0, checkpoints(steps)
    for step in range(steps + 1):
        gradient, logits = victim.loss_gradient(
            observation.with_features(current), loss
        )
        margin, value = criterion.margin(logits), loss(logits)
        better = margin < lowest
        best = torch.where(better[:, None], current, best)
        lowest = torch.where(better, margin, lowest)
        fell = value < least
        point = torch.where(fell[:, None], current, point)
        least = torch.where(fell, value, least)
        improved = improved + fell
        if step == steps:
            break
        gradient = torch.where(movable, gradient.nan_to_num(0.0), 0.0)
        if step in marks:
            few = improved < ENOUGH * (step - judged)
            stuck = (size == before_size).squeeze(1) & (least == before_least)
            halved = (few | stuck)[:, None]
            before_size, before_least = size, least
            size = torch.where(halved, size / 2, size)
            # The gradient at the best point is not at hand: the next step finds it.
            current = torch.where(halved, point, current)
            last = torch.where(halved, point, last)
            improved, judged = torch.zeros_like(improved), step
            if halved.any():
                again, _ = victim.loss_gradient(
                    observation.with_features(current), loss
                )
                again = torch.where(movable, again.nan_to_num(0.0), 0.0)
                gradient = torch.where(halved, again, gradient)
        norms = layout.block_norms(gradient).clamp_min(1e-30)
        move = -size * gradient * layout.expand(radius / norms)
        ahead = project(current + move, observation, radius)
        if step:
            drift = (1 - MOMENTUM) * (current - last)
            ahead = current + MOMENTUM * (ahead - current) + drift
            ahead = project(ahead, observation, radius)
        last, current = current, torch.where(movable, ahead, current)
    return best, lowest


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `apgd`."""
    return [APGD]
