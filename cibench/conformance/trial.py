"""What plugins are tried on: small generated agents, and the pieces a cell is made of.

Features lie near an affine manifold away from the origin, so that a zero is not a missing
value and every agent can be recovered from the others.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attack import AbstractAttack
from ..dataset import AbstractDataset, AgentDataset, Split
from ..defense import AbstractDefense, Decision, FusionCenter
from ..embedding import EmbeddingRecipe, Training, prepare
from ..execute.store import ArtifactStore
from ..fit import fit_defense, fitted_from, fitted_tensors, guarded
from ..layout import AgentLayout
from ..observation import Observation
from ..references import decide
from ..seeds import scoped_generator
from ..spec import canonical

CLASSES = ("alpha", "beta", "gamma")
AGENTS, WIDTH, RANK = 6, 4, 3
_RECIPE = EmbeddingRecipe(block=None, head=32, weight_decay=0.0, epochs=60)


def generated(seed: int) -> AgentDataset:
    """Three classes seen by six agents; for each seed other classes and other agents."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    layout = AgentLayout(tuple(f"agent{i}" for i in range(AGENTS)), (WIDTH,) * AGENTS)
    basis, offset = normal(RANK, layout.width), 6.0 + normal(layout.width)
    centers = 2.5 * torch.linalg.qr(normal(RANK, RANK)).Q[: len(CLASSES)]

    def split(samples: int) -> Split:
        labels = torch.arange(samples) % len(CLASSES)
        latent = centers[labels] + 0.4 * normal(samples, RANK)
        noise = 0.1 * normal(samples, layout.width)
        return Split(offset + latent @ basis + noise, labels)

    return AgentDataset(
        name=f"conformance-{seed}",
        layout=layout,
        train=split(240),
        validation=split(90),
        test=split(60),
        class_names=CLASSES,
        recipe="identity",
        citation="generated",
        licence="none needed",
    )


@dataclass(frozen=True, eq=False)
class Material:
    """An embedded generated data set: what is fitted to, and clean test samples."""

    training: Training
    clean: Observation
    labels: Tensor

    @property
    def silent(self) -> Observation:
        """The test samples, from a fifth of whose agents nothing was heard."""
        generator = torch.Generator().manual_seed(7)
        drawn = torch.rand(self.clean.observed.shape, generator=generator)
        return self.clean.without(drawn < 0.2)


@cache
def material(seed: int = 0) -> Material:
    """The embedded data set of a seed, made once; copies are handed to plugins."""
    with torch.random.fork_rng(devices=[]):
        made = prepare(
            generated(seed),
            _RECIPE,
            seed=seed,
            store=ArtifactStore(None),
            device=torch.device("cpu"),
        )
    return Material(*made)


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cibench-check-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def fresh_store() -> ArtifactStore:
    """An empty store, removed when the process ends."""
    return ArtifactStore(Path(tempfile.mkdtemp(dir=_folder())))


class DefenseTrial:
    """A defense, fitted when a check first needs it."""

    def __init__(self, plugin: AbstractDefense) -> None:
        self.plugin = plugin
        self.spec = canonical(plugin)
        self.material = material()
        self._store = fresh_store()

    def training(self, seed: int = 0, store: ArtifactStore | None = None) -> Training:
        """What a fit gets, in tensors of its own."""
        own = material(seed).training

        def copied(one: Observation) -> Observation:
            return Observation(one.features.clone(), one.observed.clone(), one.layout)

        return replace(
            own,
            train=copied(own.train),
            validation=copied(own.validation),
            train_labels=own.train_labels.clone(),
            validation_labels=own.validation_labels.clone(),
            store=store or fresh_store(),
            scope=self.spec,
            _fitted={},
        )

    def fit(
        self,
        *,
        seed: int = 0,
        store: ArtifactStore | None = None,
        plugin: AbstractDefense | None = None,
        training: Training | None = None,
        draw: int = 0,
    ) -> FusionCenter:
        """Fit afresh, as a cell does.

        Args:
            seed: of the generated data.
            plugin: another object of the class.
            draw: of the generator that the fit gets.
        """
        given = training or self.training(seed, store)
        with guarded(given, self.plugin.name):
            return fit_defense(
                plugin or self.plugin,
                given,
                seed=draw,
                dataset=f"conformance-{seed}",
                seed_scope=self.spec,
            )

    @cached_property
    def _kept(self) -> tuple[dict[str, Tensor], Training]:
        training = self.training(store=self._store)
        return fitted_tensors(lambda: self.fit(training=training), training), training

    @property
    def unpicklable(self) -> str:
        """Why the fusion center cannot be pickled; empty if it can."""
        reason = self._kept[0].get("unpicklable")
        return "" if reason is None else bytes(reason.tolist()).decode()

    def center(self) -> FusionCenter:
        """The fitted fusion center, a copy for each call, as a cell loads it."""
        kept, training = self._kept
        return fitted_from(kept, training, lambda: self.fit(store=self._store))[0]


class AttackTrial:
    """An attack, with the fusion centers and samples it is tried on."""

    def __init__(self, plugin: AbstractAttack) -> None:
        if plugin.threat.target == "other":  # of two classes; there are three here
            plugin = replace(plugin, target=CLASSES[0])  # type: ignore[call-arg]
        self.plugin = plugin
        self.material = material()
        self.clean = self.material.clean[:36]
        self.labels = self.material.labels[:36]

    @property
    def model(self) -> FusionCenter:
        """The undefended fusion center, which other checks share."""
        return self.material.training.undefended

    def generator(self) -> torch.Generator:
        """The same randomness for each call."""
        return scoped_generator(0, part="conformance attack")


class DatasetTrial:
    """A data set, with the place its files are looked for."""

    def __init__(self, plugin: AbstractDataset) -> None:
        self.plugin = plugin

    @cached_property
    def loaded(self) -> AgentDataset:
        """The data, loaded once."""
        from .check import NotApplicable

        folder = data_folder()
        if not self.plugin.present(data_dir=folder):
            raise NotApplicable(
                f"its files are not here: {self.plugin.files_needed or 'see its options'};"
                " give --data-dir or CIBENCH_DATA"
            )
        return self.plugin.load(data_dir=folder)


_data: list[Path] = []


def data_folder() -> Path | None:
    """The folder of the user's data files, if one was given."""
    import os

    if _data:
        return _data[-1]
    given = os.environ.get("CIBENCH_DATA")
    return Path(given) if given else None


def set_data_folder(folder: Path | None) -> None:
    """Let data sets look for files of the user there."""
    _data.clear()
    if folder is not None:
        _data.append(folder)


_TRIALS: dict[str, Callable[[Any], Any]] = {
    "defense": DefenseTrial,
    "attack": AttackTrial,
    "dataset": DatasetTrial,
}
_last: list[tuple[Any, Any]] = []


def trial_of(kind: str, plugin: Any) -> Any:
    """The trial of a plugin; the last one is kept, so that checks share its fit."""
    if not (_last and _last[0][0] is plugin):
        _last[:] = [(plugin, _TRIALS[kind](plugin))]
    return _last[0][1]


def answered(center: FusionCenter, observation: Observation) -> Decision:
    """A fresh decision, without gradients."""
    return decide(center, observation)[0]
