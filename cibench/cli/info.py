"""`cibench info NAME`: one plugin's options, capabilities and citation."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from .._errors import UnknownPluginError
from ..registry import KINDS, default_registry
from ._completing import plugins
from ._show import plain


@click.command(
    "info", short_help="Describe one plugin: options, capabilities, citation."
)
@click.argument("name", shell_complete=plugins)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--bibtex", is_flag=True, help="Print BibTeX entries and nothing else.")
def command(name: str, as_json: bool, bibtex: bool) -> None:
    """Describe the plugin NAME, whatever its kind; all of them if several share it.

    `cibench info cibench --bibtex` cites cibench itself.
    """
    if as_json and bibtex:
        raise click.UsageError("expected one of --json and --bibtex, got both")
    if bibtex and name == "cibench":
        from ..citation import CIBENCH

        click.echo(CIBENCH, nl=False)
        return
    registry = default_registry()
    kinds = [kind for kind in KINDS if name in registry.names(kind)]
    if not kinds:
        from ..spec import did_you_mean

        known = sorted({n for kind in KINDS for n in registry.names(kind)})
        raise UnknownPluginError(
            f"unknown plugin {name!r}{did_you_mean(name, known)}; expected one of"
            f" {', '.join(known)}"
        )
    described = [describe(kind, name) for kind in kinds]
    if bibtex:
        click.echo("\n".join(dict.fromkeys(p["bibtex"] for p in described)), nl=False)
        return
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(described))
        return
    for plugin in described:
        _print(plugin)


def describe(kind: str, name: str) -> dict[str, Any]:
    """Everything about one plugin as plain data."""
    from ..citation import made
    from ..spec import describe_type, option_defaults, option_types

    registry = default_registry()
    entry, cls = registry.entry(kind, name), registry.load(kind, name)
    types, defaults = option_types(cls), option_defaults(cls)
    described: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "description": inspect.getdoc(cls) or "",
        "options": [
            {
                "option": key,
                "type": describe_type(types[key]),
                "default": _default(defaults[key]),
            }
            for key in types
        ],
        "citation": cls.citation,
        "bibtex": cls.bibtex
        or made(
            kind,
            name,
            citation=cls.citation,
            source=f"{entry.distribution} {entry.version}",
        ),
    }
    if kind == "defense":
        described["capabilities"] = dataclasses.asdict(cls.capabilities)
    if kind == "dataset" and cls.files_needed:
        described["files needed"] = cls.files_needed
    if kind == "attack":
        described["may"] = [
            verb
            for verb, allowed in (
                ("send other values", cls.may_corrupt),
                ("fall silent", cls.may_drop),
            )
            if allowed
        ]
    return described


def _default(value: Any) -> Any:
    return None if value is dataclasses.MISSING else value


def _print(plugin: dict[str, Any]) -> None:
    click.echo(
        f"{plugin['kind']} {plugin['name']}"
        f"  ({plugin['distribution']} {plugin['version']}, {plugin['module']})\n"
    )
    click.echo(plugin["description"] + "\n")
    if plugin["options"]:
        rows = [
            [o["option"], o["type"], _shown(o["default"])] for o in plugin["options"]
        ]
        plain(rows, ["option", "type", "default"])
        click.echo()
    for key in ("capabilities", "may", "files needed", "citation"):
        value = plugin.get(key)
        if isinstance(value, dict):
            value = ", ".join(
                f"{k.replace('_', ' ')}: {_shown(v)}" for k, v in value.items()
            )
        if isinstance(value, list):
            value = ", ".join(value) or "nothing"
        if value:
            click.echo(f"{key}: {value}")
    click.echo()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
