"""One HTML file: template, style, scripts, data and the packed drawing library.

plotly.js (5 MB) is stored packed and unpacked by the browser when the first chart is
shown, so that the table answers at once. The page's security policy names the hashes of
its two scripts: no other script can run, whatever a record says.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import zlib
from importlib import resources
from pathlib import Path

from ..._errors import EnvironmentFault
from ..model import Leaderboard
from ..text import shown
from .payload import followable, payload

#: In this order they are one script; each is a file of this package.
SCRIPTS = (
    "base.js",
    "state.js",
    "columns.js",
    "filters.js",
    "table.js",
    "plots.js",
    "charts.js",
    "heatmaps.js",
    "chartpage.js",
    "defense.js",
    "main.js",
)


def site_html(board: Leaderboard) -> str:
    """The whole leaderboard as one page that works from `file://` without a network.

    The same leaderboard gives the same text, given the same version of plotly.

    Raises:
        EnvironmentFault: jinja2 or plotly is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise _missing("jinja2") from error
    plotly = _plotly()
    script = _script()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(shown=shown, link=followable)
    return environment.from_string(_file("page.html")).render(
        board=board,
        policy=_policy(script, plotly),
        style=Markup(_file("style.css")),
        script=Markup(script),
        data=Markup(payload(board)),
        plotly=base64.b64encode(zlib.compress(plotly, 9)).decode("ascii"),
    )


def _script() -> str:
    """Our scripts as one, in a scope of its own."""
    parts = "\n".join(map(_file, SCRIPTS))
    return f'"use strict";\n(() => {{\n{parts}}})();'


def _policy(script: str, plotly: bytes) -> str:
    """Content security policy: our two scripts, styles, images made here, nothing else.

    plotly.js writes style rules when it starts, hence `unsafe-inline` for styles alone.
    """
    hashes = " ".join(map(_source, (script.encode(), plotly)))
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _source(script: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _plotly() -> bytes:
    """Bytes of plotly.js, without the slow import of the package around it."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("plotly")
    path = Path(spec.submodule_search_locations[0], "package_data", "plotly.min.js")
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(
            f"site: expected plotly.js at {path}, got {error.strerror};"
            ' pip install --force-reinstall "cibench[report]"'
        ) from error


def _missing(name: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"site: expected {name} to be installed, got none;"
        ' pip install "cibench[report]"'
    )
