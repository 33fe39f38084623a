"""`Observation`: what the fusion center receives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._errors import ContractError
from .layout import AgentLayout


@dataclass(frozen=True, eq=False)
class Observation:
    """Features of `n` samples, and which agents were heard.

    What lies under `observed == False` carries no information: any value there, NaN
    included, leaves every answer unchanged.

    Args:
        features: `(n, width)` floating point.
        observed: `(n, agents)` boolean; False where the agent is missing.
        layout: the agents' blocks.

    Raises:
        ContractError: shapes or types disagree with the layout.
    """

    features: Tensor
    observed: Tensor
    layout: AgentLayout

    def __post_init__(self) -> None:
        n = len(self.features)
        for name, tensor, width in (
            ("features", self.features, self.layout.width),
            ("observed", self.observed, self.layout.agents),
        ):
            if tensor.shape != (n, width):
                raise ContractError(
                    f"Observation.{name}: expected shape ({n}, {width}),"
                    f" got {tuple(tensor.shape)}"
                )
        if not self.features.is_floating_point() or self.observed.dtype != torch.bool:
            raise ContractError(
                "Observation: expected floating-point features and a boolean mask, got"
                f" {self.features.dtype} and {self.observed.dtype}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, samples: slice | Tensor) -> Observation:
        """The observation restricted to some samples."""
        return replace(
            self, features=self.features[samples], observed=self.observed[samples]
        )

    def filled(self, values: Tensor | float = 0.0) -> Tensor:
        """`(n, width)` features with missing blocks replaced by `values`."""
        fill = torch.as_tensor(
            values, dtype=self.features.dtype, device=self.features.device
        )
        return torch.where(self.layout.expand(self.observed), self.features, fill)

    def without(self, agents: Tensor) -> Observation:
        """The same observation with `agents`, `(n, agents)` boolean, missing."""
        return replace(self, observed=self.observed & ~agents)

    def with_features(self, features: Tensor) -> Observation:
        """The same mask and layout around other features."""
        return replace(self, features=features)

    def to(self, device: torch.device | str) -> Observation:
        """The same observation on another device."""
        return replace(
            self,
            features=self.features.to(device),
            observed=self.observed.to(device),
        )
