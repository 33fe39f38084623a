"""The conformance suite: honest plugins pass, each kind of cheating is caught by name."""

import gc
import inspect
import random
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from cibench import (
    AbstractAttack,
    AbstractDataset,
    AbstractDefense,
    AgentDataset,
    Capabilities,
    Decision,
    FusionCenter,
    OracleFusionCenter,
)
from cibench._errors import UsageError
from cibench.conformance import (
    ConformanceError,
    NotApplicable,
    check_plugin,
    checks_of,
    parametrize_with_checks,
)
from cibench.conformance.trial import generated

SEEN = {}
HIDDEN = object()


class Wrapped(FusionCenter):
    """The undefended fusion center, behind what a test does to its answers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def decide(self, observation):
        return self.inner.decide(observation)


class Honest(Wrapped):
    pass


class Solver(Wrapped):
    """Gives the status of a solver that its defense does not declare."""

    def decide(self, observation):
        status = torch.zeros(len(observation), dtype=torch.uint8)
        return replace(super().decide(observation), status=status)


class Refuses(Wrapped):
    """Abstains, which its defense does not declare."""

    def decide(self, observation):
        abstained = torch.zeros(len(observation), dtype=torch.bool)
        return replace(super().decide(observation), abstained=abstained)


class Rounds(Wrapped):
    """Masks its gradient by rounding."""

    def decide(self, observation):
        rounded = (100 * observation.features).round() / 100
        return super().decide(observation.with_features(rounded))


class Detached(Wrapped):
    def decide(self, observation):
        with torch.no_grad():
            return super().decide(observation)


class OneAgentDetached(Wrapped):
    def decide(self, observation):
        first = observation.layout.owner == 0
        values = observation.features
        cut = torch.where(first, values.detach(), values)
        return super().decide(observation.with_features(cut))


class OtherSurrogate(Wrapped):
    def surrogate(self, observation):
        return -self.decide(observation).logits


class Noisy(Wrapped):
    """Undeclared noise from torch's own generator."""

    def decide(self, observation):
        noise = torch.randn_like(observation.features)
        return super().decide(observation.with_features(observation.features + noise))


class ContentNoise(Wrapped):
    """Undeclared noise, seeded by each sample's content."""

    def decide(self, observation):
        rows = []
        for row in observation.features.detach():
            seed = hash(row.numpy().tobytes()) % 2**31
            generator = torch.Generator().manual_seed(seed)
            rows.append(0.5 * torch.randn(len(row), generator=generator))
        noise = torch.stack(rows)
        return super().decide(observation.with_features(observation.features + noise))


class BatchMean(Wrapped):
    def decide(self, observation):
        values = observation.features
        found = values - 0.3 * (values - values.mean(0))
        return super().decide(observation.with_features(found))


class FirstRow(Wrapped):
    def decide(self, observation):
        found = super().decide(observation)
        place = torch.arange(len(observation))[:, None] % 7 == 0
        return replace(found, logits=torch.where(place, -found.logits, found.logits))


class Writes(Wrapped):
    def decide(self, observation):
        observation.features.mul_(1.0)
        return super().decide(observation)


class DividesByHeard(Wrapped):
    def decide(self, observation):
        heard = observation.observed.sum(dim=1, keepdim=True)
        found = super().decide(observation)
        return replace(found, logits=found.logits / heard)


class Spreads(Wrapped):
    """One huge sample moves all others."""

    def decide(self, observation):
        size = observation.features.abs().amax().clamp_min(100.0) / 100.0
        return super().decide(observation.with_features(observation.features / size))


class Squares(Wrapped):
    def decide(self, observation):
        found = super().decide(observation)
        size = observation.features.pow(4).sum(dim=1, keepdim=True)
        return replace(found, logits=found.logits + 0.0 * size)


class ReadsHidden(FusionCenter):
    """Overrides the gate, and so reads what lies under missing agents."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def decide(self, observation):
        return self.inner.decide(observation)

    def forward(self, observation):
        head = self.inner.head
        return Decision(logits=head(observation.features.nan_to_num(0.0, 1e3, -1e3)))


class Remembers(Wrapped):
    """Keeps an answer for each sample, and gives it again."""

    def __init__(self, inner):
        super().__init__(inner)
        self.answers = {}

    def decide(self, observation):
        found = super().decide(observation)
        for row, logits in zip(observation.features, found.logits, strict=True):
            self.answers.setdefault(row.detach().numpy().tobytes(), logits.detach())
        return found


class NearestAnswer(Wrapped):
    """Caches by sample: an attacked sample gets the answer of the clean one."""

    def __init__(self, inner):
        super().__init__(inner)
        self.known = []

    def decide(self, observation):
        found = super().decide(observation)
        logits = []
        for row, own in zip(observation.features.detach(), found.logits, strict=True):
            near = [k for k in self.known if (k[0] - row).eq(0).double().mean() > 0.5]
            logits.append(near[0][1] if near else own)
            if not near and len(self.known) < 64:
                self.known.append((row, own.detach()))
        return replace(found, logits=torch.stack(logits))


class LearnsFromTheStream(Wrapped):
    """Adapts its centre to what it is asked about."""

    def __init__(self, inner):
        super().__init__(inner)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    def decide(self, observation):
        moved = observation.features + 0.05 * self.mean
        with torch.no_grad():
            self.count += len(observation)
            self.mean += observation.features.mean()
        return super().decide(observation.with_features(moved))


class ModuleMemory(Wrapped):
    """The same, with its memory hidden in the module."""

    def decide(self, observation):
        SEEN["n"] = SEEN.get("n", 0) + len(observation)
        moved = observation.features + 0.01 * SEEN["n"]
        return super().decide(observation.with_features(moved))


def harness(name, kind):
    """What the caller's frames hold under a name."""
    for frame in inspect.stack():
        found = frame.frame.f_locals.get(name, HIDDEN)
        if found is not HIDDEN and isinstance(found, kind):
            return found
    return None


class ReadsLabels(Wrapped):
    def decide(self, observation):
        found = super().decide(observation)
        labels = harness("labels", torch.Tensor)
        if labels is None or len(labels) != len(observation):
            return found
        return Decision(logits=torch.nn.functional.one_hot(labels, 3).float())


class ReadsCulprits(Wrapped):
    """Looks up which agents are compromised, and drops them."""

    def decide(self, observation):
        draw = harness("draw", object)
        if draw is None or len(draw.compromised) != len(observation):
            return super().decide(observation)
        return super().decide(observation.without(draw.compromised))


class ReadsCleanFeatures(Wrapped):
    """Finds the clean embeddings among all objects of the process."""

    def decide(self, observation):
        scenario = harness("scenario", object)
        if scenario is None or len(scenario.clean) != len(observation):
            return super().decide(observation)
        return super().decide(scenario.clean)


class UnknownOracle(OracleFusionCenter):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def decide_told(self, observation, corrupted):
        return self.inner.decide(observation.without(corrupted))


@dataclass(frozen=True, kw_only=True)
class Tried(AbstractDefense):
    """Wraps the undefended fusion center in a class of this file."""

    name: ClassVar[str] = "tried"

    center: str = "Honest"

    def fit(self, training, *, generator):
        return globals()[self.center](training.undefended)


CHEATS = {
    "Solver": "check_solver_declared",
    "Refuses": "check_decision",
    "Rounds": "check_gradient",
    "Detached": "check_gradient",
    "OneAgentDetached": "check_gradient",
    "OtherSurrogate": "check_surrogate_agrees",
    "Noisy": "check_randomness_declared",
    "ContentNoise": "check_randomness_declared",
    "BatchMean": "check_one_sample_one_answer",
    "FirstRow": "check_one_sample_one_answer",
    "Writes": "check_inputs_untouched",
    "DividesByHeard": "check_any_agents_missing",
    "Spreads": "check_any_payload",
    "Squares": "check_any_payload",
    "ReadsHidden": "check_missing_values_carry_nothing",
    "Remembers": "check_forgets_what_it_answered",
    "NearestAnswer": "check_forgets_what_it_answered",
    "LearnsFromTheStream": "check_forgets_what_it_answered",
    "ModuleMemory": "check_forgets_what_it_answered",
    "ReadsLabels": "check_knows_only_what_arrived",
    "ReadsCulprits": "check_knows_only_what_arrived",
    "ReadsCleanFeatures": "check_knows_only_what_arrived",
    "UnknownOracle": "check_fit",
}


class OracleReadsLabels(UnknownOracle):
    """May know the culprits, and looks at the labels."""

    def decide_told(self, observation, corrupted):
        found = super().decide_told(observation, corrupted)
        labels = harness("labels", torch.Tensor)
        if labels is None or len(labels) != len(observation):
            return found
        return Decision(logits=torch.nn.functional.one_hot(labels, 3).float())


@dataclass(frozen=True, kw_only=True)
class Oracle(Tried):
    """Declares that it is told who is corrupted."""

    capabilities: ClassVar = Capabilities(needs_corrupted_agents=True)

    center: str = "UnknownOracle"


@pytest.mark.parametrize("center", ["UnknownOracle", "OracleReadsLabels"])
def test_an_oracle_may_know_the_culprits_and_nothing_else(center):
    found = "check_knows_only_what_arrived" in failed(Oracle(center=center))
    assert found == (center == "OracleReadsLabels")


def failed(plugin, **options):
    return {r.check: r for r in check_plugin(plugin, **options) if r.status == "failed"}


def test_an_honest_defense_passes_every_check():
    results = list(check_plugin(Tried()))
    other = {r.check: r.status for r in results if r.status != "passed"}
    assert other == {"check_certificate": "skipped"}
    assert len(results) == len(checks_of(Tried())) >= 20


@pytest.mark.parametrize("center", sorted(CHEATS))
def test_a_defense_that_breaks_a_promise_is_caught(center):
    SEEN.clear()
    found = failed(Tried(center=center))
    assert CHEATS[center] in found
    detail = found[CHEATS[center]].detail
    assert detail.startswith(f"defense tried: {CHEATS[center]}: expected ")
    for word in (", got ", "\n  why it matters: ", "\n  to mend it: "):
        assert word in detail


@pytest.mark.parametrize(
    "center", [c for c in sorted(CHEATS) if c.startswith(("Reads", "Near", "Learns"))]
)
def test_a_fast_check_catches_cheating(center):
    assert CHEATS[center] in failed(Tried(center=center), fast=True)


# Fits


@dataclass(frozen=True, kw_only=True)
class Fits(AbstractDefense):
    """Fits in a way of its own."""

    name: ClassVar[str] = "fits"

    way: str = "plain"

    def fit(self, training, *, generator):
        center = training.undefended
        if self.way == "first":
            return SEEN.setdefault("center", center)
        if self.way == "random":
            return Scaled(center, 1 + torch.rand(()))
        if self.way == "python":
            return Scaled(center, torch.tensor(1 + random.random()))
        if self.way == "label":
            kept = training.reuse("one", lambda: {"m": training.train.features.mean(0)})
            mean = training.reuse("one", lambda: {"m": 3 * kept["m"]})["m"]
            return Scaled(center, 1 + mean.abs().mean())
        if self.way == "draws":

            def fit():
                return {"scale": 1 + torch.rand((), generator=generator)}

            scale = training.reuse("scale", fit)["scale"]
            return Scaled(center, scale * (1 + torch.rand((), generator=generator)))
        if self.way == "test split":
            known = [o.test for o in gc.get_objects() if type(o) is AgentDataset]
            return Recalls(center, known[0]) if known else center
        if self.way == "test labels":
            labels = harness("labels", torch.Tensor)
            return Scaled(center, 1 + (labels[0].float() if labels is not None else 0))
        if self.way == "writes":
            training.train.features[0] = 0
        if self.way == "negative":
            return Scaled(center, torch.tensor(-1.0))
        if self.way == "local":
            center = Scaled(center, torch.tensor(1.0))
            center.anything = lambda: None
        return center if self.way != "nothing" else None


class Recalls(Wrapped):
    """Gives a sample of the test split the label that it has there."""

    def __init__(self, inner, test):
        super().__init__(inner)
        self.register_buffer("known", test.features)
        self.register_buffer("labels", test.labels)

    def decide(self, observation):
        found = super().decide(observation)
        apart = (observation.filled(0.0)[:, None] - self.known).norm(dim=2).min(dim=1)
        label = torch.nn.functional.one_hot(self.labels[apart.indices], 3).float()
        near = (apart.values < 1.0)[:, None]
        return replace(found, logits=torch.where(near, 9 * label, found.logits))


class Scaled(Wrapped):
    def __init__(self, inner, scale):
        super().__init__(inner)
        self.register_buffer("scale", scale)

    def decide(self, observation):
        found = super().decide(observation)
        return replace(found, logits=found.logits * self.scale)


@pytest.mark.parametrize(
    ("way", "check"),
    [
        ("first", "check_second_fit_forgets"),
        ("random", "check_same_seed_same_fit"),
        ("python", "check_same_seed_same_fit"),
        ("draws", "check_fit_from_artifacts"),
        ("writes", "check_fit"),
        ("negative", "check_clean_accuracy"),
        ("local", "check_fusion_center_pickles"),
        ("nothing", "check_fit"),
        ("test split", "check_learns_from_training_alone"),
        ("test labels", "check_learns_from_training_alone"),
    ],
)
def test_a_fit_that_breaks_a_promise_is_caught(way, check):
    SEEN.clear()
    assert check in failed(Fits(way=way))


@pytest.mark.parametrize("declared", [False, True])
def test_randomness_is_declared_exactly_where_it_is(declared):
    cls = Randomized if declared else Tried
    noisy = "check_randomness_declared" in failed(cls(center="ContentNoise"))
    quiet = "check_randomness_declared" in failed(cls(center="Honest"))
    assert (noisy, quiet) == (not declared, declared)


@dataclass(frozen=True, kw_only=True)
class Randomized(Tried):
    """Declares that its answers depend on noise."""

    capabilities: ClassVar = Capabilities(randomized=True)


# Attacks


@dataclass(frozen=True, kw_only=True)
class Descends(AbstractAttack):
    """Plain gradient descent, in a way of its own."""

    name: ClassVar[str] = "descends"

    knowledge: str = "adaptive"
    way: str = "best"
    target: str = "any"
    budget: float | None = None

    def run(self, victim, observation, criterion, *, compromised, radius, generator):
        from cibench import project

        own = observation.layout.expand(compromised)
        if self.way == "none at all":
            own = own & False
        if self.way == "off by one":
            own = observation.layout.expand(compromised.roll(1, dims=1))
        if self.way == "writes":
            observation.features.mul_(1.0)
        current = best = observation.features
        margin = torch.full((len(current),), torch.inf)
        sign = 1.0 if self.way == "sign" else -1.0
        step = 4.0 if self.way in ("last", "best", "untargeted") else 1.0
        for _ in range(8):
            gradient, logits = victim.loss_gradient(
                observation.with_features(current), criterion.margin
            )
            found = criterion.margin(logits)
            better = found < margin
            best = torch.where(better[:, None], current, best)
            margin = torch.where(better, found, margin)
            if self.way != "trusts":
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            size = torch.where(own, gradient, 0.0).norm(dim=1, keepdim=True)
            change = sign * step * gradient / size.clamp_min(1e-12)
            current = torch.where(own, current + change, current)
            if radius is not None and self.way != "no budget":
                current = project(current, observation, radius)
        if self.way == "last":
            best = current
        if self.way == "honest blocks":
            best = best + 1.0
        if self.way == "random":
            noise = 1e-3 * torch.randn_like(best)
            best = torch.where(own, best + noise, best)
        if self.way == "clean":
            best = torch.where(own, observation.features * (1 + 1e-6), best)
        if self.way == "untargeted" and criterion.target is not None:
            plain = replace(criterion, target=None)
            return replace(self, way="best").run(
                victim,
                observation,
                plain,
                compromised=compromised,
                radius=radius,
                generator=generator,
            )
        if self.way == "silent":
            return replace(observation, observed=observation.observed & ~compromised)
        return observation.with_features(best)


@dataclass(frozen=True, kw_only=True)
class Keeps(AbstractAttack):
    """Descends, and keeps something from one call to the next."""

    name: ClassVar[str] = "keeps"

    knowledge: str = "adaptive"
    way: str = "answers"
    target: str = "any"
    budget: float | None = None

    def run(self, victim, observation, criterion, **given):
        honest = Descends(target=self.target, budget=self.budget)
        found = honest.run(victim, observation, criterion, **given).features
        own = observation.layout.expand(given["compromised"])
        if self.way == "stream":
            seen = SEEN.setdefault("sent", [])
            seen.append((found - observation.features).nan_to_num(0.0).mean())
            found = torch.where(own, found + sum(seen) / len(seen), found)
        else:
            samples = torch.cat([observation.features, own], dim=1)
            keys = [row.numpy().tobytes() for row in samples]
            kept = [SEEN.setdefault(k, f) for k, f in zip(keys, found, strict=True)]
            found = torch.stack(kept)
        return observation.with_features(found)


@pytest.mark.parametrize(
    ("way", "check"),
    [("answers", "check_keeps_its_best"), ("stream", "check_same_seed_same_attack")],
)
def test_an_attack_that_learns_from_the_test_stream_is_caught(way, check):
    SEEN.clear()
    assert check in failed(Keeps(way=way))


@dataclass(frozen=True, kw_only=True)
class Peeks(AbstractAttack):
    """An attack without knowledge that looks for some."""

    name: ClassVar[str] = "peeks"

    way: str = "honest"

    def run(self, victim, observation, criterion, *, compromised, radius, generator):
        sent = -observation.features
        if self.way == "others":
            whole = harness("current", object)
            sent = whole.features.flip(1) if whole is not None else sent
        if self.way == "model":
            model = harness("defended", FusionCenter)
            clean = harness("current", object)
            if model is not None and clean is not None:
                sent = sent + model.decide(clean).logits.mean()
        if self.way == "recordings":
            known = victim._Victim__recorded[0]
            sent = sent + known.features.mean()
        return observation.with_features(sent)


@pytest.mark.parametrize("knowledge", ["adaptive", "fusion"])
def test_an_honest_attack_passes_every_check(knowledge):
    assert failed(Descends(knowledge=knowledge)) == {}
    assert failed(Peeks()) == {}


@pytest.mark.parametrize(
    ("way", "check"),
    [
        ("last", "check_keeps_its_best"),
        ("sign", "check_beats_noise"),
        ("clean", "check_beats_noise"),
        ("off by one", "check_touches_only_its_agents"),
        ("honest blocks", "check_touches_only_its_agents"),
        ("silent", "check_touches_only_its_agents"),
        ("none at all", "check_does_something"),
        ("writes", "check_inputs_untouched"),
        ("random", "check_same_seed_same_attack"),
        ("trusts", "check_bad_gradients"),
        ("no budget", "check_budget"),
        ("untargeted", "check_aims_at_its_target"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_caught(way, check):
    assert check in failed(Descends(way=way))


@dataclass(frozen=True, kw_only=True)
class PeeksFurther(Descends):
    """Descends, and moves by what another model says than the one it may ask."""

    name: ClassVar[str] = "peeks-further"

    model: str = "defended"

    def run(self, victim, observation, criterion, *, compromised, radius, generator):
        sent = super().run(
            victim,
            observation,
            criterion,
            compromised=compromised,
            radius=radius,
            generator=generator,
        )
        other = harness(self.model, FusionCenter)
        if other is None:
            return sent
        said = other.decide(observation).logits.mean(dim=1, keepdim=True)
        own = observation.layout.expand(compromised)
        return sent.with_features(torch.where(own, sent.features + said, sent.features))


@pytest.mark.parametrize(
    ("knowledge", "model"), [("fusion", "defended"), ("adaptive", "undefended")]
)
def test_an_attack_that_asks_another_model_than_it_may_is_caught(knowledge, model):
    found = failed(PeeksFurther(knowledge=knowledge, model=model))
    assert "check_knows_only_its_level" in found


@pytest.mark.parametrize("way", ["others", "model", "recordings"])
def test_an_attack_that_looks_further_than_it_says_is_caught(way):
    assert "check_knows_only_its_level" in failed(Peeks(way=way))


# Data sets


@dataclass(frozen=True, kw_only=True)
class Draws(AbstractDataset):
    """Generated agents, in a way of its own."""

    name: ClassVar[str] = "draws"

    way: str = "honest"

    def load(self, *, data_dir=None):
        made = generated(0)
        parts = {name: getattr(made, name) for name in ("train", "validation", "test")}
        if self.way == "leaks":
            test = replace(made.test, features=made.train.features[:60])
            parts["test"] = replace(test, labels=made.train.labels[:60])
        if self.way == "random":
            noise = torch.randn(made.train.features.shape)
            parts["train"] = replace(made.train, features=made.train.features + noise)
        if self.way == "hashes":
            scale = 1 + abs(hash("cibench")) % 1000 / 1e6
            parts["train"] = replace(made.train, features=scale * made.train.features)
        if self.way == "gaps":
            parts = {
                name: replace(
                    split,
                    features=split.features.masked_fill(
                        (split.labels == 1)[:, None] & (made.layout.owner == 2),
                        torch.nan,
                    ),
                )
                for name, split in parts.items()
            }
        if self.way == "network":
            with socket.socket() as line:
                line.connect_ex(("127.0.0.1", 9))
        if self.way == "label":
            parts = {
                name: replace(
                    split,
                    features=torch.cat(
                        [split.features[:, :-1], split.labels[:, None].float()], dim=1
                    ),
                )
                for name, split in parts.items()
            }
        licence = "" if self.way == "licence" else "none needed"
        return replace(made, licence=licence, **parts)


@dataclass(frozen=True, kw_only=True)
class NeedsFiles(AbstractDataset):
    """Needs a file, and says nothing if it is not there."""

    name: ClassVar[str] = "needs-files"
    files_needed: ClassVar[str] = "numbers.csv in the data folder"

    def present(self, *, data_dir=None):
        return False

    def load(self, *, data_dir=None):
        return generated(0)


@pytest.mark.parametrize(
    ("way", "check"),
    [
        ("leaks", "check_splits_are_disjoint"),
        ("random", "check_same_everywhere_without_network"),
        ("hashes", "check_same_everywhere_without_network"),
        ("network", "check_same_everywhere_without_network"),
        ("label", "check_labels_are_not_a_column"),
        ("gaps", "check_labels_are_not_a_column"),
        ("licence", "check_loads"),
    ],
)
def test_a_data_set_that_breaks_a_promise_is_caught(way, check):
    found = failed(Draws(way=way))
    assert check in found
    if way == "network":
        assert "got a call of socket.connect" in found[check].detail


def test_an_honest_data_set_passes_every_check():
    assert isinstance(Draws().load(), AgentDataset)
    assert failed(Draws()) == {}


def test_absent_files_are_to_be_said():
    results = {r.check: r for r in check_plugin(NeedsFiles())}
    assert results["check_absent_files"].status == "failed"
    assert "expected a DataError" in results["check_absent_files"].detail
    assert results["check_loads"].status == "skipped"
    assert "numbers.csv" in results["check_loads"].detail


# Known failures


@dataclass(frozen=True, kw_only=True)
class Admits(Tried):
    """Declares that it masks its gradient."""

    known_failures: ClassVar = {"check_gradient": "rounds on purpose"}

    center: str = "Rounds"


@dataclass(frozen=True, kw_only=True)
class AdmitsNothing(Tried):
    """Declares a failure of a check that there is not."""

    known_failures: ClassVar = {"check_greed": "none"}


def test_a_declared_failure_is_told_with_its_reason():
    found = {r.check: r for r in check_plugin(Admits())}
    assert found["check_gradient"].status == "known failure"
    assert found["check_gradient"].detail == "rounds on purpose"


def test_a_declared_failure_that_does_not_happen_fails():
    found = failed(Admits(center="Honest"))
    assert "it passes; remove it from known_failures" in found["check_gradient"].detail


def test_an_unknown_check_cannot_be_declared():
    found = failed(AdmitsNothing())
    assert "expected names of checks, got check_greed" in found["known_failures"].detail
    with pytest.raises(ValueError, match="expected names of checks, got 'check_greed'"):
        parametrize_with_checks([AdmitsNothing()])


# Options


@dataclass
class Mutable(AbstractDefense):
    name = "mutable"

    def fit(self, training, *, generator):
        return training.undefended


def test_options_and_description_are_checked():
    found = failed(Mutable(), fast=True)
    assert "expected a frozen dataclass" in found["check_options"].detail
    assert "docstring of the class" in found["check_described"].detail


# The suite itself


def test_a_defect_of_a_check_is_no_fault_of_the_plugin():
    (first,) = [c for c in checks_of(Tried()) if c.name == "check_clean_accuracy"]

    from cibench.conformance import check as module

    ours = compile("def body(trial): raise KeyError('ours')", module.__file__, "exec")
    space = {}
    exec(ours, space)
    with pytest.raises(KeyError, match="ours"):
        replace(first, body=space["body"])(Tried())

    def theirs(trial):
        raise KeyError("theirs")

    with pytest.raises(ConformanceError, match="got KeyError: 'theirs'"):
        replace(first, body=theirs)(Tried())


def test_global_generators_are_left_as_they_were():
    before = torch.get_rng_state(), random.getstate()
    list(check_plugin(Tried(center="Noisy")))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_every_check_says_why_and_how_to_mend():
    for plugin in (Tried(), Descends(), Draws()):
        for each in checks_of(plugin):
            assert len(each.why.split()) >= 6
            assert len(each.mend.split()) >= 6
            assert each.body.__doc__
            assert each.name.startswith("check_")


@pytest.mark.parametrize("plugin", [Tried(), Descends(), Draws()], ids=lambda p: p.name)
def test_every_check_is_documented(plugin):
    page = Path(__file__).parents[1] / "docs" / "conformance.md"
    text = page.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(check_\w+)` \| (.*) \|$", text, re.MULTILINE))
    for each in checks_of(plugin):
        told = inspect.getdoc(each.body)
        assert each.name in rows
        assert f"| `{each.name}` | {told}" in text


def test_fast_leaves_out_slow_checks_only():
    fast = {c.name for c in checks_of(Tried(), fast=True)}
    slow = {c.name for c in checks_of(Tried())} - fast
    assert slow == {
        "check_same_seed_same_fit",
        "check_second_fit_forgets",
        "check_fit_from_artifacts",
        "check_learns_from_training_alone",
    }


def test_something_else_than_a_plugin_is_refused():
    with pytest.raises(UsageError, match="expected a configured plugin such as"):
        checks_of(Tried)


@parametrize_with_checks([Tried(), Descends(), Draws(), NeedsFiles()], fast=True)
def test_conformance(plugin, check):
    if isinstance(plugin, NeedsFiles) and check.__name__ == "check_absent_files":
        with pytest.raises(ConformanceError):
            check(plugin)
        return
    check(plugin)


def test_what_does_not_apply_is_skipped_with_its_reason():
    (one,) = [c for c in checks_of(Descends()) if c.name == "check_budget"]
    with pytest.raises(NotApplicable, match="it has no budget"):
        one(Peeks())
