"""Fill the tables of docs/reproduction.md, and draw its figures, from finished suites.

    python tools/reproduction.py runs/table1 runs/table2 runs/figure2a ...

Everything between the two marks of the page is replaced. No number is typed in by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from cibench.report import Panel, Report, Row, read_report
from cibench.report.style import figures, rendered

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "reproduction.md"
BEGIN = "<!-- begin: written by tools/reproduction.py -->"
END = "<!-- end -->"


def cell(row: Row | None) -> str:
    """Mean and deviation over seeds, the 95 % interval, the published number."""
    if row is None:
        return "-"
    if row.accuracy is None:
        return row.trouble
    text = f"{100 * row.accuracy:.1f}"
    if row.spread is not None:
        text += f" ± {100 * row.spread:.1f}"
    if row.interval is not None:
        text += " ({:.0f} to {:.0f})".format(*(100 * end for end in row.interval))
    if row.published is not None:
        text += f"; published {row.published.mean:.1f}"
        if row.published.std is not None:
            text += f" ± {row.published.std:.1f}"
    return text


def claims(report: Report) -> str:
    """A row per claim and scenario, a column per protocol."""
    run = [v for v in report.verdicts if v.outcome != "not run"]
    protocols = list(dict.fromkeys(v.protocol for v in run))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for verdict in run:
        line = lines.setdefault((verdict.claim.text, verdict.claim.scenario), {})
        line[verdict.protocol] = verdict.text
    body = [
        [*key, *(line.get(protocol, "-") for protocol in protocols)]
        for key, line in lines.items()
    ]
    headers = ["claim", "scenario", *(f"protocol {p}" for p in protocols)]
    return tabulate(body, headers=headers, tablefmt="github")


def results(panels: Sequence[Panel]) -> str:
    """A row per defense, a column per scenario, of one protocol and data set."""
    by_label = [{row.label: row for row in panel.rows} for panel in panels]
    labels = list(dict.fromkeys(row.label for panel in panels for row in panel.rows))

    def clean(label: str) -> str:
        shares = next((rows[label].clean for rows in by_label if label in rows), ())
        return f"{100 * sum(shares) / len(shares):.1f}" if shares else "-"

    body = [
        [label, clean(label), *(cell(rows.get(label)) for rows in by_label)]
        for label in labels
    ]
    headers = ["defense", "no attack", *(panel.scenario for panel in panels)]
    return tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)


def section(folder: Path) -> Iterator[str]:
    """One suite: claims, tables, figures."""
    report = read_report(folder)
    name = report.title.partition(":")[0].removeprefix("CoPur paper, ")
    what = report.title.partition(": ")[2]
    yield f"### {name}\n\n{what[:1].upper()}{what[1:]}.\n"
    if any(v.outcome != "not run" for v in report.verdicts):
        yield claims(report) + "\n"
    places: dict[str, list[Panel]] = {}
    for panel in report.panels:
        if panel.done:
            places.setdefault(panel.place, []).append(panel)
    for place, panels in places.items():
        majority = panels[0].majority or 0.0
        yield (
            f"#### {name}, protocol {place}\n\n{results(panels)}\n\nAlways answering the"
            f" largest class scores {100 * majority:.1f}. Seeds"
            f" {', '.join(map(str, panels[0].done[0].seeds))}; mean ± deviation over"
            " seeds (95 % interval over seeds and samples).\n"
        )
    for stem, figure in figures(report).items():
        file = f"{name.lower().replace(' ', '')}-{stem}.svg"
        (DOCS / "figures" / file).write_bytes(rendered(figure, "svg"))
        yield f"![{report.title}: {stem}, the numbers of the tables](figures/{file})\n"


def main(folders: Sequence[str]) -> None:
    """Rewrite the generated part of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(part for folder in folders for part in section(Path(folder)))
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
