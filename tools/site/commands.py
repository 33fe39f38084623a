"""Write the reference of the command line from the commands themselves.

What `--help` prints of each command stands below the text of `reference/cli.md`: prose as
prose, examples as they are typed, options as a table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from mkdocs.structure.pages import Page

from cibench.cli import group

PAGE = "reference/cli.md"
#: Begins a paragraph of which click keeps the lines.
_AS_IT_IS = "\b"


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Add a section for each command to its page."""
    if page.file.src_uri != PAGE:
        return markdown
    return "\n".join([markdown, *_sections(group, None, "cibench", 2)])


def _sections(
    command: click.Command, parent: click.Context | None, name: str, level: int
) -> Iterator[str]:
    """The section of a command, and those of its verbs one level below."""
    context = click.Context(command, info_name=name, parent=parent)
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    yield f"{'#' * level} {path}\n"
    yield f"```text\n{usage}\n```\n"
    yield from map(_paragraph, inspect.cleandoc(command.help or "").split("\n\n"))
    records = [
        record
        for option in command.params
        if (record := option.get_help_record(context)) is not None
    ]
    if records:
        yield "| option | meaning |\n| --- | --- |"
        yield from (f"| `{option}` | {_prose(text)} |" for option, text in records)
        yield ""
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            assert found is not None
            yield from _sections(found, context, verb, level + 1)


def _paragraph(text: str) -> str:
    if text.startswith(_AS_IT_IS):
        return f"```text\n{text.removeprefix(_AS_IT_IS).strip()}\n```\n"
    return f"{_prose(text)}\n"


def _prose(text: str) -> str:
    """A line of Markdown in which no sign but the backtick has a meaning of its own."""
    parts = " ".join(text.split()).split("`")
    for place, part in enumerate(parts[::2]):
        for sign in "\\*_[]$|<":
            part = part.replace(sign, f"&#{ord(sign)};")
        parts[2 * place] = part
    return "`".join(parts)
