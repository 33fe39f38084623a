"""What a defense declares of itself and offers to adversaries: noise, solver, gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..defense import SOLVER_STATUS, FusionCenter
from ..oracle import OracleFusionCenter
from ..references import predictions
from .check import check, expect
from .compare import expect_same
from .disturb import disturb
from .trial import DefenseTrial, answered


@check(
    "defense",
    why="solvers that stop early mask gradients and look robust; readers judge a row by"
    " whether its solver converged.",
    mend="declare Capabilities(optimizes_at_inference=True) and give Decision(status=...)"
    " with an index into cibench.SOLVER_STATUS for each sample; without a solver neither.",
)
def check_solver_declared(trial: DefenseTrial) -> None:
    """A solver's status is given only by a defense that declares one."""
    status = answered(trial.center(), trial.material.silent).status
    declared = trial.plugin.capabilities.optimizes_at_inference
    expect(
        declared or status is None,
        "no status of a solver that is not declared",
        "one; is it optimizes_at_inference?",
    )
    if status is not None:
        expect(
            bool((status < len(SOLVER_STATUS)).all()),
            f"a status below {len(SOLVER_STATUS)} for each sample",
            f"{int(status.max())}",
        )


@check(
    "defense",
    why="adaptive attacks follow this gradient; without one the defense only looks robust,"
    " and its rows are flagged.",
    mend="compute with torch from input to logits, without .detach(), .item(), rounding or"
    " numpy; where that cannot be, override `surrogate` with something that has one.",
)
def check_gradient(trial: DefenseTrial) -> None:
    """The differentiable logits have finite gradients, which are not zero."""
    clean, labels = trial.material.clean, trial.material.labels
    center = _told(trial.center(), torch.zeros_like(clean.observed))
    features = clean.features.clone().requires_grad_()
    logits = center.differentiable_logits(clean.with_features(features))
    expect(
        logits.requires_grad,
        "logits that depend on the features for autograd",
        "detached ones",
    )
    loss = torch.nn.functional.cross_entropy(
        logits / logits.detach().abs().amax(), labels
    )
    (gradient,) = torch.autograd.grad(loss, features)
    expect(bool(gradient.isfinite().all()), "finite gradients", "others")
    norms = clean.layout.block_norms(gradient.double())
    usable = (norms.norm(dim=1) > 0).double().mean()
    expect(
        bool(usable >= 0.9),
        "a gradient for at least 90 % of the samples",
        f"zeros but for {100 * usable:.0f} %",
    )
    dead = (norms == 0).all(dim=0)
    names = [clean.layout.names[i] for i in dead.nonzero().flatten().tolist()]
    expect(not names, "a gradient with respect to every agent", f"none for {names}")


@check(
    "defense",
    why="attacks on the surrogate say something of the defense only if both mostly agree.",
    mend="let `surrogate` give logits whose largest one is what `decide` decides.",
)
def check_surrogate_agrees(trial: DefenseTrial) -> None:
    """On clean embeddings the surrogate decides as the fusion center does."""
    clean = trial.material.clean
    center = _told(trial.center(), torch.zeros_like(clean.observed))
    with torch.no_grad():
        guess = center.differentiable_logits(clean).argmax(dim=1)
    decided = predictions(answered(center, clean))
    agree = (guess == decided)[decided >= 0].double().mean()
    expect(
        bool(agree >= 0.8),
        "the surrogate's largest logit to be the decision for 80 % of clean samples",
        f"{100 * agree:.0f} %",
    )


@check(
    "defense",
    why="attacks average over the noise of a defense that declares it (EOT); against noise"
    " that is not declared they lose their way, and the defense only looks robust.",
    mend="declare Capabilities(randomized=True) if decisions depend on noise drawn at"
    " inference, however it is seeded; otherwise do not.",
)
def check_randomness_declared(trial: DefenseTrial) -> None:
    """An imperceptible change of the input moves answers only of a randomized defense."""
    clean, center = trial.material.clean, trial.center()
    disturb(11)
    here = answered(center, clean)
    disturb(12)
    expect_same(here, answered(center, clean), "to the same samples asked twice")
    nearby = answered(center, clean.with_features(clean.features * (1 + 3e-7)))
    size = here.logits.abs().amax().clamp_min(1e-12)
    moved = ((here.logits - nearby.logits).abs().amax(dim=1) / size).median()
    declared = trial.plugin.capabilities.randomized
    if declared:
        expect(
            bool(moved >= 1e-4),
            "logits that move with the features' last digits, as it declares randomness",
            f"a median change of {100 * moved:.2g} % of the largest logit",
        )
        return
    expect(
        bool(moved < 1e-3),
        "logits that hardly move when features change by 3e-7 of their size",
        f"a median change of {100 * moved:.2g} % of the largest logit",
    )


def _told(center: FusionCenter, corrupted: Tensor) -> FusionCenter:
    return center.told(corrupted) if isinstance(center, OracleFusionCenter) else center
