"""`Manifold`: the set of joint embeddings a purifier believes in."""

from __future__ import annotations

from abc import ABC, abstractmethod

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
