"""Splits of data that come without one: 64 % train, 16 % validate, 20 % test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cibench import DataError

PARTS = ("train", "validation", "test")
_TEST, _VALIDATION = 0.2, 0.16


def _cuts(n: int) -> tuple[int, int]:
    """Where validation and test begin, each part with at least one of three or more."""
    test = max(1, round(_TEST * n))
    validation = max(1, round(_VALIDATION * n))
    return n - test - validation, n - test


def stratified(
    labels: Tensor, class_names: Sequence[str], seed: int, what: str
) -> dict[str, Tensor]:
    """Rows of each split, in the order of the file; each class in the same shares.

    Raises:
        DataError: a class has fewer than three rows.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for label, name in enumerate(class_names):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < len(PARTS):
            raise DataError(
                f"{what}: expected at least {len(PARTS)} rows of each class, got"
                f" {len(rows)} of {name!r} ({len(class_names)} classes in all);"
                " choose another label or merge classes"
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        first, second = _cuts(len(rows))
        pieces = (rows[:first], rows[first:second], rows[second:])
        for part, piece in zip(PARTS, pieces, strict=True):
            parts[part].append(piece)
    return {part: torch.cat(rows).sort().values for part, rows in parts.items()}


def chronological(order: Tensor) -> dict[str, Tensor]:
    """Rows of each split: the earliest train, the latest test.

    Args:
        order: row numbers from the earliest to the latest.
    """
    first, second = _cuts(len(order))
    pieces = (order[:first], order[first:second], order[second:])
    return dict(zip(PARTS, pieces, strict=True))
