"""Double masking: leave agents out, in two rounds, and trust the mask that fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    AgentLayout,
    Decision,
    FusionCenter,
    Observation,
    OptionError,
    Training,
    hookimpl,
)
from cibench.certify import (
    mask_unions,
    masked_decision,
    masking_certified,
    vote_counts,
    whole_subsets,
)

from .. import papers
from ._dropout_head import fit_dropout_head
from ._dropping import DROP_CHANCE
from ._votes import log_shares, mean_log_probability

#: Most bytes the working set of a batch may take.
_MEMORY = 256 * 2**20
#: Most unions of two masks that are asked for each sample.
_MOST = 5000


@final
class _DoubleMasking(FusionCenter):
    """The decision of two rounds of masking.

    Args:
        head: two linear layers; `(n, width)` features to logits.
        fill: `(width,)` what stands for a masked or missing block.
        unions: `(unions, agents)` booleans of `cibench.certify.mask_unions`.
        pairs: `(masks, masks)` positions among them.
    """

    fill: Tensor
    unions: Tensor
    pairs: Tensor

    def __init__(
        self, head: nn.Module, fill: Tensor, unions: Tensor, pairs: Tensor
    ) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("fill", fill)
        self.register_buffer("unions", unions)
        self.register_buffer("pairs", pairs)
        first, self.activation, last = head.children()
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self.first, self.last = first, last
        floats = 4 * len(unions) * (first.out_features + len(pairs))
        self.samples_per_chunk = max(1, _MEMORY // (4 * floats))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The masks, and how many corrupted agents the decision can outlast."""
        return {
            "masks": len(self.pairs),
            "answers": len(self.unions),
            "certifiable_corrupted_agents": int(self.unions[0].sum()),
        }

    def logits(self, observation: Observation, unions: Tensor) -> Tensor:
        """`(n, unions, classes)` answers of the head without the agents of each union."""
        layout, fill = observation.layout, self.fill.to(observation.features.dtype)
        away = observation.filled(fill) - fill
        weight, bias = self.first.weight.to(away), self.first.bias.to(away)
        # The first layer is linear: each agent's part is computed once. A missing agent's
        # is 0, and so is that of a masked one, whatever it sent.
        parts = torch.stack([away[:, s] @ weight[:, s].T for s in layout.slices], 1)
        kept = (~unions).to(parts.dtype).expand(len(parts), -1, -1)
        hidden = kept @ parts + (weight @ fill + bias)
        logits: Tensor = self.last(self.activation(hidden))
        return logits

    def answers(self, observation: Observation) -> Tensor:
        """`(n, unions)` classes; -1 with nobody left, but not where nobody was heard."""
        answers = self.logits(observation, self.unions).argmax(2)
        silenced = whole_subsets(observation.observed, self.unions).T
        nobody = ~observation.observed.any(dim=1, keepdim=True)
        return torch.where(silenced & ~nobody, -1, answers)

    def decide(self, observation: Observation) -> Decision:
        """Log shares of the first round; the decided class has as many votes more."""
        answers, classes = self.answers(observation), self.last.out_features
        decided = masked_decision(answers, self.pairs, classes)
        first = answers[:, self.pairs.diagonal()]
        counts = vote_counts(first.clamp_min(0), classes, first >= 0)
        counts += len(self.pairs) * nn.functional.one_hot(decided, classes)
        return Decision(logits=log_shares(counts, observation.features.dtype))

    def surrogate(self, observation: Observation) -> Tensor:
        """Log of the mean class probability over the masks of the first round."""
        logits = self.logits(observation, self.unions[self.pairs.diagonal()])
        return mean_log_probability(logits, torch.ones_like(logits[:, :, 0]).bool())

    def certify(self, observation: Observation, corrupted: int) -> Tensor:
        """`(n,)`: whether the decision stands for every set of corrupted agents.

        Args:
            observation: what was received.
            corrupted: agents, among those heard, that may send anything or nothing.
        """
        # Blocks that `forward` refuses count as missing here too.
        rejected = self(observation).rejected
        assert rejected is not None
        found = []
        for part in self._chunks(observation.without(rejected)):
            answers = self.answers(part)
            found.append(
                masking_certified(
                    answers, part.observed, self.unions, self.pairs, corrupted
                )
            )
        return torch.cat(found)


@final
@dataclass(frozen=True, kw_only=True)
class DoubleMasking(AbstractDefense):
    """Decide without each set of agents, and again without each two sets together.

    The sets, or masks, are all of a size. One of them covers the corrupted agents, and its
    answer stays whichever others are masked too; a mask whose answer so stays decides, and
    without any the majority of the first round. Where nobody heard is left there is no
    answer. If all answers for two masks agree,
    corrupted agents cannot change the decision: `certify` of the fitted fusion center says
    for which samples. The head is trained with dropped agents. Needs more redundancy than
    votes do, but its head sees nearly all agents.

    Args:
        masked: agents in a mask: how many corrupted ones it holds against; fewer than half
            of the agents.

    Source: Xiang, Mahloujifar and Mittal 2022 (PatchCleanser), with sets of agents for
        masks of pixels.
    """

    name: ClassVar[str] = "double-masking"
    citation: ClassVar[str] = (
        "Xiang, Mahloujifar, Mittal: PatchCleanser: certifiably robust defense against"
        " adversarial patches for any image classifier. USENIX Security 2022"
    )
    bibtex: ClassVar[str] = papers.PATCHCLEANSER

    masked: Annotated[int, Meta(ge=1)] = 1

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """Where no mask covers the corrupted agents, or two cover everybody."""
        if 2 * self.masked >= layout.agents:
            return f"two masks of {self.masked} leave none of {layout.agents} agents"
        if corrupted <= self.masked:
            return None
        return (
            f"no mask of {self.masked} agents covers {corrupted} corrupted ones; mask"
            f" {corrupted}"
        )

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the head with dropped agents.

        Raises:
            OptionError: two masks could hold all agents, or there are too many of them.
        """
        agents = training.layout.agents
        if 2 * self.masked >= agents:
            raise OptionError(
                f"masked: expected fewer than half of the {agents} agents of this data set,"
                f" got {self.masked}"
            )
        sizes = range(self.masked, 2 * self.masked + 1)
        answers = sum(math.comb(agents, size) for size in sizes)
        if answers > _MOST:
            raise OptionError(
                f"masked: expected at most {_MOST} unions of two masks, got {answers} for"
                f" {self.masked} of {agents} agents; mask fewer"
            )
        inner = fit_dropout_head(training, chance=DROP_CHANCE, generator=generator)
        unions, pairs = mask_unions(agents, self.masked)
        device = training.train.features.device
        return _DoubleMasking(
            inner.head, inner.fill, unions.to(device), pairs.to(device)
        )


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `double-masking`."""
    return [DoubleMasking]
