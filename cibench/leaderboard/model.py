"""What the pages show: boards, rows and curves as plain data, ready for JSON.

`boards` makes them from records; markdown, figures and site only draw them. Shares are
between 0 and 1; they are rounded where they are drawn.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable, keyword-only."""


class Share(_Base, frozen=True, kw_only=True):
    """A share of test samples: the mean over seeds, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Test samples, which all seeds share."""
    spread: float | None = None
    """Standard deviation over seeds; None for one seed."""


class Column(_Base, frozen=True, kw_only=True):
    """One attack of a board."""

    attack: str
    """Canonical spec, parts joined by `+`: the column's identity."""
    label: str
    """Of the standard suite, else the spec."""
    family: str
    """Names of the attack's parts, joined by `+`."""
    knowledge: str
    standard: bool
    """Whether it belongs to the standard suite, so that no row may lack it."""
    flags: list[str] = []
    """Flags that tell of the attack, whatever the defense is."""

    @property
    def knows_defense(self) -> bool:
        """Whether a part of it knows the defense."""
        return "adaptive" in self.knowledge.split("+")


class Result(_Base, frozen=True, kw_only=True):
    """A defense under one attack: an accuracy, or why there is none."""

    share: Share | None = None
    trouble: str = ""
    """Such as `1 of 5 seeds timeout`; empty if there is a share."""
    author: str = ""
    """Who brought the attack, where it is not of the suite."""
    entry: str = ""


class Lowered(_Base, frozen=True, kw_only=True):
    """What a stronger attack than the suite's did to a row."""

    attack: str
    author: str
    entry: str
    badge: str = ""
    """Of that entry."""
    date: str
    before: Share
    """The row's accuracy without it."""
    after: Share
    """And with it: the worst case over all attacks known up to its date."""


class Certified(_Base, frozen=True, kw_only=True):
    """Certified accuracy by radius, from clean embeddings; never an empirical number."""

    kind: Literal["agents", "l2"]
    confidence: float
    radii: list[float]
    """From 0 up: where the curve steps."""
    accuracy: list[float]
    """Share of samples decided rightly with at least that radius, mean over seeds."""
    here: Share | None = None
    """At what the board's adversary may do; None where the radius says nothing of it."""


class Cost(_Base, frozen=True, kw_only=True):
    """What a defense costs."""

    fit_seconds: float
    milliseconds: float
    """Per decision of one sample."""
    relative: float | None
    """Times that of the undefended fusion center of the same board."""


class Versus(_Base, frozen=True, kw_only=True):
    """A paired comparison with the best row, in shares, over the same samples and seeds."""

    other: str
    """Label of the row compared with; of the best row itself, the second."""
    difference: float
    low: float
    high: float
    p: float
    """Exact McNemar, the largest over seeds, adjusted by Holm for the rows of the board."""


class Row(_Base, frozen=True, kw_only=True):
    """One defense on one board."""

    id: str
    """Unique within the leaderboard; letters, digits and hyphens."""
    label: str
    """Of the standard suite, else the spec."""
    spec: str
    defense: str
    """The plugin's name."""
    distribution: str
    version: str
    citation: str = ""
    link: str = ""
    entry: str
    author: str
    date: str
    """Of the newest of its records, as YYYY-MM-DD."""
    badge: Literal["claimed", "re-scored", "reproduced"] = "claimed"
    badge_text: str = ""
    """How much was verified, such as `120 of 120 witnesses`."""
    role: Literal["", "undefended", "genie"] = ""
    """Reference rows; other oracle rows have only `oracle`."""
    oracle: bool = False
    """Told which agents are corrupted: never ranked."""
    rank: tuple[int, int] | None = None
    """95 % interval of the rank; None where there is none."""
    clean: Share | None = None
    standard: Share | None = None
    """Worst case over the standard suite's attacks of this board, per sample."""
    best_known: Share | None = None
    """And over every attack known: what is ranked."""
    unaware: Share | None = None
    """Worst case over the suite's attacks that do not know the defense; None where the
    suite has none of them, or no other."""
    results: dict[str, Result] = {}
    """By the column's attack."""
    control: Result | None = None
    """Under the suite's control: far from zero, its attack is broken."""
    adaptive: Literal["adaptive", "exact", "misled", "none"] = "none"
    """`exact`: the attack tries all there is. `misled`: an attack that does not know the
    defense breaks more, so the gradients through it mislead. `none`: not adaptively
    evaluated; sorted last."""
    lowered: list[Lowered] = []
    certified: list[Certified] = []
    flags: list[str] = []
    cost: Cost | None = None
    seeds: list[int] = []
    versus: Versus | None = None
    agents: dict[str, Share] = {}
    """Worst case where that agent is among the compromised, by agent."""
    trouble: str = ""
    """Why there is no aggregate and no rank, such as `no record under replay`."""
    reasons: list[str] = []
    """Of each cell that failed."""
    command: str = ""
    """Runs the row's cells again."""


class Board(_Base, frozen=True, kw_only=True):
    """One data set under one threat model; rows are sorted as they are shown."""

    id: str
    """Letters, digits and hyphens; a file's name."""
    title: str
    dataset: str
    """Canonical spec."""
    dataset_name: str
    fingerprint: str
    protocol: int
    embedding: str
    device: str
    agents: list[str]
    classes: list[str]
    rule: str
    """Which agents are compromised and how they are chosen, such as `random:1`."""
    target: str
    budget: float | None
    threat: list[str]
    """The same in sentences: who, what they know, what they may send, what they want."""
    n: int
    """Test samples under attack."""
    seeds: list[int]
    majority: float
    """Accuracy of always answering the largest class."""
    time_series: bool = False
    personal: bool = False
    intervals: str
    """How intervals were found, in a sentence."""
    notes: list[str] = []
    columns: list[Column]
    control: str = ""
    """Labels of the suite's controls, if it has any."""
    rows: list[Row]
    date: str
    """Of the newest record."""


class Line(_Base, frozen=True, kw_only=True):
    """One defense along a curve; None where there is no number."""

    label: str
    row: str
    """Id of its row on the first board of the curve that has it."""
    shares: list[Share | None]


class Curve(_Base, frozen=True, kw_only=True):
    """Accuracy of one kind of attack against its strength."""

    id: str
    title: str
    dataset: str
    axis: str
    """What x is, such as `amplification` or `compromised agents`."""
    log: bool
    xs: list[float]
    lines: list[Line]


class Entry(_Base, frozen=True, kw_only=True):
    """A submission behind the boards."""

    name: str
    title: str
    author: str
    link: str = ""
    note: str = ""
    created: str
    badge: str
    verified: str = ""
    """How much of it, in a few words."""
    records: int
    digest: str
    """SHA-256 of its `bundle.json`."""


class Leaderboard(_Base, frozen=True, kw_only=True):
    """All that is published."""

    title: str
    owner: str
    link: str = ""
    suite: str
    protocol: int
    date: str
    """Of the newest record; never today's."""
    boards: list[Board]
    curves: list[Curve]
    entries: list[Entry]
    flags: dict[str, str] = {}
    """Meaning of every flag that a row carries."""
