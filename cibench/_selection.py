"""Which plugins the texts of a command name; nothing is imported but metadata."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from ._errors import EmptySelectionError
from .registry import Registry
from .spec import Spec


@dataclass(frozen=True)
class Wanted:
    """A plugin that was asked for, or a composition of attacks.

    Args:
        specs: of its parts; only attacks have several.
        typed: whether the user named it, rather than a glob or `all`.
    """

    specs: tuple[Spec, ...]
    typed: bool


def is_pattern(text: str) -> bool:
    """Whether a text stands for the names it matches: `all`, or a glob."""
    name = text.partition(":")[0]
    return text == "all" or ("[" not in text and bool(set("*?") & set(name)))


def expand_names(
    registry: Registry, kind: str, texts: Sequence[str]
) -> list[tuple[str, bool]]:
    """Replace `all` and globs by the names they match; say which texts were typed.

    Raises:
        EmptySelectionError: a glob matches nothing.
    """
    expanded: list[tuple[str, bool]] = []
    for text in texts:
        if not is_pattern(text):
            expanded.append((text, True))
            continue
        names = registry.names(kind)
        matched = names if text == "all" else fnmatch.filter(names, text)
        if not matched:
            raise EmptySelectionError(
                f"{kind} {text!r}: expected a pattern that matches a {kind}, got none"
                f" of {', '.join(names)}"
            )
        expanded += [(name, False) for name in matched]
    return expanded


def wanted(registry: Registry, kind: str, texts: Sequence[str]) -> list[Wanted]:
    """What the texts of one kind ask for, in their order.

    Raises:
        SpecError: a text does not follow the grammar.
        EmptySelectionError: a glob matches nothing.
    """
    parse = Spec.parse_composition if kind == "attack" else lambda t: (Spec.parse(t),)
    return [
        Wanted(parse(text), typed)
        for text, typed in expand_names(registry, kind, texts)
    ]
