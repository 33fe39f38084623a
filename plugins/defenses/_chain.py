"""D(E(.)) and its transposed derivative, without an autograd graph."""

from __future__ import annotations

import torch
from torch import Tensor

from cibench import Manifold


class Chain:
    """Evaluate a manifold's `reconstruct` and pull vectors back through it.

    Args:
        manifold: whose merged layers are used.
        dtype: of the arithmetic.
    """

    def __init__(self, manifold: Manifold, dtype: torch.dtype) -> None:
        self.layers = [
            (weight.to(dtype).contiguous(), bias.to(dtype), slope)
            for weight, bias, slope in manifold.layers()
        ]

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`(n, width)` D(E(features)), and what `pullback` needs."""
        outputs = []
        values = features
        for weight, bias, slope in self.layers:
            values = torch.addmm(bias, values, weight.T)
            if slope is not None:
                # In place where nobody differentiates.
                rectified = torch.nn.functional.leaky_relu
                values = rectified(values, slope, inplace=not values.requires_grad)
            outputs.append(values)
        return values, outputs

    def pullback(self, outputs: list[Tensor], vector: Tensor) -> Tensor:
        """Transposed derivative at the point `outputs` belongs to, applied to a vector."""
        for (weight, _, slope), output in zip(
            reversed(self.layers), reversed(outputs), strict=True
        ):
            if slope is not None:
                # A leaky ReLU keeps the sign, so its output tells which branch was taken.
                vector = torch.ops.aten.leaky_relu_backward(vector, output, slope, True)
            vector = vector @ weight
        return vector
