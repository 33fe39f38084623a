"""One board: its columns, its rows and how they stand to one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..flags import OF_ATTACKS
from ..study import Study
from .command import board_title, interval_sentence, threat_sentences
from .contenders import contender
from .model import Board, Column
from .places import Group, Held, asks_clean, required
from .rows import build_rows
from .worst import Samples, samples


def make_board(
    group: Group, groups: Sequence[Group], name: str, suite: Study, suite_name: str
) -> Board | None:
    """A board of its records; None where no cell of it was ever finished.

    Args:
        groups: of all boards, which tell the suite's attacks of this one.
        name: its id.
    """
    columns = _columns(group, groups, suite)
    seen = samples(group, columns, suite.seeds)
    if seen is None:
        return None
    clean_label = ""
    if asks_clean(group, suite):
        clean_label = next(s.label for s in suite.scenarios if s.attack == "none")
    rows = [contender(group, row, seen, columns, clean_label) for row in group.rows]
    done = [held for one in rows for held in one.held if held.record.outcomes]
    finished = [held.record for held in done]
    first = min(
        done, key=lambda h: (h.entry.age, h.record.created, h.record.key)
    ).record
    corrupts = any(part.corrupts for record in finished for part in record.attack)
    names, place, threat = first.agents, group.place, group.threat
    return Board(
        id=name,
        title=board_title(first.dataset.spec, threat, len(names), corrupts=corrupts),
        dataset=place.dataset,
        dataset_name=first.dataset.name,
        fingerprint=place.fingerprint,
        protocol=place.protocol,
        embedding=place.embedding,
        device=place.device,
        agents=names,
        classes=first.classes,
        rule=threat.rule,
        target=threat.target,
        budget=threat.budget if threat.bounded else None,
        threat=threat_sentences(threat, len(names), corrupts=corrupts),
        n=seen.n,
        seeds=seen.seeds,
        majority=max(Counter(seen.labels.tolist()).values()) / len(seen.labels),
        time_series=first.time_series,
        personal=any(record.personal for record in finished),
        intervals=interval_sentence(
            len(seen.seeds), len(seen.labels), time_series=first.time_series
        ),
        notes=_notes(seen, first.notes),
        columns=columns,
        rows=build_rows(
            group, seen, columns, rows, name, suite, suite_name, first.time_series
        ),
        date=max(record.created[:10] for record in finished),
    )


def _columns(group: Group, groups: Sequence[Group], suite: Study) -> list[Column]:
    """The suite's attacks in its order, then others by spec."""
    scenarios = required(group, suite, groups)
    labels = {scenario.attack: scenario.label for scenario in scenarios}
    met: dict[str, Held] = {}
    finished: Counter[str] = Counter()
    raised: Counter[tuple[str, str]] = Counter()
    for row in group.rows:
        for attack, by_seed in group.attacked[row].items():
            met.setdefault(attack, by_seed[min(by_seed)])
            done = [h.record for h in by_seed.values() if h.record.outcomes is not None]
            finished[attack] += len(done)
            raised.update((attack, flag) for record in done for flag in record.flags)
    found = []
    for attack in [*labels, *sorted(set(met) - set(labels))]:
        parts = met[attack].record.attack if attack in met else []
        known = list(dict.fromkeys(part.knowledge for part in parts if part.knowledge))
        names = [part.component.name for part in parts]
        found.append(
            Column(
                attack=attack,
                label=labels.get(attack, attack),
                family="+".join(names) or attack.partition(":")[0],
                knowledge="+".join(known),
                standard=attack in labels,
                # One seed in which it fell short says little of an attack.
                flags=sorted(
                    flag
                    for flag in OF_ATTACKS
                    if 2 * raised[attack, flag] > finished[attack]
                ),
            )
        )
    return found


def _notes(seen: Samples, notes: Sequence[str]) -> list[str]:
    found = list(notes)
    if seen.n < len(seen.labels):
        found.append(
            f"{len(seen.labels) - seen.n} of {len(seen.labels)} test samples do not count"
            " under attack: they are of the target class already"
        )
    return found
