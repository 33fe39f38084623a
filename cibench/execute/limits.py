"""How long a call may take and how much memory it may hold, and how both are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from .._errors import UsageError
from ._system import cgroup_limits

_SECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES: Final = {"T": 2**40, "G": 2**30, "M": 2**20, "K": 2**10}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"

#: Longest duration that is understood, in milliseconds: a century.
_LONGEST: Final = 100 * 365 * 86_400_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one call may use.

    Args:
        timeout: seconds from the request to the answer; None waits for ever.
        memory: bytes resident, of the worker and all its descendants together; None is
            no limit.
        grace: seconds between the polite signal and the deadly one.

    Raises:
        UsageError: a limit is not positive, or the grace is negative.
    """

    timeout: float | None = None
    memory: int | None = None
    grace: float = 1.0

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(
                f"expected a timeout of more than 0 seconds, got {self.timeout}"
            )
        if self.memory is not None and self.memory <= 0:
            raise UsageError(
                f"expected a memory limit of at least 1 byte, got {self.memory}"
            )
        if not self.grace >= 0:
            raise UsageError(f"expected a grace of 0 seconds or more, got {self.grace}")


def parse_duration(text: str) -> float | None:
    """Seconds of a duration such as `20m`, `1h30m`, `1.5h`, `250ms` or `90` (seconds).

    `none` is None: no limit. The result is exact to the millisecond.

    >>> parse_duration("1h30m"), parse_duration("90"), parse_duration("none")
    (5400.0, 90.0, None)

    Raises:
        UsageError: not a duration, or not more than 0.
    """
    word = text.strip().lower()
    if word == "none":
        return None
    if re.fullmatch(_NUMBER, word):
        word += "s"
    part = rf"({_NUMBER})(ms|[dhms])"
    if not re.fullmatch(f"(?:{part})+", word):
        raise UsageError(
            "expected a duration such as 20m, 1h30m, 90 (seconds) or none,"
            f" got {text!r}"
        )
    exact = sum(
        Fraction(number) * _SECONDS[unit] for number, unit in re.findall(part, word)
    )
    milliseconds = round(exact)
    if not 0 < milliseconds <= _LONGEST:
        raise UsageError(
            f"expected a duration from 1 ms to 100 years, or none, got {text!r}"
        )
    return milliseconds / 1000


def format_duration(seconds: float | None) -> str:
    """The duration as `parse_duration` reads it, rounded to the millisecond.

    >>> format_duration(5400.25), format_duration(None)
    ('1h30m250ms', 'none')
    """
    if seconds is None:
        return "none"
    rest = round(seconds * 1000)
    parts = []
    for unit, size in _SECONDS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int | None:
    """Bytes of a size such as `4G`, `512M`, `1.5 GiB` or `1000000` (bytes).

    Units are powers of 1024, as for memory limits elsewhere; `none` is None.

    >>> parse_size("4G"), parse_size("512M"), parse_size("none")
    (4294967296, 536870912, None)

    Raises:
        UsageError: not a size, or less than a byte.
    """
    word = text.strip()
    if word.lower() == "none":
        return None
    match = re.fullmatch(rf"({_NUMBER})\s*(?:([KMGT])(?:i?B)?|B)?", word, re.I | re.A)
    if match is None:
        raise UsageError(
            f"expected a size such as 4G, 512M, 1000000 (bytes) or none, got {text!r}"
        )
    number, unit = match.groups()
    size = int(Fraction(number) * (_BYTES[unit.upper()] if unit else 1))
    if size < 1:
        raise UsageError(f"expected a size of at least 1 byte, or none, got {text!r}")
    return size


def format_size(size: int | None) -> str:
    """The size as `parse_size` reads it, exact.

    >>> format_size(2**32), format_size(3 * 2**29), format_size(None)
    ('4G', '1536M', 'none')
    """
    if size is None:
        return "none"
    for unit, factor in _BYTES.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def readable_size(size: int) -> str:
    """The size rounded for people.

    >>> readable_size(2**30), readable_size(1_500_000), readable_size(12)
    ('1.0 GiB', '1.4 MiB', '12 bytes')
    """
    for unit, factor in _BYTES.items():
        if size >= factor:
            return f"{size / factor:.1f} {unit}iB"
    return f"{size} bytes"


def machine_memory() -> int:
    """Bytes this process may use: physical memory, or a control group's limit if less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *filter(None, cgroup_limits())])


def default_memory() -> int:
    """90 % of `machine_memory`: the limit where none was given."""
    return machine_memory() * 9 // 10
