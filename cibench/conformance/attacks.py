"""What an attack keeps: its own agents, clean inputs, the same from the same seed."""

from __future__ import annotations

import torch

from .calls import attacked, compromise, drawn_agents, equal
from .check import NotApplicable, check, expect
from .compare import same_bits
from .disturb import disturb
from .trial import AttackTrial, material

_SETS = "whatever the compromised and the missing agents are"


@check(
    "attack",
    why="scenarios compromise any agents, in samples where any are missing.",
    mend="use `compromised` and `observation.observed` sample by sample; return an"
    " observation of as many samples and the same layout; expect NaN under missing blocks.",
)
def check_any_agents(trial: AttackTrial) -> None:
    """It runs with none, some and all agents compromised, some missing, one sample."""
    silent = material().silent[: len(trial.clean)]
    hidden = ~silent.layout.expand(silent.observed)
    silent = silent.with_features(silent.features.masked_fill(hidden, torch.nan))
    everyone = compromise(trial.clean, *range(trial.clean.layout.agents))
    for clean in (trial.clean, silent, trial.clean[:1]):
        n = len(clean)
        for mask in (
            compromise(clean),
            drawn_agents(clean),
            everyone[:n],
            compromise(clean, 0),
        ):
            sent = attacked(trial, mask, clean=clean).sent
            expect(
                not (sent.observed & ~clean.observed).any(),
                f"no agent to appear that was missing, {_SETS}",
                "one that did",
            )


@check(
    "attack",
    why="the harness undoes it without a word: what the attack took for a success was one"
    " with blocks that are not its own.",
    mend="change columns of layout.expand(compromised) only:"
    " torch.where(own, sent, observation.features).",
)
def check_touches_only_its_agents(trial: AttackTrial) -> None:
    """What `run` returns differs from what it got in compromised blocks alone."""
    for mask in (compromise(trial.clean, 1), drawn_agents(trial.clean)):
        call = attacked(trial, mask)
        given, raw = call.given, call.raw
        known = given.layout.expand(given.observed & ~call.compromised)
        foreign = known & ~equal(raw.features, trial.clean.features)
        expect(
            not foreign.any(),
            "honest blocks as they were",
            f"changes in {int(foreign.any(dim=1).sum())} samples",
        )
        gone = given.observed & ~raw.observed & ~call.compromised
        expect(not gone.any(), "honest agents to be heard", "some that fell silent")
        if not trial.plugin.may_drop:
            gone = given.observed & ~raw.observed & call.compromised
            expect(
                not gone.any(),
                "compromised agents to be heard, as may_drop is false",
                "some that fell silent",
            )
        if not trial.plugin.may_corrupt:
            own = given.layout.expand(call.compromised & raw.observed)
            changed = own & ~equal(raw.features, trial.clean.features)
            expect(
                not changed.any(),
                "blocks as they were, as may_corrupt is false",
                "others",
            )


@check(
    "attack",
    why="the clean embeddings are what every other attack and every recovery error is"
    " measured from.",
    mend="clone before writing; no methods that end in `_` on what `run` is given.",
)
def check_inputs_untouched(trial: AttackTrial) -> None:
    """Nothing that `run` is given is written into, nor what the harness holds."""
    clean, labels = trial.clean, trial.labels
    held = clean.features.clone(), clean.observed.clone(), labels.clone()
    call = attacked(trial, drawn_agents(clean))
    parts = (
        ("observation.features", call.given.features),
        ("observation.observed", call.given.observed),
        ("criterion.labels", call.criterion.labels),
        ("compromised", call.compromised),
    )
    for name, tensor in parts:
        expect(
            tensor._version == 0,
            f"{name} as it was given",
            "a tensor that was written into",
        )
    same = all(map(torch.equal, held, (clean.features, clean.observed, labels)))
    expect(same, "clean embeddings and labels as they were", "others")


@check(
    "attack",
    why="a run is repeated from its seed, in any order of its cells.",
    mend="draw from `generator` only, and keep nothing between calls.",
)
def check_same_seed_same_attack(trial: AttackTrial) -> None:
    """The same call gives the same, whatever was drawn or attacked before."""
    disturb(1)
    first = attacked(trial).sent
    attacked(trial, drawn_agents(trial.clean))
    disturb(2)
    second = attacked(trial).sent
    expect(
        same_bits(first.features, second.features)
        and same_bits(first.observed, second.observed),
        "the same from two calls of one seed",
        "something else",
    )


@check(
    "attack",
    why="cells without compromised agents give clean accuracy, and certificates.",
    mend="return the observation where `compromised` is false.",
)
def check_nobody_compromised(trial: AttackTrial) -> None:
    """With nobody compromised the observation stays what it is."""
    call = attacked(trial, compromise(trial.clean))
    expect(
        same_bits(call.sent.features, trial.clean.features)
        and same_bits(call.sent.observed, trial.clean.observed),
        "the observation",
        "another one",
    )


@check(
    "attack",
    why="an attack that changes nothing is listed as one that a defense withstands.",
    mend="look at `compromised`: true for the blocks to change. An attack that is meant to"
    " do nothing sets may_corrupt and may_drop to false.",
)
def check_does_something(trial: AttackTrial) -> None:
    """Compromised blocks change or vanish in most samples, unless declared otherwise."""
    attack = trial.plugin
    if not (attack.may_corrupt or attack.may_drop):
        raise NotApplicable("it declares that it changes nothing")
    for agent in (0, 2, trial.clean.layout.agents - 1):
        sent = attacked(trial, compromise(trial.clean, agent)).sent
        columns = trial.clean.layout.slices[agent]
        moved = ~equal(sent.features[:, columns], trial.clean.features[:, columns]).all(
            dim=1
        )
        moved |= ~sent.observed[:, agent]
        expect(
            bool(moved.double().mean() >= 0.5),
            f"the block of the compromised agent {trial.clean.layout.names[agent]} to"
            " change in most samples",
            f"in {int(moved.sum())} of {len(moved)}",
        )
