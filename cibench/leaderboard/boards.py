"""From reviewed records to boards: plain data that pages, figures and site draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._version import PROTOCOL
from ..flags import FLAGS
from ..sanity import flagged
from ..study import Study
from .assembly import make_board
from .command import plain_slug, unique
from .controls import with_controls
from .curves import Drawn, make_curves
from .entries import LoadedEntry as LoadedEntry
from .entries import listed
from .homes import settle
from .model import Column, Leaderboard, Row
from .places import Group, gather, threat_of_text

_UNKNOWN = "not a flag of this version"


def make_leaderboard(
    entries: Sequence[LoadedEntry],
    *,
    title: str,
    owner: str,
    link: str,
    suite: Study,
    suite_name: str,
) -> Leaderboard:
    """All boards of the reviewed entries; the same whatever the order of the entries.

    Args:
        entries: what was submitted and reviewed.
        title: of the leaderboard.
        owner: who answers for it.
        link: to its home, or empty.
        suite: whose attacks no row may lack.
        suite_name: what `cibench run --suite` calls it.

    Raises:
        UsageError: two entries have different numbers for one cell.
    """
    # What one entry brings raises no flag on another's records.
    entries = [replace(entry, records=flagged(entry.records)) for entry in entries]
    groups = gather(entries, suite)
    specs = {scenario.attack for scenario in suite.scenarios}
    for group in groups:
        settle(group, specs, suite.seeds)
    tried = {threat_of_text(one.attack) for one in suite.scenarios if one.control}
    ids = unique((_id(group), (group.place, group.threat)) for group in groups)
    boards: list[Drawn] = []
    controls: list[Drawn] = []
    for name, group in zip(ids, groups, strict=True):
        board = make_board(group, groups, name, suite, suite_name)
        if board is not None:
            made = Drawn(group, board)
            (controls if group.threat in tried else boards).append(made)
    boards = [with_controls(drawn, controls) for drawn in boards]
    records = [record for entry in entries for record in entry.records]
    parts: list[Row | Column] = []
    for drawn in boards:
        parts += [*drawn.board.rows, *drawn.board.columns]
    raised = {flag for part in parts for flag in part.flags}
    return Leaderboard(
        title=title,
        owner=owner,
        link=link,
        suite=suite_name,
        protocol=max((record.protocol for record in records), default=PROTOCOL),
        date=max((record.created[:10] for record in records), default=""),
        boards=[drawn.board for drawn in boards],
        curves=make_curves(boards),
        entries=[listed(entry) for entry in sorted(entries, key=lambda e: e.age)],
        flags={
            name: FLAGS[name].meaning if name in FLAGS else _UNKNOWN
            for name in sorted(raised)
        },
    )


def _id(group: Group) -> str:
    """A board's name: data set and rule, and the rest where it is out of the ordinary."""
    place, threat = group.place, group.threat
    words = [place.dataset, threat.rule]
    if threat.target != "any":
        words.append(threat.target)
    if threat.bounded:
        words.append(f"budget {threat.budget:g}")
    if place.device != "cpu":
        words.append(place.device)
    return plain_slug(" ".join(words))
