"""Randomized ablation: a vote of one base model over subsets of the agents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    fusion_head,
    hookimpl,
)
from cibench.certify import (
    all_subsets,
    drawn_subsets,
    infeasible,
    largest_certifiable,
    setwise_certified,
    vote_counts,
    whole_subsets,
)

from .. import papers
from ._random_inputs import fit_on_random_inputs
from ._votes import log_shares, mean_log_probability

#: Most bytes the working set of a batch may take.
_MEMORY = 256 * 2**20
#: Random subsets of each validation sample that the base model is selected by.
_VALIDATION_DRAWS = 4


@final
class _Ablation(FusionCenter):
    """The vote of a base model over the given subsets.

    Args:
        base: two linear layers; `(n, width + agents)` masked features and mask to logits.
        members: `(subsets, agents)` booleans; each subset has `keep` agents.
    """

    members: Tensor

    def __init__(self, base: nn.Module, members: Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("members", members)
        first, self.activation, self.last = base.children()
        assert isinstance(first, nn.Linear)
        self.first = first
        floats = 4 * (1 + len(members)) * first.out_features
        self.samples_per_chunk = max(1, _MEMORY // (4 * floats))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """How many subsets vote, and how many corrupted agents a vote can outlast."""
        subsets, agents = self.members.shape
        size = int(self.members[0].sum())
        complete = subsets == math.comb(agents, size)
        return {
            "subsets": "all" if complete else "drawn",
            "votes": subsets,
            "certifiable_corrupted_agents": largest_certifiable(agents, size),
        }

    def logits(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Answers of the base model on each subset and, last, on all agents heard.

        Returns:
            `(n, subsets + 1, classes)` logits and `(n, subsets + 1)` booleans: the subsets
            that vote. The last one does where no subset is heard as a whole.
        """
        layout, observed = observation.layout, observation.observed
        values = observation.filled(0.0)
        weight = self.first.weight.to(values.dtype)
        of_mask = weight[:, layout.width :].T
        # The first layer is linear: each agent's part is computed once, and a subset's
        # input to the next layer is the sum over its agents.
        parts = torch.stack([values[:, s] @ weight[:, s].T for s in layout.slices], 1)
        parts = parts + of_mask
        subsets = self.members.expand(len(values), -1, -1)
        agents = torch.cat([subsets, observed[:, None]], dim=1).to(values.dtype)
        hidden = agents @ parts + self.first.bias.to(values.dtype)
        votes = whole_subsets(self.members, observed)
        votes = torch.cat([votes, ~votes.any(dim=1, keepdim=True)], dim=1)
        return self.last(self.activation(hidden)), votes

    def decide(self, observation: Observation) -> Decision:
        """The majority; logits are log shares of the votes, half a vote added to each."""
        logits, counted = self.logits(observation)
        counts = vote_counts(logits.argmax(2), logits.shape[2], counted)
        return Decision(logits=log_shares(counts, logits.dtype))

    def surrogate(self, observation: Observation) -> Tensor:
        """Log of the mean class probability over the subsets that vote."""
        return mean_log_probability(*self.logits(observation))

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """What the subsets lack to vote for each class."""
        return {"votes": self.votes}

    def votes(self, observation: Observation) -> Tensor:
        """`(n, classes)` minus what the subsets' margins lack for a vote, on average.

        A subset that votes for a class lacks nothing, so that an adversary who raises a
        class works on the subsets it has not won, and no softmax saturates.
        """
        logits, counted = self.logits(observation)
        first, second = logits.topk(2, dim=2).values.unbind(dim=2)
        best = first[:, :, None]
        other = torch.where(logits == best, second[:, :, None], best)
        lacking = (other - logits).clamp_min(0.0)
        weight = counted / counted.sum(dim=1, keepdim=True)
        return -(lacking * weight[:, :, None].to(lacking)).sum(dim=1)

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
            logits, counted = self.logits(part)
            # A vote on all agents heard is anyone's.
            everyone = part.observed.new_ones((1, part.layout.agents))
            members = torch.cat([self.members, everyone])
            found.append(
                setwise_certified(
                    logits.argmax(2), members, counted, corrupted, logits.shape[2]
                )
            )
        return torch.cat(found)


@final
@dataclass(frozen=True, kw_only=True)
class RandomizedAblation(AbstractDefense):
    """Let a model that sees a few agents vote over all choices of agents.

    A corrupted agent reaches only the votes of subsets it is in, so the majority stands
    whatever it sends if its lead is large enough: `certify` of the fitted fusion center
    says for which samples. Only subsets that are heard as a whole vote; where there is
    none, the model decides once on all agents heard.

    Args:
        keep: agents in a subset. With 10 agents, a unanimous vote outlasts two corrupted
            ones for 2, one for 3 or 4.
        subsets: most subsets that vote: all of that size if there are no more, else so
            many distinct ones drawn when fitting. The certificate is exact for either.

    Source: Levine and Feizi 2020, over blocks instead of pixels, and enumerated.
    """

    name: ClassVar[str] = "randomized-ablation"
    citation: ClassVar[str] = (
        "Levine, Feizi: Robustness certificates for sparse adversarial attacks by"
        " randomized ablation. AAAI 2020"
    )
    bibtex: ClassVar[str] = papers.LEVINE

    keep: Annotated[int, Meta(ge=1)] = 2
    subsets: Annotated[int, Meta(ge=1)] = 1000

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """Where corrupted agents are in most subsets, if all subsets vote."""
        agents, honest = layout.agents, max(0, layout.agents - corrupted)
        if self.keep >= agents:
            return f"subsets of {self.keep} hold all {agents} agents"
        total, clean = math.comb(agents, self.keep), math.comb(honest, self.keep)
        # At a tie the first class still wins: that is left to the votes.
        if total > self.subsets or 2 * clean >= total:
            return None
        return infeasible(agents, self.keep, corrupted)

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the base model on a fresh random subset per sample and step.

        Raises:
            OptionError: subsets would hold all agents.
        """
        agents = training.layout.agents
        if self.keep >= agents:
            raise OptionError(
                f"keep: expected fewer agents than the {agents} of this data set, got"
                f" {self.keep}"
            )
        if math.comb(agents, self.keep) <= self.subsets:
            members = all_subsets(agents, self.keep)
        else:
            members = drawn_subsets(agents, self.keep, self.subsets, generator)
        base = _fit_base(training, self.keep, generator)
        return _Ablation(base, members.to(training.train.features.device))


def _fit_base(training: Training, keep: int, generator: torch.Generator) -> nn.Module:
    """The recipe's head on masked features and mask, trained on random subsets."""
    recipe, train = training.recipe, training.train
    layout = training.layout
    base = fusion_head(
        layout.width + layout.agents, training.classes, recipe, generator
    )
    base.to(train.features)
    held_out = [
        _random_input(training.validation, keep, generator)
        for _ in range(_VALIDATION_DRAWS)
    ]

    def draw(indices: Tensor) -> Tensor:
        return _random_input(train[indices], keep, generator)

    label = "ablation base model"
    return fit_on_random_inputs(
        training, base, draw, held_out, label=label, generator=generator
    )


def _random_input(
    observation: Observation, keep: int, generator: torch.Generator
) -> Tensor:
    """Keep random agents among those observed: `[masked features; mask]`.

    Zero stands for an absent block; the mask tells it from a block of zeros, which is
    needed because nothing bounds the features.
    """
    observed = observation.observed
    scores = torch.rand(observed.shape, generator=generator).to(observed.device)
    chosen = scores.masked_fill(~observed, 2.0).argsort(dim=1)[:, :keep]
    kept = torch.zeros_like(observed).scatter(1, chosen, value=True) & observed
    values = replace(observation, observed=kept).filled(0.0)
    return torch.cat([values, kept.to(values.dtype)], dim=1)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `randomized-ablation`."""
    return [RandomizedAblation]
