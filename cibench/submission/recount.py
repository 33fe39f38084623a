"""Every number of a record once more from its samples, by other code; no torch.

A finding is a sentence that says what a record claims and what its samples say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..results.record import CellRecord, Metrics, Outcomes, Proportion
from .agents import agent_faults, single_draw
from .inputs import input_faults
from .raised import flag_faults

#: Statuses of a solver that did what was asked.
_SETTLED: Final = frozenset({0, 3, 4})
_LISTS: Final = (
    "counted",
    "clean_undefended",
    "clean",
    "attacked_undefended",
    "attacked",
    "genie",
    "compromised",
    "recovery_error",
    "solver_status",
)
_DECIDED: Final = (
    "clean_undefended",
    "clean",
    "attacked_undefended",
    "attacked",
    "genie",
)


def record_findings(record: CellRecord) -> list[str]:
    """What a record claims against its own samples; empty if all agrees."""
    return [f"{record.cell}: {fault}" for fault in _faults(record)]


def _faults(record: CellRecord) -> Iterator[str]:
    yield from input_faults(record)
    metrics, outcomes = record.metrics, record.outcomes
    if record.status != "ok":
        if metrics or outcomes or record.certificates or record.flags:
            yield f"status {record.status}: expected no numbers, got some"
        return
    if metrics is None or outcomes is None or record.timings is None:
        yield "status ok: expected metrics, outcomes and timings, got none"
        return
    shape = list(_shape_faults(record, outcomes))
    yield from shape
    if shape:  # nothing can be counted
        return
    yield from agent_faults(record, outcomes)
    yield from _share_faults(record, metrics, outcomes)
    yield from _mean_faults(record, metrics, outcomes)
    yield from _goal_faults(record, metrics, outcomes)
    yield from _universal_faults(record, metrics, outcomes)
    yield from flag_faults(record, metrics, outcomes)
    yield from _certificate_faults(record, outcomes)
    yield from _sign_faults(record, metrics)


def targets(record: CellRecord, labels: list[int]) -> list[int] | None:
    """The adversary's target class of each sample; None for an untargeted attack."""
    named = [part.target for part in record.attack if part.target != "any"]
    if not named:
        return None
    target, classes = named[0], record.classes
    if target == "other":
        return [1 - label for label in labels]
    index = classes.index(target) if target in classes else int(target)
    return [index] * len(labels)


def _shape_faults(record: CellRecord, outcomes: Outcomes) -> Iterator[str]:
    n, k = len(outcomes.labels), len(record.classes)
    if not n or not k or not record.agents:
        yield f"expected samples, classes and agents, got {n}, {k}, {len(record.agents)}"
        return
    for names, what in ((record.agents, "agents"), (record.classes, "classes")):
        if len(set(names)) != len(names):
            yield f"{what}: expected each once, got one twice"
    for name in _LISTS:
        values = getattr(outcomes, name)
        if values is not None and len(values) != n:
            yield f"outcomes.{name}: expected {n} values as labels, got {len(values)}"
    if not all(0 <= label < k for label in outcomes.labels):
        yield f"outcomes.labels: expected classes from 0 to {k - 1}, got others"
    for name in _DECIDED:
        if not all(-1 <= value < k for value in getattr(outcomes, name)):
            yield f"outcomes.{name}: expected -1 or a class up to {k - 1}, got others"
    for part in record.attack:
        known = part.target in ("any", *record.classes) or (
            (part.target.isdecimal() and len(part.target) < 10 and int(part.target) < k)
            or (part.target == "other" and k == 2)
        )
        if not known:
            yield f"attack {part.component.name}: expected a target class, got another"


def _share_faults(
    record: CellRecord, metrics: Metrics, outcomes: Outcomes
) -> Iterator[str]:
    labels = outcomes.labels
    aims = targets(record, labels)
    anyway = any(part.counts_target for part in record.attack if part.target != "any")
    counted = [
        aims is None or anyway or aim != label
        for aim, label in zip(aims or labels, labels, strict=True)
    ]
    if counted != outcomes.counted:
        off = _differ(counted, outcomes.counted)
        yield f"outcomes.counted: expected what the target class gives, {off} differ"
    everyone = [True] * len(labels)
    for name, among in (
        ("clean_undefended", everyone),
        ("clean", everyone),
        ("attacked_undefended", outcomes.counted),
        ("attacked", outcomes.counted),
        ("genie", outcomes.counted),
    ):
        right = sum(
            label == value and counts
            for label, value, counts in zip(
                labels, getattr(outcomes, name), among, strict=True
            )
        )
        said, found = getattr(metrics, name), Proportion(successes=right, n=sum(among))
        if said != found:
            yield f"{name}: claims {_words(said)}, its samples say {_words(found)}"


def _mean_faults(
    record: CellRecord, metrics: Metrics, outcomes: Outcomes
) -> Iterator[str]:
    labels, counted = outcomes.labels, outcomes.counted
    classes, n = len(record.classes), len(labels)
    kept = [at for at in range(n) if counted[at]]
    statuses, errors = outcomes.solver_status, outcomes.recovery_error
    expected: dict[str, float | None] = {
        "balanced_clean": _balanced(outcomes.clean, labels, range(n), classes),
        "balanced_attacked": _balanced(outcomes.attacked, labels, kept, classes)
        if kept
        else None,
        "majority_share": max(Counter(labels).values()) / n,
        "recovery_error": None if errors is None else sum(errors) / n,
        "solver_not_converged": None
        if statuses is None
        else sum(status not in _SETTLED for status in statuses) / n,
    }
    for name, found in expected.items():
        said = getattr(metrics, name)
        # Samples' errors have six digits, and were added up in single precision.
        close = 1e-4 if name == "recovery_error" else 1e-9
        if (said is None) != (found is None) or (
            said is not None
            and found is not None
            and not math.isclose(said, found, rel_tol=close, abs_tol=1e-12)
        ):
            yield f"{name}: claims {said}, its samples say {found}"
    if (metrics.recovery_error_clean is None) != (errors is None):
        yield "recovery_error_clean: expected it exactly where samples have errors"


def _goal_faults(
    record: CellRecord, metrics: Metrics, outcomes: Outcomes
) -> Iterator[str]:
    """The share of samples that the adversary moved where it wanted."""
    aims = targets(record, outcomes.labels)
    certain = possible = n = 0
    for at, label in enumerate(outcomes.labels):
        aim = None if aims is None else aims[at]
        if not outcomes.counted[at] or outcomes.clean[at] != label or aim == label:
            continue
        n += 1
        decided = outcomes.attacked[at]
        certain += decided != label if aim is None else decided == aim
        # Under another set of agents it may have been reached all the same.
        possible += decided != label
    if aims is None or single_draw(record):
        possible = certain
    said = metrics.success_rate
    if said.n != n or not certain <= said.successes <= max(certain, possible):
        span = f"{certain}" if certain == possible else f"{certain} to {possible}"
        yield f"success_rate: claims {_words(said)}, its samples say {span} of {n}"


def _universal_faults(
    record: CellRecord, metrics: Metrics, outcomes: Outcomes
) -> Iterator[str]:
    """Accuracy under the one set of agents that hurts most over all samples."""
    said, n = metrics.universal, sum(outcomes.counted)
    right, broken = 0, dict.fromkeys(outcomes.compromised, 0)
    for at, label in enumerate(outcomes.labels):
        if outcomes.counted[at]:
            right += outcomes.attacked[at] == label
            broken[outcomes.compromised[at]] += outcomes.attacked[at] != label
    most = right if single_draw(record) else n - max(broken.values())
    if said.n != n or not right <= said.successes <= most:
        span = f"{right}" if right == most else f"{right} to {most}"
        yield f"universal: claims {_words(said)}, its samples say {span} of {n}"
    unknown = set(metrics.universal_set) - set(record.agents)
    if unknown:
        yield f"universal_set: expected agents of the data set, got {min(unknown)!a}"


def _certificate_faults(record: CellRecord, outcomes: Outcomes) -> Iterator[str]:
    n, m = len(outcomes.labels), len(record.agents)
    kinds = [one.kind for one in record.certificates]
    if len(set(kinds)) != len(kinds):
        yield "certificates: expected each kind once, got one twice"
    if kinds and any(part.agents != "none" for part in record.attack):
        yield "certificates: expected them only where no agent is compromised, got some"
    for one in record.certificates:
        if len(one.radius) != n:
            yield f"certificate {one.kind}: expected {n} radii, got {len(one.radius)}"
        if any(radius < 0 for radius in one.radius):
            yield f"certificate {one.kind}: expected radii of 0 and more, got others"
        if one.kind == "agents" and any(
            radius > m or radius != int(radius) for radius in one.radius
        ):
            yield f"certificate agents: expected whole numbers up to {m}, got others"
        if not 0 < one.confidence <= 1:
            yield f"certificate {one.kind}: expected a confidence of at most 1"


def _sign_faults(record: CellRecord, metrics: Metrics) -> Iterator[str]:
    counts = (metrics.rejected_blocks, metrics.queries, metrics.gradients)
    assert record.timings is not None
    times = [getattr(record.timings, name) for name in record.timings.__struct_fields__]
    clean = metrics.recovery_error_clean or 0.0
    if min(*counts, *times, record.seconds, clean, record.peak_memory or 0) < 0:
        yield "expected counts, times and errors of 0 and more, got one below"


def _balanced(
    decided: list[int], labels: list[int], among: range | list[int], classes: int
) -> float:
    right, total = [0] * classes, [0] * classes
    for at in among:
        total[labels[at]] += 1
        right[labels[at]] += decided[at] == labels[at]
    shares = [r / t for r, t in zip(right, total, strict=True) if t]
    return math.fsum(shares) / len(shares)


def _differ(one: list[bool], other: list[bool]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _words(share: Proportion) -> str:
    return f"{share.successes} of {share.n}"
