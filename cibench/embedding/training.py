"""`Training`: what a defense may learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..dataset import AgentDataset
from ..execute.keys import content_key
from ..execute.store import ArtifactStore
from ..layout import AgentLayout
from ..observation import Observation
from ..seeds import scoped_generator
from ..spec import resolved
from .modules import Encoders, UndefendedFusionCenter, fusion_head
from .recipe import EmbeddingRecipe
from .released import CODE_WIDTH
from .train import Progress, fit_embedding, fit_head, silent

if TYPE_CHECKING:
    from ..manifold import FittedManifold, ManifoldRecipe


def named(recipe: ManifoldRecipe) -> dict[str, Any]:
    """The options that tell a manifold's seed and place in the store from others'.

    One that is off is left out: with it, seeds would not be those of before it was there,
    and every number of a purifier would move.
    """
    options = resolved(recipe)
    if not recipe.spread:
        del options["spread"]
    return options


@dataclass(frozen=True, eq=False, kw_only=True)
class Training:
    """Clean embeddings with labels, the undefended fusion center, shared fitted parts.

    Args:
        train, validation: clean embeddings; no test sample is within reach.
        train_labels, validation_labels: `(n,)` classes.
        classes: number of classes.
        undefended: the undefended fusion center trained with the encoders.
        recipe: how encoders and head were trained.
        key: content key of the embedding: data, recipe, seed, harness, device class.
        scope: the defense that is being fitted: its spec and the source of its package.
    """

    train: Observation
    train_labels: Tensor
    validation: Observation
    validation_labels: Tensor
    classes: int
    undefended: UndefendedFusionCenter
    recipe: EmbeddingRecipe
    key: str
    seed: int
    store: ArtifactStore
    scope: str = ""
    progress: Progress = silent
    _fitted: dict[str, object] = field(default_factory=dict, repr=False)

    @property
    def layout(self) -> AgentLayout:
        """The agents' embedded blocks."""
        return self.train.layout

    def reuse(
        self, label: str, fit: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Tensors that `fit` computes, unless an artifact of this label is stored.

        Args:
            label: names everything the tensors depend on besides this embedding, the
                defense with its options and the source of its package.
            fit: computes the tensors. It is not called where they are stored, so whatever
                is drawn from a generator outside must not depend on what `fit` draws: draw
                it before, or give `fit` a generator of its own.
        """
        return self._shared(content_key(self.scope, label), fit, "other")

    def _shared(
        self, label: str, fit: Callable[[], dict[str, Tensor]], kind: str
    ) -> dict[str, Tensor]:
        key = content_key(self.key, label)
        inputs = {"embedding key": self.key, "label": label}
        found = stored(self.store, key, fit, kind=kind, inputs=inputs)
        return {k: v.to(self.train.features.device) for k, v in found.items()}

    def manifold(self, recipe: ManifoldRecipe) -> FittedManifold:
        """The manifold of a recipe, fitted once per embedding."""
        from ..manifold import FittedManifold, fit_manifold
        from ..manifold.storage import manifold_from, manifold_tensors

        label = f"manifold {named(recipe)}"
        if label not in self._fitted:

            def fit() -> dict[str, Tensor]:
                return manifold_tensors(
                    fit_manifold(
                        recipe,
                        self.train,
                        self.validation,
                        generator=scoped_generator(self.seed, part=label),
                        released=self.recipe.schedule == "released",
                        progress=self.progress,
                    )
                )

            self._fitted[label] = manifold_from(
                self._shared(label, fit, "manifold"), self.layout
            )
        found = self._fitted[label]
        assert isinstance(found, FittedManifold)
        return found

    def manifold_head(self, recipe: ManifoldRecipe) -> nn.Module:
        """A fusion head trained on the manifold's output D(E(l)), as the paper does."""
        label = f"head on manifold {named(recipe)}"
        fitted = self.manifold(recipe)
        generator = scoped_generator(self.seed, part=label)

        def reconstructed(observation: Observation) -> Tensor:
            filled = observation.filled(fitted.manifold.mean).double()
            return fitted.manifold.reconstruct(filled).to(self.train.features.dtype)

        def fit() -> dict[str, Tensor]:
            with torch.no_grad():
                inputs = reconstructed(self.train), reconstructed(self.validation)
            head = fit_head(
                inputs[0],
                self.train_labels,
                inputs[1],
                self.validation_labels,
                self.classes,
                self.recipe,
                generator,
                self.progress,
            )
            return dict(head.state_dict())

        head = fusion_head(self.layout.width, self.classes, self.recipe, generator)
        head.load_state_dict(self._shared(label, fit, "head"))
        head.to(self.train.features.device)
        return head.eval().requires_grad_(False)


def prepare(
    dataset: AgentDataset,
    recipe: EmbeddingRecipe,
    *,
    seed: int,
    store: ArtifactStore,
    device: torch.device,
    key: str = "",
    inputs: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> tuple[Training, Observation, Tensor]:
    """Embed a data set with encoders trained for a seed, or stored ones.

    Args:
        key: content key of the embedding; by default one of data, recipe and seed alone.
        inputs: what the key is the hash of.

    Returns:
        What defenses learn from, the clean test embeddings and their labels.
    """
    from ..manifold import ManifoldRecipe

    key = key or content_key(
        *(dataset.name, dataset.fingerprint, repr(resolved(recipe)), str(seed)),
        device.type,
    )
    generator = scoped_generator(seed, part="embedding", dataset=dataset.name)
    # Skeletons that the stored or trained weights are loaded into.
    encoders = Encoders(dataset.layout, recipe, scoped_generator(0))
    classes = len(dataset.class_names)
    head = fusion_head(encoders.layout.width, classes, recipe, scoped_generator(0))
    fill = torch.zeros(encoders.layout.width)
    undefended = UndefendedFusionCenter(head, fill)
    both = nn.ModuleList([encoders, undefended])

    def fit() -> dict[str, Tensor]:
        fitted = fit_embedding(dataset, recipe, generator, device, progress)
        return dict(nn.ModuleList(fitted).state_dict())

    both.load_state_dict(stored(store, key, fit, kind="embedding", inputs=inputs))
    both.to(device).eval().requires_grad_(False)

    def embed(features_of: str) -> tuple[Observation, Tensor]:
        split = getattr(dataset, features_of)
        with torch.no_grad():
            embedded = encoders(split.observation(dataset.layout).to(device))
        return embedded, split.labels.to(device)

    train, train_labels = embed("train")
    validation, validation_labels = embed("validation")
    training = Training(
        train=train,
        train_labels=train_labels,
        validation=validation,
        validation_labels=validation_labels,
        classes=classes,
        undefended=undefended,
        recipe=recipe,
        key=key,
        seed=seed,
        store=store,
        progress=progress,
    )
    if recipe.schedule == "released":
        # There the fusion model is trained on the autoencoder's output and fed raw blocks.
        head = training.manifold_head(ManifoldRecipe(family="mlp", width=CODE_WIDTH))
        training = replace(training, undefended=UndefendedFusionCenter(head, fill))
    return training, *embed("test")


def stored(
    store: ArtifactStore,
    key: str,
    fit: Callable[[], dict[str, Tensor]],
    *,
    kind: str,
    inputs: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Fit once: read the artifact, or compute and store it while others wait.

    Returns:
        The tensors, on the processor.
    """
    found = store.get(key)
    if found is None:
        with store.lock(key):
            found = store.get(key)
            if found is None:
                found = {k: v.detach().cpu() for k, v in fit().items()}
                store.put(key, found, kind=kind, inputs=inputs)
    return found
