"""A scenario: test embeddings, an attack and the sets of agents it controls.

The harness draws the agents, from a seed that excludes the defense, so that every defense
meets the same ones, unless their rule is to search for them; it resolves budgets, runs the
attack and re-checks what comes back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._errors import ThreatModelError, UsageError
from .attack import AbstractAttack
from .audit import audit as audit
from .defense import FusionCenter
from .layout import AgentLayout
from .observation import Observation
from .seeds import scoped_generator
from .threat import Criterion, Knowledge
from .victim import Victim
from .watch import Watch


@dataclass(frozen=True, eq=False)
class Draw:
    """The agents one run of the attack controls.

    Args:
        masks: `(n, agents)` booleans, one per part of the attack.
        sets: the agents of each part; None where they differ between samples.
    """

    masks: tuple[Tensor, ...]
    sets: tuple[tuple[int, ...] | None, ...]

    @property
    def compromised(self) -> Tensor:
        """`(n, agents)` agents compromised by any part."""
        return torch.stack(self.masks).any(dim=0)


@dataclass(frozen=True)
class Cost:
    """Samples an attack queried and differentiated, and gradients of no use."""

    queries: int = 0
    gradients: int = 0
    unusable: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.queries + other.queries,
            self.gradients + other.gradients,
            self.unusable + other.unusable,
        )


@dataclass(frozen=True, eq=False)
class Scenario:
    """What every defense of a comparison meets.

    Args:
        clean: the clean test embeddings.
        labels: `(n,)` true classes.
        attack: the parts of the attack, in order.
        specs: their canonical specs, which seed their randomness.
        median_norms: `(agents,)` median clean block norm on the training split.
        class_names: names of the classes.
        dataset: canonical spec of the data set, for seeds.
        seed: the repetition's base seed.
        recorded: clean training embeddings and labels, for attacks that replay them.
    """

    clean: Observation
    labels: Tensor
    attack: tuple[AbstractAttack, ...]
    specs: tuple[str, ...]
    median_norms: Tensor
    class_names: tuple[str, ...]
    dataset: str
    seed: int
    recorded: tuple[Observation, Tensor] | None = None

    @property
    def criterion(self) -> Criterion:
        """The adversary's goal: that of the part that has a target, if one has."""
        targeted = [a.threat for a in self.attack if a.threat.target != "any"]
        return Criterion.of(
            targeted[0].target if targeted else "any",
            self.labels,
            self.class_names,
            counts_target=any(threat.counts_target for threat in targeted),
        )

    @property
    def reads_defense(self) -> bool:
        """Whether what the attack sends can depend on the defense."""
        knowing = (Knowledge.ADAPTIVE, Knowledge.QUERY)
        return any(attack.threat.knowledge in knowing for attack in self.attack)

    def radius(self, part: int) -> Tensor | None:
        """`(agents,)` largest change of a block allowed to a part, or None."""
        budget = self.attack[part].threat.budget
        return None if budget is None else budget * self.median_norms

    @property
    def searched(self) -> int | None:
        """The part whose agents are searched for; None if there is none."""
        rules = [attack.threat.agents for attack in self.attack]
        return next((at for at, rule in enumerate(rules) if rule.is_searched), None)

    def candidates(self) -> tuple[int, ...]:
        """Agents that a search may choose: those of no other part, in any sample.

        Raises:
            ThreatModelError: there are fewer than it is to choose.
        """
        assert self.searched is not None
        rule = self.attack[self.searched].threat.agents
        taken = torch.zeros_like(self.clean.observed)
        for part in range(len(self.attack)):
            if part != self.searched:
                for _, mask in self._masks(part):
                    taken |= mask
        free = (~taken.any(dim=0)).nonzero().flatten().tolist()
        count = rule.count(self.clean.layout)
        if len(free) < count:
            raise ThreatModelError(
                f"composed attack: expected {count} agents for agents={rule.rule} that no"
                f" other part compromises in any sample, got {len(free)}"
            )
        return tuple(free)

    def of(self, samples: Tensor) -> Scenario:
        """The scenario on some of its samples."""
        return replace(self, clean=self.clean[samples], labels=self.labels[samples])

    def misfit(self) -> UsageError | None:
        """Why the attack does not fit the data set, or None if it does."""
        try:
            for attack in self.attack:
                attack.threat.agents.check(self.clean.layout)
            next(self.draws(None if self.searched is None else self.candidates()))
            if self.criterion.eligible.any():
                return None
        except UsageError as error:
            return error
        return UsageError(
            f"attack {'+'.join(self.specs)}: expected a test sample whose label is not"
            f" the target, got none in {self.dataset}"
        )

    def _masks(
        self, part: int, found: Sequence[int] | None = None
    ) -> list[tuple[tuple[int, ...] | None, Tensor]]:
        rule = self.attack[part].threat.agents
        generator = scoped_generator(
            self.seed,
            draw="agents",
            dataset=self.dataset,
            rule=rule.rule,
            part=str(part),
        )
        masks = rule.masks(self.clean.layout, len(self.clean), generator, found)
        device = self.clean.features.device
        return [(agents, mask.to(device)) for agents, mask in masks]

    def draws(self, found: Sequence[int] | None = None) -> Iterator[Draw]:
        """The agents of each run: one draw, or every set of a `worst:q` part.

        Args:
            found: the agents of the part that searches for them.

        Raises:
            ThreatModelError: no set leaves the parts disjoint, or a part searches for
                its agents and `found` is None.
        """
        choices = [self._masks(part, found) for part in range(len(self.attack))]
        disjoint = False
        for combination in itertools.product(*choices):
            chosen = tuple(mask for _, mask in combination)
            overlap = torch.stack(chosen).sum(dim=0) > 1
            if overlap.any():
                continue
            disjoint = True
            yield Draw(chosen, tuple(agents for agents, _ in combination))
        if not disjoint:
            raise ThreatModelError(
                "composed attack: expected parts with different agents (none is both"
                " missing and corrupted), got an agent in two parts"
            )

    def run(
        self,
        draw: Draw,
        *,
        undefended: FusionCenter,
        defended: FusionCenter,
        watches: list[Watch] | None = None,
    ) -> tuple[Observation, Cost]:
        """Run every part of the attack on the clean embeddings and audit the result.

        Args:
            watches: takes one watch of each part, if given.

        Returns:
            What the fusion center receives, and what the attack asked for.

        Raises:
            ContractError: the result exceeds the threat model.
        """
        current, cost = self.clean, Cost()
        for part, (attack, mask) in enumerate(
            zip(self.attack, draw.masks, strict=True)
        ):
            own, threat = mask & current.observed, attack.threat
            watch = Watch(
                current,
                self.criterion,
                own,
                self.radius(part),
                may_corrupt=threat.may_corrupt,
                may_drop=threat.may_drop,
            )
            if watches is not None:
                watches.append(watch)
            victim = Victim(
                threat.knowledge,
                undefended=undefended,
                defended=defended,
                own=own,
                recorded=self.recorded,
                watch=None if watches is None else watch,
            )
            before = current
            current = attack(
                victim,
                current,
                self.criterion,
                compromised=mask,
                radius=self.radius(part),
                generator=scoped_generator(
                    self.seed,
                    draw="attack",
                    dataset=self.dataset,
                    attack=self.specs[part],
                    sets=str(draw.sets),
                ),
            )
            cost = cost + Cost(victim.queries, victim.gradients, victim.unusable)
            audit(before, current, mask, self.radius(part), attack)
        return current, cost


def set_names(layout: AgentLayout, agents: Sequence[int] | None) -> list[str]:
    """Names of the agents of a set."""
    return [] if agents is None else [layout.names[i] for i in agents]
