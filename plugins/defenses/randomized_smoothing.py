"""Randomized smoothing: the majority vote of the fusion head under Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cibench import (
    AbstractDefense,
    Capabilities,
    Decision,
    FusionCenter,
    Observation,
    Training,
    hookimpl,
)

from .. import papers
from ._noise import CertifyingOptions, clean_inputs
from ._smoothing import Smoother


@final
class SmoothedFusionCenter(FusionCenter):
    """The vote of a head over noise on every block that was heard.

    Args:
        smoother: the head with its bank of noise.
        fill: `(width,)` what stands for a missing block; it takes no noise.
    """

    fill: Tensor

    def __init__(self, smoother: Smoother, fill: Tensor) -> None:
        super().__init__()
        self.smoother = smoother
        self.register_buffer("fill", fill)

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The noise and the largest radius it can certify."""
        return self.smoother.facts

    def decide(self, observation: Observation) -> Decision:
        """Vote over the bank."""
        return self.smoother.decide(observation.filled(self.fill), observation.observed)

    def surrogate(self, observation: Observation) -> Tensor:
        """The mean softmax over the bank: votes have no derivative."""
        return self.smoother.surrogate(
            observation.filled(self.fill), observation.observed
        )

    def radius(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """CERTIFY of Cohen et al.: how far the heard features may move, jointly.

        Returns:
            `(n,)` l2 radius in the units of the embedding, 0 where it abstains; and the
            `(n,)` class that no smaller perturbation of heard blocks changes. It says
            nothing about perturbations without a bound.
        """
        rejected = self(observation).rejected
        heard = observation if rejected is None else observation.without(rejected)
        return self.smoother.radius(heard.filled(self.fill), heard.observed)


@final
@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing(CertifyingOptions):
    """Add Gaussian noise to the received features many times; the majority decides.

    The noise is drawn once, when the defense is fitted, and is the same for all samples:
    answers are deterministic, and a certificate holds for each sample with probability
    1 - alpha over that draw. Missing blocks take no noise. Against blocks changed without
    a bound no radius helps.

    Args:
        sigma: standard deviation of the noise.
        units: of sigma: `relative` to the root mean square deviation of the clean
            training embedding, so that one default serves data of any scale; or
            `absolute` (the released code: 0.5 for ExtraSensory, 0.01 for NUS-WIDE).
        draws: noise vectors in the bank; the paper takes 1000.
        head: `clean`, the head trained without noise, as in the paper; or `noisy`, one
            trained with noise of that sigma, as Cohen et al. do.
        mode: `paper`, the class of most votes; or `cohen`, which abstains where a binomial
            test does not tell the two first classes apart.
        alpha: chance that such a test answers another class than infinitely many draws
            would, and that a radius is too large; each for a single sample.
        selection: draws beside the bank that choose the class a radius is for.

    Source: Cohen, Rosenfeld and Kolter 2019; Liu, Xie, Koyejo and Li 2022, section 5.
    """

    name: ClassVar[str] = "randomized-smoothing"
    citation: ClassVar[str] = (
        "Cohen, Rosenfeld, Kolter: Certified adversarial robustness via randomized"
        " smoothing. ICML 2019"
    )
    bibtex: ClassVar[str] = papers.COHEN
    capabilities: ClassVar[Capabilities] = Capabilities(abstains=True)

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Draw the noise; train a head with it if asked to."""
        smoother = self.certifying(
            training, clean_inputs(training), generator=generator
        )
        return SmoothedFusionCenter(smoother, training.undefended.fill)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `randomized-smoothing`."""
    return [RandomizedSmoothing]
