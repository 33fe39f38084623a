"""VFLIP: agents vote on one another's blocks with a masked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    AbstractDefense,
    Decision,
    FusionCenter,
    Observation,
    Training,
    UndefendedFusionCenter,
    hookimpl,
    mean_features,
    minimize,
)

from .. import papers
from ._dropping import (
    DroppingFusionCenter,
    Most,
    Quantile,
    conformal_quantile,
    strict_minority,
    worst_above,
)
from ._masked_autoencoder import MaskedAutoencoder, random_agents
from ._purified import MEMORY
from .leave_one_out import scales


@final
class _Completion(FusionCenter):
    """A fusion head behind the autoencoder's completion."""

    def __init__(
        self, autoencoder: MaskedAutoencoder, undefended: UndefendedFusionCenter
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.undefended = undefended

    def decide(self, observation: Observation) -> Decision:
        purified = self.autoencoder.complete(observation)
        # Nobody to predict from: what the undefended fusion center would take.
        silent = ~observation.observed.any(dim=1, keepdim=True)
        purified = torch.where(silent, self.undefended.fill, purified)
        return Decision(logits=self.undefended.head(purified), purified=purified)


@final
class _Vote(DroppingFusionCenter):
    """Drop agents that most others accuse.

    Args:
        inner: completes and decides.
        autoencoder: predicts block i from block j alone.
        most: limit of agents dropped, or None.
    """

    thresholds: Tensor

    def __init__(
        self, inner: FusionCenter, autoencoder: MaskedAutoencoder, most: int | None
    ) -> None:
        super().__init__(inner)
        self.autoencoder = autoencoder
        self.most = most
        infinite = torch.full((1,), torch.inf).to(autoencoder.mean)
        self.register_buffer("thresholds", infinite)

    def scores(self, observation: Observation) -> Tensor:
        """`(n, agents, agents)` errors at [j, i]: block i predicted from block j alone."""
        layout, n = observation.layout, len(observation)
        alone = torch.eye(
            layout.agents, dtype=torch.bool, device=observation.features.device
        )
        repeated = observation[
            torch.arange(n, device=alone.device).repeat_interleave(layout.agents)
        ]
        single = replace(repeated, observed=repeated.observed & alone.repeat(n, 1))
        predicted = self.autoencoder(single)
        actual = self.autoencoder.standard(repeated)
        errors = layout.block_norms(actual - predicted)
        return errors.reshape(n, layout.agents, layout.agents)

    def pairs(self, observation: Observation) -> Tensor:
        """`(n, agents, agents)` whether j and i were both heard, and differ."""
        heard = observation.observed
        alone = torch.eye(heard.shape[1], dtype=torch.bool, device=heard.device)
        return heard[:, :, None] & heard[:, None] & ~alone

    def calibrate(self, clean: Observation, quantile: float) -> None:
        """Set the threshold of each pair to a quantile of its clean errors."""
        with torch.no_grad():
            scores, known = self.scores(clean), self.pairs(clean)
        found = conformal_quantile(scores.flatten(1), known.flatten(1), quantile)
        self.thresholds = found.reshape(scores.shape[1:])

    def suspicion(self, observation: Observation) -> Tensor:
        excess = self.scores(observation) / self.thresholds
        return _typical(excess, self.pairs(observation)).nan_to_num(0.0)

    def suspects(self, observation: Observation) -> Tensor:
        pairs = self.pairs(observation)
        excess = self.scores(observation) / self.thresholds
        votes = ((excess > 1) & pairs).sum(dim=1)
        voters = pairs.sum(dim=1).clamp_min(1)
        # Between equal votes the typical voter's error decides.
        typical = _typical(excess, pairs)
        tie = (typical / (1 + typical)).nan_to_num(1.0) / voters
        ratios = torch.where(2 * votes > voters, 2 * votes / voters + tie, 0.0)
        limit = strict_minority(observation.observed, self.most)
        return worst_above(ratios, observation.observed, limit)


def _typical(excess: Tensor, pairs: Tensor) -> Tensor:
    """`(n, agents)` median over the voters of an agent's excess; NaN without any."""
    found: Tensor = excess.masked_fill(~pairs, torch.nan).nanmedian(dim=1).values
    return found


@final
@dataclass(frozen=True, kw_only=True)
class VFLIP(AbstractDefense):
    """Drop the agents whose blocks most others find unlikely, and predict them anew.

    One masked autoencoder, trained with random agents masked, predicts block i from block
    j alone for every pair. A pair's vote goes against i if the error exceeds a quantile on
    clean validation data; an agent that more than half of the other heard ones accuse is
    dropped. Dropped and missing blocks are predicted from the rest, for the undefended
    fusion center to decide.

    Args:
        quantile: share of clean errors that stay below a pair's threshold. The majority
            makes up for false votes, so it may be lower than where one error decides.
        most: most agents dropped; none allows fewer than half of those heard.
        hidden: width of the autoencoder's two hidden layers.
        epochs: most passes over the training split.

    Source: Cho et al. 2024 (ESORICS), whose thresholds are mean plus deviations.
    """

    name: ClassVar[str] = "vflip"
    citation: ClassVar[str] = (
        "Cho et al.: VFLIP: A Backdoor Defense for Vertical FL. ESORICS 2024"
    )
    bibtex: ClassVar[str] = papers.VFLIP

    quantile: Quantile = 0.95
    most: Most = None
    hidden: Annotated[int, Meta(ge=1)] = 128
    epochs: Annotated[int, Meta(ge=1)] = 100

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Train the autoencoder and calibrate the votes."""
        train, recipe = training.train, training.recipe
        mean = mean_features(train)
        unit = scales(train.filled(mean) - mean, train)
        autoencoder = MaskedAutoencoder(
            mean,
            train.layout.expand(unit[None]).squeeze(0),
            train.layout.agents,
            self.hidden,
            generator,
        )
        held_out = random_agents(training.validation, generator)

        def error(kept: Observation, clean: Observation) -> Tensor:
            away = autoencoder(kept) - autoencoder.standard(clean)
            known = clean.layout.expand(clean.observed).to(away)
            mean: Tensor = (away.square() * known).sum() / known.sum().clamp_min(1.0)
            return mean

        def loss(indices: Tensor) -> Tensor:
            batch = train[indices.to(train.features.device)]
            return error(random_agents(batch, generator), batch)

        def fit() -> dict[str, Tensor]:
            minimize(
                autoencoder,
                loss,
                lambda: error(held_out, training.validation),
                n=len(train),
                epochs=self.epochs,
                patience=recipe.patience,
                batch=recipe.batch,
                learning_rate=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                generator=generator,
                progress=training.progress,
                phase="masked autoencoder",
            )
            return dict(autoencoder.state_dict())

        autoencoder.load_state_dict(training.reuse("masked autoencoder", fit))
        autoencoder.double().eval().requires_grad_(False)
        center = _Vote(
            _Completion(autoencoder, training.undefended), autoencoder, self.most
        )
        # Every pair of agents is an input, with its activations and errors.
        agents, width = train.layout.agents, train.layout.width
        floats = agents * (5 * width + 2 * self.hidden + 3 * agents)
        center.samples_per_chunk = max(1, MEMORY // (8 * floats))
        center.calibrate(training.validation, self.quantile)
        return center


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `vflip`."""
    return [VFLIP]
