"""Whether manifest and records of a submission are such at all: schema, names, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any, Final

import msgspec

from .._errors import SubmissionError
from .._version import PROTOCOL
from ..results.record import CellRecord, decode
from .manifest import MANIFEST, RECORDS, Manifest
from .names import cell_fault, member_fault, plugin_fault, text_fault, witness_cell

#: Most nested lists in what records hold freely.
_DEPTH: Final = 16
#: Most agents and classes, and samples times agents.
_NAMES: Final = 10_000
_BLOCKS: Final = 100_000_000


def manifest_of(content: bytes) -> Manifest:
    """The manifest in `bundle.json`.

    Raises:
        SubmissionError: it is none, or of another protocol.
    """
    try:
        found = msgspec.json.decode(content, type=Manifest, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SubmissionError(
            f"bundle: {MANIFEST}: expected a manifest of format 1, got: {error}"
        ) from error
    check_manifest(found)
    if RECORDS not in found.files:
        raise SubmissionError(
            f"bundle: {MANIFEST}: expected {RECORDS} among its files, got none"
        )
    for name in found.files:
        if name == MANIFEST or member_fault(name):
            raise SubmissionError(
                f"bundle: {MANIFEST}: files: {name[:120]!a}:"
                f" {member_fault(name) or 'expected the other files only'}"
            )
    return found


def check_manifest(manifest: Manifest) -> None:
    """Refuse what boards could not show, and other protocols.

    Raises:
        SubmissionError: something is not as it must be.
    """
    if manifest.protocol != PROTOCOL:
        raise SubmissionError(
            f"bundle: expected protocol {PROTOCOL}, got {manifest.protocol}; numbers of"
            " two protocols never mix: run the cells with this version of cibench"
        )
    texts = {
        "name": manifest.name,
        "title": manifest.title,
        "author": manifest.author,
        "link": manifest.link,
        "cibench": manifest.cibench,
    }
    for name, text in texts.items():
        _refuse(f"bundle: {MANIFEST}: {name}", text_fault(text))
        if name != "link" and not text.strip():
            _refuse(f"bundle: {MANIFEST}: {name}", "expected some text, got none")
    _refuse(f"bundle: {MANIFEST}: note", text_fault(manifest.note, lines=True))
    for name, text in manifest.citations.items():
        _refuse(f"bundle: {MANIFEST}: citations", plugin_fault(name))
        _refuse(f"bundle: {MANIFEST}: citation of {name}", text_fault(text, lines=True))
    try:
        date.fromisoformat(manifest.created)
    except ValueError as error:
        _refuse(f"bundle: {MANIFEST}: created", f"expected a date, got {error}")


def checked_records(lines: Iterable[bytes], manifest: Manifest) -> list[CellRecord]:
    """The records of a submission, sorted by cell.

    Raises:
        SubmissionError: one is not of the schema, of another protocol, partial, twice, or
            holds what no record can; or a witness has no record.
    """
    found: list[CellRecord] = []
    cells: set[str] = set()
    places: dict[tuple[Any, ...], str] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SubmissionError(
                f"bundle: {RECORDS}, line {number}: expected a record of this version's"
                f" schema, got: {error}"
            ) from error
        check_record(record, manifest.protocol)
        if record.cell in cells:
            raise SubmissionError(
                f"bundle: record {record.cell}: expected each cell once, got it twice"
            )
        place = place_of(record)
        if place in places:
            raise SubmissionError(
                f"bundle: record {record.cell}: expected one record for each data set,"
                " embedding, attack, defense, seed and device, got also"
                f" {places[place]}"
            )
        cells.add(record.cell)
        places[place] = record.cell
        found.append(record)
    if not found:
        raise SubmissionError(f"bundle: {RECORDS}: expected a record, got none")
    without = {witness_cell(name) for name in manifest.files} - cells - {""}
    if without:
        raise SubmissionError(
            f"bundle: witness {min(without)}: expected a record of its cell, got none"
        )
    return sorted(found, key=lambda record: record.cell)


def place_of(record: CellRecord) -> tuple[Any, ...]:
    """What no two records of a submission have in common."""
    return (
        record.dataset.spec,
        record.fingerprint,
        msgspec.json.encode(record.embedding, order="sorted"),
        "+".join(part.component.spec for part in record.attack),
        record.defense.spec,
        record.seed,
        record.device,
    )


def check_record(record: CellRecord, protocol: int) -> None:
    """Refuse a record that no run of this protocol can have made.

    Raises:
        SubmissionError: so it is.
    """
    _refuse("bundle: records", cell_fault(record.cell))
    title = f"bundle: record {record.cell}"
    if record.protocol != protocol:
        _refuse(
            title,
            f"expected protocol {protocol} as all the bundle, got {record.protocol};"
            " numbers of two protocols never mix",
        )
    samples = record.inputs.get("samples", "all")
    if "partial" in record.flags or samples != "all":
        _refuse(
            title,
            "expected all test samples, got part of them (--quick or --limit), which is"
            " for trying out only",
        )
    parts = [part.component for part in record.attack]
    for component in (record.dataset, *parts, record.defense):
        _refuse(title, plugin_fault(component.name))
        for text in (component.spec, component.distribution, component.version):
            _refuse(f"{title}: {component.name}", text_fault(text))
    for text in (*record.agents, *record.classes, record.fingerprint, record.device):
        _refuse(title, text_fault(text, most=200))
    n, m = len(record.outcomes.labels) if record.outcomes else 0, len(record.agents)
    if max(m, len(record.classes)) > _NAMES or n * m > _BLOCKS:
        _refuse(title, f"expected fewer samples, agents and classes, got {n} and {m}")
    if not record.attack:
        _refuse(title, "expected an attack, if only `none`; got none")
    try:
        datetime.fromisoformat(record.created)
    except ValueError as error:
        _refuse(f"{title}: created", f"expected a date and time, got {error}")
    for name, fault in _number_faults(msgspec.to_builtins(record), "", 0):
        _refuse(f"{title}: {name}", fault)


def _number_faults(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """Numbers that no measurement gives, by name."""
    if depth > _DEPTH:
        yield name, f"expected at most {_DEPTH} nested values, got more"
    elif isinstance(value, float) and not math.isfinite(value):
        yield name, f"expected a finite number, got {value}"
    elif isinstance(value, dict):
        if value.keys() == {"successes", "n"}:
            successes, n = value["successes"], value["n"]
            if not 0 <= successes <= n:
                yield name, f"expected 0 <= successes <= n, got {successes} of {n}"
        for key, each in value.items():
            yield from _number_faults(each, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, float | dict | list):
                yield from _number_faults(each, name, depth + 1)


def _refuse(what: str, fault: str) -> None:
    """Raise `SubmissionError` if there is a fault."""
    if fault:
        raise SubmissionError(f"{what}: {fault}")
