"""The paper's manifold: an autoencoder of the joint embedding."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ..embedding.modules import mlp
from ..embedding.released import (
    AUTOENCODER_BATCH,
    AUTOENCODER_EPOCHS,
    released_descent,
)
from ..embedding.train import Progress, minimize, silent
from ..layout import AgentLayout
from ..observation import Observation
from .base import Manifold

#: Hidden units and leaky-ReLU slope of the CoPur paper's autoencoder.
HIDDEN, SLOPE = 200, 0.8


@final
class AutoEncoder(Manifold):
    """`width -> hidden (leaky ReLU) -> code -> hidden (leaky ReLU) -> width`.

    Inputs are centred at `mean` and divided by one `scale` so that training does not
    depend on the units of the embedding; outputs are mapped back.
    """

    family = "mlp"
    scale: Tensor

    def __init__(
        self,
        layout: AgentLayout,
        mean: Tensor,
        scale: Tensor,
        rank: int,
        *,
        hidden: int = HIDDEN,
        slope: float = SLOPE,
        glorot: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__(layout, mean)
        self.register_buffer("scale", scale)
        self.slope = slope
        width = layout.width
        self.encoder = mlp((width, hidden, rank), slope, generator, glorot=glorot)
        self.decoder = mlp((rank, hidden, width), slope, generator, glorot=glorot)

    @property
    def rank(self) -> int:
        """Width of the code."""
        return self.code_in.in_features

    @property
    def code_in(self) -> nn.Linear:
        """The decoder's first layer."""
        layer = self.decoder.get_submodule("0")
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def code_out(self) -> nn.Linear:
        """The decoder's last layer, the paper's W."""
        layer = self.decoder.get_submodule("2")
        assert isinstance(layer, nn.Linear)
        return layer

    def encode(self, features: Tensor) -> Tensor:
        """E(l)."""
        code: Tensor = self.encoder((features - self.mean) / self.scale)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """D(z)."""
        features: Tensor = self.decoder(code)
        return features * self.scale + self.mean

    def jacobian(self, code: Tensor) -> Tensor:
        """`(n, width, rank)` derivative of `decode`."""
        return self._transposed_jacobian(code).transpose(1, 2)

    def _transposed_jacobian(self, code: Tensor) -> Tensor:
        active = torch.where(self.code_in(code) > 0, 1.0, self.slope)
        inner = active[:, None, :] * self.code_in.weight.T
        # One large product instead of a small one per sample.
        outer = inner.flatten(0, 1) @ (self.code_out.weight * self.scale).T
        return outer.reshape(len(code), self.rank, self.layout.width)

    def gram(self, code: Tensor, weights: Tensor) -> Tensor:
        """See `Manifold`."""
        transposed = self._transposed_jacobian(code)
        weighted = transposed * self.layout.expand(weights)[:, None, :]
        return weighted @ transposed.transpose(1, 2)

    def pullback(self, code: Tensor, vector: Tensor) -> Tensor:
        """See `Manifold`."""
        hidden = (vector * self.scale) @ self.code_out.weight
        active = torch.where(self.code_in(code) > 0, 1.0, self.slope)
        return (hidden * active) @ self.code_in.weight

    def pullbacks(self, code: Tensor, vector: Tensor) -> Tensor:
        """See `Manifold`."""
        scaled, weight = vector * self.scale, self.code_out.weight
        hidden = torch.stack(
            [scaled[:, s] @ weight[s] for s in self.layout.slices], dim=1
        )
        active = torch.where(self.code_in(code) > 0, 1.0, self.slope)
        return (hidden * active[:, None, :]) @ self.code_in.weight

    def layers(self) -> list[tuple[Tensor, Tensor, float | None]]:
        """See `Manifold`; the two linear layers around the code become one."""
        first, last = self.encoder[0], self.encoder[2]  # type: ignore[index]
        inward = first.weight / self.scale
        merged = self.code_in.weight @ last.weight
        return [
            (inward, first.bias - inward @ self.mean, self.slope),
            (merged, self.code_in.weight @ last.bias + self.code_in.bias, self.slope),
            (
                self.code_out.weight * self.scale,
                self.code_out.bias * self.scale + self.mean,
                None,
            ),
        ]


def fit_autoencoder(
    train: Observation,
    validation: Observation,
    rank: int,
    *,
    mean: Tensor,
    generator: torch.Generator,
    epochs: int = 300,
    residual: float = 0.0,
    progress: Progress = silent,
) -> AutoEncoder:
    """Train an autoencoder on clean embeddings until its validation residual settles.

    The loss is the squared error over observed blocks, relative to the energy around the
    mean. Training stops at the stated `residual` (relative energy left unexplained on the
    validation split) or when 20 epochs bring no improvement.
    """
    layout = train.layout

    def masked(observation: Observation) -> tuple[Tensor, Tensor]:
        known = layout.expand(observation.observed).to(observation.features.dtype)
        return observation.filled(mean), known

    values, known = masked(train)
    validation_values, validation_known = masked(validation)
    energy = ((values - mean).square() * known).sum() / known.sum()
    model = AutoEncoder(layout, mean, energy.sqrt(), rank, generator=generator)
    model.to(values.device, values.dtype)

    def error(inputs: Tensor, weight: Tensor) -> Tensor:
        squares = (model.reconstruct(inputs) - inputs).square() * weight
        return squares.sum() / ((inputs - mean).square() * weight).sum()

    def loss(indices: Tensor) -> Tensor:
        indices = indices.to(values.device)
        return error(values[indices], known[indices])

    minimize(
        model,
        loss,
        lambda: error(validation_values, validation_known),
        n=len(values),
        epochs=epochs,
        patience=20,
        batch=256,
        learning_rate=2e-3,
        weight_decay=0.0,
        generator=generator,
        progress=progress,
        phase=f"autoencoder {rank}",
        good_enough=residual,
    )
    return model


def fit_released_autoencoder(
    train: Observation,
    rank: int,
    *,
    generator: torch.Generator,
    progress: Progress = silent,
) -> AutoEncoder:
    """Train an autoencoder as the released code does: no scaling, fixed epochs of SGD.

    Missing blocks count as zeros, and the loss is the plain mean squared error.
    """
    values = train.filled(0.0)
    zero = torch.zeros_like(values[0])
    one = torch.ones((), dtype=values.dtype, device=values.device)
    model = AutoEncoder(train.layout, zero, one, rank, glorot=True, generator=generator)
    model.to(values.device, values.dtype)

    def loss(indices: Tensor) -> Tensor:
        batch = values[indices.to(values.device)]
        return (model.reconstruct(batch) - batch).square().mean()

    released_descent(
        model,
        loss,
        n=len(values),
        epochs=AUTOENCODER_EPOCHS,
        batch=AUTOENCODER_BATCH,
        generator=generator,
        progress=progress,
        phase=f"autoencoder {rank}",
    )
    return model
