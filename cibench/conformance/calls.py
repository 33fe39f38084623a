"""Calls of an attack as the harness makes them, with what `run` itself gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._errors import EnvironmentFault, UsageError
from ..attack import AbstractAttack
from ..defense import FusionCenter
from ..observation import Observation
from ..threat import Criterion
from ..victim import Victim
from .check import NotApplicable
from .trial import CLASSES, AttackTrial, material


@dataclass(eq=False)
class Call:
    """One call of an attack: what it was given, and what came of it."""

    given: Observation
    criterion: Criterion
    compromised: Tensor
    radius: Tensor | None
    raw: Observation
    sent: Observation


def attacked(
    trial: AttackTrial,
    compromised: Tensor | None = None,
    *,
    clean: Observation | None = None,
    model: FusionCenter | None = None,
    plugin: AbstractAttack | None = None,
    victim: Callable[..., Victim] = Victim,
) -> Call:
    """Call an attack as the harness does, and keep what `run` itself gave."""
    attack = plugin or trial.plugin
    clean = trial.clean if clean is None else clean
    if compromised is None:
        compromised = compromise(clean, -1)
    model = model or trial.model
    train = material().training
    budget = attack.threat.budget
    norms = train.layout.block_norms(train.train.features).median(dim=0).values
    radius = None if budget is None else budget * norms
    criterion = goal_of(attack, trial.labels[: len(clean)])
    seen: list[Call] = []

    def spied(
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        raw = run_of_class(
            attack,
            victim,
            observation,
            criterion,
            compromised=compromised,
            radius=radius,
            generator=generator,
        )
        seen.append(Call(observation, criterion, compromised, radius, raw, raw))
        return raw

    # The base calls `run` of the object; one that looks like it keeps what it gave.
    run_of_class = type(attack).run
    spy = replace(attack)
    object.__setattr__(spy, "run", spied)
    try:
        sent = spy(
            victim(
                attack.threat.knowledge,
                undefended=model,
                defended=model,
                own=compromised & clean.observed,
                recorded=(train.train, train.train_labels),
            ),
            clean,
            criterion,
            compromised=compromised,
            radius=radius,
            generator=trial.generator(),
        )
    except (UsageError, EnvironmentFault) as error:
        raise NotApplicable(f"it needs more than its defaults: {error}") from error
    seen[0].sent = sent
    return seen[0]


def without_budget(attack: AbstractAttack) -> AbstractAttack:
    """The attack without a bound on its blocks."""
    if attack.threat.budget is None:
        return attack
    return replace(attack, budget=None)  # type: ignore[call-arg]


def goal_of(attack: AbstractAttack, labels: Tensor) -> Criterion:
    """The attack's goal on samples with these labels."""
    threat = attack.threat
    return Criterion.of(
        threat.target, labels, CLASSES, counts_target=threat.counts_target
    )


def compromise(clean: Observation, *agents: int) -> Tensor:
    """`(n, agents)` those agents, in every sample."""
    mask = torch.zeros_like(clean.observed)
    if agents:
        mask[:, list(agents)] = True
    return mask


def drawn_agents(clean: Observation) -> Tensor:
    """`(n, agents)` other compromised agents for each sample; none for some."""
    generator = torch.Generator().manual_seed(4)
    return torch.rand(clean.observed.shape, generator=generator) < 0.25


def equal(one: Tensor, other: Tensor) -> Tensor:
    """Elementwise, where NaN equals itself."""
    return (one == other) | (one.isnan() & other.isnan())
