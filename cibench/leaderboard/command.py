"""What is said of a board and a row in words: titles, threats, labels, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from ..bootstrap import block_length
from ..results import CellRecord, Component
from ..study import Study
from .naming import OWN, parsed
from .places import Threat
from .text import slug

#: Data sets whose files nobody may pass on: a command must say where they are.
_BROUGHT = ("extrasensory", "nuswide")


def plain_slug(text: str) -> str:
    """An id without a hash where the text is short and plain."""
    words = re.sub(r"[:=,/ _.+]+", "-", text.lower()).strip("-")
    return slug(words if len(text) <= 60 and words.isascii() else text)


def who(rule: str, agents: int) -> str:
    """The compromised agents of a rule, such as `one agent drawn for each sample`."""
    kind, _, count = rule.partition(":")
    if kind == "random":
        return f"{_number(count)} drawn for each sample"
    if kind == "worst":
        return f"the worst {_number(count)} for each sample"
    if kind in ("greedy", "bandit"):
        return f"the worst {_number(count)} that a {kind} search finds"
    if kind == "last":
        return "the last agent"
    if kind == "all":
        return f"all {agents} agents"
    return f"{'agents' if re.search('[/+-]', rule) else 'agent'} {rule}"


def compromised(rule: str, names: Sequence[str]) -> int | None:
    """How many agents a rule compromises; None if that is not known."""
    kind, _, count = rule.partition(":")
    if kind in ("random", "worst", "greedy", "bandit"):
        return whole(count)
    if kind in ("last", "all"):
        return 1 if kind == "last" else len(names)
    total = 0
    for part in rule.split("/"):
        first, _, last = part.partition("-")
        start, stop = whole(first), whole(last)
        if start is not None and stop is not None:
            total += stop - start + 1
        elif part in names or whole(part) is not None:
            total += 1
        else:
            return None
    return total


def whole(text: str) -> int | None:
    """A whole number of a few digits, else None."""
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else None


def _number(count: str) -> str:
    words = {"1": "one agent", "2": "two agents", "3": "three agents"}
    return words.get(count, f"{count} agents")


def board_title(dataset: str, threat: Threat, agents: int, *, corrupts: bool) -> str:
    """Such as `mfeat, one agent drawn for each sample sends anything`."""
    subject = who(threat.rule, agents)
    single = subject.startswith(("one agent", "the last", "the worst one", "agent "))
    ending = "s" if single else ""
    does = f"fall{ending} silent"
    if corrupts:
        does = f"send{ending} anything"
    if corrupts and threat.bounded:
        does = f"send{ending} changes of at most {threat.budget:g} block norms"
    goal = "" if threat.target == "any" else f", for the class {threat.target}"
    if threat.target == "other":
        goal = ", for the other class"
    return f"{dataset}, {subject} {does}{goal}"


def threat_sentences(threat: Threat, agents: int, *, corrupts: bool) -> list[str]:
    """The threat model in sentences: who, what they know, send and want."""
    subject = who(threat.rule, agents)
    same = ", the same for every defense" if threat.rule.startswith("random") else ""
    sends = "A compromised agent only falls silent; what others send stays as it is."
    if corrupts:
        sends = (
            "A compromised agent sends anything or nothing: no budget bounds it."
            if not threat.bounded
            else "A compromised agent changes its block by at most"
            f" {threat.budget:g} times its median norm."
        )
    goal = "Any other decision than the true class is what the adversary wants."
    if threat.target != "any":
        named = "other class" if threat.target == "other" else f"class {threat.target}"
        goal = (
            f"The adversary wants the {named}; an accuracy counts every wrong decision,"
            " among the samples that are not of that class already."
        )
    return [
        f"Compromised of {agents} agents: {subject}{same}.",
        "The adversary knows everything, the defense included; attacks that know less are"
        " what such an adversary may also do.",
        sends,
        goal,
        "A sample withstands if it is decided rightly under every attack, and without;"
        " abstaining counts as wrong.",
    ]


def interval_sentence(seeds: int, n: int, *, time_series: bool) -> str:
    """How the intervals of a board were found."""
    drawn = f"{seeds} seeds and {n} samples" if seeds > 1 else f"{n} samples"
    block = block_length(n, time_series=time_series)
    blocks = f", in blocks of {block} neighbouring samples" if block > 1 else ""
    caution = (
        "; p takes samples as independent, which neighbours in time are not, and is too"
        " small"
        if time_series
        else ""
    )
    return (
        f"95 % intervals. Worst cases, ranks and differences: bootstrap over {drawn}"
        f"{blocks}, drawn once for all rows; Wilson's over samples where all outcomes are"
        " equal. Clean accuracy, single attacks, single agents and certificates: Wilson's"
        f" over the samples{caution}."
    )


def defense_label(suite: Study, defense: Component) -> str:
    """The suite's label of a defense, else its spec."""
    if defense.distribution == OWN:
        for protocol in suite.protocols:
            for label, text in protocol.defenses.items():
                if _means(text, defense):
                    return label
    return defense.spec


def _means(text: str, plugin: Component) -> bool:
    """Whether a spec is that of a configured plugin; defaults may be spelt out in it."""
    spec, own = parsed(text), parsed(plugin.spec)
    given = dict(spec.options)
    if spec.name != own.name or not set(dict(own.options)) <= set(given):
        return False
    return all(
        dict(own.options).get(name) == value or _same(value, plugin.options.get(name))
        for name, value in given.items()
    )


def _same(text: str, value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text.lower() == str(value).lower()


def run_command(suite: str, record: CellRecord) -> str:
    """Runs a row's cells again; a suite that is a file is named from the folder."""
    option = "-c" if suite.endswith(".toml") else "--suite"
    words = ["cibench", "run", option, suite, "--dataset", record.dataset.spec]
    words += ["-d", record.defense.spec]
    if record.dataset.name in _BROUGHT:
        words += ["--data-dir", "DIR"]
    return shlex.join(words)


def unique(ids: Iterable[tuple[str, object]]) -> list[str]:
    """Ids in the given order; of equal ones all but the first get what tells them apart."""
    seen: set[str] = set()
    found = []
    for name, identity in ids:
        if name in seen:
            name = slug(f"{name} {identity!r}")
        seen.add(name)
        found.append(name)
    return found
