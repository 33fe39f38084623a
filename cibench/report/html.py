"""A report as one file of HTML: works offline, in light and dark, on a phone."""

from __future__ import annotations

import base64

from .._errors import EnvironmentFault
from .model import Report
from .style import figures, rendered
from .tables import claims_table, panel_table


def as_html(report: Report) -> str:
    """The page, with its figures inside it.

    Every text is escaped: labels, specs and reasons come from plugins and files.

    Raises:
        EnvironmentFault: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise EnvironmentFault(
            "format html: expected jinja2 to be installed, got none;"
            ' pip install "cibench[report]"'
        ) from error
    images = {
        name: base64.b64encode(rendered(figure, "svg")).decode()
        for name, figure in figures(report).items()
    }
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return page.from_string(_PAGE).render(
        report=report,
        images=images,
        claims=claims_table(report),
        tables=[panel_table(panel) for panel in report.panels],
    )


# An image in its own frame: identifiers of two drawings cannot meet, and neither follows
# the page's colours, so that it stays readable in the dark.
_PAGE = """\
{% macro show(table) %}
<div class="wide"><table>
<thead><tr>
{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}
{% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% if table.notes %}
<details><summary>Notes</summary>
<ul>{% for note in table.notes %}<li>{{ note }}</li>{% endfor %}</ul>
</details>
{% endif %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ report.title }}</title>
<style>
:root { color-scheme: light dark; --text: #1b1b1b; --back: #ffffff; --line: #cccccc;
  --soft: #f3f3f3; --quiet: #555555; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --back: #16181c;
  --line: #44484f; --soft: #22252b; --quiet: #a8adb5; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td { white-space: nowrap; } td.text { white-space: normal; }
thead th { background: var(--soft); white-space: nowrap; }
tbody th { font-weight: 600; }
.claims td { white-space: normal; min-width: 6rem; }
figure { margin: 1rem 0; background: #ffffff; border: 1px solid var(--line); }
figure img { display: block; width: 100%; min-width: 36rem; max-width: 64rem; }
details, .source { color: var(--quiet); font-size: 0.85rem; }
li { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
{% if report.description %}<p>{{ report.description }}</p>{% endif %}
{% if report.source %}<p class="source">Source: {{ report.source }}</p>{% endif %}
{% for name, text in report.protocols %}
<p>Protocol <b>{{ name }}</b>: {{ text }}</p>
{% endfor %}
{% if claims %}
<h2>{{ claims.title }}</h2>
<div class="claims">{{ show(claims) }}</div>
{% endif %}
{% if report.notes %}
<ul>{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
{% for name, image in images.items() %}
<figure class="wide"><img src="data:image/svg+xml;base64,{{ image }}"
 alt="{{ name }}: accuracy under attack; the numbers are in the tables below"></figure>
{% endfor %}
{% for table in tables %}
<h2>{{ table.title }}</h2>
{{ show(table) }}
{% endfor %}
{% if report.reading %}
<h2>How to read</h2>
<ul>{% for note in report.reading %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
</body>
</html>
"""
