"""One cell: fit, attack, decide afresh, count.

The harness computes everything a record says: accuracy, which agents changed, budgets.
An attack's own opinion of its success is never used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._errors import ContractError
from .certificates import contradicted
from .defense import AbstractDefense, FusionCenter
from .embedding import Training
from .embedding.train import mean_features
from .manifold import recovery_error
from .metrics import balanced_accuracy, majority_share, proportion
from .observation import Observation
from .probing import Signs, in_reach, probed
from .references import References, decide, facing, meet, predictions
from .results import Metrics, Outcomes, Proportion, Timings
from .scenario import Cost, Draw, Scenario, set_names
from .watch import Watch
from .witness import witness_tensors

#: Statuses of a solver that did what was asked: converged, no agents, fixed steps.
_SETTLED = (0, 3, 4)


@dataclass(eq=False)
class Worst:
    """Per-sample worst case over draws: the first draw that breaks a sample stays."""

    labels: Tensor
    target: Tensor | None = None
    prediction: Tensor | None = None
    compromised: Tensor | None = None
    recovery: Tensor | None = None
    status: Tensor | None = None
    features: Tensor | None = None
    observed: Tensor | None = None
    correct: list[int] = field(default_factory=list)
    reached: Tensor | None = None
    """Samples whose prediction under some draw is the adversary's target."""

    def add(
        self,
        prediction: Tensor,
        draw: Draw,
        counted: Tensor,
        recovery: Tensor | None = None,
        status: Tensor | None = None,
        sent: Observation | None = None,
    ) -> None:
        """Take in the decisions under one more draw."""
        right = prediction == self.labels
        if self.target is not None:
            hit = prediction == self.target
            self.reached = hit if self.reached is None else self.reached | hit
        self.correct.append(int((right & counted).sum()))
        if self.prediction is None:
            still = torch.ones_like(right)
        else:
            still = self.prediction == self.labels  # not broken yet: replace

        def merged(old: Tensor | None, new: Tensor | None) -> Tensor | None:
            if old is None or new is None:
                return new
            wide = still if new.ndim == 1 else still[:, None]
            return torch.where(wide, new, old)

        self.prediction = merged(self.prediction, prediction)
        self.compromised = merged(self.compromised, draw.compromised)
        self.recovery = merged(self.recovery, recovery)
        self.status = merged(self.status, status)
        if sent is not None:
            own = sent.layout.expand(draw.compromised)
            values = torch.where(own, sent.features, torch.zeros_like(sent.features))
            self.features = merged(self.features, values)
            self.observed = merged(self.observed, sent.observed)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found, ready for a record."""

    metrics: Metrics
    outcomes: Outcomes
    timings: Timings
    fitted: dict[str, float | int | str]
    transfer_breaks: float | None
    unusable_gradients: float | None
    probes: dict[str, float]
    """What was measured to raise flags: see `cibench.probing`."""
    witness: dict[str, Tensor]
    """What the fusion center received where agents are compromised: see `witness`."""
    draws: list[Draw]
    """The agents of each run of the attack; those a search found depend on the defense."""
    undefended: bool
    """Whether the fusion center is the undefended one, which `fusion` attacks know."""


def evaluate(
    scenario: Scenario,
    references: References,
    defense: AbstractDefense,
    training: Training,
    *,
    fusion_center: FusionCenter,
    fit_seconds: float = 0.0,
    report: Callable[[str], None] = lambda phase: None,
) -> Evaluation:
    """Attack a fitted defense, and count what it decides.

    Args:
        scenario: the attack on clean test embeddings.
        references: `refer(scenario, training.undefended)`.
        fusion_center: what `fit_defense` gave.
        fit_seconds: how long that took.
        report: called with the name of each phase as it begins.

    Raises:
        ContractError: attack or defense broke its contract; other errors are theirs.
    """
    clean_decision, _ = decide(fusion_center, scenario.clean)
    if clean_decision.logits.shape[1] != training.classes:
        raise ContractError(
            f"defense {defense.name}: expected logits of {training.classes} classes, got"
            f" {clean_decision.logits.shape[1]}"
        )
    clean = predictions(clean_decision)
    mean = mean_features(training.train)
    criterion, labels = scenario.criterion, scenario.labels
    counted = criterion.eligible
    same = fusion_center is training.undefended or not scenario.reads_defense

    worst, transfer_worst = Worst(labels, criterion.target), Worst(labels)
    undefended_worst, genie_worst = Worst(labels), Worst(labels)
    attack_seconds = predict_seconds = 0.0
    cost, rejected = Cost(), 0
    met = references  # with the agents that this defense meets
    if not same and scenario.searched is not None:
        report("search")
        met, cost, attack_seconds = meet(
            scenario,
            references,
            undefended=training.undefended,
            defended=fusion_center,
        )
    signs = Signs(scenario, clean_decision.logits, training.undefended)
    for index, draw in enumerate(met.draws):
        report("attack")
        deployed = facing(fusion_center, draw)
        watches: list[Watch] = []
        started = time.perf_counter()
        if same:
            sent = references.observations[index]
        else:
            sent, spent = scenario.run(
                draw,
                undefended=training.undefended,
                defended=deployed,
                watches=watches,
            )
            cost += spent
        attack_seconds += time.perf_counter() - started
        report("predict")
        decision, seconds = decide(deployed, sent)
        predict_seconds += seconds
        if decision.rejected is not None:
            rejected += int(decision.rejected.sum())
        recovery = None
        if decision.purified is not None:
            recovery = recovery_error(decision.purified, scenario.clean, mean)
        decided = predictions(decision)
        contradicted(deployed, scenario.clean, draw.compromised, clean, decided)
        worst.add(decided, draw, counted, recovery, decision.status, sent)
        signs.add(draw, watches, sent, decision.logits, decided)
        if not same:
            transferred, _ = decide(deployed, met.observations[index])
            transfer_worst.add(predictions(transferred), draw, counted)
        undefended_worst.add(references.attacked[index], draw, counted)
        genie_worst.add(met.genie[index], draw, counted)
    if same:
        cost, attack_seconds = references.cost, references.seconds

    runs, n = len(met.draws), len(labels)
    attacked = worst.prediction
    undefended, genie = undefended_worst.prediction, genie_worst.prediction
    assert attacked is not None
    assert undefended is not None
    assert genie is not None
    assert worst.compromised is not None
    hardest = min(range(runs), key=lambda index: worst.correct[index])
    probes = in_reach(undefended_worst.compromised, undefended, scenario)
    if probed(scenario, cost.gradients):
        report("probe")
        probes |= signs.measured(fusion_center, attacked == labels)
    hurt = [agents for agents in met.draws[hardest].sets if agents is not None]
    transfer_breaks = None
    if transfer_worst.prediction is not None:
        only = (transfer_worst.prediction != labels) & (attacked == labels) & counted
        transfer_breaks = int(only.sum()) / max(1, int(counted.sum()))
    recovery_clean = None
    if clean_decision.purified is not None:
        recovery_clean = float(
            recovery_error(clean_decision.purified, scenario.clean, mean).mean()
        )
    right_when_clean = (clean == labels) & counted
    if criterion.target is not None:
        right_when_clean &= criterion.target != labels
    goal = attacked != labels if worst.reached is None else worst.reached
    classes = len(scenario.class_names)
    metrics = Metrics(
        clean_undefended=proportion(references.clean == labels),
        clean=proportion(clean == labels),
        attacked_undefended=proportion(undefended == labels, counted),
        attacked=proportion(attacked == labels, counted),
        genie=proportion(genie == labels, counted),
        universal=Proportion(successes=worst.correct[hardest], n=int(counted.sum())),
        universal_set=set_names(
            scenario.clean.layout, sorted({a for s in hurt for a in s})
        ),
        balanced_clean=balanced_accuracy(clean, labels, classes),
        balanced_attacked=balanced_accuracy(attacked[counted], labels[counted], classes)
        if counted.any()
        else None,
        success_rate=proportion(goal, right_when_clean),
        majority_share=majority_share(labels),
        recovery_error=None if worst.recovery is None else float(worst.recovery.mean()),
        recovery_error_clean=recovery_clean,
        solver_not_converged=None if worst.status is None else _unsettled(worst.status),
        rejected_blocks=rejected,
        queries=cost.queries,
        gradients=cost.gradients,
    )
    outcomes = Outcomes(
        labels=labels.tolist(),
        counted=counted.tolist(),
        clean_undefended=references.clean.tolist(),
        clean=clean.tolist(),
        attacked_undefended=undefended.tolist(),
        attacked=attacked.tolist(),
        genie=genie.tolist(),
        # Python integers: a tensor's would overflow from 64 agents on.
        compromised=[
            sum(1 << agent for agent, hit in enumerate(row) if hit)
            for row in worst.compromised.tolist()
        ],
        recovery_error=None
        if worst.recovery is None
        else [float(f"{value:.6g}") for value in worst.recovery.tolist()],
        solver_status=None if worst.status is None else worst.status.tolist(),
    )
    return Evaluation(
        metrics=metrics,
        outcomes=outcomes,
        timings=Timings(
            fit_seconds=fit_seconds,
            attack_seconds=attack_seconds,
            predict_seconds=predict_seconds,
            milliseconds_per_sample=1e3 * predict_seconds / (n * runs),
        ),
        fitted=fusion_center.facts,
        transfer_breaks=transfer_breaks,
        unusable_gradients=cost.unusable / cost.gradients if cost.gradients else None,
        probes=probes,
        witness=witness_tensors(worst.features, worst.observed, worst.compromised),
        draws=met.draws,
        undefended=_same_model(fusion_center, training.undefended),
    )


def _same_model(fusion_center: FusionCenter, undefended: FusionCenter) -> bool:
    if type(fusion_center) is not type(undefended):
        return False
    ours, theirs = fusion_center.state_dict(), undefended.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def _unsettled(status: Tensor) -> float:
    settled = torch.isin(
        status, torch.tensor(_SETTLED, device=status.device).to(status)
    )
    return float((~settled).double().mean())
