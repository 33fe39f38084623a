"""Break every shipped defense and attack on purpose, and see whether the checks notice.

Each plugin is broken at its interface in the ways people get it wrong. A break is found if
a check fails that the same plugin, wrapped but whole, passes. Prints a table, and what was
not found; draws a figure.

    python tools/mutations.py [--figure FILE.svg] [--at-least PERCENT] [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cibench import (
    Decision,
    FusionCenter,
    Observation,
    OptionError,
    OracleFusionCenter,
    Victim,
)
from cibench.conformance import check_plugin
from cibench.registry import default_registry
from cibench.spec import Spec

DEFENSE_BREAKS = {
    "whole": "nothing",
    "sign": "received features are mirrored at their clean mean",
    "mask": "missing agents count as heard, with zeros",
    "neighbour": "the mask of missing agents is that of the next agent",
    "batch": "features are centred with the batch's mean, not the fitted one",
}
ATTACK_BREAKS = {
    "whole": "nothing",
    "sign": "the loss goes up where it should go down; without a model, the change does",
    "neighbour": "the agent after each compromised one sends the payload",
    "last": "the last point looked at is sent, not the best",
    "clean": "compromised agents send their clean blocks",
}


# Defenses


def broken(way: str, observation: Observation, mean: torch.Tensor) -> Observation:
    """What the defense works on once it is broken."""
    features = observation.features
    if way == "sign":
        return observation.with_features(2 * mean - features)
    if way == "mask":
        everyone = torch.ones_like(observation.observed)
        return replace(observation, features=observation.filled(0.0), observed=everyone)
    if way == "neighbour":
        return replace(
            observation,
            features=observation.filled(0.0),
            observed=observation.observed.roll(1, dims=1),
        )
    if way == "batch":
        return observation.with_features(features - features.mean(dim=0) + mean)
    return observation


class Broken(FusionCenter):
    """A fusion center that misunderstands what it receives."""

    def __init__(self, inner: FusionCenter, way: str, mean: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.way = inner, way
        self.register_buffer("mean", mean)
        self.samples_per_chunk = inner.samples_per_chunk

    def decide(self, observation: Observation) -> Decision:
        """Decide on what was misunderstood."""
        return self.inner.decide(broken(self.way, observation, self.mean))

    def surrogate(self, observation: Observation) -> torch.Tensor:
        """Misunderstand in the same way."""
        return self.inner.surrogate(broken(self.way, observation, self.mean))


class BrokenOracle(OracleFusionCenter):
    """The same for one that is told who is corrupted."""

    def __init__(self, inner: OracleFusionCenter, way: str, mean: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.way = inner, way
        self.register_buffer("mean", mean)
        self.samples_per_chunk = inner.samples_per_chunk

    def decide_told(
        self, observation: Observation, corrupted: torch.Tensor
    ) -> Decision:
        """Decide on what was misunderstood."""
        seen = broken(self.way, observation, self.mean)
        return self.inner.decide_told(seen, corrupted)

    def surrogate_told(
        self, observation: Observation, corrupted: torch.Tensor
    ) -> torch.Tensor:
        """Misunderstand in the same way."""
        seen = broken(self.way, observation, self.mean)
        return self.inner.surrogate_told(seen, corrupted)


def broken_defense(plugin: object, way: str) -> object:
    """The plugin, whose fit gives a broken fusion center."""
    cls = type(plugin)

    def fit(self, training, *, generator):  # type: ignore[no-untyped-def]
        center = cls.fit(self, training, generator=generator)
        wrapper = BrokenOracle if isinstance(center, OracleFusionCenter) else Broken
        return wrapper(center, way, training.train.features.mean(dim=0))

    return type(cls.__name__, (cls,), {"fit": fit, "__doc__": cls.__doc__})()


# Attacks


class Upside(Victim):
    """Differentiates the loss the wrong way round."""

    def loss_gradient(self, observation, loss, **route):  # type: ignore[no-untyped-def]
        """The gradient of its negative."""
        gradient, logits = super().loss_gradient(observation, loss, **route)
        return -gradient, logits


class Contrary(Victim):
    """Answers the wrong way round, for attacks that ask for nothing else."""

    def logits(self, observation: Observation) -> torch.Tensor:
        """The negative of the answers."""
        return -super().logits(observation)


class Watching(Victim):
    """Keeps the last point that was looked at."""

    last: Observation | None = None

    def loss_gradient(self, observation, loss, **route):  # type: ignore[no-untyped-def]
        """Differentiate, and keep where."""
        self.last = observation
        return super().loss_gradient(observation, loss, **route)

    def logits(self, observation: Observation) -> torch.Tensor:
        """Answer, and keep what was asked."""
        self.last = observation
        return super().logits(observation)


def broken_attack(plugin: object, way: str) -> object:
    """The plugin, whose `run` is broken."""
    cls = type(plugin)

    def run(self, victim, observation, criterion, *, compromised, **given):  # type: ignore[no-untyped-def]
        blind = self.threat.knowledge == "oblivious"
        if way == "sign" and not blind:
            by_answers = self.threat.knowledge == "query"
            wrong = Contrary if by_answers else Upside
            victim.__class__ = type("Upside", (wrong, type(victim)), {})
        if way == "last":
            victim.__class__ = type("Watching", (Watching, type(victim)), {})
        told = compromised.roll(1, dims=1) if way == "neighbour" else compromised
        sent = cls.run(self, victim, observation, criterion, compromised=told, **given)
        own = observation.layout.expand(compromised)
        clean = observation.features
        if way == "sign" and blind:
            mirrored = torch.where(own, 2 * clean - sent.features, sent.features)
            return sent.with_features(mirrored)
        if way == "last" and victim.last is not None:
            return victim.last
        if way == "clean":
            return replace(
                sent,
                features=torch.where(own, clean, sent.features),
                observed=observation.observed,
            )
        return sent

    return type(cls.__name__, (cls,), {"run": run, "__doc__": cls.__doc__})()


# The trial


@dataclass(frozen=True)
class Outcome:
    """What the checks said of one break."""

    kind: str
    name: str
    way: str
    found: tuple[str, ...]


def failures(plugin: object) -> set[str]:
    """The checks that a plugin fails."""
    return {r.check for r in check_plugin(plugin, fast=True) if r.status == "failed"}


def applies(kind: str, plugin: object, way: str) -> bool:
    """Whether the break changes anything that a user would call wrong."""
    if kind == "defense":
        return True
    name = plugin.name  # type: ignore[attr-defined]
    blind = plugin.threat.knowledge == "oblivious"  # type: ignore[attr-defined]
    if way == "last":
        return not blind
    if way == "sign":
        # Mirrored noise is noise, silence has no sign, and minus NaN is NaN.
        return name not in ("gaussian", "missing", "nonfinite")
    return True


def trials(names: list[str]) -> list[Outcome]:
    """Every break of every shipped plugin."""
    registry = default_registry()
    found = []
    for kind, ways, make in (
        ("defense", DEFENSE_BREAKS, broken_defense),
        ("attack", ATTACK_BREAKS, broken_attack),
    ):
        for entry in registry.entries:
            if entry.kind != kind or entry.distribution != "cibench":
                continue
            if names and entry.name not in names:
                continue
            try:
                plugin = registry.configure(kind, Spec(entry.name))
            except OptionError as error:
                print(f"left out: {kind} {entry.name}: {error}", file=sys.stderr)
                continue
            if kind == "attack" and not (plugin.may_corrupt or plugin.may_drop):
                continue  # nothing to break
            whole = failures(make(plugin, "whole"))
            for way in list(ways)[1:]:
                if applies(kind, plugin, way):
                    caught = failures(make(plugin, way)) - whole
                    found.append(Outcome(kind, entry.name, way, tuple(sorted(caught))))
                    print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr, flush=True)
    return found


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Bars: breaks found and not found, by kind of plugin and of break."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cibench"
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys((o.kind, o.way) for o in outcomes))
    every = Counter((o.kind, o.way) for o in outcomes)
    caught = Counter((o.kind, o.way) for o in outcomes if o.found)
    labels = [f"{kind}: {way}" for kind, way in groups]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    hits = [caught[g] for g in groups]
    misses = [every[g] - caught[g] for g in groups]
    axes.barh(labels, hits, color="#1b6ca8", label="found")
    axes.barh(labels, misses, left=hits, color="#d98c21", hatch="//", label="not found")
    axes.invert_yaxis()
    axes.set_xlabel("plugins broken in this way")
    total = sum(hits)
    axes.set_title(f"{total} of {len(outcomes)} breaks found", fontsize=10, loc="left")
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Break, count, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="plugins to break; default: all")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--at-least", type=float, default=90.0, metavar="PERCENT")
    given = parser.parse_args()
    started = time.perf_counter()
    outcomes = trials(given.names)
    for outcome in outcomes:
        told = ", ".join(c.removeprefix("check_") for c in outcome.found)
        print(
            f"{outcome.kind:8} {outcome.name:28} {outcome.way:10} {told or 'NOT FOUND'}"
        )
    caught = sum(bool(o.found) for o in outcomes)
    share = 100 * caught / max(1, len(outcomes))
    seconds = time.perf_counter() - started
    print(f"{caught} of {len(outcomes)} breaks found ({share:.0f} %, {seconds:.0f} s)")
    if given.figure:
        draw(outcomes, given.figure)
    return 0 if outcomes and share >= given.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
