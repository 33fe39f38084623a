"""Why a cell is or is not stored: which part of its content key differs; no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..results.record import CellRecord
from .recorded import RecordCache

#: Characters of a value that are shown.
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Whether a cell's record is stored, and if not, how near another one comes.

    Args:
        hit: whether it is.
        nearest: the record that is the answer, or of those stored for the same cell the
            one whose key differs in the fewest inputs.
        differs: name, stored and present value of each input that differs.
        inputs: how many were compared.
        sources: the package that each input ending in `source` is the hash of.
    """

    hit: bool
    nearest: CellRecord | None
    differs: list[tuple[str, str, str]]
    inputs: int
    sources: Mapping[str, str]

    def words(self) -> str:
        """One line for people."""
        if self.nearest is None:
            return "miss: no record is stored for this cell"
        when = self.nearest.created.replace("+00:00", "Z")
        if self.hit:
            return f"hit: record of {when}"
        count = len(self.differs)
        verb = "differs" if count == 1 else "differ"
        head = f"miss: {count} of {self.inputs} inputs {verb} from the record of {when}"
        return "; ".join([head, *map(self._change, self.differs)]).replace(
            "; ", ": ", 1
        )

    def _change(self, difference: tuple[str, str, str]) -> str:
        name, stored, now = difference
        change = f"{name} {_change(stored, now)}"
        code = "cibench" if name == "harness" else self.sources.get(name)
        if code is not None and stored and now:
            change += f" (the code of {code} changed)"
        return change


def explain(
    slot: str, key: str, inputs: Mapping[str, str], cache: RecordCache
) -> Explanation:
    """Compare the inputs of a cell's key with those of the records stored for the cell.

    Args:
        slot: of the cell (`slot_of`).
        key: its content key.
        inputs: what the key is the hash of, by name.
    """
    stored = cache.others(slot)
    for record in stored:
        if record.key == key:
            return _explanation(record, inputs, hit=True)
    # The newest comes first, and the first of equals is taken.
    nearest = min(
        stored, key=lambda record: len(_differences(record, inputs)), default=None
    )
    return _explanation(nearest, inputs)


def _explanation(
    record: CellRecord | None, inputs: Mapping[str, str], *, hit: bool = False
) -> Explanation:
    compared = [] if record is None or hit else _differences(record, inputs)
    packages = {
        f"{role} source": module.partition(".")[0]
        for name, module in inputs.items()
        if (role := name.removesuffix(" module")) != name
    }
    names = inputs.keys() | (record.inputs.keys() if record else set())
    return Explanation(
        hit=hit, nearest=record, differs=compared, inputs=len(names), sources=packages
    )


def _differences(
    record: CellRecord, inputs: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    names = [*inputs, *(name for name in record.inputs if name not in inputs)]
    pairs = [
        (name, record.inputs.get(name, ""), inputs.get(name, "")) for name in names
    ]
    return [(name, stored, now) for name, stored, now in pairs if stored != now]


def _change(stored: str, now: str) -> str:
    before, after = _options(stored), _options(now)
    if before is None or after is None:
        return f"{_short(stored) or '(absent)'} -> {_short(now) or '(absent)'}"
    names = sorted(before.keys() | after.keys())
    texts = [(name, _value(before, name), _value(after, name)) for name in names]
    return ", ".join(
        f"{name} {_short(old)} -> {_short(new)}"
        for name, old, new in texts
        if old != new
    )


def _value(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name]) if name in options else "(absent)"


def _options(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _short(text: str) -> str:
    if re.fullmatch("[0-9a-f]{20,}", text):
        return text[:12]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
