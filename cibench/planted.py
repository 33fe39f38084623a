"""Planted counter-examples: an attack must find a point that is known to exist.

For each sample a reachable point is drawn: another sample's blocks in place of the
compromised ones, within the budget. A two-class head is then grafted on the frozen
defense's logits z: it answers 0 where

    t(z) = <z - z_clean, z_planted - z_clean> / ||z_planted - z_clean||^2

is below one half, and 1 above. So t is 0 at the clean embedding, which is answered
rightly, and 1 at the planted point, which is not. An attack that does not find a point with
t above one half has failed, whatever the defense is worth. Where a surrogate stands in for
the decision, the head on its logits is as good: a vote may not move as its surrogate does.
The attack is stopped as soon as it has found all it can.

Source: the binarization test of Zimmermann, Brendel, Tramer and Carlini 2022, with one
direction of the logits per sample instead of a trained readout, because an adversary of a
fusion center reaches what follows the defense by its logits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor

from .attack import AbstractAttack, project
from .defense import SURROGATE, Decision, FusionCenter
from .manifold import Manifold
from .observation import Observation
from .oracle import PerSample, of_samples
from .threat import Criterion
from .victim import Victim
from .watch import Watch

#: Points drawn for a sample; the one that moves its logits most is planted.
DRAWS = 4
#: Least change of the logits, as a share of the largest, for a point to count as one.
LEAST = 1e-3
#: Fewer samples with a planted point than this say nothing.
ENOUGH = 8


class _AllFound(BaseException):
    """Every planted point is found: the attack need not go on."""


@final
class Grafted(PerSample):
    """A defense behind a two-class head that is wrong at a planted point.

    Args:
        center: the frozen defense.
        clean: clean embeddings of `n` samples.
        planted: what arrives at the planted points.
        own: `(n, agents)` compromised blocks: the others tell samples apart.

    Attributes:
        watch: if set, sees every answer; once all that can be found is, an answer stops
            the attack.
    """

    def __init__(
        self,
        center: FusionCenter,
        clean: Observation,
        planted: Observation,
        own: Tensor,
    ) -> None:
        super().__init__()
        self.watch: Watch | None = None
        self.center = center
        self.samples_per_chunk = 2**62  # the defense cuts its own pieces
        self._features = clean.filled(0.0)
        self._honest = ~clean.layout.expand(own)
        pair = clean, planted
        with torch.no_grad():
            decided = [center(each).logits for each in pair]
            shown = [center.differentiable_logits(each) for each in pair]
            along = {
                route: _direction(
                    *(center.differentiable_logits(each, route) for each in pair)
                )
                for route in center.routes
            }
        self._decided = _direction(*decided)
        self._shown = {SURROGATE: _direction(*shown), **along}
        self._at: Tensor | None = None
        moved = torch.linalg.vector_norm(decided[1] - decided[0], dim=1)
        largest = torch.maximum(decided[0].abs().amax(1), decided[1].abs().amax(1))
        #: How far the planted point moves each sample's logits.
        self.moved = moved
        #: `(n,)` samples that have a planted point.
        self.has_point = moved > LEAST * largest

    def decide(self, observation: Observation) -> Decision:
        """The grafted head on the defense's decision."""
        return Decision(
            logits=self._head(
                observation, self.center(observation).logits, self._decided
            )
        )

    def surrogate(self, observation: Observation) -> Tensor:
        """The grafted head on what the defense shows an adversary."""
        return self._along(observation, SURROGATE)

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """The grafted head on each other form of the defense."""
        return {
            route: partial(self._along, route=route) for route in self.center.routes
        }

    @property
    def purifies_onto(self) -> Manifold | None:
        """The defense's manifold."""
        return self.center.purifies_onto

    def samples_per_gradient(self, route: str) -> int:
        """As the defense's."""
        return self.center.samples_per_gradient(route)

    def narrowed(self, samples: Tensor) -> Grafted:
        """See `PerSample`."""
        part = Grafted.__new__(Grafted)
        FusionCenter.__init__(part)
        part.samples_per_chunk = self.samples_per_chunk
        part.watch, part.center = self.watch, of_samples(self.center, samples)
        part._features, part._honest = self._features[samples], self._honest[samples]
        part._decided = _part(self._decided, samples)
        part._shown = {r: _part(of, samples) for r, of in self._shown.items()}
        everyone = torch.arange(len(self._features), device=samples.device)
        part._at = (everyone if self._at is None else self._at)[samples]
        # These are of all samples: the attack stops when no point is left anywhere.
        part.moved, part.has_point = self.moved, self.has_point
        return part

    def _along(self, observation: Observation, route: str) -> Tensor:
        logits = self.center.differentiable_logits(observation, route)
        return self._head(observation, logits, self._shown[route])

    def _head(
        self, observation: Observation, logits: Tensor, of: tuple[Tensor, Tensor]
    ) -> Tensor:
        rows = self._rows(observation)
        start, direction = of[0][rows], of[1][rows]
        t = ((logits - start) * direction).sum(dim=1)
        grafted = torch.stack([0.5 - t, t - 0.5], dim=1)
        if self.watch is not None:
            self.watch.answered(observation, grafted.detach(), None, self._at)
            if (self.watch.found | ~self.has_point).all():
                raise _AllFound
        return grafted

    def _rows(self, observation: Observation) -> Tensor:
        """Which sample each row is: by its place, or by its honest blocks."""
        n, features = len(self._features), observation.features.detach()
        if len(observation) == n:
            return torch.arange(n, device=features.device)
        same = (features[:, None] == self._features) | ~self._honest
        return same.all(dim=2).to(torch.uint8).argmax(dim=1)


def _part(of: tuple[Tensor, Tensor], samples: Tensor) -> tuple[Tensor, Tensor]:
    return of[0][samples], of[1][samples]


def _direction(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    change = end - start
    square = change.square().sum(dim=1, keepdim=True)
    return start, change / square.clamp_min(torch.finfo(change.dtype).tiny)


def planted_missed(
    center: FusionCenter,
    attack: AbstractAttack,
    clean: Observation,
    donors: Observation,
    *,
    compromised: Tensor,
    radius: Tensor | None,
    targeted: bool,
    recorded: tuple[Observation, Tensor] | None,
    generator: torch.Generator,
) -> dict[str, float]:
    """`planted_missed`: the share of planted points that an attack misses.

    `planted_failed` in its place if the attack raises: it may ask for classes that the
    grafted head lacks. Nothing with fewer points than `ENOUGH`.

    Args:
        center: the defense.
        clean: clean embeddings of `n` samples.
        donors: clean embeddings whose blocks are sent at planted points.
        compromised: `(n, agents)` blocks the adversary controls.
        radius: `(agents,)` largest norm of a block's change; None for no bound.
        targeted: whether the attack is told the class to reach.
        recorded: clean training embeddings and labels, as in `Victim`.
        generator: draws the points and serves the attack.
    """
    own = compromised & clean.observed
    best: Grafted | None = None
    point = clean
    for _ in range(DRAWS):
        drawn = _reachable(clean, donors, own, radius, generator)
        grafted = Grafted(center, clean, drawn, own)
        if best is None:
            best, point = grafted, drawn
            continue
        further = (grafted.moved > best.moved)[:, None]
        features = torch.where(further, drawn.features, point.features)
        point = clean.with_features(features)
        best = Grafted(center, clean, point, own)
    assert best is not None
    if best.has_point.sum() < ENOUGH:
        return {}
    labels = torch.zeros(len(clean), dtype=torch.long, device=own.device)
    criterion = Criterion(labels, torch.ones_like(labels) if targeted else None)
    victim = Victim(
        attack.threat.knowledge,
        undefended=best,
        defended=best,
        own=own,
        recorded=None if recorded is None else (recorded[0], _others(recorded[1])),
    )
    best.watch = Watch(clean, criterion, own, radius)
    try:
        sent = attack(
            victim,
            clean,
            criterion,
            compromised=compromised,
            radius=radius,
            generator=generator,
        )
    except _AllFound:
        return {"planted_missed": 0.0}
    except Exception:  # not of the cell: it is told by a flag
        return {"planted_failed": 1.0}
    best.watch = None
    with torch.no_grad():
        shown = best.differentiable_logits(sent)
        found = criterion.succeeded(best(sent).logits) | criterion.succeeded(shown)
        # A defense that answers by chance may answer otherwise this time.
        wrong = criterion.succeeded(best(point).logits) & best.has_point
    if wrong.sum() < ENOUGH:
        return {}
    return {"planted_missed": float((~found)[wrong].double().mean())}


def _others(labels: Tensor) -> Tensor:
    """Recorded samples are of the class that is wrong for every clean embedding."""
    return torch.ones_like(labels)


def _reachable(
    clean: Observation,
    donors: Observation,
    own: Tensor,
    radius: Tensor | None,
    generator: torch.Generator,
) -> Observation:
    """Other samples' blocks, where their agents were heard, within the budget."""
    drawn = torch.randint(len(donors), (len(clean),), generator=generator)
    given = donors[drawn.to(own.device)]
    sent = torch.where(
        clean.layout.expand(own & given.observed), given.features, clean.features
    )
    if radius is not None:
        sent = project(sent, clean, radius)
    return clean.with_features(sent)
