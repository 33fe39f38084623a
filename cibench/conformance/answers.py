"""What a fusion center's answers keep: one sample, one answer, whatever else arrives."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..defense import Decision, FusionCenter, sanitize
from ..observation import Observation
from .check import check, expect
from .compare import expect_same, kept
from .disturb import disturb
from .trial import DefenseTrial, answered, material


@check(
    "defense",
    why="the harness stores what a decision says as it is.",
    mend="return Decision(logits=...) with one row per sample and one column per class;"
    " declare Capabilities(abstains=True) where `abstained` is given.",
)
def check_decision(trial: DefenseTrial) -> None:
    """One finite row of logits for each sample; abstaining is declared."""
    observation = trial.material.silent
    decision = answered(trial.center(), observation)
    classes = trial.material.training.classes
    expect(
        decision.logits.shape == (len(observation), classes),
        f"logits of shape ({len(observation)}, {classes})",
        f"{tuple(decision.logits.shape)}",
    )
    declared = trial.plugin.capabilities.abstains
    expect(
        declared or decision.abstained is None,
        "no `abstained` from a defense that does not declare it",
        "one",
    )


@check(
    "defense",
    why="what lies under a missing agent is garbage by definition; a defense that reads it"
    " knows what nobody sent.",
    mend="use observation.filled(value) or torch.where with"
    " layout.expand(observation.observed), never observation.features alone.",
)
def check_missing_values_carry_nothing(trial: DefenseTrial) -> None:
    """NaN, infinities and anything else under a missing agent change nothing."""
    observation, center = trial.material.silent, trial.center()
    hidden = ~observation.layout.expand(observation.observed)
    first = None
    for value in (0.0, torch.nan, torch.inf, -3e38, 1.0, 7.0):
        features = observation.features.masked_fill(hidden, value)
        found = answered(center, observation.with_features(features))
        if first is None:
            first = found
        expect_same(first, found, f"with {value} under missing agents as with 0")


@check(
    "defense",
    why="the harness splits batches as memory allows; accuracies must not depend on that,"
    " and in the field samples come one at a time.",
    mend="use no statistic of the batch and no position in it; at inference put layers"
    " such as batch normalization into evaluation mode; seed noise by a sample's content.",
)
def check_one_sample_one_answer(trial: DefenseTrial) -> None:
    """A sample's answer depends neither on its batch nor on its place there."""
    observation, center = trial.material.silent, trial.center()
    whole = answered(center, observation)
    n = len(observation)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    shuffled = answered(center, observation[order])
    expect_same(_taken(whole, order), shuffled, "in another order")
    alone = [answered(center, observation[i : i + 1]) for i in range(0, n, 6)]
    picked = torch.arange(0, n, 6)
    joined = Decision(
        logits=torch.cat([each.logits for each in alone]),
        abstained=None
        if whole.abstained is None
        else torch.cat([a.abstained for a in alone if a.abstained is not None]),
    )
    expect_same(_taken(whole, picked), joined, "alone as in a batch")
    doubled = answered(center, observation[torch.cat([order, order])])
    expect_same(_taken(whole, torch.cat([order, order])), doubled, "given twice")


def _taken(decision: Decision, samples: Tensor) -> Decision:
    abstained = decision.abstained
    return Decision(
        logits=decision.logits[samples],
        abstained=None if abstained is None else abstained[samples],
    )


@check(
    "defense",
    why="what the harness shows a defense it also measures with; a changed input falsifies"
    " recovery errors and witnesses.",
    mend="return new tensors: clone before writing, no methods that end in `_`.",
)
def check_inputs_untouched(trial: DefenseTrial) -> None:
    """`decide` and `surrogate` write into nothing they are given."""
    clean, _ = sanitize(trial.material.silent)
    center = trial.center()
    for method in (center.decide, center.surrogate):
        given = replace(
            clean, features=clean.features.clone(), observed=clean.observed.clone()
        )
        before = given.features._version, given.observed._version
        with torch.no_grad():
            method(given)
        after = given.features._version, given.observed._version
        same = torch.equal(given.features, clean.features)
        expect(
            same and torch.equal(given.observed, clean.observed) and before == after,
            f"`{method.__name__}` to leave the observation as it is",
            "one that was written into",
        )


@check(
    "defense",
    why="a defense that learns from what it is asked, or keeps answers, is measured on its"
    " memory; its numbers depend on the order of cells.",
    mend="keep nothing from one call to the next: no caches by sample, no running means,"
    " no counters in the fusion center or its module.",
)
def check_forgets_what_it_answered(trial: DefenseTrial) -> None:
    """Answers do not depend on what was answered before, and memory does not grow."""
    clean = trial.material.clean
    attacked = clean.with_features(
        torch.where(_last_agent(clean), -6.0 * clean.features, clean.features)
    )
    fresh = answered(trial.center(), attacked)
    used = trial.center()
    before = kept(used)
    asked = (clean, trial.material.silent, material(1).clean, attacked)
    _ask(used, *asked)
    after = kept(used)
    disturb(5)
    expect_same(fresh, answered(used, attacked), "after other samples as before them")
    for place, size in after.items():
        # What is worked out once for each set of missing agents is of no sample.
        if place.endswith("!"):
            few = size == before.get(place, size)
        else:
            few = size - before.get(place, 0) < len(clean)
        expect(
            few,
            "a fusion center that keeps nothing of what it answers",
            f"{before.get(place, 0)} and then {size} entries in {place.rstrip('!')},"
            f" after {sum(map(len, asked))} samples",
        )


def _ask(center: FusionCenter, *observations: Observation) -> None:
    with torch.no_grad():
        for each in observations:
            center(each)


def _last_agent(observation: Observation) -> Tensor:
    layout = observation.layout
    return layout.owner.to(observation.features.device) == layout.agents - 1


@check(
    "defense",
    why="sensors fall silent; a crash or a NaN then costs a whole cell, and the row.",
    mend="decide from those that were heard; with nobody heard answer the same for all,"
    " such as from the training mean. No division by the number of agents heard.",
)
def check_any_agents_missing(trial: DefenseTrial) -> None:
    """With any number of agents missing it decides; with all, alike for everyone."""
    clean, center = trial.material.clean, trial.center()
    agents = clean.layout.agents
    for count in range(agents + 1):
        for shift in (0, 1):
            gone = torch.zeros_like(clean.observed)
            gone[:, [(shift + i) % agents for i in range(count)]] = True
            answered(center, clean.without(gone))
    silence = answered(center, clean.without(torch.ones_like(clean.observed)))
    expect_same(
        _taken(silence, torch.zeros(len(clean), dtype=torch.long)),
        silence,
        "for all samples of which nothing was heard",
    )


@check(
    "defense",
    why="an agent can send anything that fits into a float; one that makes the answers of"
    " others wrong, or crashes the fusion center, has won.",
    mend="keep samples apart, and bound what comes in before squaring or dividing; blocks"
    " that are not finite or above 1e15 already count as missing.",
)
def check_any_payload(trial: DefenseTrial) -> None:
    """Huge, tiny and non-finite payloads give finite answers and harm no other sample."""
    clean, center = trial.material.clean, trial.center()
    plain = answered(center, clean)
    last = _last_agent(clean)
    hit = torch.arange(len(clean)) % 2 == 0
    for value in (
        torch.nan,
        torch.inf,
        -torch.inf,
        3e38,
        9e14,
        -1e8,
        1e-40,
        1e-30,
        0.0,
    ):
        features = torch.where(hit[:, None] & last, value, clean.features)
        found = answered(center, clean.with_features(features))
        expect_same(
            _taken(plain, ~hit),
            _taken(found, ~hit),
            f"for samples beside those whose last agent sent {value}",
        )
    everything = torch.where(hit[:, None], 9e14, clean.features)
    found = answered(center, clean.with_features(everything))
    expect_same(
        _taken(plain, ~hit),
        _taken(found, ~hit),
        "beside samples whose agents sent 9e14",
    )
