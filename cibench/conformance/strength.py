"""What makes an attack strong: its budget, its best find, its aim, more than noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..defense import SURROGATE, Decision, FusionCenter
from ..observation import Observation
from ..references import predictions
from ..threat import Criterion, Knowledge
from ..victim import Victim
from .calls import attacked, compromise, equal, goal_of, without_budget
from .check import NotApplicable, check, expect
from .trial import CLASSES, AttackTrial, answered


@check(
    "attack",
    why="solvers and rounding leave defenses without a usable gradient; an attack that"
    " then sends NaN counts as a missing agent.",
    mend="guard what divides by a norm, and replace non-finite gradients, as with"
    " gradient.nan_to_num(0).",
)
def check_bad_gradients(trial: AttackTrial) -> None:
    """Zero and non-finite gradients neither crash it nor make it send what they are."""
    deliberately = attacked(trial).raw
    own = trial.clean.layout.owner == trial.clean.layout.agents - 1
    if not deliberately.features[:, own].isfinite().all():
        raise NotApplicable("it sends non-finite values on purpose")
    for value in (0.0, torch.nan, torch.inf):
        sent = attacked(trial, model=_BadGradient(trial.model, value)).sent
        expect(
            bool(sent.features.isfinite().all()),
            f"finite features where gradients are {value}",
            "others",
        )


class _Spoilt(torch.autograd.Function):
    """The identity; its gradient is a value where asked for."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, hit: Tensor, value: float) -> Tensor:
        ctx.hit, ctx.value = hit, value
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.where(ctx.hit, ctx.value, gradients[0]), None, None


class _BadGradient(FusionCenter):
    """The same answers; gradients of one value for every other sample."""

    def __init__(self, inner: FusionCenter, value: float) -> None:
        super().__init__()
        self.inner = inner
        self.value = value

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation)

    def surrogate(self, observation: Observation) -> Tensor:
        logits = self.inner.surrogate(observation)
        if logits.requires_grad:
            hit = torch.zeros(len(logits), 1, dtype=torch.bool)
            hit[::2] = True
            spoilt: Tensor = _Spoilt.apply(logits, hit, self.value)  # type: ignore[no-untyped-call]
            return spoilt
        return logits


@check(
    "attack",
    why="a row's budget is what readers compare; the harness shrinks what exceeds it, and"
    " what is left is not what the attack had found.",
    mend="project each iterate with cibench.project(features, observation, radius).",
)
def check_budget(trial: AttackTrial) -> None:
    """With a budget, what `run` returns lies within it."""
    fields = {f.name for f in dataclasses.fields(trial.plugin)}
    if "budget" not in fields:
        raise NotApplicable("it has no budget")
    if trial.plugin.threat.knowledge is Knowledge.OBLIVIOUS:
        raise NotApplicable("it looks at no model; the harness projects what it sends")
    for budget in (0.05, 0.6):
        try:
            limited = replace(trial.plugin, budget=budget)  # type: ignore[call-arg]
        except ValueError as error:
            raise NotApplicable(f"no budget with its other options: {error}") from error
        call = attacked(trial, plugin=limited)
        assert call.radius is not None
        change = torch.where(
            call.given.layout.expand(call.compromised & call.raw.observed),
            call.raw.features - trial.clean.features,
            0.0,
        )
        norms = call.given.layout.block_norms(change)
        expect(
            bool((norms <= call.radius * (1 + 1e-3)).all()),
            f"block changes of norm at most {call.radius[-1]:.4g} at budget={budget}",
            f"up to {norms.max():.4g}",
        )


class _Witnessing(Victim):
    """Notes which samples a legal point brought to fall that the attack looked at."""

    def __init__(self, level: Knowledge, *, call: _Goal, **named: Any) -> None:
        super().__init__(level, **named)
        self.call = call

    def logits(self, observation: Observation) -> Tensor:
        found = super().logits(observation)
        self.call.look(observation, found)
        return found

    def loss_gradient(
        self,
        observation: Observation,
        loss: Callable[[Tensor], Tensor],
        *,
        route: str = SURROGATE,
    ) -> tuple[Tensor, Tensor]:
        found = super().loss_gradient(observation, loss, route=route)
        self.call.look(observation, found[1])
        return found


class _Goal:
    """The goal of one call, and who was seen to fall."""

    def __init__(
        self, clean: Observation, compromised: Tensor, goal: Criterion
    ) -> None:
        self.clean = clean
        self.own = clean.layout.expand(compromised)
        self.goal = goal
        self.fell = torch.zeros(len(clean), dtype=torch.bool)

    def look(self, observation: Observation, logits: Tensor) -> None:
        if len(observation) != len(self.clean):
            return
        legal = (self.own | equal(observation.features, self.clean.features)).all(1)
        legal &= (observation.observed == self.clean.observed).all(dim=1)
        self.fell |= legal & (self.goal.margin(logits) < 0)


@check(
    "attack",
    why="descents pass through success and leave it; the last iterate then makes a defense"
    " look better than the attack knows it to be.",
    mend="keep the iterate with the smallest criterion.margin(logits) for each sample, the"
    " last one included, over all restarts, and return that.",
)
def check_keeps_its_best(trial: AttackTrial) -> None:
    """Whoever it saw fall, falls: no legal iterate was better than what it returns."""
    if trial.plugin.threat.knowledge is Knowledge.OBLIVIOUS:
        raise NotApplicable("it knows no model")
    for model in (trial.model, _Rippled(trial.clean.layout.width)):
        for agents in ((0,), (2, 5), (1, 3, 4)):
            mask = compromise(trial.clean, *agents)
            goal = _Goal(trial.clean, mask, goal_of(trial.plugin, trial.labels))
            call = attacked(
                trial,
                mask,
                model=model,
                plugin=without_budget(trial.plugin),
                victim=partial(_Witnessing, call=goal),
            )
            margin = goal.goal.margin(answered(model, call.sent).logits)
            lost = goal.fell & (margin > 1e-4)
            expect(
                not lost.any(),
                "each sample to fall that an iterate had brought to fall",
                f"{int(lost.sum())} of {int(goal.fell.sum())} that stand again",
            )


class _Rippled(FusionCenter):
    """Decides otherwise every few tenths of a unit: who goes on loses what he had."""

    def __init__(self, width: int) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(2)
        self.register_buffer(
            "waves", torch.randn((width, len(CLASSES)), generator=drawn)
        )

    def decide(self, observation: Observation) -> Decision:
        waves = self.waves
        assert isinstance(waves, Tensor)
        return Decision(logits=torch.sin(3 * observation.filled(0.0) @ waves))


@check(
    "attack",
    why="an attack that helps is listed as one that a defense withstands; most often a sign"
    " is wrong.",
    mend="compare criterion.margin of undefended logits before and after; an attack that is"
    " meant to do nothing sets may_corrupt and may_drop to false.",
)
def check_does_harm(trial: AttackTrial) -> None:
    """Undefended decisions come nearer to the adversary's goal, on average."""
    if not (trial.plugin.may_corrupt or trial.plugin.may_drop):
        raise NotApplicable("it declares that it changes nothing")
    before = _margins(trial, goal_of(trial.plugin, trial.labels), trial.clean)
    after = []
    for agent in range(trial.clean.layout.agents):
        call = attacked(trial, compromise(trial.clean, agent))
        after.append(_margins(trial, call.criterion, call.sent))
    expect(
        bool(torch.stack(after).mean() < before.mean()),
        f"a mean logit margin below the {before.mean():.3g} without attack",
        f"{torch.stack(after).mean():.3g}",
    )


@check(
    "attack",
    why="an attack that knows a model and does no better than noise says nothing of a"
    " defense; most often a sign, an index or a loss is wrong.",
    mend="let it lower criterion.margin(logits), which is negative at success; compare"
    " with the attack gaussian at the same budget.",
)
def check_beats_noise(trial: AttackTrial) -> None:
    """At equal size it breaks more undefended decisions than random noise does."""
    attack = trial.plugin
    if attack.threat.knowledge is Knowledge.OBLIVIOUS:
        raise NotApplicable("it knows no model")
    for agents in ((5,), (1, 4)):
        mask = compromise(trial.clean, *agents)
        call = attacked(trial, mask)
        own = trial.clean.layout.expand(mask)
        change = torch.where(own, call.sent.features - trial.clean.features, 0.0)
        size = trial.clean.layout.block_norms(change)
        noise = torch.randn(change.shape, generator=trial.generator())
        drawn = trial.clean.layout.block_norms(noise).clamp_min(1e-12)
        scaled = noise * trial.clean.layout.expand(size / drawn)
        by_noise = trial.clean.features + torch.where(own, scaled, 0.0)
        theirs = _margins(trial, call.criterion, trial.clean.with_features(by_noise))
        ours = _margins(trial, call.criterion, call.sent)
        before = _margins(trial, call.criterion, trial.clean)
        expect(
            bool(ours.mean() < before.mean()),
            "a smaller mean logit margin than without attack",
            f"{ours.mean():.3g} after {before.mean():.3g}",
        )
        expect(
            bool((ours <= theirs + 1e-4).double().mean() >= 0.5),
            "a smaller logit margin than random noise of the same size leaves, for most"
            " samples",
            f"for {100 * float((ours <= theirs + 1e-4).double().mean()):.0f} % of them",
        )
        broken = int((ours < 0).sum()), int((theirs < 0).sum())
        expect(
            broken[0] >= broken[1],
            f"at least the {broken[1]} decisions that noise breaks",
            f"{broken[0]} of {len(ours)}",
        )


@check(
    "attack",
    why="a target that is not aimed at makes a targeted row an untargeted one.",
    mend="take the goal from `criterion`: margin and cross_entropy follow its target.",
)
def check_aims_at_its_target(trial: AttackTrial) -> None:
    """With a target class more decisions become that class than without attack."""
    fields = {f.name for f in dataclasses.fields(trial.plugin)}
    if trial.plugin.threat.knowledge is Knowledge.OBLIVIOUS or "target" not in fields:
        raise NotApplicable("it knows no model or has no target")
    mask = compromise(trial.clean, 1, 3, 4)
    plain = replace(trial.plugin, target="any")  # type: ignore[call-arg]
    by_chance = answered(trial.model, attacked(trial, mask, plugin=plain).sent)
    aimed_at, hits, reached = 0, 0, 0
    for target in range(len(CLASSES)):
        aimed = replace(trial.plugin, target=str(target))  # type: ignore[call-arg]
        sent = attacked(trial, mask, plugin=aimed).sent
        others = trial.labels != target
        aimed_at += int(others.sum())
        hits += int((predictions(answered(trial.model, sent)) == target)[others].sum())
        reached += int((predictions(by_chance) == target)[others].sum())
    expect(
        hits > reached,
        f"more decisions for the target than the {reached} of {aimed_at} that the attack"
        " without a target brings there",
        f"{hits}",
    )


def _margins(trial: AttackTrial, goal: Criterion, sent: Observation) -> Tensor:
    return goal.margin(answered(trial.model, sent).logits)
