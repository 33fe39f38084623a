"""Genie: told which agents are corrupted, drops them; the ceiling of any purification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    Capabilities,
    Decision,
    FusionCenter,
    Observation,
    OracleFusionCenter,
    Training,
    hookimpl,
)

from .. import papers
from ._dropout_head import fit_dropout_head
from ._dropping import DROP_CHANCE
from ._purified import Family, Width
from .copur import CoPur


@final
class _Genie(OracleFusionCenter):
    """Another fusion center on the honest agents alone."""

    def __init__(self, inner: FusionCenter) -> None:
        super().__init__()
        self.inner = inner
        self.samples_per_chunk = inner.samples_per_chunk

    @property
    def facts(self) -> dict[str, float | int | str]:
        return self.inner.facts

    def decide_told(self, observation: Observation, corrupted: Tensor) -> Decision:
        return self.inner.decide(observation.without(corrupted))

    def surrogate_told(self, observation: Observation, corrupted: Tensor) -> Tensor:
        return self.inner.surrogate(observation.without(corrupted))


@final
@dataclass(frozen=True, kw_only=True)
class Genie(AbstractDefense):
    """Drop the corrupted agents, which only an oracle knows, and decide on the others.

    No defense that finds the corrupted agents by itself can do better with the same fit;
    what is lost here, the attack has taken. Not deployable.

    Args:
        using: what decides on the honest agents: `none`, a head trained with dropped
            agents, which loses no information to a manifold; or `manifold`, the robust fit
            of the manifold to them (Eq. 5) and the head on its output: CoPur's own ceiling.
        manifold: family of the manifold, as in `copur`.
        width: width of its code; none selects it by recovery.

    Source: Liu, Xie, Koyejo and Li 2022, section 6, whose Oracle faces no attack at all.
    """

    name: ClassVar[str] = "genie"
    citation: ClassVar[str] = (
        "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 6 (after its Oracle)"
    )
    bibtex: ClassVar[str] = papers.COPUR
    capabilities: ClassVar[Capabilities] = Capabilities(
        optimizes_at_inference=True, needs_corrupted_agents=True
    )

    using: Literal["manifold", "none"] = "none"
    manifold: Family = "affine"
    width: Width = None

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit what decides on the honest agents."""
        if self.using == "none":
            head = fit_dropout_head(training, chance=DROP_CHANCE, generator=generator)
            return _Genie(head)
        inner = CoPur(refine=False, manifold=self.manifold, width=self.width)
        return _Genie(inner.fit(training, generator=generator))


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `genie`."""
    return [Genie]
