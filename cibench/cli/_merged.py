"""`study.json` and `run.json` of a merged folder, from those of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .._errors import UsageError
from ..results import RunFolder
from ..results.folder import write_atomically
from ..study import StudyPart, StudyRun
from ._manifest import Invocation, Manifest, read_manifest
from ._run_study import same_study, stored_run


def merged_study(runs: Sequence[RunFolder]) -> StudyRun | None:
    """The study that all runs are of, with the parts of all; None if none is of one.

    How a study is run, its table `run`, may differ: that of the first is kept.

    Raises:
        UsageError: the runs are of different studies, or some are of none.
        OutputError: a `study.json` cannot be read.
    """
    found = [(run, stored_run(run.path)) for run in runs]
    first, study = found[0]
    for run, other in found[1:]:
        if (study is None) != (other is None):
            of_study, without = (run, first) if study is None else (first, run)
            raise UsageError(
                f"merge: expected runs of one study, or none of a study, got"
                f" {of_study.path} of one and {without.path} of none; {_ANYWAY}"
            )
        if study and other and not same_study(study.study, other.study):
            raise UsageError(
                f"merge: expected runs of one study, got {study.name or 'one'!r} in"
                f" {first.path} and {other.name or 'one'!r} in {run.path}, which differ in"
                f" {_differing(study, other)}; {_ANYWAY}"
            )
    if study is None:
        return None
    return _united(study, [other for _, other in found if other is not None])


_ANYWAY = "to put their records together without a study: --records-only"


def merged_manifest(runs: Sequence[RunFolder]) -> Manifest | None:
    """The commands of all runs, oldest first; None if no run has any.

    Raises:
        OutputError: a `run.json` cannot be read.
    """
    found: dict[bytes, Invocation] = {}
    for run in runs:
        if (run.path / "run.json").exists():
            for one in read_manifest(run).invocations:
                found.setdefault(msgspec.json.encode(one), one)
    if not found:
        return None
    return Manifest(invocations=sorted(found.values(), key=lambda one: one.created))


def write_json(folder: RunFolder, name: str, content: Any) -> None:
    """Write one of a run's files.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    write_atomically(folder.path / name, text + b"\n")


def _united(first: StudyRun, runs: Sequence[StudyRun]) -> StudyRun:
    parts: dict[bytes, StudyPart] = {}
    for part in (part for run in runs for part in run.parts):
        place = msgspec.json.encode(msgspec.structs.replace(part, seeds=[]))
        known = parts.setdefault(place, part)
        seeds = sorted({*known.seeds, *part.seeds})
        parts[place] = msgspec.structs.replace(known, seeds=seeds)
    protocols = [protocol.name for protocol in first.study.protocols]
    scenarios = [scenario.label for scenario in first.study.scenarios]
    datasets = list(dict.fromkeys(part.dataset for part in parts.values()))
    return msgspec.structs.replace(
        first,
        parts=sorted(
            parts.values(),
            key=lambda part: (
                protocols.index(part.protocol),
                datasets.index(part.dataset),
                scenarios.index(part.scenario),
            ),
        ),
        unavailable={
            spec: reason
            for run in runs
            for spec, reason in run.unavailable.items()
            if spec not in datasets
        },
    )


def _differing(one: StudyRun, other: StudyRun) -> str:
    names = [
        name
        for name in one.study.__struct_fields__
        if name != "run" and getattr(one.study, name) != getattr(other.study, name)
    ]
    return ", ".join(names)
