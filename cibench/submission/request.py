"""The text of a pull request that offers a submission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from tabulate import tabulate

from ..leaderboard.text import code, markdown
from ..results.record import CellRecord
from .manifest import Manifest

_HEADERS: Final = (
    "data set",
    "compromised",
    "defense",
    "seeds",
    "attacks",
    "clean",
    "worst case",
    "failed",
)


def request_text(
    manifest: Manifest, records: Sequence[CellRecord], file: str, digest: str
) -> str:
    """A pull request in markdown: what is offered, its numbers, how to verify it.

    Args:
        file: name of the bundle's file.
        digest: SHA-256 of its `bundle.json`.
    """
    witnesses = len(manifest.files) - 1
    lines = [
        f"# {markdown(manifest.title, 200)}",
        "",
        f"- Author: {markdown(manifest.author, 200)}",
        *(
            [f"- Code or paper: {markdown(manifest.link, 500)}"]
            if manifest.link
            else []
        ),
        f"- Protocol {manifest.protocol}, cibench {code(manifest.cibench)}",
        f"- {len(records)} records, {witnesses} witnesses",
        f"- Bundle: {code(file, 200)}, digest {code(digest)}",
        "",
        *([markdown(manifest.note, 2000), ""] if manifest.note else []),
        tabulate(
            _rows(records), headers=_HEADERS, tablefmt="pipe", disable_numparse=True
        ),
        "",
        "Accuracies in percent, means over seeds; *worst case* counts a sample as right if"
        " it is under every attack of the row.",
        "",
        "To verify:",
        "",
        "```",
        f"cibench verify {file}",
        f"cibench verify {file} --rerun 5 --salt TEXT-OF-YOUR-OWN",
        "```",
        "",
    ]
    return "\n".join(lines)


def _rows(records: Sequence[CellRecord]) -> list[list[str]]:
    groups: dict[tuple[str, str, str], list[CellRecord]] = defaultdict(list)
    for record in records:
        threat = "+".join(
            part.agents
            + (f" to {part.target}" if part.target != "any" else "")
            + ("" if part.budget is None else f" within {part.budget:g}")
            for part in record.attack
        )
        groups[record.dataset.spec, threat, record.defense.spec].append(record)
    rows = []
    for (dataset, threat, defense), found in sorted(groups.items()):
        good = [record for record in found if record.status == "ok"]
        seeds = {record.seed for record in good}
        attacks = {"+".join(p.component.spec for p in r.attack) for r in found}
        rows.append(
            [
                code(dataset),
                code(threat),
                code(defense),
                str(len(seeds)),
                str(len(attacks)),
                _percent([_clean(record) for record in good]),
                _percent(
                    [_worst([r for r in good if r.seed == seed]) for seed in seeds]
                )
                if len(good) == len(found)
                else "incomplete",
                str(len(found) - len(good)),
            ]
        )
    return rows


def _clean(record: CellRecord) -> float:
    return record.metrics.clean.value if record.metrics else 0.0


def _worst(records: Sequence[CellRecord]) -> float:
    """Share of the counted samples that are right in all records of one seed."""
    held: list[bool] = []
    counted: list[bool] = []
    for record in records:
        outcomes = record.outcomes
        if outcomes is None:
            continue
        pairs = zip(outcomes.labels, outcomes.attacked, strict=True)
        right = [label == decided for label, decided in pairs]
        held = [a and b for a, b in zip(held, right, strict=True)] if held else right
        counted = outcomes.counted
    return sum(a and b for a, b in zip(held, counted, strict=True)) / max(
        1, sum(counted)
    )


def _percent(shares: Sequence[float]) -> str:
    # Equal means of different numbers of seeds differ in their last binary digit.
    return f"{round(100 * sum(shares) / len(shares), 9):.1f}" if shares else "none"
