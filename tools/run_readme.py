"""Run the commands of README.md and docs/*.md, so that they cannot go stale.

In `console` blocks a command begins with `$ ` and goes on over lines that end in a
backslash; other lines are output. In `sh` and `bash` blocks every line is a command.
Here documents belong to their command. A block below an HTML comment
`<!-- not-run: reason -->` is listed and not run; a command that sets up the
surroundings (git clone, make, pip install) needs such a comment.

Each document starts in an empty folder that holds a copy of `examples/`; a change of
folder lasts to the end of the document, a variable to the end of its command. The bin
folder of the Python that runs this tool comes first in PATH.

    python tools/run_readme.py [--list] [document ...]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = {"console", "sh", "bash"}
TIMEOUT_SECONDS = 600
_FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*([\w-]*).*")
_NOT_RUN = re.compile(r"<!--\s*not-run:\s*(.*?)\s*-->")
_HERE_DOCUMENT = re.compile(r"<<(-?)\s*(['\"]?)(\w+)\2")
_SETS_UP = re.compile(
    r"(?:git clone|make|(?:\S*python[\d.]*\s+-m\s+)?\S*pip3?\s+install"
    r"|\S*python[\d.]*\s+-m\s+venv)\b"
)


class DocumentError(Exception):
    """A document cannot be run as written."""


@dataclass(frozen=True)
class Command:
    """A command, where it stands, and why it is not to be run, if so."""

    text: str
    document: str
    line: int
    not_run: str = ""

    @property
    def first_line(self) -> str:
        """The command as a log shows it."""
        first, *more = self.text.splitlines()
        return f"{first} ..." if more else first

    @property
    def place(self) -> str:
        """Document and line, as compilers write them."""
        return f"{self.document}:{self.line}"


def extract(markdown: str, document: str) -> list[Command]:
    """The commands of a document, in order.

    Raises:
        DocumentError: a block does not end, a reason is empty, or a command that sets
            up the surroundings is not marked.
    """
    commands: list[Command] = []
    lines = iter(list(enumerate(markdown.splitlines(), start=1)))
    above = ""
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if not fence:
            above = line.strip() or above
            continue
        indent, marker, language = fence.groups()
        body = _block(lines, indent, marker, f"{document}:{number}")
        mark = _NOT_RUN.fullmatch(above)
        above = ""
        if language not in LANGUAGES:
            continue
        if mark and not mark[1]:
            raise DocumentError(
                f"{document}:{number}: expected a reason after not-run:"
            )
        for start, text in _commands(body, prompted=language == "console"):
            command = Command(text, document, start, mark[1] if mark else "")
            if not command.not_run and _SETS_UP.match(text):
                raise DocumentError(
                    f"{command.place}: expected <!-- not-run: reason --> above a block"
                    f" that sets up the surroundings, got {text!r}"
                )
            commands.append(command)
    return commands


def _block(
    lines: Iterator[tuple[int, str]], indent: str, marker: str, place: str
) -> list[tuple[int, str]]:
    body: list[tuple[int, str]] = []
    for number, line in lines:
        bare = line.strip()
        if bare.startswith(marker) and not bare.strip(marker[0]):
            return body
        body.append((number, line.removeprefix(indent)))
    raise DocumentError(
        f"{place}: expected the end of the block, got the end of the file"
    )


def _commands(
    body: list[tuple[int, str]], *, prompted: bool
) -> Iterator[tuple[int, str]]:
    lines = iter(body)
    for number, line in lines:
        if prompted:
            if not line.startswith("$ "):
                continue
            line = line[2:]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text = [line]
        while text[-1].endswith("\\"):
            text.append(_next(lines, prompted, " \\"))
        here = _HERE_DOCUMENT.search("\n".join(text))
        while here and (text[-1].lstrip("\t") if here[1] else text[-1]) != here[3]:
            text.append(_next(lines, prompted, here[3]))
        yield number, "\n".join(text)


def _next(lines: Iterator[tuple[int, str]], prompted: bool, wanted: str) -> str:
    _, line = next(lines, (0, None))
    if line is None:
        raise DocumentError(
            f"expected {wanted!r} to end a command, got the block's end"
        )
    return line.removeprefix("> ") if prompted else line


def run(commands: list[Command], folder: Path, *, timeout: float) -> None:
    """Run the commands of one document in a folder.

    Raises:
        DocumentError: a command ended with another exit status than 0.
    """
    where = folder / ".where"
    place = folder / "work"
    place.mkdir(parents=True)
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", place / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cache = str(folder.parent / "cache")
    environment = os.environ | {
        "PATH": path,
        "CIBENCH_CACHE": cache,
        "XDG_CACHE_HOME": cache,
        "NO_COLOR": "1",
    }
    for command in commands:
        if command.not_run:
            print(f"not run  {command.place}: {command.first_line} ({command.not_run})")
            continue
        started = time.monotonic()
        script = f"trap 'pwd > \"$CIBENCH_WHERE\"' EXIT\n{command.text}\n"
        try:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=place,
                env=environment | {"CIBENCH_WHERE": str(where)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            raise DocumentError(
                f"{command.place}: expected an end within {timeout:g} s:"
                f" {command.text}\n{output.decode(errors='replace')}"
            ) from None
        if done.returncode:
            raise DocumentError(
                f"{command.place}: expected exit status 0, got {done.returncode}:"
                f" {command.text}\n{done.stdout}"
            )
        seconds = time.monotonic() - started
        print(f"{seconds:6.1f} s {command.place}: {command.first_line}", flush=True)
        place = Path(where.read_text().rstrip("\n"))


def documents() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; the exit status is 1 if a document cannot be run as written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("documents", nargs="*", type=Path)
    parser.add_argument("--list", action="store_true", help="print, run nothing")
    options = parser.parse_args(arguments)
    try:
        found = [
            extract(path.read_text(encoding="utf-8"), os.path.relpath(path))
            for path in options.documents or documents()
        ]
        with tempfile.TemporaryDirectory() as scratch:
            for number, commands in enumerate(found):
                if options.list:
                    for command in commands:
                        state = "not run" if command.not_run else "run    "
                        print(f"{state}  {command.place}: {command.text}")
                else:
                    run(
                        commands,
                        Path(scratch).resolve() / str(number),
                        timeout=TIMEOUT_SECONDS,
                    )
    except (DocumentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
