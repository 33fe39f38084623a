"""Partition vote: each group of agents decides alone, and the groups vote."""

from __future__ import annotations

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
    fusion_head,
    hookimpl,
)
from cibench.certify import partition_certified, vote_counts

from .. import papers
from ._dropping import DROP_CHANCE
from ._random_inputs import fit_on_random_inputs
from ._votes import log_shares, mean_log_probability


@final
class _Groups(nn.Module):
    """One head for each group of agents; agent i is in group i modulo their number.

    Args:
        heads: for each group `(n, its columns + its agents)` to `(n, classes)` logits.
        layout: the agents' blocks.
    """

    def __init__(self, heads: list[nn.Module], layout: AgentLayout) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.layout = layout

    def columns(self, group: int) -> tuple[list[int], list[int]]:
        """A group's feature columns, and its agents."""
        agents = list(range(group, self.layout.agents, len(self.heads)))
        owned = [range(*self.layout.slices[i].indices(2**62)) for i in agents]
        return [column for block in owned for column in block], agents

    def forward(self, values: Tensor) -> Tensor:
        """`(n, width + agents)` masked features and mask to `(n, groups, classes)` logits.

        Zeros for a group of which nobody was heard: no loss, no derivative.
        """
        found = []
        for group, head in enumerate(self.heads):
            columns, agents = self.columns(group)
            bits = [self.layout.width + i for i in agents]
            logits = head(values[:, columns + bits])
            heard = values[:, bits].any(dim=1, keepdim=True)
            found.append(torch.where(heard, logits, 0.0))
        return torch.stack(found, dim=1)

    def heard(self, observed: Tensor) -> Tensor:
        """`(n, groups)`: of which groups somebody was heard."""
        groups = range(len(self.heads))
        return torch.stack(
            [observed[:, g :: len(self.heads)].any(dim=1) for g in groups], dim=1
        )


@final
class _Partition(FusionCenter):
    """The vote of the groups."""

    def __init__(self, groups: _Groups) -> None:
        super().__init__()
        self.groups = groups

    @property
    def facts(self) -> dict[str, float | int | str]:
        """How many groups vote, and how many corrupted agents a vote can outlast."""
        votes = len(self.groups.heads)
        return {"votes": votes, "certifiable_corrupted_agents": (votes - 1) // 2}

    def logits(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """`(n, groups, classes)` answers and `(n, groups)`: the groups that vote."""
        logits: Tensor = self.groups(_inputs(observation, observation.observed))
        return logits, self.groups.heard(observation.observed)

    def decide(self, observation: Observation) -> Decision:
        """The majority; logits are log shares of the votes, half a vote added to each."""
        logits, counted = self.logits(observation)
        counts = vote_counts(logits.argmax(2), logits.shape[2], counted)
        return Decision(logits=log_shares(counts, logits.dtype))

    def surrogate(self, observation: Observation) -> Tensor:
        """Log of the mean class probability over the groups that vote."""
        logits, counted = self.logits(observation)
        nobody = ~counted.any(dim=1, keepdim=True)
        return mean_log_probability(logits, counted | nobody)

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
            votes, classes = logits.argmax(2), logits.shape[2]
            found.append(partition_certified(votes, counted, corrupted, classes))
        return torch.cat(found)


@final
@dataclass(frozen=True, kw_only=True)
class PartitionVote(AbstractDefense):
    """Let disjoint groups of agents decide alone, each with a head of its own, and vote.

    A corrupted agent reaches the vote of its own group and no other: with G groups a
    unanimous vote outlasts fewer than G / 2 corrupted agents, whatever they send. The price
    is that no head sees more than its group. `certify` of the fitted fusion center says for
    which samples the vote stands. A group votes as long as one of its agents is heard;
    without any the answer is the first class.

    Args:
        groups: number of groups, agent i in group i modulo that number; none for one of
            each agent.

    Source: Hammoudeh and Lowd 2024 (feature partition aggregation), with agents as
        features.
    """

    name: ClassVar[str] = "partition-vote"
    citation: ClassVar[str] = (
        "Hammoudeh, Lowd: Provable robustness against a union of l0 adversarial attacks."
        " AAAI 2024"
    )
    bibtex: ClassVar[str] = papers.FPA

    groups: Annotated[int, Meta(ge=2)] | None = None

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """Where corrupted agents turn more than half of the votes."""
        groups = layout.agents if self.groups is None else self.groups
        # At a tie the first class still wins: that is left to the votes.
        if 2 * corrupted <= groups:
            return None
        return f"{corrupted} corrupted agents turn as many of {groups} votes"

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the heads, agents of a group dropped by chance but never all.

        Raises:
            OptionError: there are more groups than agents.
        """
        layout, recipe = training.layout, training.recipe
        groups = layout.agents if self.groups is None else self.groups
        if groups > layout.agents:
            raise OptionError(
                f"groups: expected at most the {layout.agents} agents of this data set, got"
                f" {groups}"
            )
        widths = [
            sum(layout.widths[i] + 1 for i in range(group, layout.agents, groups))
            for group in range(groups)
        ]
        heads = [fusion_head(w, training.classes, recipe, generator) for w in widths]
        model = _Groups(heads, layout).to(training.train.features)

        def masked(observation: Observation) -> Tensor:
            return _inputs(
                observation, _dropped(observation.observed, groups, generator)
            )

        clean = training.validation
        fit_on_random_inputs(
            training,
            model,
            lambda indices: masked(training.train[indices]),
            [_inputs(clean, clean.observed), masked(clean)],
            label=f"partition heads {groups}",
            generator=generator,
            criterion=_loss,
        )
        return _Partition(model)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of all groups."""
    repeated = labels[:, None].expand(logits.shape[:2])
    return nn.functional.cross_entropy(logits.flatten(0, 1), repeated.flatten())


def _inputs(observation: Observation, heard: Tensor) -> Tensor:
    """`(n, width + agents)`: features, zero unless `heard`, and that mask.

    The mask tells an absent block from a block of zeros: nothing bounds the features.
    """
    known = observation.layout.expand(heard)
    values = torch.where(known, observation.filled(0.0), 0.0)
    return torch.cat([values, heard.to(values.dtype)], dim=1)


def _dropped(observed: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """`(n, agents)` agents kept: of each group some of those heard, all of a lone one."""
    drawn = torch.rand(observed.shape, generator=generator).to(observed.device)
    kept = observed & (drawn >= DROP_CHANCE)
    for group in range(groups):
        empty = ~kept[:, group::groups].any(dim=1, keepdim=True)
        kept[:, group::groups] |= empty & observed[:, group::groups]
    return kept


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `partition-vote`."""
    return [PartitionVote]
