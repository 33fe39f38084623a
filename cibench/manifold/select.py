"""Fitting a manifold: which family and code width recover corrupted blocks best.

Validation accuracy on clean data does not find the width: wide codes explain clean data
best and follow a corrupted block furthest. So each candidate is fitted on the training
split and judged by recovery on the validation split, some of whose blocks are replaced by
simulated corruptions. Test data and labels play no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor

from .._errors import OptionError
from ..embedding.train import Progress, mean_features, silent
from ..observation import Observation
from .affine import fit_affine
from .autoencoder import fit_autoencoder, fit_released_autoencoder
from .base import Manifold
from .robust import robust_fit

#: Code widths tried when the recipe leaves the width open.
WIDTHS = (2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class ManifoldRecipe:
    """How a manifold is fitted.

    Args:
        family: `affine`, `mlp` (the paper's autoencoder), or `auto`: the better one.
        width: width of the code, or None to select it by recovery.
        residual: relative validation residual at which autoencoder training stops.
        epochs: most passes over the training split for an autoencoder.
        spread: of an affine manifold: weight of the largest share of a direction that one
            agent holds against the share of energy explained; 0 for principal components.
    """

    name: ClassVar[str] = "manifold"

    family: Literal["affine", "mlp", "auto"] = "affine"
    width: Annotated[int, Meta(ge=1)] | None = None
    residual: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    epochs: Annotated[int, Meta(ge=1)] = 300
    spread: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True, eq=False)
class FittedManifold:
    """A manifold and how it was found.

    Args:
        manifold: float64.
        residual: share of the validation energy around the mean left unexplained.
        recovery: relative recovery error under simulated corruption, per candidate.
    """

    manifold: Manifold
    residual: float
    recovery: dict[str, float]


def simulate_corruption(
    observation: Observation, generator: torch.Generator
) -> Observation:
    """Corrupt random blocks: for each sample a random number of random agents.

    Up to a third of the agents (at least one) send, with equal chance,
    a flipped block of random amplification in [1, 20], another sample's block, or
    Gaussian noise of random scale in [1, 10] times the block's deviation.
    """
    layout, n = observation.layout, len(observation)
    device = observation.features.device

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand((n, layout.agents), generator=generator).to(device)
        return low + (high - low) * draw

    most = max(1, min(layout.agents // 3, (layout.agents - 1) // 2))
    count = torch.randint(1, most + 1, (n, 1), generator=generator).to(device)
    order = uniform(0, 1).argsort(dim=1).argsort(dim=1)
    hit = layout.expand(order < count)
    kind = layout.expand(uniform(0, 3)).floor()
    clean = observation.filled(0.0)
    flipped = -layout.expand(uniform(1, 20)) * clean
    donor = clean[torch.randperm(n, generator=generator).to(device)]
    normal = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noise = layout.expand(uniform(1, 10)) * clean.std(dim=0) * normal.to(device)
    corrupted = torch.where(kind == 0, flipped, torch.where(kind == 1, donor, noise))
    return observation.with_features(torch.where(hit, corrupted, clean))


def recovery_error(purified: Tensor, clean: Observation, mean: Tensor) -> Tensor:
    """`(n,)` distance of purified from clean features over the clean distance to the mean.

    Blocks missing from the clean observation do not count. 0 is perfect; 1 is what the
    training mean scores.
    """
    known = clean.layout.expand(clean.observed)
    error = torch.where(known, purified - clean.filled(0.0), 0.0)
    spread = torch.where(known, clean.filled(0.0) - mean, 0.0)
    distance: Tensor = torch.linalg.vector_norm(error, dim=1)
    size: Tensor = torch.linalg.vector_norm(spread, dim=1).clamp_min(1e-12)
    return distance / size


def fit_manifold(
    recipe: ManifoldRecipe,
    train: Observation,
    validation: Observation,
    *,
    generator: torch.Generator,
    released: bool = False,
    progress: Progress = silent,
) -> FittedManifold:
    """Fit the candidates a recipe allows and keep the one that recovers best.

    An open width is settled by affine manifolds, which are cheap to fit; an autoencoder is
    then trained at that width and, for `auto`, judged against the best affine manifold.

    Args:
        released: train an autoencoder of a given width as the released code does. Nothing
            is to be chosen then, so nothing is judged.

    Raises:
        OptionError: the width is beyond what the data can determine.
    """
    mean = mean_features(train).double()
    wide = validation.with_features(validation.filled(0.0).double())
    corrupted = simulate_corruption(wide, generator)
    recovery: dict[str, float] = {}

    def judged(manifold: Manifold) -> tuple[float, Manifold]:
        manifold = manifold.double().eval().requires_grad_(False)
        fit = robust_fit(manifold, corrupted, max_iterations=50, tolerance=1e-5)
        error = float(recovery_error(manifold.decode(fit.code), wide, mean).mean())
        recovery[f"{manifold.family}-{manifold.rank}"] = error
        return error, manifold

    limit = min(train.layout.width, len(train) - 1)
    if recipe.width is not None and recipe.width > limit and not released:
        raise OptionError(
            f"manifold width: expected at most {limit}, the width of the joint embedding"
            f" or the number of training samples less one, got {recipe.width}"
        )
    open_widths = [w for w in WIDTHS if w <= limit] or [limit]
    widths = open_widths if recipe.width is None else [recipe.width]
    found: list[tuple[float, Manifold]] = []
    if recipe.family != "mlp" or len(widths) > 1:
        for done, width in enumerate(widths, start=1):
            found.append(judged(fit_affine(train, width, spread=recipe.spread)))
            progress("affine manifolds", done, len(widths))
    if released and recipe.family == "mlp" and recipe.width is not None:
        trained = fit_released_autoencoder(
            train, recipe.width, generator=generator, progress=progress
        ).double()
        trained.eval().requires_grad_(False)
        mean = trained.mean
        found = [(0.0, trained)]
    elif recipe.family != "affine":
        width = min(found, key=_first)[1].rank if found else widths[0]
        autoencoder = fit_autoencoder(
            train,
            validation,
            width,
            mean=mean.to(train.features.dtype),
            generator=generator,
            epochs=recipe.epochs,
            residual=recipe.residual,
            progress=progress,
        )
        if recipe.family == "mlp":
            found = []
        found.append(judged(autoencoder))
    best = min(found, key=_first)[1]
    known = wide.layout.expand(wide.observed)
    filled = wide.filled(mean)
    unexplained = (best.reconstruct(filled) - filled).square()[known].sum()
    energy = (filled - mean).square()[known].sum()
    return FittedManifold(best, float(unexplained / energy), recovery)


def _first(pair: tuple[float, Manifold]) -> float:
    return pair[0]
