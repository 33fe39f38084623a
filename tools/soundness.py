"""Attack certified decisions of `copur` and count those that fall: there must be none.

Redundant synthetic agents with little noise; every attack stays within the number of
agents for which the attacked sample is certified. Payloads are drawn in bulk: collusion
along and against the manifold, replayed blocks, flips, noise of all sizes, silence, values
that are no numbers, and mixtures. Decisions that are not certified are attacked in the same
way, to show that the attacks are some. Prints a table; fails if a certified decision falls.

    python tools/soundness.py [--samples N] [--defense SPEC] [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cibench import AffineManifold, FusionCenter, Observation, Training
from cibench.certify import recovery_rate
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.registry import default_registry
from cibench.spec import Spec

DATASET = (
    "synthetic:agents=9,width=6,rank=3,redundancy=0.9,noise=0.05,classes=3,samples=5000"
)
#: Attacked samples of a batch.
BATCH = 2000

#: `(center, clean, own, generator)` to what is received: `own` are the corrupted agents.
Payload = Callable[[FusionCenter, Observation, Tensor, torch.Generator], Observation]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _sizes(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """`(n, 1)` sizes from 10^low to 10^high, even in their logarithm."""
    drawn = torch.rand((n, 1), generator=generator, dtype=torch.float64)
    return 10 ** (low + (high - low) * drawn)


def sending(clean: Observation, own: Tensor, payload: Tensor) -> Observation:
    """What is received when the agents `own` send their blocks of a payload."""
    mask = clean.layout.expand(own)
    return clean.with_features(
        torch.where(mask, payload.to(clean.features), clean.features)
    )


def noise(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Noise of sizes from 1e-3 to 1e30."""
    size = _sizes(len(clean), -3, 30, generator)
    return sending(clean, own, size * _normal(clean.features, generator))


def flips(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Their blocks turned round, up to a million times as long."""
    return sending(
        clean, own, -_sizes(len(clean), -1, 6, generator) * clean.features.double()
    )


def replay(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Blocks of another sample, or beyond them: all from the same one."""
    donors = torch.randint(len(clean), (len(clean),), generator=generator)
    values = clean.features.double()
    beyond = _sizes(len(clean), -0.5, 1.5, generator)
    return sending(clean, own, values + beyond * (values[donors] - values))


def collusion(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """One false point of the manifold, anywhere around the true one."""
    return _false_point(center, clean, own, generator, None)


def worst_direction(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """A false point in the direction along which these very agents are followed best."""
    manifold = center.purifies_onto
    assert isinstance(manifold, AffineManifold)
    sets, which = torch.unique(own, dim=0, return_inverse=True)
    found = [_direction(manifold, tuple(one)) for one in sets.tolist()]
    return _false_point(center, clean, own, generator, torch.stack(found)[which])


@cache
def _direction(manifold: AffineManifold, own: tuple[bool, ...]) -> Tensor:
    names = [n for n, bad in zip(manifold.layout.names, own, strict=True) if bad]
    # The upper end alone is asked for: hardly a step for the lower one.
    bounds = recovery_rate(
        manifold.basis, manifold.layout, names, tolerance=0.9, steps=1
    )
    assert bounds.direction is not None
    return bounds.direction


def _false_point(
    center: FusionCenter,
    clean: Observation,
    own: Tensor,
    generator: torch.Generator,
    direction: Tensor | None,
) -> Observation:
    manifold = center.purifies_onto
    assert manifold is not None
    shift = torch.randn(
        (len(clean), manifold.rank), generator=generator, dtype=torch.float64
    )
    if direction is not None:
        shift = direction * shift[:, :1].sign()
    shift = shift / torch.linalg.vector_norm(shift, dim=1, keepdim=True)
    point = clean.filled(0.0).double()
    moved = point + _sizes(len(clean), -2, 5, generator) * (
        manifold.decode(shift) - manifold.mean
    )
    return sending(clean, own, moved)


def descent(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Steps against the lead of the decided class, through a drawn derivative."""
    names = ["surrogate", *center.routes]
    route = names[int(torch.randint(len(names), (1,), generator=generator))]
    mask = clean.layout.expand(own)
    decided = center(clean).logits.argmax(dim=1, keepdim=True)
    step = _sizes(len(clean), -1, 1.5, generator).to(clean.features)
    values = replay(center, clean, own, generator).features
    for _ in range(5):
        moving = values.detach().requires_grad_()
        logits = center.differentiable_logits(clean.with_features(moving), route)
        score = logits.log_softmax(dim=1).gather(1, decided).sum()
        (slope,) = torch.autograd.grad(score, moving)
        slope = torch.where(mask, slope, 0.0).nan_to_num(0.0)
        length = torch.linalg.vector_norm(slope, dim=1, keepdim=True).clamp_min(1e-30)
        values = values - step * slope / length
    return sending(clean, own, values)


def silence(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Nothing, or nothing from some and a false point from the others."""
    quiet = torch.rand(own.shape, generator=generator) < 0.6
    return collusion(center, clean, own, generator).without(own & quiet)


def unusable(
    center: FusionCenter, clean: Observation, own: Tensor, generator: torch.Generator
) -> Observation:
    """Values that are no numbers, infinite, huge or too small, some in a block."""
    values = torch.tensor([torch.nan, torch.inf, 3e38, -1e16, 9.9e14, 1e-40, 0.0])
    drawn = torch.randint(len(values), clean.features.shape, generator=generator)
    some = torch.rand(clean.features.shape, generator=generator) < 0.2
    base = flips(center, clean, own, generator).features
    return sending(clean, own, torch.where(some, values[drawn].to(base), base))


PAYLOADS: tuple[Payload, ...] = (
    collusion,
    worst_direction,
    descent,
    replay,
    flips,
    noise,
    silence,
    unusable,
)


def fitted(
    spec: str, dataset: str = DATASET, seed: int = 0
) -> tuple[FusionCenter, Observation, Training]:
    """A fusion center and clean test samples."""
    registry = default_registry()
    data = registry.configure("dataset", Spec.parse(dataset)).load()
    training, test, _ = prepare(
        data,
        RECIPES["identity"],
        seed=seed,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    plugin = registry.configure("defense", Spec.parse(spec))
    generator = torch.Generator().manual_seed(seed)
    return plugin.fit(training, generator=generator), test, training


def budgets(center: FusionCenter, clean: Observation) -> Tensor:
    """`(n,)` corrupted agents for which each decision is certified."""
    held = torch.zeros(len(clean), dtype=torch.long)
    standing = torch.ones(len(clean), dtype=torch.bool)
    for corrupted in range(1, clean.layout.agents):
        standing &= center.certify(clean, corrupted)  # type: ignore[operator]
        held[standing] = corrupted
    return held


def corrupted_agents(
    heard: Tensor, sizes: Tensor, generator: torch.Generator
) -> Tensor:
    """`(n, agents)` random sets of the given sizes among those heard."""
    order = torch.rand(heard.shape, generator=generator).masked_fill(~heard, 2.0)
    return (order.argsort(dim=1).argsort(dim=1) < sizes[:, None]) & heard


def attacked(
    center: FusionCenter,
    clean: Observation,
    sizes: Tensor,
    samples: int,
    generator: torch.Generator,
) -> dict[str, tuple[int, int]]:
    """How many were attacked by each payload, and how many decisions fell.

    Args:
        clean: `n` samples, attacked in turn.
        sizes: `(n,)` corrupted agents of each.
        samples: how many to attack by all payloads together, at least.
    """
    counts = {payload.__name__: (0, 0) for payload in PAYLOADS}
    if not len(clean):
        return counts
    before = center(clean).logits.argmax(dim=1)
    each = -(-samples // len(PAYLOADS))
    for payload in PAYLOADS:
        done = fell = 0
        while done < each:
            count = min(BATCH, each - done)
            chosen = torch.randint(len(clean), (count,), generator=generator)
            part = clean[chosen]
            own = corrupted_agents(part.observed, sizes[chosen], generator)
            sent = payload(center, part, own, generator)
            with torch.no_grad():
                after = center(sent).logits.argmax(dim=1)
            done += count
            fell += int((after != before[chosen]).sum())
        counts[payload.__name__] = (done, fell)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run the attacks and print what fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--defense", default="copur:gap=1e-4,width=3")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    center, clean, _ = fitted(options.defense, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.rand(clean.observed.shape, generator=generator)
    clean = clean.without((drawn < 0.2) & (torch.arange(len(clean)) % 4 == 0)[:, None])
    held = budgets(center, clean)
    numbers = torch.bincount(held).tolist()
    print(
        f"{len(clean)} samples; certified for exactly 0, 1, ... agents:"
        f" {', '.join(map(str, numbers))}"
    )
    sure = held > 0
    inside = attacked(center, clean[sure], held[sure], options.samples, generator)
    outside = attacked(
        center, clean, held + 2, max(1, options.samples // 20), generator
    )
    print("payload           within the budget        two agents more")
    for name, (done, fell) in inside.items():
        tried, lost = outside[name]
        print(f"{name:16} {fell:8} of {done:9} {lost:8} of {tried:9}")
    total, fallen = (sum(column) for column in zip(*inside.values(), strict=True))
    print(f"{fallen} of {total} certified decisions fell")
    print(f"{time.monotonic() - start:.0f} s")
    return int(fallen > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
