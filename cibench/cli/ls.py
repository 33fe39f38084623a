"""`cibench ls`: what is installed; from metadata and text, no plugin is imported."""

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
@click.option("--load", is_flag=True, help="Import plugins, to find those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str | None, load: bool, as_json: bool) -> None:
    """List what is installed, with the distribution each plugin comes from.

    WHAT is defenses, attacks, datasets, plugins (the default: all three), recipes of the
    embedding, suites (studies to run with `run --suite`), or flags with their meaning.

    Plugins that cannot be used are marked and explained below the table: broken ones,
    those whose name two distributions claim, and those written for another plugin API.
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
    _print_plugins(what, as_json, load)


def _print_plugins(what: str | None, as_json: bool, load: bool) -> None:
    registry = default_registry()
    kinds = {hook: kind for kind, hook in KINDS.items()}
    rows = []
    for entry in registry.entries:
        if what not in (None, "plugins") and entry.kind != kinds.get(what):
            continue
        fault = registry.fault(entry, load=load)
        rows.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": f"{entry.distribution} {entry.version}",
                "state": "ok" if fault is None else fault.state,
                "summary": entry.summary,
                "reason": "" if fault is None else " ".join(fault.reason.split()),
                "fix": "" if fault is None else fault.fix,
            }
        )
    if as_json:
        _print(rows, as_json)
        return
    faulty = [row for row in rows if row["state"] != "ok"]
    columns = ["kind", "name", "distribution", "summary"]
    if faulty:
        columns.insert(3, "state")
    _print([{key: row[key] for key in columns} for row in rows], as_json)
    for row in faulty:
        click.echo(
            f"\n{row['state']}: {row['kind']} {row['name']} of {row['distribution']}:"
            f" {row['reason']}\n  to mend it: {row['fix']}"
        )


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
