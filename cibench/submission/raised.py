"""Which flags a record must carry, as far as its own numbers say; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..flags import FLAGS, OF_ROWS, of_probes
from ..results.record import CellRecord, Metrics, Outcomes

#: Flags that a record's own numbers raise or do not raise.
_FOLLOWS: Final = (
    "attack-too-weak",
    "below-majority",
    "blocks-rejected",
    "clean-drop",
    "solver-not-converged",
    *of_probes({}),
)


def flag_faults(
    record: CellRecord, metrics: Metrics, outcomes: Outcomes
) -> Iterator[str]:
    """Flags that are absent, not deserved, unknown or out of order.

    Flags that depend on more than a record holds, such as how often gradients were of no
    use, are seen only by running the cell again.
    """
    present = set(record.flags)
    unknown = present - set(FLAGS) | present & OF_ROWS
    if unknown:
        yield f"flags: expected known ones, got {min(unknown)[:40]!a}"
    if sorted(present) != record.flags:
        yield "flags: expected each once and sorted, got them otherwise"
    clean, plain = metrics.clean.value, metrics.clean_undefended.value
    raised = of_probes(record.probes) | {
        "attack-too-weak": _too_weak(record, metrics, outcomes),
        "below-majority": clean <= metrics.majority_share,
        "blocks-rejected": metrics.rejected_blocks > 0,
        "clean-drop": clean < plain - 0.02,
        "solver-not-converged": (metrics.solver_not_converged or 0.0) > 0.01,
    }
    for name in _FOLLOWS:
        if raised[name] and name not in present:
            yield f"flags: expected {name}, which its numbers raise, got none"
        if name in present and not raised[name]:
            yield f"flags: expected no {name}, which its numbers do not raise, got it"
    yield from _adaptive_faults(record, outcomes, present)


def _adaptive_faults(
    record: CellRecord, outcomes: Outcomes, present: set[str]
) -> Iterator[str]:
    exact = all(
        not part.corrupts
        and (part.agents.startswith("worst:") or part.agents == "none")
        for part in record.attack
    )
    knows = any(part.knowledge == "adaptive" for part in record.attack)
    # The undefended fusion center has no defense to be known, and decides as it does.
    alike = (
        outcomes.clean == outcomes.clean_undefended
        and outcomes.attacked == outcomes.attacked_undefended
    )
    if (exact or knows) and "not-adaptive" in present:
        yield "flags: expected no not-adaptive, for the attack knows the defense, got it"
    if not (exact or knows or alike) and "not-adaptive" not in present:
        yield "flags: expected not-adaptive, for no attack knows the defense, got none"


def _too_weak(record: CellRecord, metrics: Metrics, outcomes: Outcomes) -> bool:
    models = any(part.knowledge in ("fusion", "adaptive") for part in record.attack)
    bounded = any(part.budget is not None for part in record.attack)
    if not models or bounded or not metrics.gradients:
        return False
    goals = [
        part.target
        for part in record.attack
        if part.counts_target and part.target not in ("other", "any")
    ]
    if not goals:
        standing = metrics.attacked_undefended.value
        return record.probes.get("undefended_in_reach", standing) > 0.05
    named = goals[0] in record.classes
    goal = record.classes.index(goals[0]) if named else int(goals[0])
    pairs = zip(outcomes.labels, outcomes.attacked_undefended, strict=True)
    right = [label == decided for label, decided in pairs if label != goal]
    return sum(right) / max(1, len(right)) > 0.05
