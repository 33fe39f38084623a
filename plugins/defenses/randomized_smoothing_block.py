"""Block smoothing (oracle): the majority vote under noise on the corrupted blocks only."""

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
    OptionError,
    OracleFusionCenter,
    Training,
    hookimpl,
)

from .. import papers
from ._noise import NoiseOptions, clean_inputs, standard
from ._smoothing import Smoother


@final
class _BlockSmoothed(OracleFusionCenter):
    """The vote of a head over noise on the blocks it is told are corrupted.

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
        """The noise in the units of the embedding."""
        return self.smoother.facts

    def decide_told(self, observation: Observation, corrupted: Tensor) -> Decision:
        """Vote where something is corrupted; else the head's own answer."""
        features, noisy = (
            observation.filled(self.fill),
            corrupted & observation.observed,
        )
        voted = self.smoother.decide(features, noisy).logits
        return Decision(logits=self._own_without_noise(features, noisy, voted))

    def surrogate_told(self, observation: Observation, corrupted: Tensor) -> Tensor:
        """The mean softmax over the bank: votes have no derivative."""
        features, noisy = (
            observation.filled(self.fill),
            corrupted & observation.observed,
        )
        mean = self.smoother.surrogate(features, noisy)
        return self._own_without_noise(features, noisy, mean)

    def _own_without_noise(
        self, features: Tensor, noisy: Tensor, logits: Tensor
    ) -> Tensor:
        own: Tensor = self.smoother.head(features)
        return torch.where(noisy.any(dim=1, keepdim=True), logits, own)


@final
@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothingBlock(NoiseOptions):
    """Add noise to the corrupted blocks many times; the majority decides.

    It is told which agents are corrupted, which nobody who deploys it knows: a reference,
    not a defense. There is no certificate. A sample without a corrupted agent gets the
    head's own answer.

    Args:
        sigma: standard deviation of the noise.
        units: of sigma: `relative` to the root mean square deviation of the clean
            training embedding, so that one default serves data of any scale; or
            `absolute` (the released code: 0.5 for ExtraSensory, 0.01 for NUS-WIDE).
        draws: noise vectors in the bank; the paper takes 1000.
        head: `clean`, the head trained without noise, as in the paper; or `noisy`, one
            trained with noise of that sigma, as Cohen et al. do.
        correlated: add one and the same noise vector to all corrupted blocks of a draw,
            as the code released with the CoPur paper does; the blocks must be equally
            wide. The released code adds it to missing blocks as well; here they take none.

    Source: Liu, Xie, Koyejo and Li 2022, section 5.
    """

    name: ClassVar[str] = "randomized-smoothing-block"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 5"
    bibtex: ClassVar[str] = papers.COPUR
    capabilities: ClassVar[Capabilities] = Capabilities(needs_corrupted_agents=True)

    correlated: bool = False

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Draw the noise; train a head with it if asked to.

        Raises:
            OptionError: correlated noise was asked for, but blocks differ in width.
        """
        noise = None
        if self.correlated:
            widths = training.layout.widths
            if len(set(widths)) > 1:
                raise OptionError(
                    "correlated: expected agents with equally wide embedded blocks, got"
                    f" widths {', '.join(map(str, widths))}; use correlated=false"
                )
            one = standard(self.draws, widths[0], generator=generator)
            noise = one.repeat(1, len(widths))
        smoother = self.smoothed(
            training, clean_inputs(training), noise=noise, generator=generator
        )
        return _BlockSmoothed(smoother, training.undefended.fill)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `randomized-smoothing-block`."""
    return [RandomizedSmoothingBlock]
