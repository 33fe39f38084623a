"""Witnesses as files, looked at without embeddings and without torch.

A record does not say how wide its agents' blocks are. But blocks are contiguous and in the
order of the agents, and an attack sends zeros outside of its own: so every sample says of
every column who may own it, and all samples together must leave an owner for each.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from .._errors import SubmissionError
from ..results.record import CellRecord

_NAMES = ["compromised", "features", "observed"]
#: First bytes of what may hold code.
_CODE = {
    b"PK": "a zip file such as torch.save writes",
    b"\x80": "a pickle",
    b"\x93N": "a NumPy file",
}


class Layouts:
    """Who may own which column, over all witnesses of a data set and embedding."""

    def __init__(self) -> None:
        self._known: dict[Any, np.ndarray[Any, Any]] = {}

    def findings(self, record: CellRecord, content: bytes) -> list[str]:
        """What is wrong with a witness of a record; empty if nothing is."""
        try:
            tensors = _tensors(content, record)
        except SubmissionError as error:
            return [f"witness {record.cell}: {error}"]
        outcomes = record.outcomes
        assert outcomes is not None
        rows = _bits(tensors["compromised"])
        if rows != outcomes.compromised:
            off = sum(a != b for a, b in zip(rows, outcomes.compromised, strict=True))
            return [
                f"witness {record.cell}: expected the compromised agents of its record,"
                f" got others in {off} of {len(rows)} samples"
            ]
        touched = tensors["features"] != 0
        own = tensors["compromised"]
        # A column that a sample uses belongs to an agent compromised in that sample.
        used = touched.T.astype(np.float32) @ (~own).astype(np.float32)
        allowed = used == 0
        key = (
            record.dataset.spec,
            record.fingerprint,
            msgspec.json.encode(record.embedding, order="sorted"),
        )
        known = self._known.get(key)
        if known is not None and known.shape != allowed.shape:
            return [
                f"witness {record.cell}: expected {known.shape[0]} columns as other"
                f" witnesses of the data set, got {allowed.shape[0]}"
            ]
        together = allowed if known is None else allowed & known
        if not _owned(together):
            return [
                f"witness {record.cell}: expected zeros in the blocks of honest agents,"
                " got values that no layout of blocks leaves to the compromised ones"
            ]
        self._known[key] = together
        return []


def _tensors(content: bytes, record: CellRecord) -> dict[str, np.ndarray[Any, Any]]:
    for magic, what in _CODE.items():
        if content.startswith(magic) and _not_a_length(content):
            raise SubmissionError(
                f"expected a safetensors file, got {what}, which can hold code and is"
                " never loaded"
            )
    try:
        found = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SubmissionError(f"expected a safetensors file, got: {error}") from error
    if sorted(found) != _NAMES:
        raise SubmissionError(f"expected tensors {', '.join(_NAMES)}, got others")
    if record.outcomes is None:
        raise SubmissionError("expected a record with outcomes, got one without")
    n, m = len(record.outcomes.labels), len(record.agents)
    width = found["features"].shape[1] if found["features"].ndim == 2 else 0
    wanted = {
        "compromised": ((n, m), np.dtype(bool)),
        "features": ((n, max(width, m)), np.dtype(np.float32)),
        "observed": ((n, m), np.dtype(bool)),
    }
    for name, (shape, kind) in wanted.items():
        got = found[name]
        if got.shape != shape or got.dtype != kind:
            raise SubmissionError(
                f"expected {name} of shape {shape} and type {kind}, got {got.shape} and"
                f" {got.dtype}"
            )
    return found


def _not_a_length(content: bytes) -> bool:
    """Whether the first eight bytes cannot be the length of a safetensors header."""
    return int.from_bytes(content[:8], "little") > len(content)


def _bits(rows: np.ndarray[Any, Any]) -> list[int]:
    # Python integers: others would overflow from 64 agents on.
    return [
        sum(1 << agent for agent, hit in enumerate(row) if hit) for row in rows.tolist()
    ]


def _owned(allowed: np.ndarray[Any, Any]) -> bool:
    """Whether columns can be dealt to agents in order, each agent at least one.

    Args:
        allowed: `(width, agents)`, who may own each column.
    """
    able = np.zeros(allowed.shape[1], dtype=bool)
    able[0] = allowed[0, 0]
    for column in allowed[1:]:
        able[1:] |= able[:-1]
        able &= column
    return bool(able[-1])
