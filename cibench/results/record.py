"""`CellRecord`: everything about one cell; every table is a function of records."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

#: Version of the record's structure; a reader refuses others.
SCHEMA_VERSION: Final = 2

Status = Literal[
    "ok", "failed", "timeout", "killed", "out-of-memory", "skipped", "interrupted"
]


class _Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict about unknown fields."""


class Component(_Base, frozen=True, kw_only=True):
    """A configured plugin and where it came from."""

    name: str
    spec: str
    options: dict[str, Any]
    distribution: str
    version: str
    source: str
    """Hash of the source of the plugin's package."""


class AttackPart(_Base, frozen=True, kw_only=True):
    """One attack of a composition and the threat model it worked under."""

    component: Component
    agents: str
    """The rule, such as `last` or `worst:1`."""
    sets: list[list[str]]
    """The sets of agents tried, by name; the one a search found; empty if a set was drawn
    for each sample, or a search has not been."""
    knowledge: str
    target: str
    corrupts: bool
    """Whether it may send other values."""
    drops: bool = False
    """Whether it may fall silent."""
    counts_target: bool = False
    """Whether samples already labelled as the target count, as the released code does."""
    budget: float | None
    radius: list[float] | None
    """Largest norm of a block's change per agent, in units of the embedding."""

    @property
    def searched(self) -> bool:
        """Whether its agents are searched for, so that every defense meets its own."""
        return self.agents.partition(":")[0] in ("greedy", "bandit")


class Proportion(_Base, frozen=True, kw_only=True):
    """`successes` of `n` samples."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """The share; 0 where there is no sample."""
        return self.successes / self.n if self.n else 0.0


class Metrics(_Base, frozen=True, kw_only=True):
    """Numbers of a cell. Accuracies are shares of correct samples; abstaining is wrong.

    Samples already labelled as the target of a targeted attack do not count under attack,
    unless the attack says so (`counts_target`); for its success they never do.
    """

    clean_undefended: Proportion
    clean: Proportion
    attacked_undefended: Proportion
    attacked: Proportion
    """The accuracy under attack: with `worst:q`, correct under every set tried."""
    genie: Proportion
    """The undefended fusion center told which agents are corrupted, without them."""
    universal: Proportion
    """Accuracy under the one set of agents that hurts most over all samples."""
    universal_set: list[str]
    balanced_clean: float
    balanced_attacked: float | None
    success_rate: Proportion
    """Adversary's goal reached, among counted samples decided correctly when clean."""
    majority_share: float
    recovery_error: float | None
    """Mean distance of purified attacked from clean embeddings, relative to the mean."""
    recovery_error_clean: float | None
    solver_not_converged: float | None
    rejected_blocks: int
    queries: int
    gradients: int


class Timings(_Base, frozen=True, kw_only=True):
    """Seconds by phase, and how long a decision takes.

    The embedding is shared by all cells of a data set and seed. A fit is shared by all
    cells of a defense: its seconds are those of the fit itself, whichever cell it was for.
    """

    fit_seconds: float
    attack_seconds: float
    predict_seconds: float
    milliseconds_per_sample: float


class Outcomes(_Base, frozen=True, kw_only=True):
    """Predicted class per test sample; -1 where the fusion center abstained.

    Under `worst:q`, `attacked` holds the decision under the first set that breaks the
    sample, or under the last set.
    """

    labels: list[int]
    counted: list[bool]
    clean_undefended: list[int]
    clean: list[int]
    attacked_undefended: list[int]
    attacked: list[int]
    genie: list[int]
    compromised: list[int]
    """Compromised agents as bits: bit i is agent i (of the set `attacked` belongs to)."""
    recovery_error: list[float] | None
    solver_status: list[int] | None


class Certificate(_Base, frozen=True, kw_only=True):
    """What is proved of a defense's decisions on clean embeddings, per test sample.

    A certified sample counts if its clean decision is right: accuracies at a radius follow
    from `Outcomes.clean` and these radii. Never to be mixed with accuracy under attack.
    """

    kind: Literal["agents", "l2"]
    """`agents`: any that many agents may send anything or nothing. `l2`: the heard features
    may move by less than that distance, jointly, in the units of the embedding."""
    radius: list[float]
    """Per sample the largest certified radius; 0 where nothing is certified."""
    confidence: float
    """Chance that one sample's radius is right: 1 for a proof without chance."""


class CellRecord(_Base, frozen=True, kw_only=True):
    """One cell: scenario x defense x repetition."""

    schema_version: Literal[2] = SCHEMA_VERSION
    protocol: int
    cell: str
    """Readable id, unique within a run."""
    key: str
    """Content key: changes with anything that can change the numbers."""
    status: Status
    reason: str = ""
    log: str = ""
    """What the cell printed, relative to the run's folder; empty if it was silent."""
    seconds: float = 0.0
    """Wall time of the cell, without the fits and embeddings it shares with others."""
    peak_memory: int | None = None
    """Bytes resident at most in the process of the cell, as far as that was measured."""
    inputs: dict[str, str] = {}
    """What `key` is the hash of, by name."""
    dataset: Component
    fingerprint: str
    agents: list[str]
    classes: list[str]
    embedding: dict[str, Any]
    attack: list[AttackPart]
    defense: Component
    fitted: dict[str, Any] = {}
    """What the defense says about its fit, such as the chosen code width."""
    seed: int
    metrics: Metrics | None = None
    timings: Timings | None = None
    outcomes: Outcomes | None = None
    certificates: list[Certificate] = []
    """Of cells in which no agent is compromised: certificates speak of clean embeddings."""
    flags: list[str] = []
    probes: dict[str, float] = {}
    """What was measured to raise flags, by name: see `cibench.flags.of_probes`."""
    notes: list[str] = []
    environment: dict[str, str]
    device: str
    time_series: bool = False
    """Whether neighbouring test samples are correlated in time."""
    personal: bool = False
    """Whether the data are of persons: their embeddings are not for publication."""
    created: str


def encode(record: CellRecord) -> bytes:
    """A record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(content: bytes) -> CellRecord:
    """A record from JSON.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: not a record of this schema.
    """
    return msgspec.json.decode(content, type=CellRecord)


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of a record."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"cibench cell record, version {SCHEMA_VERSION}",
        **msgspec.json.schema(CellRecord),
    }
