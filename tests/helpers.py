"""Small, seeded inputs with declared properties. Everything is float64 on the CPU."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from cibench import AgentLayout, Decision, FusionCenter, Observation
from cibench.evaluate import evaluate
from cibench.execute import answer
from cibench.execute.backends import SerialBackend
from cibench.execute.blank import cell_id
from cibench.execute.describing import describe
from cibench.execute.engine import Engine
from cibench.execute.known import Known
from cibench.execute.perform import Context
from cibench.execute.settings import Settings
from cibench.fit import fit_defense
from cibench.manifold import AffineManifold, AutoEncoder
from cibench.references import refer
from cibench.results import RunFolder


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


def fitted_and_evaluated(scenario, defense, training):
    """One cell's evaluation, without keys, cache or record."""
    center = fit_defense(
        defense, training, seed=scenario.seed, dataset=scenario.dataset, seed_scope="x"
    )
    references = refer(scenario, training.undefended)
    return evaluate(scenario, references, defense, training, fusion_center=center)


class _Silent:
    """An observer that looks away."""

    def stage(self, name, tasks):
        pass

    def prepared(self, title, seconds, reason):
        pass

    def event(self, event):
        pass


def forget():
    """Drop what this process remembers of earlier runs, as a new one would."""
    answer._runners.clear()


def run_cells(cells, *, cache=None, **settings):
    """Each cell with its record and where that is from, all computed in this process.

    Args:
        cache: folder of artifacts and records; None takes one for this call.
        settings: other fields of `Settings`.
    """
    forget()
    with tempfile.TemporaryDirectory() as temporary, SerialBackend(print) as backend:
        settings = Settings(cache=cache or Path(temporary, "cache"), **settings)
        folder = RunFolder(Path(temporary, "run"))
        folder.create()
        common = {
            "settings": settings, "backend": backend, "torch_version": torch.__version__,
            "context": Context(run="tests", isolation="none"),
        }  # fmt: skip
        described = describe(cells, **common)
        described.check(cells)
        engine = Engine(
            cells=cells, described=described, known=Known(folder, settings.cache),
            folder=folder, observer=_Silent(), **common,
        )  # fmt: skip
        sources = {done.cell: done.source for done in engine.run()}
        names = [cell_id(cell, engine.keys(cell).cell) for cell in cells]
        return [
            (cell, folder.read_one(name), sources[name])
            for cell, name in zip(cells, names, strict=True)
        ]
