"""Numbers of agents and files to write, as `certify` is given them."""

from __future__ import annotations

from pathlib import Path

import click

from .._errors import OutputError, UsageError


def parse_numbers(text: str | None) -> list[int] | None:
    """`2` is two agents; `1,3` and `1-3` are several numbers.

    >>> parse_numbers("1-3,5")
    [1, 2, 3, 5]

    Raises:
        click.BadParameter: neither, or a number below 1.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last if dash else first]
        if not all(end.isdecimal() and 1 <= int(end) <= 10_000 for end in ends):
            raise click.BadParameter(
                f"expected a number of agents from 1 on, or several such as 1,2 or 1-3,"
                f" got {text!r}",
                param_hint="--corrupted",
            )
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    if not found:
        raise click.BadParameter(
            f"expected a rising range such as 1-3, got {text!r}",
            param_hint="--corrupted",
        )
    return sorted(found)


def check_target(flag: str, path: Path, kinds: tuple[str, ...]) -> None:
    """Refuse a file that could not be written after all the work; make its folder.

    Args:
        flag: the option that names it.
        path: the file.
        kinds: how its name may end.

    Raises:
        UsageError: it ends otherwise.
        OutputError: its folder cannot be written.
    """
    from ..results.folder import make_writable

    if path.suffix not in kinds:
        raise UsageError(
            f"{flag} {path}: expected a file that ends in {' or '.join(kinds)}"
        )
    try:
        make_writable(path.parent)
    except OSError as error:
        raise OutputError(
            f"{flag} {path}: expected a file that can be written, got {error.strerror}"
        ) from error
