"""Silence and corruption at once (threat model C): the worst split of the agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    AbstractAttack,
    AgentSelection,
    Criterion,
    Observation,
    ThreatModelError,
    Victim,
    hookimpl,
    project,
)

from .. import papers
from ._best import Best
from ._blocks import replaced
from .flip import Flip
from .pgd import PGD

#: `silent=any` tries 2 to the power of the compromised agents splits, at most 1024.
MOST_AGENTS = 10


@final
@dataclass(frozen=True, kw_only=True)
class Combined(AbstractAttack):
    """Some compromised agents fall silent, the others send a payload.

    With `silent=any` every split into silent and corrupting agents is tried, and each
    sample gets the one with the smallest logit margin of the model the adversary knows.
    With `agents=worst:q` that is Eq. 3 over every disjoint pair of sets of q agents
    together, exact for a payload such as `flip` if the adversary asks the defense itself.

    Args:
        agents: compromised agents.
        silent: those of the compromised agents that fall silent, by name or number, or
            `none`, `all`, `last`; `any` tries every split.
        payload: `pgd`, or `flip`, which needs no model.
        knowledge: whom it asks, to choose the split and for gradients: `adaptive` the
            whole defended pipeline, `fusion` the undefended fusion center, `query` the
            defense's answers (`flip` only), `oblivious` nobody (`flip`, named `silent`).
        target: `any`, `other` (of two classes), or a class by name or index.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        amplification: A of `flip`.
        steps: gradient steps of `pgd` from each start.
        restarts: starts of `pgd`.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound, as in the paper.

    Raises:
        ValueError: the knowledge does not suffice for, or is not used by, the options.

    Source: Liu, Xie, Koyejo and Li 2022, Eq. 3.
    """

    name: ClassVar[str] = "combined"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, Eq. 3"
    bibtex: ClassVar[str] = papers.COPUR
    may_drop: ClassVar[bool] = True

    silent: str = "any"
    payload: Literal["pgd", "flip"] = "pgd"
    knowledge: Literal["oblivious", "query", "fusion", "adaptive"] = "adaptive"
    target: str = "any"
    count_target: bool = False
    amplification: Annotated[float, Meta(gt=0)] = 10.0
    steps: Annotated[int, Meta(ge=1)] = 50
    restarts: Annotated[int, Meta(ge=1)] = 2
    budget: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # Which agents are tried or drawn is up to `agents`.
        if ":" in self.silent or not self.silent:
            raise ValueError(
                "silent: expected any, none, all, last or agents such as 7 or 8-10, got"
                f" {self.silent!r}"
            )
        used: tuple[str, ...] = ("fusion", "adaptive")
        if self.payload == "flip":
            # A claim to know the defense would make the attack look adaptive.
            used = ("query", *used) if self.silent == "any" else ("oblivious",)
        if self.knowledge not in used:
            raise ValueError(
                f"knowledge: expected {' or '.join(used)} with payload={self.payload} and"
                f" silent={self.silent}, got {self.knowledge}"
            )

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
        """Send the named split, or the best one for each sample."""

        def sent(silent: Tensor) -> Observation:
            corrupting = compromised & ~silent
            if not corrupting.any():
                return observation.without(silent)
            # Where nothing is corrupted nothing is silenced yet: a gradient through silent
            # blocks alone would count as one of no use.
            busy = corrupting.any(dim=1, keepdim=True)
            found = self._payload().run(
                victim,
                observation.without(silent & busy),
                criterion,
                compromised=corrupting,
                radius=radius,
                generator=generator,
            )
            features = found.features
            if radius is not None:
                features = project(features, observation, radius)
            return replaced(observation, corrupting, features).without(silent)

        if self.silent != "any":
            return sent(compromised & self._named(observation, compromised))
        best = Best(victim, criterion)
        for silent in _splits(compromised):
            best.offer(sent(silent))
        return best.result(observation)

    def _payload(self) -> AbstractAttack:
        if self.payload == "flip":
            return Flip(amplification=self.amplification)
        return PGD(steps=self.steps, restarts=self.restarts)

    def _named(self, observation: Observation, compromised: Tensor) -> Tensor:
        """`(agents,)` agents that `silent` names."""
        layout, rule = observation.layout, AgentSelection(self.agents)
        named = AgentSelection(self.silent).fixed(layout)
        if self.silent not in ("all", "last") and rule.is_fixed:
            stray = sorted(set(named) - set(rule.fixed(layout)))
            if stray:
                raise ThreatModelError(
                    f"silent={self.silent}: expected compromised agents"
                    f" (agents={self.agents}), got"
                    f" {', '.join(layout.names[agent] for agent in stray)} besides; add"
                    " them to agents"
                )
        mask = torch.zeros(layout.agents, dtype=torch.bool, device=compromised.device)
        mask[list(named)] = True
        return mask


def _splits(compromised: Tensor) -> list[Tensor]:
    """Every split, as the `(n, agents)` agents that fall silent; each sample sees all."""
    agents = int(compromised.sum(dim=1).max()) if len(compromised) else 0
    if agents > MOST_AGENTS:
        raise ThreatModelError(
            f"silent=any: expected at most {MOST_AGENTS} compromised agents in a sample,"
            f" since every split is tried, got {agents}; name the silent agents"
        )
    # The place of an agent among its sample's compromised agents, from 0.
    place = (compromised.cumsum(dim=1) - 1).clamp_min(0)
    return [compromised & ((split >> place) & 1).bool() for split in range(2**agents)]


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `combined`."""
    return [Combined]
