"""Flags: signs that a number means less than it seems; data, never just a warning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results.record import CellRecord, Metrics


@dataclass(frozen=True)
class FlagMeaning:
    """When a flag is raised, what it means and what to do."""

    raised_if: str
    meaning: str
    remedy: str


#: Every flag a record or a row of a table may carry.
FLAGS: dict[str, FlagMeaning] = {
    "attack-too-weak": FlagMeaning(
        "an unbounded attack with gradients leaves the undefended fusion center above 5 %",
        "the attack proves nothing about any defense",
        "use more steps, a larger step or another attack",
    ),
    "not-adaptive": FlagMeaning(
        "the attack does not know the defense",
        "the accuracy is an upper bound; an adversary who knows the defense may do better",
        "run an attack with knowledge=adaptive",
    ),
    "transfer-beats-adaptive": FlagMeaning(
        "attacking the undefended fusion center breaks over 1 % of the samples that the"
        " adaptive attack does not break",
        "gradients through the defense mislead the attack; the accuracy is too high",
        "use restarts, another step or another attack",
    ),
    "gradient-unusable": FlagMeaning(
        "over 1 % of the gradients the attack asked for were zero or not finite",
        "the defense masks its gradients, so a gradient attack may miss",
        "use knowledge=fusion beside it, a surrogate, or an attack by queries",
    ),
    "gradient-wrong": FlagMeaning(
        "on probe samples the gradient the attack gets has a median cosine below 0.9 with"
        " the decision's own differences, or a step along it lowers the margin more than a"
        " random step on fewer than 75 % of them",
        "the defense masks its gradients: the attack walks in a wrong direction",
        "give the defense a surrogate with a useful derivative (no detached tensors, no"
        " rounding), or attack by queries",
    ),
    "randomized-without-eot": FlagMeaning(
        "over 1 % of the probe samples are answered otherwise when asked again or with"
        " other last digits, and the attack asks for each gradient only once",
        "the attack follows one draw of the randomness and meets another",
        "average each gradient over several draws (expectation over transformation)",
    ),
    "lost-success": FlagMeaning(
        "for over 1 % of the samples the attack saw a point succeed and sent another",
        "the attack threw its success away, or met another answer the second time; the"
        " accuracy is too high",
        "send the best point seen, not the last, and judge it by the decision itself",
    ),
    "no-progress": FlagMeaning(
        "for over 5 % of the samples it had to move, the attack did not lower the margin",
        "the attack is stuck, or what it controls changes nothing",
        "look at gradient-unusable and attack-misses-planted; try other starts and losses",
    ),
    "attack-not-converged": FlagMeaning(
        "over 1 % of the samples were first broken in the last quarter of the gradients"
        " the attack asked for, or are broken only by the same attack with twice the steps"
        " or restarts",
        "the accuracy depends on how long the attack searched",
        "raise steps and restarts until nothing changes",
    ),
    "attack-misses-planted": FlagMeaning(
        "with a head grafted on the defense that is wrong at a reachable point, the attack"
        " finds no such point for over 5 % of the probe samples",
        "the attack cannot find what is there, so its failures prove nothing",
        "mend the gradient or the starts, then look at the accuracy again",
    ),
    "solver-budget": FlagMeaning(
        "with ten times the solver steps the defense decides over 1 % more or fewer of the"
        " attacked probe samples rightly",
        "the accuracy is that of stopping early",
        "raise the defense's iteration limit until nothing changes",
    ),
    "static-reference": FlagMeaning(
        "a defense that optimizes at inference leaves no more accuracy under the attack"
        " than the undefended fusion center",
        "the optimization costs time and protects nothing here",
        "compare it with a static defense",
    ),
    "attack-broken": FlagMeaning(
        "over 2 % of the samples survive this attack, unbounded, in control of all agents",
        "such an adversary cannot fail: the attack or the gradient is broken",
        "believe no number of this attack on this defense; see gradient-wrong",
    ),
    "not-monotone": FlagMeaning(
        "a smaller budget, or fewer of the same agents, breaks over 1 % of the samples that"
        " this attack leaves standing",
        "the attack does not use what it may do",
        "use more steps and starts near the clean embedding",
    ),
    "beaten-by-weaker": FlagMeaning(
        "noise, replay, answers alone or the undefended fusion center break over 1 % of the"
        " samples that no attack by gradients of the defense breaks",
        "gradients through the defense mislead; its accuracy is that of the weaker attack",
        "count the worst case over all attacks, and mend the gradient",
    ),
    "more-steps-weaker": FlagMeaning(
        "the same attack with fewer steps breaks over 1 % of the samples that this one"
        " leaves standing",
        "later steps lose what earlier ones found",
        "keep the best point; use smaller steps",
    ),
    "changes-without-attack": FlagMeaning(
        "decisions differ from the clean ones although nobody is compromised",
        "the defense answers by chance, or remembers what it saw",
        "make the answer a function of what arrived",
    ),
    "solver-not-converged": FlagMeaning(
        "the defense's solver did not converge for over 1 % of the samples",
        "robustness may come from stopping early",
        "raise the defense's iteration limit and compare",
    ),
    "clean-drop": FlagMeaning(
        "the defense costs more than 2 points of clean accuracy",
        "part of the accuracy was given up before any attack",
        "compare with the undefended fusion center, not with the attacked one alone",
    ),
    "below-majority": FlagMeaning(
        "clean accuracy is not above the share of the largest class",
        "always answering the largest class would do as well",
        "look at balanced accuracy; train longer or choose another label",
    ),
    "blocks-rejected": FlagMeaning(
        "blocks arrived non-finite, above 1e15 in magnitude or subnormal: they counted as"
        " missing",
        "the attack sent what no agent can mean",
        "nothing, unless the attack did not intend it",
    ),
    "oracle-information": FlagMeaning(
        "the defense is told which agents are corrupted",
        "nobody can deploy it; it shows what knowing the corrupted agents would be worth",
        "compare it with the genie, not with defenses that must find out themselves",
    ),
    "test-statistics": FlagMeaning(
        "the data set was standardized with statistics of the test split",
        "the numbers are for comparison with work that does so",
        "use the data set's standardize=train",
    ),
    "partial": FlagMeaning(
        "the run used part of the test samples (--quick)",
        "for trying out only; never to be published",
        "run without --quick",
    ),
}

#: Flags that tell of an attack, whatever the defense is.
OF_ATTACKS = frozenset(
    {
        "attack-misses-planted",
        "attack-not-converged",
        "attack-too-weak",
        "blocks-rejected",
        "lost-success",
        "more-steps-weaker",
        "no-progress",
        "not-monotone",
    }
)

#: Flags that need several cells: `cibench.sanity` raises them, no record holds them.
OF_ROWS = frozenset(
    {
        "attack-broken",
        "beaten-by-weaker",
        "changes-without-attack",
        "more-steps-weaker",
        "not-monotone",
    }
)

#: Flags that tell of masked gradients: the accuracy may be that of a blinded attack.
OF_MASKING = frozenset(
    {
        "attack-broken",
        "attack-misses-planted",
        "beaten-by-weaker",
        "gradient-unusable",
        "gradient-wrong",
        "randomized-without-eot",
        "solver-budget",
        "solver-not-converged",
        "transfer-beats-adaptive",
    }
)


def of_probes(probes: Mapping[str, float]) -> dict[str, bool]:
    """Which flags the numbers measured beside a cell's accuracy raise; see `FLAGS`.

    Args:
        probes: by name; what was not measured is absent and raises nothing.
    """

    def above(name: str, limit: float) -> bool:
        return probes.get(name, 0.0) > limit

    return {
        "gradient-wrong": probes.get("gradient_cosine", 1.0) < 0.9
        or probes.get("gradient_descends", 1.0) < 0.75,
        "randomized-without-eot": above("answers_differ", 0.01)
        and not above("answers_differ_averaged", 0.0),
        "lost-success": above("lost_success", 0.01),
        "no-progress": above("no_progress", 0.05),
        "attack-not-converged": above("broken_late", 0.01),
        "attack-misses-planted": above("planted_missed", 0.05),
        "solver-budget": above("more_solver_steps", 0.01),
    }


def _left_standing(record: CellRecord, metrics: Metrics) -> float:
    """Share of the samples to be moved that the undefended fusion center decides rightly.

    Where samples of the target class count, deciding them as it is no achievement.
    """
    goals = [part.target for part in record.attack if part.counts_target]
    # The other class is never the label itself.
    goals = [goal for goal in goals if goal not in ("other", "any")]
    if not goals or record.outcomes is None:
        return metrics.attacked_undefended.value
    named = goals[0] in record.classes
    goal = record.classes.index(goals[0]) if named else int(goals[0])
    outcomes = record.outcomes
    decided = zip(outcomes.labels, outcomes.attacked_undefended, strict=True)
    right = [label == found for label, found in decided if label != goal]
    return sum(right) / max(1, len(right))


def raise_flags(
    record: CellRecord,
    *,
    partial: bool,
    test_statistics: bool,
    transfer_breaks: float | None,
    unusable_gradients: float | None,
    oracle: bool = False,
    undefended: bool = False,
    optimizes: bool = False,
) -> tuple[str, ...]:
    """The flags of a finished cell, sorted.

    Args:
        partial: whether only part of the test split was used.
        test_statistics: whether the data set used statistics of the test split.
        transfer_breaks: share of samples broken by the attack on the undefended fusion
            center but not by the adaptive one.
        unusable_gradients: share of gradients that were zero or not finite.
        oracle: whether the defense is told which agents are corrupted.
        undefended: whether the fusion center is the undefended one, all of which an
            attacker of the undefended knows.
        optimizes: whether the defense optimizes at inference.
    """
    metrics = record.metrics
    if metrics is None:
        return ()
    # Trying every set of silent agents is exact; no knowledge would do better.
    exact = all(
        not part.corrupts
        and (part.agents.startswith("worst:") or part.agents == "none")
        for part in record.attack
    )
    knowing = [
        part for part in record.attack if part.knowledge in ("fusion", "adaptive")
    ]
    unbounded = all(part.budget is None for part in record.attack)
    adaptive = any(part.knowledge == "adaptive" for part in record.attack)
    raised = of_probes(record.probes) | {
        "attack-too-weak": bool(knowing)
        and metrics.gradients > 0
        and unbounded
        and _left_standing(record, metrics) > 0.05,
        "not-adaptive": not exact and not undefended and not adaptive,
        "static-reference": optimizes
        and adaptive
        and metrics.attacked.value <= metrics.attacked_undefended.value,
        "transfer-beats-adaptive": (transfer_breaks or 0.0) > 0.01,
        "gradient-unusable": (unusable_gradients or 0.0) > 0.01,
        "solver-not-converged": (metrics.solver_not_converged or 0.0) > 0.01,
        "clean-drop": metrics.clean.value < metrics.clean_undefended.value - 0.02,
        "below-majority": metrics.clean.value <= metrics.majority_share,
        "blocks-rejected": metrics.rejected_blocks > 0,
        "oracle-information": oracle,
        "test-statistics": test_statistics,
        "partial": partial,
    }
    return tuple(sorted(name for name, up in raised.items() if up))
