"""Write the pages on shipped plugins and on flags from the code that defines them."""

from __future__ import annotations

import inspect
from typing import Any

from griffe import Docstring, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cibench.cli.info import describe
from cibench.flags import FLAGS
from cibench.registry import default_registry

TITLES = {"defense": "Defenses", "attack": "Attacks", "dataset": "Data sets"}
_FLAGS = """# Flags

A flag says that a number means less than it seems. The harness raises it from what it
measured; it stands in the record, in tables and on boards. What lies behind each:
[evaluation pitfalls](../pitfalls.md).

| flag | raised if | meaning | what to do |
| --- | --- | --- | --- |
"""
_PLUGINS = """# Plugins

Every plugin that comes with cibench, as `cibench info NAME` describes it. An option is
written behind the name: `copur:tau=1000`. How they work, with equations:
[attacks](../attacks.md), [defenses](../defenses.md); data: [data sets](../data.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    files.append(File.generated(config, "reference/plugins.md", content=plugins()))
    files.append(File.generated(config, "reference/flags.md", content=flags()))
    return files


def flags() -> str:
    """Every flag of `cibench.flags` as Markdown."""
    rows = (
        f"| `{name}` | {_cell(flag.raised_if)} | {_cell(flag.meaning)}"
        f" | {_cell(flag.remedy)} |\n"
        for name, flag in sorted(FLAGS.items())
    )
    return _FLAGS + "".join(rows)


def plugins() -> str:
    """Every shipped plugin: a section for each kind, one below it for each plugin."""
    parts = [_PLUGINS]
    for kind, title in TITLES.items():
        parts.append(f"## {title}\n")
        names = sorted(
            entry.name
            for entry in default_registry().entries
            if entry.kind == kind and entry.distribution == "cibench"
        )
        parts += [_section(describe(kind, name)) for name in names]
    return "\n".join(parts)


def _section(plugin: dict[str, Any]) -> str:
    identifier = f"{plugin['kind']}-{plugin['name']}"
    prose, meanings = _parsed(plugin["description"])
    meanings = _inherited(plugin) | meanings
    lines = [f"### `{plugin['name']}` {{ #{identifier} }}\n", prose, ""]
    if plugin["options"]:
        lines += ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{option['option']}` | {_cell(option['type'])}"
            f" | {_cell(_shown(option['default']))} | {meanings[option['option']]} |"
            for option in plugin["options"]
        ]
        lines.append("")
    for key in ("capabilities", "may", "files needed", "citation"):
        if text := _listed(plugin.get(key)):
            lines += [f"{key.capitalize()}: {text}", ""]
    return "\n".join(lines)


def _inherited(plugin: dict[str, Any]) -> dict[str, str]:
    """What the bases of a plugin say of its options, the nearest last."""
    bases = default_registry().load(plugin["kind"], plugin["name"]).__mro__[1:]
    told: dict[str, str] = {}
    for base in reversed(bases):
        if base.__module__.startswith("cibench"):
            told |= _parsed(inspect.getdoc(base) or "")[1]
    return told


def _parsed(description: str) -> tuple[str, dict[str, str]]:
    """The prose of a docstring, and what it says of each option."""
    prose, meanings = [], {}
    for section in Docstring(description).parse("google", warnings=False):
        if section.kind is DocstringSectionKind.text:
            prose.append(section.value)
        elif section.kind is DocstringSectionKind.admonition:
            prose.append(f"{section.title}: {section.value.description}")
        elif section.kind is DocstringSectionKind.parameters:
            meanings |= {p.name: _cell(p.description) for p in section.value}
        elif section.kind is DocstringSectionKind.raises:
            prose += [f"`{e.annotation}`: {e.description}" for e in section.value]
        else:
            raise ValueError(f"expected prose and Args in a plugin, got {section.kind}")
    return "\n\n".join(prose), meanings


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k.replace('_', ' ')}: {_shown(v)}" for k, v in value.items()
        )
    return ", ".join(value) or "nothing" if isinstance(value, list) else value or ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
