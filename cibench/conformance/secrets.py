"""What a defense and an attack must not know: labels, who is compromised, clean features.

Python hides nothing: a plugin can look at its callers. So cells are run twice through the
harness itself with the same input for the plugin and other secrets around it; whoever
answers otherwise has looked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from ..attack import AbstractAttack
from ..dataset import Split
from ..defense import Decision, FusionCenter
from ..evaluate import evaluate
from ..observation import Observation
from ..oracle import OracleFusionCenter
from ..references import refer
from ..scenario import Draw, Scenario
from ..threat import Criterion, Knowledge
from ..victim import Victim
from .check import check, expect
from .compare import expect_same, same_bits
from .trial import (
    CLASSES,
    AttackTrial,
    DefenseTrial,
    answered,
    generated,
    material,
)

_SENT: list[Observation] = []


@final
@dataclass(frozen=True, kw_only=True)
class _Sender(AbstractAttack):
    """Sends what the check decided on."""

    name: ClassVar[str] = "conformance"
    may_drop: ClassVar[bool] = True

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
        """Return it."""
        return _SENT[0]


def _scenario(
    clean: Observation, labels: Tensor, attack: AbstractAttack, train: Observation
) -> Scenario:
    own = material()
    norms = train.layout.block_norms(train.features)
    return Scenario(
        clean=clean,
        labels=labels,
        attack=(attack,),
        specs=(attack.name,),
        median_norms=norms.median(dim=0).values,
        class_names=CLASSES,
        dataset="conformance",
        seed=0,
        recorded=(train, own.training.train_labels),
    )


@check(
    "defense",
    why="a deployed fusion center has features and a mask, nothing else; one that finds"
    " the labels, the clean features or the list of compromised agents in the harness"
    " measures the harness.",
    mend="decide from the observation that `decide` is given; to show what such knowledge"
    " is worth, return an OracleFusionCenter and declare needs_corrupted_agents=True.",
)
def check_knows_only_what_arrived(trial: DefenseTrial) -> None:
    """Other labels, other clean features and other culprits change no decision."""
    told = trial.plugin.capabilities.needs_corrupted_agents
    own = material()
    clean, labels = own.clean, own.labels
    layout = clean.layout
    noise = torch.randn(
        clean.features.shape, generator=torch.Generator().manual_seed(1)
    )
    sent = clean.with_features(clean.features + 0.3 * noise)
    found = []
    for secret in range(2):
        # The culprits are no secret to an oracle.
        agent = layout.agents - 1 if secret or told else 0
        drawn = torch.randn(
            clean.features.shape, generator=torch.Generator().manual_seed(2 + secret)
        )
        apart = torch.where(layout.owner == agent, 3.0 * drawn, sent.features)
        truth = labels if not secret else (labels + 1) % len(CLASSES)
        attack = _Sender(agents=str(agent + 1))
        scenario = _scenario(
            clean.with_features(apart), truth, attack, own.training.train
        )
        _SENT[:] = [sent]
        bare = own.training.undefended
        center = trial.center()
        watched: _Watched | _WatchedOracle = (
            _WatchedOracle(center)
            if isinstance(center, OracleFusionCenter)
            else _Watched(center)
        )
        evaluate(
            scenario,
            refer(scenario, bare),
            trial.plugin,
            own.training,
            fusion_center=watched,
        )
        found.append(watched.last)
    expect_same(
        found[0],
        found[1],
        "on the same input whatever labels, clean features and compromised agents are",
    )


@check(
    "defense",
    why="accuracies are of samples that nobody had seen; a fit that finds the test split in"
    " the harness knows the answers before it is asked.",
    mend="learn from `training` alone: its train and validation splits.",
    slow=True,
)
def check_learns_from_training_alone(trial: DefenseTrial) -> None:
    """Test samples and their labels, alive around a fit, change nothing in it."""
    seen = trial.material.clean
    expected = answered(trial.center(), seen)
    dataset = generated(0)
    # Named as the harness names them; the labels are wrong, so that using them shows.
    labels = (dataset.test.labels + 1) % len(CLASSES)
    dataset = replace(dataset, test=Split(dataset.test.features, labels))
    clean = dataset.test.observation(dataset.layout)
    found = answered(trial.fit(), seen)
    assert len(clean) == len(labels)
    expect_same(
        expected, found, "whether or not test samples are within reach of `fit`"
    )


class _Watched(FusionCenter):
    """Keeps the last decision of a fusion center."""

    def __init__(self, inner: FusionCenter) -> None:
        super().__init__()
        self.inner = inner
        self.last = Decision(logits=torch.zeros(0, 0))

    def decide(self, observation: Observation) -> Decision:
        self.last = self.inner(observation)
        return self.last


class _WatchedOracle(OracleFusionCenter):
    """Keeps the last decision of one that is told who is corrupted."""

    def __init__(self, inner: OracleFusionCenter) -> None:
        super().__init__()
        self.inner = inner
        self.last = Decision(logits=torch.zeros(0, 0))

    def decide_told(self, observation: Observation, corrupted: Tensor) -> Decision:
        self.last = self.inner.told(corrupted)(observation)
        return self.last


class _Foreign(FusionCenter):
    """Answers otherwise than the fusion center it stands for."""

    def __init__(self, inner: FusionCenter) -> None:
        super().__init__()
        self.inner = inner

    def decide(self, observation: Observation) -> Decision:
        found = self.inner.decide(observation)
        return replace(found, logits=found.logits.roll(1, dims=1) * 0.7)


class _SameAnswers(FusionCenter):
    """The same answers with other gradients."""

    def __init__(self, inner: FusionCenter) -> None:
        super().__init__()
        self.inner = inner

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation)

    def surrogate(self, observation: Observation) -> Tensor:
        return -self.inner.surrogate(observation)


@check(
    "attack",
    why="what a row says an adversary knows is what readers judge it by; one that looks"
    " further makes defenses look worse than they are against it.",
    mend="use `victim`, `observation` and `criterion` as `run` gets them; declare the"
    " knowledge the attack needs: fusion for the undefended fusion center, adaptive for"
    " the whole defense.",
)
def check_knows_only_its_level(trial: AttackTrial) -> None:
    """What lies beyond the declared knowledge changes nothing that is sent."""
    level = trial.plugin.threat.knowledge
    model, clean = trial.model, trial.clean
    train = material().training.train
    first = _sent(trial, clean, train, model, model)
    if level is Knowledge.OBLIVIOUS:
        own = clean.layout.owner == clean.layout.agents - 1
        others = torch.where(own, clean.features, 5.0 - 2.0 * clean.features)
        foreign = torch.where(own, train.features, 1.0 - train.features)
        second = _sent(
            trial,
            clean.with_features(others),
            train.with_features(foreign),
            _Foreign(model),
            _Foreign(model),
        )
        what = "other agents' blocks and the models are"
    elif level is Knowledge.FUSION:
        second = _sent(trial, clean, train, model, _Foreign(model))
        what = "the defense is"
    elif level is Knowledge.QUERY:
        second = _sent(trial, clean, train, _Foreign(model), _SameAnswers(model))
        what = "gradients and the undefended fusion center are"
    else:
        second = _sent(trial, clean, train, _Foreign(model), model)
        what = "the undefended fusion center is"
    last = clean.layout.slices[-1]
    same = same_bits(first.features[:, last], second.features[:, last])
    expect(
        same and same_bits(first.observed, second.observed),
        f"the same from an attack of knowledge {level}, whatever {what}",
        "something else",
    )


def _sent(
    trial: AttackTrial,
    clean: Observation,
    train: Observation,
    undefended: FusionCenter,
    defended: FusionCenter,
) -> Observation:
    scenario = _scenario(clean, trial.labels, trial.plugin, train)
    mask = torch.zeros_like(clean.observed)
    mask[:, -1] = True
    sent, _ = scenario.run(
        Draw((mask,), ((clean.layout.agents - 1,),)),
        undefended=undefended,
        defended=defended,
    )
    return sent
