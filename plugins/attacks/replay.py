"""Replay: compromised agents send their blocks of a recorded sample of another class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import AbstractAttack, Criterion, Observation, Victim, hookimpl, project

from .. import papers
from ._best import Best
from ._descent import block_scale
from ._donors import Donors


@final
@dataclass(frozen=True, kw_only=True)
class Replay(AbstractAttack):
    """Send blocks that agents really sent once, for a training sample of another class.

    The corrupted blocks agree with one another and each is as plausible as a clean one:
    only the honest blocks can give them away. A recording is used if it holds the blocks
    of all compromised agents; a sample for which there is none stays clean.

    Args:
        agents: compromised agents.
        donor: `random`; `nearest`, the recording most like the sample in the honest
            blocks at `fusion` and in its own blocks at `oblivious`; `search`, the best of
            random ones (or the clean block) by the margin of the model it knows.
        knowledge: `oblivious` for `random`, also `fusion` for `nearest`; `search` asks
            the defense (`query`, `adaptive`) or the undefended fusion center (`fusion`).
        candidates: recordings that `search` tries.
        target: `any`, `other` (of two classes), or a class by name or index: the class
            of the recordings.
        count_target: count samples already labelled as the target, too, as the code
            released with the CoPur paper does.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm; none for no bound.

    Raises:
        ValueError: the knowledge is not what the choice of donors uses.
    """

    name: ClassVar[str] = "replay"
    citation: ClassVar[str] = "cf. Pang et al.: ADI. IEEE S&P 2023"
    bibtex: ClassVar[str] = papers.ADI

    donor: Literal["random", "nearest", "search"] = "random"
    knowledge: Literal["oblivious", "query", "fusion", "adaptive"] = "oblivious"
    candidates: Annotated[int, Meta(ge=1)] = 20
    target: str = "any"
    count_target: bool = False
    budget: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # A claim to know the defense would make the attack look adaptive in the record.
        used = {
            "random": ("oblivious",),
            "nearest": ("oblivious", "fusion"),
            "search": ("query", "fusion", "adaptive"),
        }[self.donor]
        if self.knowledge not in used:
            raise ValueError(
                f"knowledge: expected {' or '.join(used)} with donor={self.donor}, got"
                f" {self.knowledge}"
            )

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
        """Choose a donor for each sample and send its blocks."""
        recorded, labels = victim.recordings()
        donors = Donors(
            recorded=recorded,
            labels=labels,
            criterion=criterion,
            compromised=compromised,
        )
        if self.donor == "nearest":
            seen = compromised
            if self.knowledge == "fusion":
                honest = observation.observed & ~compromised
                alone = ~honest.any(dim=1, keepdim=True)
                seen = torch.where(alone, compromised, honest)
            chosen = donors.nearest(observation, seen, block_scale(recorded))
            return donors.sent(observation, chosen)
        if self.donor == "random":
            return donors.sent(observation, donors.drawn(1, generator)[0])
        best = Best(victim, criterion)
        best.offer(observation)
        for chosen in donors.drawn(self.candidates, generator):
            sent = donors.sent(observation, chosen)
            if radius is not None:
                bounded = project(sent.features, observation, radius)
                sent = sent.with_features(bounded)
            best.offer(sent)
        return best.result(observation)


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `replay`."""
    return [Replay]
