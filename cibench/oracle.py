"""Fusion centers that are told which agents are corrupted: upper references."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from ._errors import ContractError
from .defense import Decision, FusionCenter, joined
from .observation import Observation


class PerSample(FusionCenter):
    """What the harness itself puts around a fusion center for a certain batch.

    Not for plugins: a defense that is another one for part of a batch would escape attacks
    that go on with the samples that are left.
    """

    @abstractmethod
    def narrowed(self, samples: Tensor) -> FusionCenter:
        """The same for some of its samples, `(k,)` indices or `(n,)` booleans."""


def of_samples(center: FusionCenter, samples: Tensor) -> FusionCenter:
    """A fusion center for some of the samples that it was deployed for."""
    return center.narrowed(samples) if isinstance(center, PerSample) else center


class OracleFusionCenter(FusionCenter):
    """A fusion center that is told which agents are corrupted: nobody can deploy it.

    Authors write `decide_told`, and `surrogate_told` where that is not differentiable.
    Left untold, it takes every agent as honest. Its defense declares
    `Capabilities(needs_corrupted_agents=True)`.
    """

    @abstractmethod
    def decide_told(self, observation: Observation, corrupted: Tensor) -> Decision:
        """Decide, knowing the `(n, agents)` compromised agents."""

    def surrogate_told(self, observation: Observation, corrupted: Tensor) -> Tensor:
        """`(n, classes)` differentiable logits, as in `surrogate`."""
        return self.decide_told(observation, corrupted).logits

    @final
    def decide(self, observation: Observation) -> Decision:
        """Decide as if nobody were corrupted."""
        return self.decide_told(observation, torch.zeros_like(observation.observed))

    @final
    def surrogate(self, observation: Observation) -> Tensor:
        """The surrogate as if nobody were corrupted."""
        return self.surrogate_told(observation, torch.zeros_like(observation.observed))

    @final
    def told(self, corrupted: Tensor) -> FusionCenter:
        """This fusion center, told the `(n, agents)` corrupted agents of some samples.

        Only the harness knows them.
        """
        return _Told(self, corrupted)


@final
class _Told(PerSample):
    def __init__(self, center: OracleFusionCenter, corrupted: Tensor) -> None:
        super().__init__()
        self.center = center
        self.corrupted = corrupted
        self.samples_per_chunk = 2**62  # the pieces are cut here, with what is told

    @property
    def facts(self) -> dict[str, float | int | str]:
        return self.center.facts

    def narrowed(self, samples: Tensor) -> FusionCenter:
        return _Told(self.center, self.corrupted[samples])

    def samples_per_gradient(self, route: str) -> int:
        return self.center.samples_per_chunk

    def decide(self, observation: Observation) -> Decision:
        return joined(
            [self.center.decide_told(*part) for part in self._parts(observation)]
        )

    def surrogate(self, observation: Observation) -> Tensor:
        return torch.cat(
            [self.center.surrogate_told(*part) for part in self._parts(observation)]
        )

    def _parts(self, observation: Observation) -> list[tuple[Observation, Tensor]]:
        if len(observation) != len(self.corrupted):
            raise ContractError(
                f"{type(self.center).__name__}: expected the {len(self.corrupted)}"
                f" samples whose corrupted agents it was told, got {len(observation)}"
            )
        size = self.center.samples_per_chunk
        starts = range(0, max(1, len(observation)), size)
        pieces = [slice(at, at + size) for at in starts]
        return [(observation[piece], self.corrupted[piece]) for piece in pieces]
