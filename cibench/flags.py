"""Flags: signs that a number means less than it seems; data, never just a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._flag_meanings import FLAGS as FLAGS
from ._flag_meanings import FlagMeaning as FlagMeaning

if TYPE_CHECKING:
    from .results.record import CellRecord, Metrics


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
        "planted-not-tried",
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
        "planted-not-tried": above("planted_failed", 0.0),
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
        # Samples whose compromised agents recorded nothing are out of reach.
        return record.probes.get(
            "undefended_in_reach", metrics.attacked_undefended.value
        )
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
