"""Published claims against our numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..study import Claim, StudyRun
from .compare import compare, loss
from .model import Comparison, Panel
from .style import short

RULE = (
    "reproduced: the 95 % interval of the difference lies above 0 against every defense"
    " the claim names; not reproduced: it lies below 0 against one of them; undecided:"
    " otherwise (an interval holds 0). Of a claim that a defense loses at most so many"
    " points, the same of its accuracy under attack less that without, with the loss"
    " allowed in place of 0. The numbers are of the comparison that decides, in points"
)


@dataclass(frozen=True)
class Verdict:
    """What became of one claim under one protocol on one data set."""

    claim: Claim
    protocol: str
    dataset: str
    outcome: str
    """`reproduced`, `not reproduced`, `undecided` or `not run`."""
    deciding: Comparison | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The outcome with its numbers or its reason."""
        if self.deciding is None:
            return f"{self.outcome}: {self.reason}"
        d, most = self.deciding, self.claim.loses_at_most
        allowed = "" if most is None else f", {-most:+g} allowed"
        return (
            f"{self.outcome} ({100 * d.difference:+.1f}, 95 % {100 * d.low:+.1f} to"
            f" {100 * d.high:+.1f}, against {d.other}{allowed})"
        )


def verdicts(run: StudyRun, panels: Sequence[Panel]) -> tuple[Verdict, ...]:
    """Every claim under every protocol and data set it was run with; or why it was not."""
    return tuple(v for claim in run.study.claims for v in _verdicts(claim, run, panels))


def _verdicts(
    claim: Claim, run: StudyRun, panels: Sequence[Panel]
) -> Iterator[Verdict]:
    fitting = [
        panel
        for panel in panels
        if (panel.scenario, panel.dataset_name) == (claim.scenario, claim.dataset)
    ]
    for panel in fitting:
        yield _judge(claim, panel)
    missing = {
        spec: reason
        for spec, reason in run.unavailable.items()
        if spec.partition(":")[0] == claim.dataset
    }
    for spec, reason in missing.items():
        # In full it stands once, in the report's notes.
        brief = f"data set: {short(reason, 80)}"
        yield Verdict(claim, "", spec, "not run", reason=brief)
    if not fitting and not missing:
        reason = "no protocol of this run has the scenario on this data set"
        yield Verdict(claim, "", claim.dataset, "not run", reason=reason)


def _judge(claim: Claim, panel: Panel) -> Verdict:
    def verdict(
        outcome: str, deciding: Comparison | None = None, reason: str = ""
    ) -> Verdict:
        return Verdict(claim, panel.protocol, panel.dataset, outcome, deciding, reason)

    rows = {row.label: row for row in panel.rows}
    absent = [label for label in (claim.better, *claim.than) if label not in rows]
    if absent:
        return verdict("not run", reason=f"no {', '.join(absent)} in this protocol")
    for label in (claim.better, *claim.than):
        if rows[label].accuracy is None:
            return verdict("not run", reason=f"{label}: {rows[label].trouble}")
    if claim.loses_at_most is not None:
        own = loss(rows[claim.better])
        if own is None:
            return verdict("not run", reason="other samples from seed to seed")
        bound = -claim.loses_at_most / 100
        if own.high < bound:
            return verdict("not reproduced", own)
        return verdict("reproduced" if own.low > bound else "undecided", own)
    found: Mapping[str, Comparison | None] = {
        label: compare(rows[claim.better], rows[label]) for label in claim.than
    }
    unlike = [label for label, comparison in found.items() if comparison is None]
    if unlike:
        return verdict("not run", reason=f"other seeds or samples: {unlike[0]}")
    comparisons = [comparison for comparison in found.values() if comparison]
    lowest = min(comparisons, key=lambda c: (c.low, c.difference))
    beaten = min(comparisons, key=lambda c: (c.high, c.difference))
    if beaten.high < 0:
        return verdict("not reproduced", beaten)
    return verdict("reproduced" if lowest.low > 0 else "undecided", lowest)
