"""The check of certificates: honest ones pass, each kind of false one is caught."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cibench import AbstractDefense, Decision, FusionCenter
from cibench.certify import known_certified, margin_radius
from cibench.conformance import ConformanceError, NotApplicable, checks_of
from cibench_plugins.defenses.double_masking import DoubleMasking
from cibench_plugins.defenses.partition_vote import PartitionVote
from cibench_plugins.defenses.randomized_smoothing import RandomizedSmoothing


class Claims(FusionCenter):
    """A fusion center with a certificate of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def decide(self, observation):
        return self.inner.decide(observation)

    def surrogate(self, observation):
        return self.inner.surrogate(observation)


class Nothing(Claims):
    pass


class Honest(Claims):
    def certify(self, observation, corrupted):
        return self.inner.certify(observation, corrupted)


class Everything(Claims):
    def certify(self, observation, corrupted):
        return torch.ones(len(observation), dtype=torch.bool)


class OneMore(Claims):
    """Counts one corrupted agent less than there are."""

    def certify(self, observation, corrupted):
        return self.inner.certify(observation, corrupted - 1)


class LastOnly(Claims):
    """Proves it for the last agents alone, as if all sets were that one."""

    def certify(self, observation, corrupted):
        logits, counted = self.inner.logits(observation)
        members = torch.eye(6).bool()
        last = torch.arange(6) >= 6 - corrupted
        return known_certified(logits.argmax(2), members, counted, last, 3)


class Sure(Claims):
    """Takes a lead in the logits for a proof."""

    def certify(self, observation, corrupted):
        top = self(observation).logits.topk(2, dim=1).values
        return top[:, 0] - top[:, 1] > 1.0


class Hears(Claims):
    """Certified against payloads, but decides otherwise once somebody is silent."""

    def decide(self, observation):
        found = self.inner.decide(observation)
        silent = ~observation.observed.all(dim=1, keepdim=True)
        return Decision(logits=torch.where(silent, -found.logits, found.logits))

    def certify(self, observation, corrupted):
        heard = observation.observed.all(dim=1)
        return self.inner.certify(observation, corrupted) & heard


class Floats(Claims):
    def certify(self, observation, corrupted):
        return torch.zeros(len(observation))


class OneForAll(Claims):
    def certify(self, observation, corrupted):
        return torch.tensor(False)


class Margin(Claims):
    """The proved radius of the undefended head, so many times."""

    times = 1.0

    @property
    def facts(self):
        return {"alpha": 0.0}

    def radius(self, observation):
        points = observation.filled(self.inner.fill)
        radius, classes = margin_radius(self.inner.head, points)
        return self.times * radius, classes


class Wider(Margin):
    times = 3.0


class Negative(Margin):
    times = -1.0


class Votes(Claims):
    times = 1.0

    @property
    def facts(self):
        return self.inner.facts

    def radius(self, observation):
        radius, classes = self.inner.radius(observation)
        return self.times * radius, classes


class WiderVotes(Votes):
    times = 20.0


BASES = {
    "undefended": None,
    "partition": PartitionVote(),
    "masking": DoubleMasking(),
    "smoothing": RandomizedSmoothing(sigma=0.3, draws=200),
}


@dataclass(frozen=True, kw_only=True)
class Claiming(AbstractDefense):
    """A shipped defense behind a class of this file."""

    name: ClassVar[str] = "claiming"

    base: str = "undefended"
    claim: str = "Nothing"

    def fit(self, training, *, generator):
        base = BASES[self.base]
        inner = (
            training.undefended
            if base is None
            else base.fit(training, generator=generator)
        )
        return globals()[self.claim](inner)


def tried(base, claim):
    plugin = Claiming(base=base, claim=claim)
    (one,) = [c for c in checks_of(plugin, fast=True) if c.name == "check_certificate"]
    one(plugin)


@pytest.mark.parametrize(
    ("base", "claim"),
    [
        ("partition", "Honest"),
        ("masking", "Honest"),
        ("undefended", "Margin"),
        ("smoothing", "Votes"),
    ],
)
def test_an_honest_certificate_passes(base, claim):
    tried(base, claim)


@pytest.mark.parametrize(
    ("base", "claim"),
    [
        ("undefended", "Everything"),
        ("partition", "Everything"),
        ("partition", "OneMore"),
        ("masking", "OneMore"),
        ("partition", "LastOnly"),
        ("undefended", "Sure"),
        ("partition", "Sure"),
        ("masking", "Hears"),
    ],
)
def test_a_false_certificate_is_caught(base, claim):
    found = r"check_certificate: expected all \d+ decisions that `certify` says outlast"
    with pytest.raises(ConformanceError, match=found) as caught:
        tried(base, claim)
    assert " that fall when agent" in str(caught.value)
    assert "why it matters: certified accuracy is read as proved" in str(caught.value)
    if claim == "Hears":
        assert "send nothing" in str(caught.value)


@pytest.mark.parametrize(
    ("base", "claim", "text"),
    [
        ("undefended", "Wider", "stand within their radius, but for 0 of"),
        ("smoothing", "WiderVotes", "stand half way to their radius, but for"),
    ],
)
def test_a_radius_that_is_too_large_is_caught(base, claim, text):
    with pytest.raises(ConformanceError, match=text):
        tried(base, claim)


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("Floats", "expected booleans from `certify`, got torch.float32"),
        ("OneForAll", r"expected booleans of shape \(30,\) from `certify`, got \(\)"),
        ("Negative", "expected finite radii of at least 0"),
    ],
)
def test_what_a_certificate_is_made_of(claim, text):
    with pytest.raises(ConformanceError, match=text):
        tried("undefended", claim)


def test_without_a_certificate_there_is_nothing_to_try():
    with pytest.raises(NotApplicable, match="it certifies nothing"):
        tried("undefended", "Nothing")
