"""No defense: the undefended fusion center (the paper's Unsecured)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from cibench import (
    AbstractDefense,
    FusionCenter,
    ManifoldRecipe,
    Training,
    UndefendedFusionCenter,
    hookimpl,
)


@final
@dataclass(frozen=True, kw_only=True)
class NoDefense(AbstractDefense):
    """Feed what arrives to the fusion head, missing blocks filled.

    Args:
        head: `raw`, the head trained on the embedding itself (fair); or `manifold`, the
            head trained on the manifold's output but fed raw embeddings, as the code
            released with the CoPur paper does.

    Source: Liu, Xie, Koyejo and Li 2022, "Unsecured".
    """

    name: ClassVar[str] = "none"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022 (Unsecured)"

    head: Literal["raw", "manifold"] = "raw"

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Return the fusion center trained with the encoders, or its variant."""
        if self.head == "raw":
            return training.undefended
        return UndefendedFusionCenter(
            training.manifold_head(ManifoldRecipe()), training.undefended.fill
        )


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `none`."""
    return [NoDefense]
