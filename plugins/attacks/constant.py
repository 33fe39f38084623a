"""Constant: compromised agents send one value in every column, like a stuck sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from ._blocks import block_rms, replaced


@final
@dataclass(frozen=True, kw_only=True)
class Constant(AbstractAttack):
    """Every value of the block the same; `value=0` sends zeros that count as heard.

    Args:
        agents: compromised agents.
        value: what is sent; the default gives the block the size of the default of
            `flip`.
        unit: `rms` of the sample's clean block, or `one`: the value as it is.
    """

    name: ClassVar[str] = "constant"

    value: float = 10.0
    unit: Literal["rms", "one"] = "rms"

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
        """Fill the compromised blocks."""
        sent = torch.full_like(observation.features, self.value)
        if self.unit == "rms":
            sent = sent * block_rms(observation)
        return replaced(observation, compromised, sent)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `constant`."""
    return [Constant]
