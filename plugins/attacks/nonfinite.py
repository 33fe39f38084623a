"""Values no agent can mean: NaN, infinities, 1e38, subnormals; to count as missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl

from ._blocks import replaced


@final
@dataclass(frozen=True, kw_only=True)
class NonFinite(AbstractAttack):
    """Send what arithmetic does not survive.

    The required answer of every defense is its answer to the same agents missing. A row
    carries the flag `blocks-rejected`.

    Args:
        agents: compromised agents.
        kind: the value of the whole block: `nan`, `inf`, `-inf`, `huge` (1e38) or
            `subnormal` (a quarter of the smallest normal number); `mixed` draws one of
            them for each block and sends it in a single, drawn column.
    """

    name: ClassVar[str] = "nonfinite"

    kind: Literal["nan", "inf", "-inf", "huge", "subnormal", "mixed"] = "nan"

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
        """Fill the compromised blocks, or poison one value of each."""
        features, layout = observation.features, observation.layout
        values = {
            "nan": torch.nan,
            "inf": torch.inf,
            "-inf": -torch.inf,
            "huge": 1e38,
            "subnormal": torch.finfo(features.dtype).tiny / 4,
        }
        if self.kind != "mixed":
            sent = torch.full_like(features, values[self.kind])
            return replaced(observation, compromised, sent)
        shape = (2, *compromised.shape)
        draws = torch.rand(shape, dtype=torch.float64, generator=generator)
        which, where = draws.to(features.device)
        kinds = features.new_tensor(list(values.values()))
        sent = layout.expand(kinds[(which * len(values)).long()])
        widths = torch.tensor(layout.widths, device=features.device)
        first = torch.tensor([s.start for s in layout.slices], device=features.device)
        column = layout.expand(first + (where * widths).long())
        hit = column == torch.arange(layout.width, device=features.device)
        return replaced(observation, compromised, torch.where(hit, sent, features))


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `nonfinite`."""
    return [NonFinite]
