"""The members of the ensemble: ways to attack who is left, cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim

from ._descent import Adam, descend
from ._routes import Routed
from ._standing import Left
from .ablation_votes import AblationVotes
from .apgd import auto_descend
from .collusion import Collusion
from .interpolate import Interpolate
from .mimic import Mimic
from .nes import NES
from .replay import Replay
from .square_blocks import SquareBlocks

#: An attack on who is left.
Attempt = Callable[[Left], Observation]

#: Amplifications of flipped blocks, and distances of mimicked centroids.
FLIPS, MIMICS = (1.0, 3.0, 10.0, 30.0), (1.0, 3.0)
#: Widths of the adversary's own manifolds, where the defense has none.
WIDTHS = (8, 32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """What members share.

    Args:
        victim: the defense, for its routes and its manifold.
        units: `(width,)` root mean square of each agent's block, per column.
        radii: `(agents,)` each: balls of Auto-PGD.
        radius: `(agents,)` largest norm of a block's change, or None.
        generator: the only source of randomness.
        steps: of a descent from the clean blocks.
        draws: gradients averaged over the defense's randomness.
    """

    victim: Victim
    units: Tensor
    radii: list[Tensor]
    radius: Tensor | None
    generator: torch.Generator
    steps: int
    draws: int

    def by(self, attack: AbstractAttack) -> Attempt:
        """Another attack, on who is left."""

        def send(left: Left) -> Observation:
            return attack.run(
                left.victim,
                left.clean,
                left.criterion,
                compromised=left.compromised,
                radius=self.radius,
                generator=self.generator,
            )

        return send

    def descent(
        self, route: str, *, near: bool = False, transfer: bool = False
    ) -> Attempt:
        """Descend the margin by growing steps, or by small ones from the nearest point."""

        def send(left: Left) -> Observation:
            known = left.victim.transfer() if transfer else left.victim
            found, _ = descend(
                Routed(known, route, self.draws, self.generator),
                left.clean,
                left.criterion,
                start=left.nearest.filled(0.0) if near else left.clean.features,
                movable=left.clean.layout.expand(left.compromised),
                steps=self.steps // 2 if near else self.steps,
                rule=Adam((0.1 if near else 0.5) * self.units, 1.0 if near else 1.05),
                loss=Criterion.margin,
                radius=self.radius,
            )
            return left.clean.with_features(found)

        return send

    def ball(self, radius: Tensor) -> Attempt:
        """Auto-PGD on the margin in the balls of one radius."""

        def send(left: Left) -> Observation:
            found, _ = auto_descend(
                Routed(left.victim, "surrogate", self.draws, self.generator),
                left.clean,
                left.criterion,
                left.criterion.margin,
                start=left.clean.features,
                movable=left.clean.layout.expand(left.compromised),
                radius=radius,
                steps=self.steps // 2,
            )
            return left.clean.with_features(found)

        return send


def _silence(left: Left) -> Observation:
    return left.clean.without(left.compromised)


def _flip(amplification: float) -> Attempt:
    def send(left: Left) -> Observation:
        return left.clean.with_features(-amplification * left.clean.filled(0.0))

    return send


def _payloads(shared: Shared) -> list[Attempt]:
    search = Replay(donor="search", knowledge="query", candidates=20)
    mimics = [shared.by(Mimic(scale=scale)) for scale in MIMICS]
    return [_silence, *map(_flip, FLIPS), *mimics, shared.by(search)]


def _transfer(shared: Shared) -> list[Attempt]:
    return [shared.descent("surrogate", transfer=True)]


def _pgd(shared: Shared) -> list[Attempt]:
    routes = [route for route in shared.victim.routes if route != "votes"]
    return [*map(shared.descent, routes), shared.descent(routes[0], near=True)]


def _votes(shared: Shared) -> list[Attempt]:
    voting = "votes" in shared.victim.routes
    return [shared.by(AblationVotes(steps=shared.steps))] if voting else []


def _apgd(shared: Shared) -> list[Attempt]:
    return [shared.ball(radius) for radius in shared.radii]


def _collusion(shared: Shared) -> list[Attempt]:
    known, steps = shared.victim.manifold, shared.steps // 2
    widths: tuple[int, ...] = WIDTHS
    if known is not None:
        # One of its own, for the defense's manifold is tried beside it.
        widths = (known.rank,)
    return [shared.by(Collusion(width=width, steps=steps)) for width in widths]


def _interpolate(shared: Shared) -> list[Attempt]:
    return [shared.by(Interpolate(candidates=3, points=8))]


def _square_blocks(shared: Shared) -> list[Attempt]:
    return [shared.by(SquareBlocks(steps=60))]


def _nes(shared: Shared) -> list[Attempt]:
    return [shared.by(NES(steps=6, pairs=4))]


#: By name, in the order they are tried.
MEMBERS: Final[Mapping[str, Callable[[Shared], list[Attempt]]]] = {
    "payloads": _payloads,
    "transfer": _transfer,
    "pgd": _pgd,
    "votes": _votes,
    "apgd": _apgd,
    "collusion": _collusion,
    "interpolate": _interpolate,
    "square-blocks": _square_blocks,
    "nes": _nes,
}
