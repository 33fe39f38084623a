"""`boards/<board>.md`: everything known of one board."""

from __future__ import annotations

from .knowing import control, knowledge, told
from .model import Board, Certified, Column, Leaderboard, Result, Row
from .standing import (
    abbreviations,
    about,
    address_of,
    anchor,
    compromised_agents,
    flagged,
    standing,
)
from .tables import (
    NOTHING,
    defense,
    items,
    link,
    number,
    percent,
    points,
    probability,
    share,
    table,
)
from .text import code, markdown, shown

#: Radii of a certified curve that a line names.
_RADII = 6


def board_page(board: Board, leaderboard: Leaderboard) -> str:
    """A board's own page."""
    short = abbreviations(leaderboard.flags)
    name = anchor(board)
    parts = [
        f"# {markdown(board.title, 200)}",
        "[All boards](../README.md) · [How to challenge an entry](../CONTRIBUTING.md)",
        about(board),
        "## Threat model",
        items([markdown(sentence, 500) for sentence in board.threat]),
        "## Protocol",
        items(_protocol(board, leaderboard)),
        "## Standing",
        standing(board, short, full=True),
        f"![Worst-case accuracy](../figures/{name}-forest.svg)",
        "## Accuracy under each attack",
        _attacks(board),
        f"![Accuracy by defense and attack](../figures/{name}-heatmap.svg)",
        *_columns(board, short),
        *knowledge(board),
        *control(board),
        *_certified(board, name),
        *_differences(board),
        *_agents(board),
        *_lowered(board),
        *_failures(board),
        *_flags(board, leaderboard, short),
        *_commands(board),
        *_entries(board, leaderboard),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _protocol(board: Board, leaderboard: Leaderboard) -> list[str]:
    numbers = ", ".join(map(str, board.seeds))
    lines = [
        f"protocol {board.protocol}, suite {code(leaderboard.suite)}, newest record"
        f" {markdown(board.date)}",
        f"data set {code(board.dataset, 200)}, fingerprint {code(board.fingerprint)}",
        f"embedding {code(board.embedding, 200)}, device {code(board.device)}",
        f"{board.n} test samples under attack; seeds {numbers or NOTHING}",
        f"{len(board.agents)} agents: {_names(board.agents)}",
        f"{len(board.classes)} classes: {_names(board.classes)}",
        f"compromised: {code(board.rule)}, target: {code(board.target)}, budget:"
        f" {'none' if board.budget is None else number(board.budget)}",
        f"statistics: {markdown(board.intervals, 2000)}",
    ]
    if board.time_series:
        lines.append("neighbouring test samples are correlated in time")
    if board.personal:
        lines.append(
            "the data are of persons: embeddings and witnesses stay unpublished"
        )
    return lines + [markdown(note, 500) for note in board.notes]


def _names(names: list[str]) -> str:
    return ", ".join(map(markdown, names[:50])) + (", …" if len(names) > 50 else "")


def _attacks(board: Board) -> str:
    columns = [
        "defense",
        "clean (%)",
        *(
            markdown(column.label) + ("" if column.standard else " · beyond the suite")
            for column in board.columns
        ),
    ]
    rows = [
        [
            defense(row, plain=True),
            share(row.clean, n=board.n),
            *(_result(row, column, board) for column in board.columns),
        ]
        for row in board.rows
    ]
    return table(columns, rows)


def _result(row: Row, column: Column, board: Board) -> str:
    missing = "no record" if column.standard else "not tried"
    return told(row.results.get(column.attack, Result()), board) or missing


def _columns(board: Board, short: dict[str, str]) -> list[str]:
    rows = [
        [
            markdown(column.label),
            code(column.attack, 200),
            markdown(column.knowledge),
            "standard suite" if column.standard else "beyond the suite",
            flagged(column, short),
        ]
        for column in board.columns
    ]
    heading = ["attack", "spec", "knowledge", "part of", "flags"]
    return ["### The attacks", table(heading, rows, "lllll")] if rows else []


def _certified(board: Board, name: str) -> list[str]:
    rows = [
        [
            defense(row, plain=True),
            "agents" if one.kind == "agents" else "l2 distance",
            _confidence(one),
            share(one.here, n=board.n),
            _steps(one),
        ]
        for row in board.rows
        for one in row.certified
    ]
    if not rows:
        return []
    columns = [
        "defense", "radius in", "confidence of a sample",
        f"certified{compromised_agents(board)} (%)", "certified accuracy (%) by radius",
    ]  # fmt: skip
    kinds = sorted({one.kind for row in board.rows for one in row.certified})
    return [
        "## Certified accuracy",
        "Proved of clean embeddings: the share of test samples that are decided rightly and"
        " stay so within the radius. No attack can take it below; it says nothing of what"
        " attacks reach.",
        table(columns, rows, "lllrl"),
        *(f"![Certified accuracy](../figures/{name}-certified-{k}.svg)" for k in kinds),
    ]


def _confidence(one: Certified) -> str:
    return "proof" if one.confidence >= 1 else f"{number(100 * one.confidence)} %"


def _steps(one: Certified) -> str:
    pairs = list(zip(one.radii, one.accuracy, strict=True))
    step = max(1, -(-len(pairs) // _RADII))
    return ", ".join(f"{number(r)}: {percent(a)}" for r, a in pairs[::step]) or NOTHING


def _differences(board: Board) -> list[str]:
    rows = [
        [
            defense(row, plain=True),
            markdown(row.versus.other),
            f"{points(row.versus.difference)} [{points(row.versus.low)},"
            f" {points(row.versus.high)}]",
            probability(row.versus.p),
        ]
        for row in board.rows
        if row.versus is not None
    ]
    columns = ["defense", "compared with", "difference (points) [95 %]", "p"]
    return [
        "## Paired differences",
        "Worst case, over the same samples and seeds. p: exact McNemar test, the largest"
        " over seeds, adjusted by Holm for the rows of this board.",
        table(columns, rows, "llrr"),
    ] * bool(rows)


def _agents(board: Board) -> list[str]:
    found = [row for row in board.rows if row.agents]
    rows = [
        [
            defense(row, plain=True),
            *(share(row.agents.get(agent)) for agent in board.agents),
        ]
        for row in found
    ]
    columns = ["defense", *map(markdown, board.agents)]
    return [
        "## Which agent hurts most",
        "Worst-case accuracy (%) over the samples where that agent is among the"
        " compromised.",
        table(columns, rows),
    ] * bool(rows)


def _lowered(board: Board) -> list[str]:
    rows = [
        [
            defense(row, plain=True), markdown(step.date), code(step.attack, 200),
            markdown(step.author), markdown(step.entry), markdown(step.badge),
            share(step.before, n=board.n),
            share(step.after, n=board.n),
        ]
        for row in board.rows
        for step in row.lowered
    ]  # fmt: skip
    columns = [
        "defense", "date", "attack", "author", "entry", "badge", "before (%)",
        "after (%)",
    ]  # fmt: skip
    return ["## Lowered by stronger attacks", table(columns, rows, "llllllrr")] * bool(
        rows
    )


def _failures(board: Board) -> list[str]:
    lines = [
        f"{defense(row, plain=True)}: {markdown(reason, 300)}"
        for row in board.rows
        for reason in (row.reasons or ([row.trouble] if row.trouble else []))
    ]
    return ["## Failures", items(lines)] * bool(lines)


def _flags(board: Board, leaderboard: Leaderboard, short: dict[str, str]) -> list[str]:
    parts: list[Row | Column] = [*board.rows, *board.columns]
    carried = sorted({flag for part in parts for flag in part.flags})
    rows = [
        [
            short.get(flag, markdown(flag)),
            markdown(flag),
            markdown(leaderboard.flags.get(flag, ""), 500) or NOTHING,
        ]
        for flag in carried
    ]
    return ["## Flags", table(["short", "flag", "meaning"], rows, "lll")] * bool(rows)


def _commands(board: Board) -> list[str]:
    lines = [shown(row.command, 1000) for row in board.rows if row.command]
    if not lines:
        return []
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return ["## Run it again", "\n".join([f"{fence}sh", *dict.fromkeys(lines), fence])]


def _entries(board: Board, leaderboard: Leaderboard) -> list[str]:
    behind = {row.entry for row in board.rows}
    behind |= {step.entry for row in board.rows for step in row.lowered}
    behind |= {found.entry for row in board.rows for found in row.results.values()}
    rows = [
        [
            f"[{markdown(entry.name)}](../entries/{address_of(entry.name)})",
            link(markdown(entry.title), entry.link), markdown(entry.author),
            markdown(entry.created), markdown(entry.badge), markdown(entry.verified, 120),
            f"`{entry.digest}`",
        ]
        for entry in leaderboard.entries
        if entry.name in behind
    ]  # fmt: skip
    columns = [
        *("entry", "title", "author", "date", "badge", "verified"),
        "SHA-256 of bundle.json",
    ]
    return ["## Entries", table(columns, rows, "lllllll")] * bool(rows)
