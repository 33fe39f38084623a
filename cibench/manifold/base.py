"""`Manifold`: the set of joint embeddings a purifier believes in."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..layout import AgentLayout
from ..observation import Observation


class Manifold(nn.Module, ABC):
    """A map onto a low-dimensional set of joint embeddings: `decode(encode(l))`.

    Args:
        layout: the agents' embedded blocks.
        mean: `(width,)` training mean; stands for missing blocks in `encode`.
    """

    family: str
    mean: Tensor

    def __init__(self, layout: AgentLayout, mean: Tensor) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("mean", mean)

    @property
    @abstractmethod
    def rank(self) -> int:
        """Width of the code."""

    @abstractmethod
    def encode(self, features: Tensor) -> Tensor:
        """`(n, width)` features to `(n, rank)` codes."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """`(n, rank)` codes to `(n, width)` features on the manifold."""

    @abstractmethod
    def gram(self, code: Tensor, weights: Tensor) -> Tensor:
        """`(n, rank, rank)` J' diag(w) J with J the decoder's Jacobian at `code`.

        Args:
            code: `(n, rank)` where to linearize the decoder.
            weights: `(n, agents)` weight of each block.
        """

    @abstractmethod
    def pullback(self, code: Tensor, vector: Tensor) -> Tensor:
        """`(n, rank)` J' vector for `(n, width)` vectors."""

    @abstractmethod
    def pullbacks(self, code: Tensor, vector: Tensor) -> Tensor:
        """`(n, agents, rank)` `pullback` of each block alone: they sum to it."""

    def step(
        self,
        code: Tensor,
        weights: Tensor,
        slope: Tensor,
        damping: Tensor,
        along: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """`(n, rank)` solutions of H step = slope, and `(n,)` 0 where H is definite.

        H = J' diag(w) J + damping - B'B is the majorizer of the Weiszfeld algorithm less
        what the norms' curvature lacks along the residuals: the Hessian of
        `sqrt(||r||^2 + eps^2)` is `w (I - w^2 r r')`, the majorizer keeps `w I` alone.

        Args:
            code: `(n, rank)` where to linearize the decoder.
            weights: `(n, agents)` w, of each block.
            slope: `(n, rank)`.
            damping: `(n, 1)` relative to the diagonal of the first term.
            along: `(n, agents, rank)` B, or None for nothing.
        """
        gram = self.gram(code, weights)
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = damping * (diagonal + diagonal.mean(dim=1, keepdim=True)) + 1e-300
        if along is not None:
            gram = gram - along.mT @ along
        factor, info = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge))
        return torch.cholesky_solve(slope[:, :, None], factor).squeeze(2), info

    @abstractmethod
    def layers(self) -> list[tuple[Tensor, Tensor, float | None]]:
        """`reconstruct` as a chain of `(weight, bias, slope of the leaky ReLU or None)`.

        Adjacent linear layers are merged, so that a purifier that evaluates the chain
        hundreds of times does the least arithmetic.
        """

    def reconstruct(self, features: Tensor) -> Tensor:
        """`decode(encode(features))`, the paper's D(E(l))."""
        return self.decode(self.encode(features))

    def residual(self, observation: Observation) -> Tensor:
        """`(n,)` sum over observed agents of the block norms of D(E(l)) - l."""
        filled = observation.filled(self.mean)
        norms = self.layout.block_norms(self.reconstruct(filled) - filled)
        return (norms * observation.observed).sum(dim=1)
