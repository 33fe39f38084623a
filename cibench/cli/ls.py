"""`cibench ls`: what is installed; metadata only, no plugin is imported."""

from __future__ import annotations

import click

from ..registry import KINDS, default_registry
from ._show import plain

CHOICES = [*KINDS.values(), "plugins", "flags", "suites"]


@click.command("ls", short_help="List defenses, attacks, data sets and more.")
@click.argument(
    "what",
    required=False,
    metavar="[WHAT]",
    type=click.Choice([*CHOICES, "recipes"]),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str | None, as_json: bool) -> None:
    """List what is installed, with the distribution each plugin comes from.

    WHAT is defenses, attacks, datasets, plugins (the default: all three), recipes of the
    embedding, suites (studies to run with `run --suite`), or flags with their meaning.
    """
    if what == "suites":
        _print(_suites(), as_json)
        return
    if what == "flags":
        from ..flags import FLAGS

        flags = [
            {
                "flag": n,
                "raised if": f.raised_if,
                "meaning": f.meaning,
                "to do": f.remedy,
            }
            for n, f in FLAGS.items()
        ]
        _print(flags, as_json)
        return
    if what == "recipes":
        from ..embedding.recipe import RECIPES
        from ..spec import resolved

        _print([{"recipe": n, **resolved(r)} for n, r in RECIPES.items()], as_json)
        return
    entries = default_registry().entries
    kinds = {hook: kind for kind, hook in KINDS.items()}
    rows = []
    for entry in entries:
        if what not in (None, "plugins") and entry.kind != kinds.get(what):
            continue
        claims = [e for e in entries if (e.kind, e.name) == (entry.kind, entry.name)]
        others = [e.distribution for e in claims if e is not entry]
        problem = f"[name also claimed by {', '.join(others)}] " if others else ""
        if entry.kind not in KINDS:
            problem = f"[entry point of unknown kind {entry.kind!r}] "
        rows.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": f"{entry.distribution} {entry.version}",
                "summary": problem + entry.summary,
            }
        )
    _print(rows, as_json)


def _suites() -> list[dict[str, object]]:
    from ..suites import load_suite, suite_names

    return [
        {
            "suite": name,
            "scenarios": len(study.scenarios),
            "protocols": ", ".join(protocol.name for protocol in study.protocols),
            "data sets": ", ".join(
                dict.fromkeys(
                    d.partition(":")[0] for p in study.protocols for d in p.datasets
                )
            ),
            "title": study.title,
        }
        for name in suite_names()
        for study in [load_suite(name)]
    ]


def _print(rows: list[dict[str, object]] | list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(rows))
    elif rows:
        plain([[str(v) for v in row.values()] for row in rows], list(rows[0]))
