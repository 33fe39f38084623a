"""The steps of a cell, computed in this process: describe, embed, refer, fit, evaluate.

Every step but the last leaves an artifact that the cells after it share, in whichever
process they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import torch

from .._errors import UsageError
from ..certificates import certificates
from ..defense import FusionCenter
from ..embedding import Training, prepare
from ..embedding.training import stored
from ..evaluate import evaluate
from ..fit import fit_defense, fitted_from, fitted_tensors, guarded
from ..flags import raise_flags
from ..grid import Cell, Plugin
from ..observation import Observation
from ..references import References, refer, reference_tensors, references_from
from ..results import CellRecord
from ..results.record import decode, encode
from ..scenario import Scenario
from ..witness import packed
from .blank import blank_record
from .describe import attack_parts, median_norms
from .keys import Keys
from .loader import Loader
from .settings import Settings
from .store import ArtifactStore
from .task import AttackFacts, DatasetFacts


def no_report(phase: str, done: int = 0, total: int = 0) -> None:
    """Report nothing."""


@dataclass(eq=False)
class Runner:
    """Computes steps; keeps the last data sets, embedding and references.

    Args:
        settings: with a cache folder, through which processes share what they computed.
        report: called with the phase of the present step, and how far it got.
    """

    settings: Settings
    report: Callable[[str, int, int], None] = no_report
    _embedded: dict[str, tuple[Training, Observation]] = field(default_factory=dict)
    _references: dict[str, References] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from threadpoolctl import threadpool_limits

        assert self.settings.cache is not None
        torch.set_num_threads(self.settings.threads)
        threadpool_limits(self.settings.threads)
        self.artifacts = ArtifactStore(self.settings.cache / "artifacts")
        self.device = torch.device(self.settings.device)
        self.data = Loader(self.settings)

    @property
    def keys(self) -> Keys:
        """Fresh, for a process must not remember every cell it ever computed."""
        return Keys(self.settings, str(torch.__version__))

    def describe(
        self, cell: Cell, attacks: Sequence[tuple[Plugin, ...]]
    ) -> DatasetFacts:
        """What is to be known of the cell's data set, and what the attacks mean on it.

        Raises:
            DataError: the data set cannot be loaded.
            UsageError: the embedding recipe is unknown.
            PluginError: the data set plugin failed.
        """
        facts = self.facts(cell)
        found = {}
        for attack in attacks:
            tried = replace(cell, attack=attack)
            found[tried.attack_spec] = self._attack_facts(tried)
        return msgspec.structs.replace(facts, attacks=found)

    def facts(self, cell: Cell) -> DatasetFacts:
        """What is to be known of the cell's data set, without attacks."""
        return self.data.facts(cell)

    def embed(self, cell: Cell) -> None:
        """Train the encoders and the undefended fusion center, unless they are stored."""
        self._prepared(cell)

    def refer(self, cell: Cell) -> None:
        """Compute what the scenario shows without a defense, unless it is stored."""
        training, clean = self._prepared(cell)
        self._referred(cell, training, self._scenario(cell, training, clean))

    def fit(self, cell: Cell) -> None:
        """Fit the defense, unless that is stored."""
        training, _ = self._prepared(cell)
        with guarded(training, cell.defense.entry.name):
            self._fit_tensors(cell, training)

    def embedded(self, cell: Cell) -> tuple[Training, Observation, torch.Tensor]:
        """What a defense learns from; clean test samples and their `(n,)` labels."""
        training, clean = self._prepared(cell)
        labels = self.data.dataset(cell).test.labels
        return training, clean, labels.to(clean.features.device)

    def fitted(self, cell: Cell) -> tuple[FusionCenter, float]:
        """The fitted defense, and the seconds that its fit took when it was fitted."""
        training, _ = self._prepared(cell)
        with guarded(training, cell.defense.entry.name):
            return self._fitted(cell, training)

    def evaluate(self, cell: Cell) -> tuple[CellRecord, bytes | None]:
        """Compute a cell; whatever a plugin raises comes through.

        Returns:
            The record, and the witness if the settings ask for one.
        """
        training, clean = self._prepared(cell)
        scenario = self._scenario(cell, training, clean)
        references = self._referred(cell, training, scenario)
        facts, device = self.facts(cell), self.settings.device_class
        key = self.keys.of(cell, facts).cell
        with guarded(training, cell.defense.entry.name):
            fusion_center, seconds = self._fitted(cell, training)
            found = evaluate(
                scenario,
                references,
                cell.defense.configured,
                training,
                fusion_center=fusion_center,
                fit_seconds=seconds,
                report=lambda phase: self.report(phase, 0, 0),
            )
            proved = certificates(fusion_center, scenario)
        parts = attack_parts(cell, scenario, draws=found.draws)
        finished = msgspec.structs.replace(
            blank_record(cell, key, facts, parts, device),
            inputs=self.keys.inputs(cell, facts),
            metrics=found.metrics,
            outcomes=found.outcomes,
            timings=found.timings,
            certificates=proved,
            probes={k: float(f"{v:.4g}") for k, v in sorted(found.probes.items())},
            fitted=dict(found.fitted),
        )
        # What a defense reports about itself may not survive JSON.
        finished = decode(encode(finished))
        flags = raise_flags(
            finished,
            partial=self.settings.samples is not None,
            test_statistics=facts.test_statistics,
            transfer_breaks=found.transfer_breaks,
            unusable_gradients=found.unusable_gradients,
            oracle=cell.defense.configured.capabilities.needs_corrupted_agents,
            undefended=found.undefended,
            optimizes=cell.defense.configured.capabilities.optimizes_at_inference,
        )
        finished = msgspec.structs.replace(finished, flags=list(flags))
        if not self.settings.witnesses:
            return finished, None
        return finished, packed(finished, found.witness)

    def replay(self, cell: Cell, witness: bytes) -> dict[str, list[int]]:
        """What is decided once more on what a cell's witness sent; see `replay.replay`."""
        from ..submission.replay import replay

        training, clean = self._prepared(cell)
        scenario = self._scenario(cell, training, clean)
        with guarded(training, cell.defense.entry.name):
            fusion_center, _ = self._fitted(cell, training)
            return replay(
                scenario,
                training,
                fusion_center=fusion_center,
                witness=witness,
            )

    def _scenario(
        self, cell: Cell, training: Training | None, clean: Observation | None
    ) -> Scenario:
        """The cell's scenario; without embeddings on the raw layout, for checks only."""
        dataset = self.data.dataset(cell)
        observation = clean or dataset.test.observation(dataset.layout)
        norms = torch.ones(dataset.layout.agents)
        return Scenario(
            clean=observation,
            labels=dataset.test.labels.to(observation.features.device),
            attack=tuple(part.configured for part in cell.attack),
            specs=tuple(part.spec for part in cell.attack),
            median_norms=norms if training is None else median_norms(training.train),
            class_names=dataset.class_names,
            dataset=cell.dataset.spec,
            seed=cell.seed,
            recorded=None
            if training is None
            else (training.train, training.train_labels),
        )

    def _attack_facts(self, cell: Cell) -> AttackFacts:
        scenario = self._scenario(cell, None, None)
        error = scenario.misfit()
        if error is None:
            return AttackFacts(parts=attack_parts(cell, scenario, radii=False))
        assert isinstance(error, UsageError)
        return AttackFacts(
            misfit=str(error),
            misfit_kind=type(error).__name__,
            parts=attack_parts(cell, None),
        )

    def _prepared(self, cell: Cell) -> tuple[Training, Observation]:
        facts = self.facts(cell)
        key = self.keys.of(cell, facts).embedding
        if key not in self._embedded:
            self.report("embedding", 0, 0)
            dataset = self.data.dataset(cell)
            training, clean, _ = prepare(
                dataset,
                self.data.recipe(cell, dataset),
                seed=cell.seed,
                store=self.artifacts,
                device=self.device,
                key=key,
                inputs=self.keys.embedding(cell, facts),
                progress=self.report,
            )
            self._embedded = {key: (training, clean)}
        return self._embedded[key]

    def _referred(
        self, cell: Cell, training: Training, scenario: Scenario
    ) -> References:
        facts = self.facts(cell)
        key = self.keys.of(cell, facts).references
        if key not in self._references:
            self.report("references", 0, 0)
            tensors = stored(
                self.artifacts,
                key,
                lambda: reference_tensors(
                    refer(scenario, training.undefended), scenario
                ),
                kind="references",
                inputs=self.keys.scenario(cell, facts),
            )
            # Cells come sorted by scenario: the last one is all that is needed again.
            self._references = {key: references_from(tensors, scenario)}
        return self._references[key]

    def _fit_tensors(self, cell: Cell, training: Training) -> dict[str, torch.Tensor]:
        facts = self.facts(cell)
        self.report("fit", 0, 0)
        return stored(
            self.artifacts,
            self.keys.of(cell, facts).fit,
            lambda: fitted_tensors(lambda: self._fit(cell, training), training),
            kind="fit",
            inputs=self.keys.fit(cell, facts),
        )

    def _fitted(self, cell: Cell, training: Training) -> tuple[FusionCenter, float]:
        tensors = self._fit_tensors(cell, training)
        return fitted_from(tensors, training, lambda: self._fit(cell, training))

    def _fit(self, cell: Cell, training: Training) -> FusionCenter:
        component = cell.defense.component
        scope = repr((cell.defense.entry, component.options)) + component.source
        return fit_defense(
            cell.defense.configured,
            replace(training, scope=scope, progress=self.report),
            seed=cell.seed,
            dataset=cell.dataset.spec,
            seed_scope=cell.defense.spec,
        )
