"""Studies: an experiment as data. The shipped suites and a user's own TOML files.

A study names scenarios (attacks), protocols (data sets, embedding and defenses) and,
where there is a publication, its numbers and its claims. `cibench run --suite NAME` or
`-c FILE` runs every scenario under every protocol it applies to.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ._errors import UsageError
from .spec import did_you_mean

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]


class _Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict about unknown fields."""


class StudyScenario(_Base, frozen=True, kw_only=True):
    """One attack, with the label readers see."""

    label: Text
    attack: Text
    """A composition of attack specs, such as `missing:agents=7+flip:agents=10`."""
    x: float | None = None
    """Where the scenario stands on the figure's axis."""
    protocols: list[str] | None = None
    """Names of the protocols it belongs to; None for all."""
    datasets: list[str] | None = None
    """Names of the data set plugins it belongs to; None for all."""
    control: bool = False
    """Whether it tells what the attack is worth, not the defense: no board of its own."""


class Protocol(_Base, frozen=True, kw_only=True):
    """One way to run the scenarios: data sets, embedding and defenses."""

    name: Text
    description: str = ""
    datasets: Annotated[list[Text], Meta(min_length=1)]
    """Data set specs."""
    embedding: str | None = None
    """Embedding recipe spec; None takes each data set's own."""
    defenses: Annotated[dict[str, Text], Meta(min_length=1)]
    """Label to defense spec. A label stands for the same method in every protocol."""


class Published(_Base, frozen=True, kw_only=True):
    """A published number in percent; how many runs it is the mean of is unknown."""

    scenario: Text
    defense: Text
    """The defense's label."""
    dataset: Text
    """Name of the data set plugin."""
    mean: Percent
    std: Percent | None = None


class Claim(_Base, frozen=True, kw_only=True):
    """A published ranking, or how little a defense loses under a scenario."""

    text: Text
    scenario: Text
    dataset: Text
    better: Text
    than: list[Text] = []
    """Defenses that are less robust."""
    loses_at_most: Percent | None = None
    """Points under attack of its own accuracy without; given in place of `than`."""


class Axis(_Base, frozen=True, kw_only=True):
    """The figure's axis of scenarios."""

    label: Text
    scale: Literal["linear", "log"] = "linear"


class RunOptions(_Base, frozen=True, kw_only=True, omit_defaults=True):
    """How a study is run unless the command line says otherwise; None leaves it open."""

    jobs: Count | Literal["auto"] | None = None
    """Cells at a time."""
    backend: Text | None = None
    """What dispatches the cells."""
    timeout: Text | None = None
    """Of a cell, such as `20m`."""
    memory: Text | None = None
    """Of a cell, such as `4G`."""
    threads: Count | None = None
    """Of each computation."""
    device: Text | None = None
    """A torch device."""
    limit: Count | None = None
    """Test samples to use at most; it marks the records partial."""
    preset: Literal["quick", "standard", "full"] | None = None
    exclude: list[Text] = []
    """Cells to leave out, as `--exclude` reads them."""
    isolation: Literal["process", "none"] | None = None


class Study(_Base, frozen=True, kw_only=True):
    """An experiment as data."""

    title: Text
    description: str = ""
    source: str = ""
    seeds: Count = 5
    scenarios: Annotated[list[StudyScenario], Meta(min_length=1)]
    protocols: Annotated[list[Protocol], Meta(min_length=1)]
    published: list[Published] = []
    claims: list[Claim] = []
    figure: Axis | None = None
    run: RunOptions = RunOptions()


def check_study(study: Study) -> None:
    """Refuse a study whose parts name what it does not have.

    Raises:
        UsageError: with the key path of the first mistake.
    """
    for at, protocol in enumerate(study.protocols):
        earlier = [p.name for p in study.protocols[:at]]
        _once(protocol.name, earlier, f"protocols[{at}].name")
        for place, spec in enumerate(protocol.datasets):
            _once(spec, protocol.datasets[:place], f"protocols[{at}].datasets[{place}]")
    protocols = [protocol.name for protocol in study.protocols]
    datasets = sorted({plugin_name(d) for p in study.protocols for d in p.datasets})
    labels: list[str] = []
    for at, scenario in enumerate(study.scenarios):
        where = f"scenarios[{at}]"
        _once(scenario.label, labels, f"{where}.label")
        labels.append(scenario.label)
        for name in scenario.protocols or []:
            _known(name, protocols, f"{where}.protocols", "protocol")
        for name in scenario.datasets or []:
            _known(name, datasets, f"{where}.datasets", "data set")
        if not runs_on(study, scenario):
            raise UsageError(
                f"{where}: expected a protocol with a data set that it belongs to, got"
                f" none for {scenario.label!r}; mend its protocols or datasets"
            )
        if study.figure is not None and scenario.x is None:
            raise UsageError(
                f"{where}.x: expected a number, its place on the figure's axis, got none"
            )
    defenses = sorted({label for p in study.protocols for label in p.defenses})
    seen: list[str] = []
    for at, number in enumerate(study.published):
        where = f"published[{at}]"
        _refers(study, number.scenario, number.dataset, where)
        _known(number.defense, defenses, f"{where}.defense", "defense label")
        _once(f"{number.scenario} / {number.defense} / {number.dataset}", seen, where)
        seen.append(f"{number.scenario} / {number.defense} / {number.dataset}")
    for at, claim in enumerate(study.claims):
        where = f"claims[{at}]"
        _refers(study, claim.scenario, claim.dataset, where)
        _known(claim.better, defenses, f"{where}.better", "defense label")
        for label in claim.than:
            _known(label, defenses, f"{where}.than", "defense label")
        if bool(claim.than) == (claim.loses_at_most is not None):
            raise UsageError(
                f"{where}: expected than or loses_at_most, got"
                f" {'both' if claim.than else 'neither'}"
            )
        if claim.better in claim.than:
            raise UsageError(
                f"{where}.than: expected other defenses than {claim.better!r}, got it too"
            )


def belongs(scenario: StudyScenario, protocol: Protocol, dataset: str) -> bool:
    """Whether a scenario is to be run under a protocol on a data set, given by spec."""
    return (scenario.protocols is None or protocol.name in scenario.protocols) and (
        scenario.datasets is None or plugin_name(dataset) in scenario.datasets
    )


def runs_on(study: Study, scenario: StudyScenario) -> set[str]:
    """Names of the data sets that a scenario is to be run on."""
    return {
        plugin_name(d)
        for p in study.protocols
        for d in p.datasets
        if belongs(scenario, p, d)
    }


def plugin_name(spec: str) -> str:
    """The plugin a spec names; specs themselves are checked where they are expanded."""
    return spec.partition(":")[0].partition("[")[0].strip()


def _refers(study: Study, label: str, dataset: str, where: str) -> None:
    _known(label, [s.label for s in study.scenarios], f"{where}.scenario", "scenario")
    (scenario,) = (s for s in study.scenarios if s.label == label)
    runs = sorted(runs_on(study, scenario))
    _known(dataset, runs, f"{where}.dataset", "data set of that scenario")


def _known(name: str, known: list[str], where: str, what: str) -> None:
    if name not in known:
        raise UsageError(
            f"{where}: unknown {what} {name!r}{did_you_mean(name, known)}; expected one"
            f" of {', '.join(known)}"
        )


def _once(name: str, earlier: list[str], where: str) -> None:
    if name in earlier:
        raise UsageError(f"{where}: expected {name!r} once, got it twice")


class StudyPart(_Base, frozen=True, kw_only=True):
    """What was run for one scenario on one data set under one protocol.

    Specs are canonical, so that records of the run can be found by them.
    """

    protocol: str
    dataset: str
    """Canonical spec of the data set."""
    dataset_name: str
    embedding: dict[str, bool | int | float | str | None]
    """Resolved recipe, as in the records."""
    scenario: str
    attack: str
    """Canonical specs of the attack's parts joined by `+`."""
    x: float | None
    defenses: dict[str, str]
    """Label to canonical spec."""
    seeds: list[int] = []
    """Repetitions asked for; empty where that is not known."""


class StudyRun(_Base, frozen=True, kw_only=True):
    """What `study.json` in a run's folder holds: the study and what became of it."""

    name: str
    study: Study
    parts: list[StudyPart]
    unavailable: dict[str, str] = {}
    """Data set specs that could not be loaded, with the reason."""
