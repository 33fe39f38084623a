"""The data sets of a process: loaded once, thinned, and what is to be known of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .._errors import CibenchError, EnvironmentFault, PluginError
from ..dataset import AgentDataset
from ..embedding import EmbeddingRecipe, recipe_of
from ..grid import Cell
from ..spec import resolved
from .describe import environment, thinned
from .settings import Settings
from .task import DatasetFacts

#: Data sets that a process keeps.
KEPT = 2


@dataclass(eq=False)
class Loader:
    """Loads the data sets of cells; keeps the last ones."""

    settings: Settings
    _datasets: dict[str, AgentDataset] = field(default_factory=dict)
    _facts: dict[str, DatasetFacts] = field(default_factory=dict)

    def facts(self, cell: Cell) -> DatasetFacts:
        """What is to be known of the cell's data set, without attacks."""
        memo = repr((cell.dataset.given, cell.dataset.spec, cell.embedding))
        if memo not in self._facts:
            dataset = self.dataset(cell)
            self._facts[memo] = DatasetFacts(
                name=dataset.name,
                fingerprint=dataset.fingerprint,
                agents=list(dataset.layout.names),
                classes=list(dataset.class_names),
                notes=list(dataset.notes),
                time_series=dataset.time_series,
                personal=dataset.personal,
                test_statistics=dataset.test_statistics,
                samples=len(dataset.test),
                embedding=resolved(self.recipe(cell, dataset)),
                attacks={},
                environment=environment(),
            )
        return self._facts[memo]

    def dataset(self, cell: Cell) -> AgentDataset:
        """The cell's data set.

        Raises:
            DataError: it cannot be loaded.
            PluginError: the plugin failed.
        """
        memo = repr((cell.dataset.given, cell.dataset.spec))
        if memo not in self._datasets:
            while len(self._datasets) >= KEPT:
                del self._datasets[next(iter(self._datasets))]
            try:
                loaded = cell.dataset.configured.load(data_dir=self.settings.data_dir)
            except (CibenchError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a stranger's code may raise anything
                raise PluginError(
                    f"{cell.dataset.entry.title} failed to load:"
                    f" {type(error).__name__}: {error}"
                ) from error
            if self.settings.samples is not None:
                test = thinned(loaded.test, self.settings.samples)
                loaded = replace(loaded, test=test)
            self._datasets[memo] = loaded
        return self._datasets[memo]

    def recipe(self, cell: Cell, dataset: AgentDataset) -> EmbeddingRecipe:
        """The embedding recipe to use: the one asked for, or the data set's own."""
        return recipe_of(cell.embedding or dataset.recipe)

    def check_fingerprint(self, cell: Cell, fingerprint: str) -> None:
        """Refuse other data than the run was started with.

        Raises:
            EnvironmentFault: this process reads other data.
        """
        found = self.facts(cell).fingerprint
        if fingerprint and found != fingerprint:
            raise EnvironmentFault(
                f"data set {cell.dataset.spec}: expected the data the run was started"
                f" with ({fingerprint[:12]}), got {found[:12]}; give every worker the"
                " same files (--data-dir)"
            )
