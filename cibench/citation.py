"""BibTeX entries: those that plugins declare, and ones made for those that do not."""

from __future__ import annotations

import re

from ._version import VERSION

#: How cibench itself is cited; CITATION.cff says the same.
CIBENCH = f"""\
@software{{cibench,
  author = {{{{The cibench authors}}}},
  title = {{cibench: a benchmark for defenses of collaborative inference}},
  version = {{{VERSION}}},
}}
"""
_HEAD = re.compile(r"@[a-zA-Z]+\s*\{\s*([^\s,{}\"#%~\\]+)\s*,")
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_"},
    # BibTeX counts braces, escaped or not.
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def keys(bibtex: str) -> list[str]:
    """Keys of the entries of a text that holds nothing else.

    Raises:
        ValueError: something is no entry, or its braces do not match.
    """
    found, rest = [], bibtex.strip()
    while rest:
        head = _HEAD.match(rest)
        if head is None:
            raise ValueError(
                f"expected a BibTeX entry such as @article{{key, ...}}, got"
                f" {rest.partition(chr(10))[0]!r}"
            )
        end = _closing(rest)
        if end is None:
            raise ValueError(f"entry {head[1]}: expected braces that match, got others")
        found.append(head[1])
        rest = rest[end + 1 :].lstrip()
    return found


def made(kind: str, name: str, *, citation: str, source: str) -> str:
    """An entry for a plugin that declares none.

    Args:
        kind, name: of the plugin.
        citation: what it says where it is from; may be empty.
        source: distribution and version.
    """
    article = "an" if kind == "attack" else "a"
    note = f"  note = {{{_escaped(citation)}}},\n" if citation else ""
    return (
        f"@misc{{cibench-{kind}-{name},\n"
        f"  title = {{{_escaped(name)}: {article} {kind} for cibench}},\n"
        f"  howpublished = {{{_escaped(source)}}},\n{note}}}\n"
    )


def _closing(text: str) -> int | None:
    """Where the first brace that opens is closed; None if nowhere."""
    depth = 0
    for place, sign in enumerate(text):
        if sign in "{}":
            depth += 1 if sign == "{" else -1
            if sign == "}" and depth == 0:
                return place
    return None


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
