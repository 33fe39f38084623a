"""The attack interface: authors write `run`; the base enforces the threat model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor

from ._errors import ContractError, ThreatModelError
from .agents import AgentSelection
from .observation import Observation
from .threat import Criterion, Knowledge, ThreatModel
from .victim import Victim


@dataclass(frozen=True, kw_only=True)
class AbstractAttack(ABC):
    """Base of attack plugins: a frozen dataclass whose fields are the options.

    Authors set `name` and write `run`. Calling the attack runs it and then restores every
    honest block and mask bit and projects to the budget, so no attack can exceed its
    threat model by accident.

    Args:
        agents: compromised agents, as in `cibench.AgentSelection`.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    bibtex: ClassVar[str] = ""
    """BibTeX entries of what it is from; without any, one is made of `citation`."""
    known_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Checks of `cibench.conformance` that it does not pass, each with the reason."""
    may_drop: ClassVar[bool] = False
    may_corrupt: ClassVar[bool] = True

    agents: str = "last"

    def __post_init__(self) -> None:
        if self.threat.agents.is_searched and not self.threat.may_ask:
            raise ThreatModelError(
                f"agents={self.agents}: expected an attack with knowledge of query or"
                f" adaptive, for the search asks the defense, got {self.name} with"
                f" {self.threat.knowledge}"
            )
        if self.threat.counts_target and self.threat.target == "any":
            raise ThreatModelError(
                "count_target: expected false without a target class, got true with"
                " target=any"
            )

    @property
    def threat(self) -> ThreatModel:
        """The threat model this configured attack works under."""
        return ThreatModel(
            agents=AgentSelection(self.agents),
            knowledge=Knowledge(getattr(self, "knowledge", Knowledge.OBLIVIOUS)),
            target=str(getattr(self, "target", "any")),
            budget=getattr(self, "budget", None),
            may_drop=self.may_drop,
            may_corrupt=self.may_corrupt,
            counts_target=bool(getattr(self, "count_target", False)),
        )

    @abstractmethod
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
        """Return what the fusion center is to receive.

        Args:
            victim: what the threat model lets the adversary call.
            observation: the clean embeddings of `n` samples; not to be written into. At
                `oblivious` only the blocks the adversary controls are observed.
            criterion: what counts as success.
            compromised: `(n, agents)` boolean: blocks the adversary controls.
            radius: `(agents,)` largest norm of a block's change; None for no bound.
                `cibench.project` projects to it; the base does so at the end anyway.
            generator: the only source of randomness.
        """

    @final
    def __call__(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        """Run the attack and hold it to its threat model.

        Arguments are those of `run`.

        Raises:
            ContractError: `run` returned something else than an observation.
        """
        # An agent that recorded nothing has no block to corrupt.
        compromised = compromised & observation.observed
        given = replace(
            observation,
            features=observation.features.clone(),
            observed=observation.observed.clone(),
        )
        if self.threat.knowledge is Knowledge.OBLIVIOUS:
            given = _own_blocks(given, compromised)
        result = self.run(
            victim,
            given,
            criterion.copy(),
            compromised=compromised.clone(),
            radius=None if radius is None else radius.clone(),
            generator=generator,
        )
        fits = isinstance(result, Observation) and result.layout == observation.layout
        if not fits or len(result) != len(observation):
            got = type(result).__name__
            if fits:
                got = f"one of {len(result)} samples"
            raise ContractError(
                f"attack {self.name}: expected an Observation of {len(observation)}"
                f" samples and the same layout from run, got {got}"
            )
        features = observation.features
        if self.may_corrupt:
            sent = result.features.detach().to(features.dtype)
            if radius is not None:
                sent = project(sent, observation, radius)
            own = observation.layout.expand(compromised)
            features = torch.where(own, sent, features)
        observed = observation.observed
        if self.may_drop:
            observed = observed & (result.observed | ~compromised)
        return replace(observation, features=features, observed=observed)


def _own_blocks(observation: Observation, agents: Tensor) -> Observation:
    """What those agents know by themselves: their blocks, and nobody else's."""
    hidden = ~observation.layout.expand(agents)
    return replace(
        observation,
        features=observation.features.masked_fill(hidden, torch.nan),
        observed=observation.observed & agents,
    )


def project(features: Tensor, observation: Observation, radius: Tensor) -> Tensor:
    """Shrink each block's change to the given Euclidean radius.

    Args:
        features: `(n, width)` proposed features.
        observation: the clean observation the change is measured from.
        radius: `(agents,)` largest allowed norm per block.

    A value that is not finite has no place in a ball: it counts as unchanged.
    """
    features = torch.where(features.isfinite(), features, observation.features)
    change = features - observation.features
    norms = observation.layout.block_norms(change)
    # A hair inside the ball, so that rounding cannot carry the result outside.
    shrink = (radius * (1 - 1e-6) / norms.clamp_min(1e-30)).clamp(max=1.0)
    moved = observation.features + change * observation.layout.expand(shrink)
    inside = observation.layout.expand(norms <= radius)
    return torch.where(inside, features, moved)
