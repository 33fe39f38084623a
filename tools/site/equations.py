"""Turn equations into MathML while the site is built: pages need no script for them."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?P<tex>.*?)</(?P=tag)>', re.DOTALL
)
_MARKS = re.compile(r"^\\[(\[]|\\[)\]]$")


def on_page_content(content: str, *, page: Page, **_: object) -> str:
    """Convert every equation of a page.

    Raises:
        PluginError: an equation holds a command that is not known.
    """

    def converted(match: re.Match[str]) -> str:
        tex = _MARKS.sub("", html.unescape(match["tex"]).strip())
        block = match["tag"] == "div"
        shown = convert(tex, display="block" if block else "inline")
        if "\\" in shown:
            raise PluginError(
                f"{page.file.src_uri}: expected TeX that latex2mathml knows, got {tex!r}"
            )
        return f'<div class="equation">{shown}</div>' if block else shown

    return _EQUATION.sub(converted, content)
