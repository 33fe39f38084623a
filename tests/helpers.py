"""Small, seeded inputs with declared properties. Everything is float64 on the CPU."""

import torch
from torch import nn

from cibench import AgentLayout, Decision, FusionCenter, Observation
from cibench.manifold import AffineManifold, AutoEncoder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def layout_of(*widths):
    """Agents a, b, c, ... of the given widths."""
    return AgentLayout(tuple("abcdefghijkl"[: len(widths)]), widths)


def everyone(features, layout):
    """All agents heard."""
    observed = torch.ones(len(features), layout.agents, dtype=torch.bool)
    return Observation(features, observed, layout)


def observation_of(layout, samples, *, missing=0.0, seed=0):
    """Gaussian features; each agent missing with a chance, but never the first one."""
    drawn = torch.rand(samples, layout.agents, generator=seeded(seed + 1))
    observed = drawn >= missing
    observed[:, 0] = True
    return Observation(normal(samples, layout.width, seed=seed), observed, layout)


def orthonormal(width, rank, seed=0):
    """`(width, rank)` orthonormal columns."""
    return torch.linalg.qr(normal(width, rank, seed=seed)).Q


def affine_manifold(widths, rank, seed=0):
    """A random affine manifold through a random offset."""
    layout = layout_of(*widths)
    mean = normal(layout.width, seed=seed + 1)
    return AffineManifold(layout, mean, orthonormal(layout.width, rank, seed))


def identical_blocks(agents, rank, seed=0, width=None):
    """A manifold whose agents all see the same block, through the origin."""
    width = width or rank
    layout = layout_of(*(width,) * agents)
    block = orthonormal(width, rank, seed) / agents**0.5
    mean = torch.zeros(layout.width, dtype=torch.float64)
    return AffineManifold(layout, mean, block.repeat(agents, 1))


def autoencoder(widths, rank, hidden=7, seed=0, slope=0.3):
    """A random autoencoder with biases, mean and scale away from their defaults."""
    layout = layout_of(*widths)
    model = AutoEncoder(
        layout,
        normal(layout.width, seed=seed + 1),
        torch.tensor(1.7, dtype=torch.float64),
        rank,
        hidden=hidden,
        slope=slope,
        generator=seeded(seed),
    ).double()
    for i, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            parameter.data = 0.5 * normal(*parameter.shape, seed=seed + 50 + i)
    return model.eval().requires_grad_(False)


def on_manifold(manifold, samples, *, scale=3.0, seed=0):
    """`(samples, width)` points of an affine manifold."""
    return manifold.decode(scale * normal(samples, manifold.rank, seed=seed))


def linear_head(width, classes, seed=0):
    head = nn.Linear(width, classes, dtype=torch.float64).requires_grad_(False)
    head.weight.copy_(normal(classes, width, seed=seed))
    head.bias.copy_(normal(classes, seed=seed + 1))
    return head


def mlp_head(width, classes, seed=0, hidden=16):
    return nn.Sequential(
        linear_head(width, hidden, seed),
        nn.ReLU(),
        linear_head(hidden, classes, seed + 2),
    )


class Plain(FusionCenter):
    """A head on the features, missing blocks at zero."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def decide(self, observation):
        return Decision(logits=self.head(observation.filled(0.0)))
