"""Studies: an experiment as data. The shipped suites and a user's own TOML files.

A study names scenarios (attacks), protocols (data sets, embedding and defenses) and,
where there is a publication, its numbers and its claims. `cibench run --suite NAME` or
`-c FILE` runs every scenario under every protocol it applies to.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
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
    """A published ranking: one defense is more robust than others under a scenario."""

    text: Text
    scenario: Text
    dataset: Text
    better: Text
    than: Annotated[list[Text], Meta(min_length=1)]


class Axis(_Base, frozen=True, kw_only=True):
    """The figure's axis of scenarios."""

    label: Text
    scale: Literal["linear", "log"] = "linear"


class Study(_Base, frozen=True, kw_only=True):
    """An experiment as data."""

    title: Text
    description: str = ""
    source: str = ""
    seeds: Annotated[int, Meta(ge=1)] = 5
    scenarios: Annotated[list[StudyScenario], Meta(min_length=1)]
    protocols: Annotated[list[Protocol], Meta(min_length=1)]
    published: list[Published] = []
    claims: list[Claim] = []
    figure: Axis | None = None


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


class StudyRun(_Base, frozen=True, kw_only=True):
    """What `study.json` in a run's folder holds: the study and what became of it."""

    name: str
    study: Study
    parts: list[StudyPart]
    unavailable: dict[str, str] = {}
    """Data set specs that could not be loaded, with the reason."""
