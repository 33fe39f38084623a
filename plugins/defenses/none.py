"""No defense: the undefended fusion center (the paper's Unsecured)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    FusionCenter,
    Training,
    UndefendedFusionCenter,
    fit_head,
    fusion_head,
    hookimpl,
)

from .. import papers
from ._purified import Family, Width, manifold_recipe


@final
@dataclass(frozen=True, kw_only=True)
class NoDefense(AbstractDefense):
    """Feed what arrives to a fusion head, missing blocks filled.

    Args:
        head: `raw`, the head trained with the encoders, agents dropped as their recipe
            says; `plain`, a head trained afterwards on the frozen embedding as the heads of
            other defenses are, without dropping agents, so that no training for redundancy
            is hidden in the baseline; or `manifold`, the head trained on the manifold's
            output but fed raw embeddings, as the code released with the CoPur paper does.
        manifold: of `head=manifold`: `affine`, `mlp` or `auto`, as in `copur`.
        width: of `head=manifold`: width of the code; none selects it.

    Raises:
        ValueError: `manifold` or `width` is given for another head.

    Source: Liu, Xie, Koyejo and Li 2022, "Unsecured".
    """

    name: ClassVar[str] = "none"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022 (Unsecured)"
    bibtex: ClassVar[str] = papers.COPUR

    head: Literal["raw", "plain", "manifold"] = "raw"
    manifold: Family = "affine"
    width: Width = None

    def __post_init__(self) -> None:
        if self.head != "manifold" and (self.manifold, self.width) != ("affine", None):
            raise ValueError(
                "manifold and width: expected head=manifold with them, got"
                f" head={self.head}, which has no manifold; add head=manifold"
            )

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Return the fusion center trained with the encoders, or its variant."""
        fill = training.undefended.fill
        if self.head == "raw":
            return training.undefended
        if self.head == "plain":
            return _plain(training, generator)
        recipe = manifold_recipe(self.manifold, self.width)
        return UndefendedFusionCenter(training.manifold_head(recipe), fill)


def _plain(training: Training, generator: torch.Generator) -> FusionCenter:
    """A head trained on the frozen embedding, missing blocks filled, no agent dropped."""
    fill, recipe = training.undefended.fill, training.recipe

    def fit() -> dict[str, Tensor]:
        fitted = fit_head(
            training.train.filled(fill),
            training.train_labels,
            training.validation.filled(fill),
            training.validation_labels,
            training.classes,
            recipe,
            generator,
            training.progress,
        )
        return dict(fitted.state_dict())

    tensors = training.reuse("plain head", fit)
    head = fusion_head(training.layout.width, training.classes, recipe, generator)
    head.to(training.train.features)
    head.load_state_dict(tensors)
    return UndefendedFusionCenter(head.eval().requires_grad_(False), fill)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `none`."""
    return [NoDefense]
