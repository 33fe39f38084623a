"""Security curves: accuracy of one kind of attack against its strength."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

import msgspec

from ..results import Component
from .command import plain_slug, unique, who, whole
from .model import Board, Curve, Line, Row, Share
from .naming import parsed, without
from .places import Group

_AGENTS = "compromised agents"
_KINDS = {
    "random": "agents drawn for each sample",
    "worst": "the worst agents for each sample",
    "greedy": "the worst agents that a greedy search finds",
    "bandit": "the worst agents that a bandit search finds",
}
#: Larger options are no strengths that a figure could show.
_MOST = 1e12


class Drawn(NamedTuple):
    """A board and the records behind it."""

    group: Group
    board: Board


class _Family(NamedTuple):
    """Attacks that differ in one number only."""

    dataset: str
    place: str
    axis: str
    title: str
    name: str
    """What its curve's id is made of."""
    rest: str


class _Point(NamedTuple):
    x: float
    attack: str
    """Empty for no attack."""
    drawn: Drawn


def make_curves(boards: Sequence[Drawn]) -> list[Curve]:
    """Every family of attacks with more than one strength; sorted by data set and title."""
    families: dict[_Family, dict[float, _Point]] = {}
    for drawn in boards:
        for attack, component in _components(drawn.group).items():
            for family, x in _families(drawn, component):
                point = _Point(x, attack, drawn)
                families.setdefault(family, {}).setdefault(x, point)
    order = sorted(family for family, points in families.items() if len(points) > 1)
    names = unique((plain_slug(family.name), family) for family in order)
    curves = [
        _curve(name, family, [families[family][x] for x in sorted(families[family])])
        for name, family in zip(names, order, strict=True)
    ]
    return [curve for curve in curves if curve is not None]


def _components(group: Group) -> dict[str, Component]:
    """Attacks of one part, by column."""
    found: dict[str, Component] = {}
    for row in group.rows:
        for attack, by_seed in group.attacked[row].items():
            for seed in sorted(by_seed):
                parts = by_seed[seed].record.attack
                if len(parts) == 1 and attack not in found:
                    found[attack] = parts[0].component
    return {attack: found[attack] for attack in sorted(found)}


def _families(drawn: Drawn, component: Component) -> Iterable[tuple[_Family, float]]:
    """The families an attack belongs to, and where it stands in each."""
    threat, options = drawn.group.threat, component.options
    kind, _, count = threat.rule.partition(":")

    def family(axis: str, attack: str, agents: str, rule: str, same: object) -> _Family:
        rest = {name: value for name, value in options.items() if name != axis}
        if axis == _AGENTS:
            rest.pop("agents", None)
        own = same, sorted(rest.items(), key=repr), component.distribution
        dataset = drawn.board.dataset
        return _Family(
            dataset=dataset,
            place=repr(drawn.group.place),
            axis=axis,
            title=f"{parsed(dataset).name}: {attack}, {agents}",
            name=f"{dataset} {attack} {rule} {axis.rpartition(' ')[2]}",
            rest=repr(own),
        )

    for axis, value in sorted(options.items()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and abs(value) < _MOST:
            attack = without(component.spec, axis, "agents")
            agents = who(threat.rule, len(drawn.board.agents))
            yield family(axis, attack, agents, threat.rule, threat), float(value)
    strength = whole(count)
    if strength is not None and kind in _KINDS:
        attack = without(component.spec, "agents")
        same = kind, threat[1:]
        yield family(_AGENTS, attack, _KINDS[kind], kind, same), float(strength)


def _curve(name: str, family: _Family, points: list[_Point]) -> Curve | None:
    if family.axis == _AGENTS:
        points = [_Point(0.0, "", points[0].drawn), *points]
    rows: dict[tuple[str, str, str], Row] = {}
    by_board: dict[str, dict[tuple[str, str, str], Row]] = {}
    for point in points:
        board = point.drawn.board
        own = {(row.spec, row.distribution, row.version): row for row in board.rows}
        by_board[board.id] = own
        for key, row in own.items():
            rows.setdefault(key, row)
    lines = []
    for key, row in rows.items():
        shares = [
            _at(by_board[point.drawn.board.id].get(key), point.attack)
            for point in points
        ]
        if sum(share is not None for share in shares) > 1:
            lines.append(Line(label=row.label, row=row.id, shares=shares))
    shown = [any(line.shares[at] for line in lines) for at in range(len(points))]
    xs = list(compress((point.x for point in points), shown))
    if len(xs) < 2:
        return None
    return Curve(
        id=name,
        title=family.title,
        dataset=family.dataset,
        axis=family.axis,
        log=xs[0] > 0 and xs[-1] >= 10 * xs[0],
        xs=xs,
        lines=[
            msgspec.structs.replace(line, shares=list(compress(line.shares, shown)))
            for line in lines
        ],
    )


def _at(row: Row | None, attack: str) -> Share | None:
    if row is None:
        return None
    if not attack:
        return row.clean
    return row.results[attack].share if attack in row.results else None
