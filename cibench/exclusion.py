"""Cells that a run leaves out: `--exclude pgd/copur*` is what both terms match."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._errors import SpecError, UsageError
from .spec import Spec, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Plugin

_SEED = re.compile(r"seed\s*=\s*(.+)")
_KIND = re.compile(r"(dataset|attack|defense):(.+)")


class Axes:
    """The axes of a grid by the words that a term may match.

    Args:
        datasets: one of these,
        seeds: one of these,
        attacks: one composition of these
        defenses: and one of these make a cell; cells are in that order, the last axis
            fastest.
    """

    def __init__(
        self,
        datasets: Sequence[Plugin],
        seeds: Sequence[int],
        attacks: Sequence[tuple[Plugin, ...]],
        defenses: Sequence[Plugin],
    ) -> None:
        self.words = {
            "dataset": [_words((plugin,)) for plugin in datasets],
            "seed": [{str(seed)} for seed in seeds],
            "attack": [_words(parts) for parts in attacks],
            "defense": [_words((plugin,)) for plugin in defenses],
        }

    def kept(self, patterns: Sequence[str]) -> list[bool]:
        """For each cell, whether no pattern drops it.

        Args:
            patterns: `TERM[/TERM...]`; a cell is dropped if every term of a pattern
                matches it. A term is `seed=N`, or a glob on a name or canonical spec of
                the data set, the attack, one of its parts or the defense; before it may
                stand the kind, as in `defense:none`.

        Raises:
            UsageError: a pattern is malformed or drops no cell.
        """
        kept = np.ones([len(axis) for axis in self.words.values()], dtype=bool)
        for pattern in patterns:
            dropped = np.ones_like(kept)
            for term in (part.strip() for part in pattern.split("/")):
                matched = self._matched(term)
                if not matched.any():
                    raise UsageError(f"--exclude {pattern}: {self._unmatched(term)}")
                dropped &= matched
            if not dropped.any():
                raise UsageError(
                    f"--exclude {pattern}: expected terms that match a cell together,"
                    " got terms that do so only apart; repeat --exclude to drop what"
                    " either matches"
                )
            kept &= ~dropped
        flat: list[bool] = kept.ravel().tolist()
        return flat

    def _matched(self, term: str) -> NDArray[np.bool_]:
        """Which cells a term matches, as an array that broadcasts to the grid's shape."""
        kinds, globs = _read(term)
        found = np.zeros((1,) * len(self.words), dtype=bool)
        for place, (kind, axis) in enumerate(self.words.items()):
            if kind in kinds:
                hits = [
                    any(fnmatch.fnmatchcase(word, g) for g in globs for word in words)
                    for words in axis
                ]
                shape = [1] * len(self.words)
                shape[place] = len(hits)
                found = found | np.array(hits, dtype=bool).reshape(shape)
        return found

    def _unmatched(self, term: str) -> str:
        kinds, globs = _read(term)
        known = sorted(
            {w for kind in kinds for words in self.words[kind] for w in words}
        )
        near = did_you_mean(globs[-1], known)
        if kinds == ("seed",):
            what = f"a seed of the run ({', '.join(known)})"
        else:
            names = sorted({re.split(r"[:+]", word)[0] for word in known})
            what = (
                f"{' or '.join(kinds)} of the run by name, spec or glob, or seed=N"
                f" (names: {', '.join(names)})"
            )
        return f"expected {what}, got {term!r}{near}"


def _words(parts: Sequence[Plugin]) -> set[str]:
    """What a plugin or composition answers to: names and specs, whole and by part."""
    forms = [
        [part.entry.name for part in parts],
        [part.spec for part in parts],
        [str(part.given or part.spec) for part in parts],
    ]
    return {word for form in forms for word in (*form, "+".join(form))}


def _read(term: str) -> tuple[tuple[str, ...], list[str]]:
    """The kinds that a term speaks of and the globs that it stands for."""
    if seed := _SEED.fullmatch(term):
        return ("seed",), [seed[1]]
    kinds: tuple[str, ...] = ("dataset", "attack", "defense")
    if match := _KIND.fullmatch(term):
        kinds, term = (match[1],), match[2]
    try:
        normal = "+".join(map(str, Spec.parse_composition(term)))
    except SpecError:
        normal = term
    return kinds, [term, normal]
