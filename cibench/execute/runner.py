"""Running cells one after another: shared parts once, failures as records, cached results.

A cell's content key covers protocol, harness and plugin sources, data, options, seeds and
device class; a record stored under the same key is the answer and nothing is run.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import torch

from .._errors import CibenchError, PluginError
from .._version import PROTOCOL
from ..dataset import AgentDataset
from ..embedding import EmbeddingRecipe, Training, prepare, recipe_of
from ..embedding.training import content_key
from ..evaluate import evaluate, guarded
from ..flags import raise_flags
from ..grid import Cell, harness_hash
from ..observation import Observation
from ..references import References, refer
from ..results import CellRecord
from ..results.folder import write_atomically
from ..results.record import Status, decode, encode
from ..scenario import Scenario
from ..spec import resolved
from .describe import attack_parts, blank_record, median_norms, scrub, thinned
from .store import ArtifactStore, MemoryStore

#: Test samples that `--quick` keeps.
QUICK_SAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How cells are run.

    Args:
        device: a torch device.
        data_dir: folder of the user's own data files.
        cache: folder of artifacts and records; None keeps nothing.
        embedding: recipe by spec, such as `linear-32:agent_dropout=0.3`; None takes the
            data set's own.
        threads: of each computation; one by default, so that numbers do not depend on how
            many cores a machine has.
        quick: use `QUICK_SAMPLES` test samples and mark the records partial.
    """

    device: torch.device
    data_dir: Path | None = None
    cache: Path | None = None
    embedding: str | None = None
    threads: int = 1
    quick: bool = False


def no_report(cell: Cell, phase: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(eq=False)
class Runner:
    """Runs cells; keeps data sets, the last embedding and the last references."""

    settings: Settings
    report: Callable[[Cell, str, int, int], None] = no_report
    datasets: dict[str, AgentDataset] = field(default_factory=dict)
    _embedded: dict[str, tuple[Training, Observation]] = field(default_factory=dict)
    _references: dict[str, References] = field(default_factory=dict)
    _skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cache = self.settings.cache
        self.artifacts = ArtifactStore(cache / "artifacts") if cache else MemoryStore()
        self.records = cache / "records" if cache else None
        if self.records is not None:
            ArtifactStore(self.records)  # makes the folder, or says why it cannot

    def check(self, cells: Sequence[Cell]) -> None:
        """Load every data set and check every threat model before anything runs.

        A threat model that fits some of the data sets is skipped, with the reason, on the
        others; so is one that only `all` or a glob named, if any other fits.

        Raises:
            DataError: a data set cannot be loaded.
            UsageError: no threat model fits its data set, or the recipe is unknown.
        """
        for cell in cells:
            self.recipe(self.dataset(cell))
        checked = [
            (cell, self.scenario(cell, self.dataset(cell)).misfit()) for cell in cells
        ]
        fitting = {cell.attack_spec for cell, error in checked if error is None}
        for cell, error in checked:
            if error is not None:
                typed = any(part.typed for part in cell.attack)
                if not fitting or (typed and cell.attack_spec not in fitting):
                    raise error
                self._skipped[cell.title] = str(error)

    def dataset(self, cell: Cell) -> AgentDataset:
        """The cell's data set, loaded once."""
        spec = cell.dataset.spec
        if spec not in self.datasets:
            try:
                loaded = cell.dataset.configured.load(data_dir=self.settings.data_dir)
            except (CibenchError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a stranger's code may raise anything
                raise PluginError(
                    f"{cell.dataset.entry.title} failed to load:"
                    f" {type(error).__name__}: {error}"
                ) from error
            if self.settings.quick:
                loaded = replace(loaded, test=thinned(loaded.test, QUICK_SAMPLES))
            self.datasets[spec] = loaded
        return self.datasets[spec]

    def recipe(self, dataset: AgentDataset) -> EmbeddingRecipe:
        """The embedding recipe to use: the one asked for, or the data set's own."""
        return recipe_of(self.settings.embedding or dataset.recipe)

    def key(self, cell: Cell) -> str:
        """Content key of a cell's numbers."""
        dataset = self.dataset(cell)
        parts = (cell.dataset, *cell.attack, cell.defense)
        return content_key(
            str(PROTOCOL),
            harness_hash(),
            str(torch.__version__),
            dataset.fingerprint,
            repr(resolved(self.recipe(dataset))),
            repr([(p.component.options, p.component.source, p.entry) for p in parts]),
            str(cell.seed),
            self.settings.device.type,
            str(self.settings.quick),
            str(self.settings.threads),
        )

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, CellRecord, bool]]:
        """Yield every cell with its record and whether the record was stored before.

        A plugin that fails gives a record of status `failed`; its siblings go on.
        """
        torch.set_num_threads(self.settings.threads)
        for cell in cells:
            key = self.key(cell)
            if cell.title in self._skipped:
                blank = self._blank(cell, key)
                reason = self._skipped[cell.title]
                yield (
                    cell,
                    msgspec.structs.replace(blank, status="skipped", reason=reason),
                    False,
                )
                continue
            stored = self._stored(key)
            if stored is not None:
                yield cell, stored, True
                continue
            record = self._evaluated(cell, key)
            yield cell, record, False
            # Only now: the run's own folder comes first.
            if self.records is not None and record.status == "ok":
                write_atomically(self.records / f"{key}.json", encode(record))

    def _stored(self, key: str) -> CellRecord | None:
        path = self.records / f"{key}.json" if self.records else None
        if path is None or not path.exists():
            return None
        try:
            return decode(path.read_bytes())
        except (msgspec.DecodeError, msgspec.ValidationError):
            path.rename(path.with_suffix(".damaged"))
            warnings.warn(
                f"record {path.name} is damaged; it was set aside and is computed again",
                stacklevel=2,
            )
            return None

    def scenario(
        self, cell: Cell, dataset: AgentDataset, clean: Observation | None = None
    ) -> Scenario:
        """The cell's scenario; without embeddings, on the raw layout, for checks only."""
        labels = dataset.test.labels
        observation = clean or dataset.test.observation(dataset.layout)
        return Scenario(
            clean=observation,
            labels=labels.to(observation.features.device),
            attack=tuple(part.configured for part in cell.attack),
            specs=tuple(part.spec for part in cell.attack),
            median_norms=torch.ones(dataset.layout.agents),
            class_names=dataset.class_names,
            dataset=cell.dataset.spec,
            seed=cell.seed,
        )

    def _evaluated(self, cell: Cell, key: str) -> CellRecord:
        dataset = self.dataset(cell)
        record = self._blank(cell, key)

        def phase(name: str, done: int = 0, total: int = 0) -> None:
            self.report(cell, name, done, total)

        try:
            phase("embedding")
            training, clean = self._prepared(cell, dataset)
            scenario = replace(
                self.scenario(cell, dataset, clean),
                median_norms=median_norms(training.train),
                recorded=(training.train, training.train_labels),
            )
            record = msgspec.structs.replace(
                record, attack=attack_parts(cell, scenario)
            )
            reference_key = content_key(training.key, cell.attack_spec)
            if reference_key not in self._references:
                phase("references")
                # Cells come sorted by scenario: the last one is all that is needed again.
                self._references = {reference_key: refer(scenario, training.undefended)}
            scope = repr((cell.defense.entry, record.defense.options))
            training = replace(training, scope=scope + record.defense.source)
            with guarded(training, cell.defense.entry.name):
                found = evaluate(
                    scenario,
                    self._references[reference_key],
                    cell.defense.configured,
                    training,
                    seed_scope=cell.defense.spec,
                    report=phase,
                )
            finished = msgspec.structs.replace(
                record,
                metrics=found.metrics,
                outcomes=found.outcomes,
                timings=found.timings,
                fitted=dict(found.fitted),
            )
            # What a defense reports about itself may not survive JSON.
            finished = decode(encode(finished))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            if not isinstance(error, CibenchError):
                where = traceback.extract_tb(error.__traceback__)[-1]
                reason += f" ({Path(where.filename).name}:{where.lineno})"
            status: Status = "failed"
            if isinstance(error, MemoryError):
                status = "out-of-memory"
            return msgspec.structs.replace(record, status=status, reason=scrub(reason))
        flags = raise_flags(
            finished,
            partial=self.settings.quick,
            test_statistics=dataset.test_statistics,
            transfer_breaks=found.transfer_breaks,
            unusable_gradients=found.unusable_gradients,
            oracle=cell.defense.configured.capabilities.needs_corrupted_agents,
            undefended=found.undefended,
        )
        return msgspec.structs.replace(finished, flags=list(flags))

    def _prepared(
        self, cell: Cell, dataset: AgentDataset
    ) -> tuple[Training, Observation]:
        memo = f"{cell.dataset.spec} {cell.seed}"
        if memo not in self._embedded:
            self.artifacts.forget()
            training, clean, _ = prepare(
                dataset,
                self.recipe(dataset),
                seed=cell.seed,
                source=harness_hash(),
                store=self.artifacts,
                device=self.settings.device,
                progress=lambda name, done, total: self.report(cell, name, done, total),
            )
            self._embedded = {memo: (training, clean)}
        return self._embedded[memo]

    def _blank(self, cell: Cell, key: str) -> CellRecord:
        dataset = self.dataset(cell)
        skipped = cell.title in self._skipped
        # As the harness knows it before there is an embedding: without radii.
        scenario = None if skipped else self.scenario(cell, dataset)
        parts = attack_parts(cell, scenario, radii=False)
        recipe, device = self.recipe(dataset), self.settings.device.type
        return blank_record(cell, key, dataset, recipe, parts, device)
