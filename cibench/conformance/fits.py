"""What fitting a defense keeps: it learns from what it is given, and from nothing else."""

from __future__ import annotations

import copy

import torch

from ..references import predictions
from .check import check, expect
from .compare import expect_same
from .disturb import disturb
from .trial import DefenseTrial, answered, fresh_store, material

_CONTRACT = (
    "`fit(training, *, generator) -> FusionCenter` is all that a cell knows of it."
)


@check(
    "defense",
    why=_CONTRACT,
    mend="return a FusionCenter; an OracleFusionCenter exactly if the class declares"
    " Capabilities(needs_corrupted_agents=True); work on copies of the training data.",
)
def check_fit(trial: DefenseTrial) -> None:
    """Fit gives a fusion center and leaves what it learned from alone."""
    trial.fit()


@check(
    "defense",
    why="a run is repeated from its seed; what draws elsewhere cannot be rerun or cached.",
    mend="draw from `generator` only: torch.randn(..., generator=generator); for a"
    " library with a state of its own, seed it from the generator.",
    slow=True,
)
def check_same_seed_same_fit(trial: DefenseTrial) -> None:
    """Global generators change nothing; the same seed gives the same answers."""
    observation = trial.material.silent
    found = []
    for state in (1, 2):
        disturb(state)
        found.append(answered(trial.fit(), observation))
    expect_same(found[0], found[1], "from two fits of one seed")


@check(
    "defense",
    why="a process fits many cells one after another; what stays from one leaks into the"
    " numbers of the next.",
    mend="keep everything that is fitted in the fusion center that `fit` returns, nothing"
    " in the defense, its class or its module.",
    slow=True,
)
def check_second_fit_forgets(trial: DefenseTrial) -> None:
    """After a fit to other data, a fit is as if there had been none before."""
    other = material(1)
    fresh = trial.fit(seed=1, plugin=copy.deepcopy(trial.plugin))
    trial.fit(seed=0)
    again = trial.fit(seed=1)
    expect_same(
        answered(fresh, other.silent),
        answered(again, other.silent),
        "from a second fit as from a first one",
    )
    right = (predictions(answered(again, other.clean)) == other.labels).float().mean()
    best = other.labels.bincount().max() / len(other.labels)
    expect(
        bool(right > best),
        f"more than {100 * best:.0f} % right on the data of the second fit",
        f"{100 * right:.0f} %",
    )


@check(
    "defense",
    why="the next run finds the artifacts of the first; with other numbers from them, a"
    " result would depend on what was stored.",
    mend="name everything that the tensors of `training.reuse(label, fit)` depend on in"
    " the label, and draw nothing inside that what follows depends on.",
    slow=True,
)
def check_fit_from_artifacts(trial: DefenseTrial) -> None:
    """A fit that finds its artifacts gives what the first one gave."""
    store = fresh_store()
    first, second = trial.fit(store=store), trial.fit(store=store)
    observation = trial.material.silent
    expect_same(
        answered(first, observation),
        answered(second, observation),
        "from stored artifacts as without",
    )


@check(
    "defense",
    why="each cell loads the fitted defense from an artifact; one that cannot be stored is"
    " fitted again in every cell.",
    mend="keep lambdas, generators, open files and local classes out of the fusion center;"
    " register tensors with register_buffer.",
)
def check_fusion_center_pickles(trial: DefenseTrial) -> None:
    """A fusion center comes out of pickle with the same answers, twice."""
    expect(
        not trial.unpicklable,
        "a fusion center that can be pickled",
        trial.unpicklable,
    )
    observation = trial.material.silent
    one, two = trial.center(), trial.center()
    expect_same(
        answered(one, observation), answered(two, observation), "from two copies"
    )


@check(
    "defense",
    why="without an adversary a defense that guesses is no defense; most often a sign, an"
    " index or a mask is wrong.",
    mend="compare the fusion center's decisions on clean embeddings with those of"
    " training.undefended.",
)
def check_clean_accuracy(trial: DefenseTrial) -> None:
    """On clean embeddings it is within 10 points of the undefended fusion center."""
    clean, labels = trial.material.clean, trial.material.labels
    own = (predictions(answered(trial.center(), clean)) == labels).double().mean()
    bare = trial.material.training.undefended
    reference = (predictions(answered(bare, clean)) == labels).double().mean()
    expect(
        bool(own >= reference - 0.1),
        f"at least {100 * (reference - 0.1):.0f} % right on clean embeddings, where the"
        f" undefended fusion center has {100 * reference:.0f} %",
        f"{100 * own:.0f} %",
    )


@check(
    "defense",
    why="a missing agent whose block counts as zeros, or whose neighbour is left out in its"
    " place, costs decisions that the agents heard would have got right.",
    mend="fill missing blocks with what was learned from clean data (the training mean), or"
    " leave them out; compare observation.observed with the block it stands for.",
)
def check_accuracy_with_missing_agents(trial: DefenseTrial) -> None:
    """With agents missing it is within 15 points of the undefended fusion center."""
    labels, bare = trial.material.labels, trial.material.training.undefended
    center, clean = trial.center(), trial.material.clean
    for count in (1, 3, 4):
        own, reference = 0.0, 0.0
        for first in range(clean.layout.agents):
            gone = torch.zeros_like(clean.observed)
            gone[:, [(first + i) % clean.layout.agents for i in range(count)]] = True
            seen = clean.without(gone)
            right = (predictions(answered(center, seen)) == labels).double().mean()
            own += float(right) / clean.layout.agents
            right = (predictions(answered(bare, seen)) == labels).double().mean()
            reference += float(right) / clean.layout.agents
        expect(
            own >= reference - 0.15,
            f"at least {100 * (reference - 0.15):.0f} % right with {count} agents missing,"
            f" where the undefended fusion center has {100 * reference:.0f} %",
            f"{100 * own:.0f} %",
        )
