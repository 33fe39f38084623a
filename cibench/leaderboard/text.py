"""Foreign text made fit for pages: names from records and bundles are hostile until shown.

Whatever an author or a plugin is called, a page says it in one line of bounded length and
lets it neither reorder, nor mark up, nor link anything.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

ELLIPSIS: Final = "…"
#: Other, format (bidi marks among them), surrogate, private, unassigned; line ends.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Fills a line without being seen, although Unicode calls it a letter or a symbol.
_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
#: Marks on one letter; more of them paint over the neighbouring lines.
_MARKS: Final = 3
_ACTIVE: Final = re.compile(r"[\\`*\[\]<>&#|~$!@{}\"']|(?<![^\W_])_|_(?![^\W_])")
_LINK: Final = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_LIST: Final = re.compile(r"^([-+=]|\d+(?=[.)]))")
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HASHED: Final = re.compile(r"-[0-9a-f]{10}$")


def shown(text: str, most: int = 80) -> str:
    r"""Text as it may stand on a page: one line of at most `most` characters.

    Spaces and line ends become one space, characters that are not seen or that reorder
    others become escapes such as `\u202e`, the end beyond `most` an ellipsis.

    >>> shown("evil\u202etxt,  a\nb")
    'evil\\u202etxt, a b'
    """
    pieces: list[str] = []
    length = marks = 0
    line = " ".join(text.split())
    if len(line) <= most and line.isascii() and line.isprintable():
        return line
    for character in line:
        marks = marks + 1 if unicodedata.category(character)[0] == "M" else 0
        hidden = unicodedata.category(character) in _UNSEEN or character in _BLANK
        piece = _escape(character) if hidden or marks > _MARKS else character
        pieces.append(piece)
        length += len(piece)
        if length > most:
            return "".join(pieces)[: most - 1].rstrip() + ELLIPSIS
    return "".join(pieces)


def markdown(text: str, most: int = 80) -> str:
    """Shown text with every character that markdown or HTML acts on as an entity.

    Fit for a cell of a table, a heading, a link's text and a line of a list; entities are
    never structure, whatever the dialect.

    >>> markdown("a|b <i>")
    'a&#124;b &#60;i&#62;'
    """
    escaped = _ACTIVE.sub(_entity, shown(text, most))
    return _LIST.sub(_last_entity, _LINK.sub(_entity, escaped))


def code(text: str, most: int = 80) -> str:
    """Shown text in the type of code, for a cell of a table or a line."""
    plain = shown(text, most)
    if "`" in plain or "|" in plain or not plain:
        return f"<code>{markdown(text, most)}</code>" if plain else ""
    return f"`{plain}`"


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens: fit for an id and for a file's name.

    A text that is a slug already stays; others get a hash, so that they stay apart.

    >>> slug("synthetic")
    'synthetic'
    >>> slug("../../x")
    'x-9cdf6a5010'
    """
    if len(text) <= 80 and _SLUG.fullmatch(text) and not _HASHED.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    words = re.sub(r"[^a-z0-9]+", "-", text[:1000].lower())[:60].strip("-")
    return f"{words}-{digest}" if words else f"x-{digest}"


def _escape(character: str) -> str:
    point = ord(character)
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _last_entity(match: re.Match[str]) -> str:
    return f"{match[0][:-1]}&#{ord(match[0][-1])};"
