"""Options of smoothed heads, their noise, and heads trained with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    Observation,
    Training,
    drop_agents,
    fusion_head,
)

from ._random_inputs import fit_on_random_inputs
from ._smoothing import Smoother


@dataclass(frozen=True, eq=False, kw_only=True)
class Clean:
    """What a head that is to be smoothed is fed with.

    Args:
        head: the head trained without noise.
        train, validation: its clean inputs.
        fill: `(width,)` what stands for a missing block.
        dropout: chance that training drops an agent from a sample.
    """

    head: nn.Module
    train: Observation
    validation: Observation
    fill: Tensor
    dropout: float


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(AbstractDefense):
    """Options of every smoothed head.

    Sigma's default is the largest of 1/8, 1/4, ..., 4 that costs less than one point of
    clean validation accuracy on mfeat, ExtraSensory and synthetic (three seeds each);
    there, accuracy under simulated corruption hardly depends on it, and the average
    certified radius grows up to it. A noisy head changed the accuracies by less than one
    point either way.

    Args:
        sigma: standard deviation of the noise.
        units: `relative` to the clean features' deviation, or `absolute`.
        draws: noise vectors in the bank.
        head: `clean`, the head trained without noise, or `noisy`, one trained with it.
    """

    sigma: Annotated[float, Meta(gt=0)] = 1.0
    units: Literal["relative", "absolute"] = "relative"
    draws: Annotated[int, Meta(ge=1)] = 1000
    head: Literal["clean", "noisy"] = "clean"

    def smoothed(
        self,
        training: Training,
        clean: Clean,
        *,
        noise: Tensor | None = None,
        selection: int | None = None,
        alpha: float = 0.001,
        abstains: bool = False,
        generator: torch.Generator,
    ) -> Smoother:
        """Draw the noise, and train a head with it if asked to.

        Args:
            clean: the head and its clean inputs.
            noise: `(draws, width)` of deviation 1 where it is not independent.
            selection: draws beside the bank that choose the class a radius is for.
            alpha, abstains: as in `Smoother`.
        """
        sigma = self.sigma * (spread(clean.train) if self.units == "relative" else 1.0)
        width, like = clean.train.layout.width, clean.train.features
        if noise is None:
            noise = standard(self.draws, width, generator=generator)
        fresh = standard(selection or 0, width, generator=generator)
        head = clean.head
        # Last: whether it is stored or trained decides how much randomness it takes.
        if self.head == "noisy":
            head = fit_noisy_head(training, clean, sigma=sigma, generator=generator)
        return Smoother(
            head,
            clean.train.layout,
            (sigma * noise).to(like),
            sigma=sigma,
            selection=None if selection is None else (sigma * fresh).to(like),
            alpha=alpha,
            abstains=abstains,
        )


@dataclass(frozen=True, kw_only=True)
class CertifyingOptions(NoiseOptions):
    """Options of smoothed heads that also come with Cohen's test and radius.

    Args:
        mode: `paper` or `cohen`.
        alpha: chance of a wrong answer or radius.
        selection: draws that choose the class a radius is for.
    """

    mode: Literal["paper", "cohen"] = "paper"
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.001
    selection: Annotated[int, Meta(ge=1)] = 100

    def __post_init__(self) -> None:
        needed = math.floor(math.log2(1 / self.alpha)) + 1
        if self.mode == "cohen" and self.draws < needed:
            raise ValueError(
                f"draws: expected at least {needed}, so that a unanimous vote has a"
                f" radius at alpha={self.alpha:g}, got {self.draws}"
            )

    def certifying(
        self, training: Training, clean: Clean, *, generator: torch.Generator
    ) -> Smoother:
        """What `smoothed` does, with the noise and the level that radii take."""
        return self.smoothed(
            training,
            clean,
            selection=self.selection,
            alpha=self.alpha,
            abstains=self.mode == "cohen",
            generator=generator,
        )


def clean_inputs(training: Training) -> Clean:
    """The undefended head on the embedding itself."""
    return Clean(
        head=training.undefended.head,
        train=training.train,
        validation=training.validation,
        fill=training.undefended.fill,
        dropout=training.recipe.agent_dropout,
    )


def spread(clean: Observation) -> float:
    """Root mean square deviation of the heard values from their column's mean.

    One number for all columns: the noise stays isotropic, and follows the units of the
    features.
    """
    known = clean.layout.expand(clean.observed)
    values = clean.filled(0.0).double()
    mean = values.sum(0) / known.sum(0).clamp_min(1)
    deviations = torch.where(known, values - mean, 0.0)
    return float((deviations.square().sum() / known.sum().clamp_min(1)).sqrt())


def standard(draws: int, width: int, *, generator: torch.Generator) -> Tensor:
    """`(draws, width)` independent standard normal noise, float64."""
    return torch.randn((draws, width), generator=generator, dtype=torch.float64)


def fit_noisy_head(
    training: Training, clean: Clean, *, sigma: float, generator: torch.Generator
) -> nn.Module:
    """A head trained with fresh noise on what is heard, and agents dropped by chance.

    The weights of the lowest validation loss, averaged over fixed noise, are kept.

    Source: Cohen, Rosenfeld and Kolter 2019, section 3.3.
    """
    recipe = training.recipe
    width, like = clean.train.layout.width, clean.train.features
    head = fusion_head(width, training.classes, recipe, generator).to(like)

    def noised(observation: Observation) -> Tensor:
        noise = standard(len(observation), width, generator=generator)
        values = observation.filled(0.0) + (sigma * noise).to(like)
        return observation.with_features(values).filled(clean.fill)

    held_out = [noised(clean.validation) for _ in range(4)]

    def draw(indices: Tensor) -> Tensor:
        batch = clean.train[indices]
        heard = drop_agents(batch.observed, clean.dropout, generator)
        return noised(replace(batch, observed=heard))

    return fit_on_random_inputs(
        training, head, draw, held_out, label="noisy head", generator=generator
    )
