"""A study with another selection: `run -c study.toml -d X` runs X of it, or beside it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from msgspec.structs import replace

from ._errors import SpecError, UsageError
from ._selection import expand_names, is_pattern
from .registry import default_registry
from .spec import Spec, did_you_mean
from .study import (
    Claim,
    Published,
    Study,
    StudyScenario,
    check_study,
    plugin_name,
    runs_on,
)


def override(
    study: Study,
    *,
    datasets: Sequence[str] = (),
    attacks: Sequence[str] = (),
    defenses: Sequence[str] = (),
    embedding: str | None = None,
) -> Study:
    """The study with what the command line selects in place of what the file does.

    Texts select entries of the file by label, by spec, or, for a glob and `all`, by
    matching labels; what the file does not have joins it under its own text as label. An
    empty sequence leaves the file's selection.

    - `defenses`: a protocol keeps the entries that are selected; one that keeps none is
      dropped. New ones join every protocol.
    - `attacks`: likewise for scenarios. New ones belong to every protocol and data set;
      they have no place on a figure's axis, so the figure is dropped.
    - `datasets`: replace each protocol's; globs and `all` select among its own. A scenario
      restricted to other data sets runs on those that the file does not have; if there is
      none, it is dropped, unless nothing or an attack asked for would be left out by that.
    - `embedding`: replaces each protocol's.

    Published numbers and claims that speak of anything dropped are dropped.

    Raises:
        UsageError: a text is not a spec or names no plugin, or nothing is left to run.
        EmptySelectionError: a glob matches neither a label nor a plugin.
    """
    changed = study
    if defenses:
        changed = _with_defenses(changed, defenses)
    asked: list[str] = []
    if attacks:
        changed = _with_attacks(changed, attacks)
        asked = [scenario.label for scenario in changed.scenarios]
    if datasets:
        changed = _with_datasets(changed, datasets)
    if embedding is not None:
        protocols = [replace(p, embedding=embedding) for p in changed.protocols]
        changed = replace(changed, protocols=protocols)
    changed = _runnable(changed, study, asked)
    changed = replace(
        changed,
        published=[number for number in study.published if _has(changed, number)],
        claims=[claim for claim in study.claims if _has(changed, claim)],
    )
    check_study(changed)
    return changed


def _with_defenses(study: Study, texts: Sequence[str]) -> Study:
    entries = [item for p in study.protocols for item in p.defenses.items()]
    chosen = _chosen("defense", texts, entries)
    protocols = []
    for protocol in study.protocols:
        mine = {
            label: spec or protocol.defenses[label]
            for label, spec in chosen.items()
            if spec or label in protocol.defenses
        }
        if mine:
            protocols.append(replace(protocol, defenses=mine))
    return replace(study, protocols=protocols)


def _with_attacks(study: Study, texts: Sequence[str]) -> Study:
    known = {scenario.label: scenario for scenario in study.scenarios}
    entries = [(scenario.label, scenario.attack) for scenario in study.scenarios]
    chosen = _chosen("attack", texts, entries)
    return replace(
        study,
        scenarios=[
            StudyScenario(label=label, attack=spec) if spec else known[label]
            for label, spec in chosen.items()
        ],
        figure=None if any(chosen.values()) else study.figure,
    )


def _with_datasets(study: Study, texts: Sequence[str]) -> Study:
    own = [spec for protocol in study.protocols for spec in protocol.datasets]
    protocols = []
    for protocol in study.protocols:
        mine: list[str] = []
        for text in texts:
            if not is_pattern(text):
                mine += map(str, _normal("dataset", text, []))
            elif _matching(text, own):
                mine += _matching(text, protocol.datasets)
            else:
                mine += _names("dataset", text)
        if mine:
            datasets = list(dict.fromkeys(mine))
            protocols.append(replace(protocol, datasets=datasets))
    return replace(study, protocols=protocols)


def _runnable(changed: Study, study: Study, asked: Sequence[str]) -> Study:
    """Mend or drop the scenarios whose protocols or data sets are gone.

    Args:
        changed: with the protocols and scenarios that are selected.
        study: the file's.
        asked: labels of the scenarios that were asked for.
    """
    names = {protocol.name for protocol in changed.protocols}
    own = {plugin_name(d) for p in study.protocols for d in p.datasets}
    present = {plugin_name(d) for p in changed.protocols for d in p.datasets}
    kept: list[StudyScenario] = []
    elsewhere: list[StudyScenario] = []
    for old in changed.scenarios:
        scenario = old
        if old.protocols is not None:
            left = [name for name in old.protocols if name in names]
            scenario = replace(scenario, protocols=left)
        if old.datasets is not None:
            fitting = [name for name in old.datasets if name in present]
            scenario = replace(scenario, datasets=fitting)
        free = replace(scenario, datasets=None)
        new = sorted(runs_on(changed, free) - own)
        if runs_on(changed, scenario):
            kept.append(scenario)
        elif new:
            kept.append(replace(scenario, datasets=new))
        elif runs_on(changed, free):
            (kept if old.label in asked else elsewhere).append(free)
        elif old.label in asked:
            raise UsageError(
                f"attack {old.label!r}: expected a defense and a data set in one of its"
                f" protocols ({', '.join(old.protocols or [])}), got none; choose others"
            )
    if not (kept or elsewhere):
        raise UsageError(
            "expected a scenario that belongs to what is selected, got none; choose"
            " other defenses, attacks or data sets"
        )
    return replace(changed, scenarios=kept or elsewhere)


def _has(study: Study, said: Published | Claim) -> bool:
    """Whether everything that is spoken of is still in the study."""
    labels = {label for protocol in study.protocols for label in protocol.defenses}
    about = {said.defense} if isinstance(said, Published) else {said.better, *said.than}
    return about <= labels and any(
        scenario.label == said.scenario and said.dataset in runs_on(study, scenario)
        for scenario in study.scenarios
    )


def _chosen(
    kind: str, texts: Sequence[str], entries: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Labels that texts select, in their order; with the spec of those that are new.

    Args:
        kind: of the plugins.
        texts: labels, specs, globs or `all`.
        entries: labels and specs of the file.
    """
    labels = list(dict.fromkeys(label for label, _ in entries))
    chosen: dict[str, str] = {}
    for text in map(str.strip, texts):
        if text in labels:
            found = {text: ""}
        elif matching := is_pattern(text) and _matching(text, labels):
            found = dict.fromkeys(matching, "")
        elif is_pattern(text):
            found = {name: name for name in _names(kind, text)}
        else:
            specs = _normal(kind, text, labels)
            alike = [label for label, own in entries if _same(kind, own, specs)]
            found = dict.fromkeys(alike, "") or {text: "+".join(map(str, specs))}
        for label, spec in found.items():
            if not spec or spec not in chosen.values():
                chosen.setdefault(label, spec)
    return chosen


def _matching(pattern: str, labels: Sequence[str]) -> list[str]:
    glob = "*" if pattern == "all" else pattern
    return [label for label in labels if fnmatch.fnmatchcase(label, glob)]


def _names(kind: str, pattern: str) -> list[str]:
    return [name for name, _ in expand_names(default_registry(), kind, [pattern])]


def _specs(kind: str, text: str) -> tuple[Spec, ...]:
    return Spec.parse_composition(text) if kind == "attack" else (Spec.parse(text),)


def _same(kind: str, own: str, specs: tuple[Spec, ...]) -> bool:
    """Whether a spec of the file says the same; a malformed one is told where it is run."""
    try:
        return _specs(kind, own) == specs
    except SpecError:
        return False


def _normal(kind: str, text: str, labels: Sequence[str]) -> tuple[Spec, ...]:
    """The specs of installed plugins that a text names.

    Raises:
        UsageError: it names none; the message has the labels, too.
        PluginError: several distributions claim a name.
    """
    try:
        specs = _specs(kind, text)
        for spec in specs:
            default_registry().entry(kind, spec.name)
    except UsageError as error:
        own = f"; labels of the study are {', '.join(labels)}" if labels else ""
        near = did_you_mean(text, list(labels))
        raise type(error)(f"{error}{own}{near}") from error
    return specs
