"""What a certificate promises: nothing within its budget moves the decision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..defense import FusionCenter
from ..observation import Observation
from ..references import predictions
from .check import NotApplicable, check, expect
from .trial import DefenseTrial, answered

#: Samples tried, sets of agents of a size, and steps of the descents.
_SAMPLES, _SETS, _STEPS = 30, 10, 8


@check(
    "defense",
    why="certified accuracy is read as proved; a certificate that an attack breaks makes"
    " every number of its curve worthless.",
    mend="certify the decision that `forward` makes, blocks that it refuses counted as"
    " missing; grant the adversary any payload and silence, for every set of so many of the"
    " agents heard; break ties as `decide` does, and say what is proved in the docstring.",
)
def check_certificate(trial: DefenseTrial) -> None:
    """Nothing that is tried within a certified budget moves a certified decision."""
    center = trial.center()
    agents = callable(getattr(center, "certify", None))
    norm = callable(getattr(center, "radius", None))
    if not agents and not norm:
        raise NotApplicable("it certifies nothing")
    for observation in (trial.material.clean, trial.material.silent):
        # Every other one of all classes, which take turns.
        some = observation[: 2 * _SAMPLES : 2]
        if agents:
            _try_agents(center, some)
        if norm:
            _try_radius(center, some)


def _try_agents(center: FusionCenter, observation: Observation) -> None:
    agents = observation.layout.agents
    for corrupted in range(1, agents + 1):
        with torch.no_grad():
            held = center.certify(observation, corrupted)  # type: ignore[operator]
        _expect_vector(held, len(observation), "certify", "booleans")
        expect(
            held.dtype == torch.bool,
            "booleans from `certify`",
            str(held.dtype),
        )
        if not held.any():
            continue
        certified = observation[held]
        before = predictions(answered(center, certified))
        sets = list(itertools.combinations(range(agents), corrupted))
        for members in sets[:: math.ceil(len(sets) / _SETS)]:
            own = torch.zeros_like(certified.observed)
            own[:, list(members)] = True
            own &= certified.observed
            for what, sent in _payloads(center, certified, own, before):
                fell = predictions(answered(center, sent)) != before
                names = [observation.layout.names[i] for i in members]
                expect(
                    not fell.any(),
                    f"all {len(before)} decisions that `certify` says outlast {corrupted}"
                    " corrupted agents to stand",
                    f"{int(fell.sum())} that fall when {', '.join(names)} send {what}",
                )


def _payloads(
    center: FusionCenter, clean: Observation, own: Tensor, decided: Tensor
) -> Iterator[tuple[str, Observation]]:
    """What corrupted agents may send, each with its name.

    Args:
        own: `(n, agents)` corrupted agents.
        decided: `(n,)` classes without them.
    """
    values, mask = clean.features, clean.layout.expand(own)

    def sending(payload: Tensor | float) -> Observation:
        return clean.with_features(torch.where(mask, payload, values))

    yield "nothing", clean.without(own)
    for value in (0.0, -1e6, 9e14, torch.nan):
        yield f"{value:g}", sending(value)
    yield "their blocks turned round", sending(-10.0 * values)
    for shift in (1, 2):
        donor = _donors(clean, decided, shift)
        yield "blocks of other samples", sending(donor)
        yield (
            "more than other samples' blocks",
            sending(values + 4.0 * (donor - values)),
        )
        first = own & (own.cumsum(dim=1) == 1)
        yield (
            "other samples' blocks, but for one that is silent",
            (sending(donor).without(first)),
        )
        yield (
            "what its gradient asks for",
            _descended(center, sending(donor), mask, decided),
        )


def _donors(clean: Observation, decided: Tensor, shift: int) -> Tensor:
    """`(n, width)` features of another sample, of another decision where there is one."""
    n = len(decided)
    order = (torch.arange(n)[:, None] + shift + torch.arange(n)) % n
    other = decided[order] != decided[:, None]
    # The first of another decision; its turn comes `shift` later for the next round.
    place = other.to(torch.uint8).argmax(dim=1, keepdim=True)
    return clean.filled(0.0)[order.gather(1, place).squeeze(1)]


def _descended(
    center: FusionCenter,
    start: Observation,
    mask: Tensor,
    decided: Tensor,
    limit: Tensor | None = None,
) -> Observation:
    """Steps down the surrogate's score of the decided class, from `start`.

    Args:
        mask: `(n, width)` features that may change.
        decided: `(n,)` classes; samples that abstain stay where they are.
        limit: `(n, 1)` largest change altogether; None for none, with steps of the size
            of the changed part.
    """
    origin = torch.where(mask, start.features, 0.0).nan_to_num(0.0)
    step = 0.5 * torch.linalg.vector_norm(origin, dim=1, keepdim=True)
    step = step if limit is None else limit / 2
    change = torch.zeros_like(origin)
    target = decided.clamp_min(0)[:, None]
    for _ in range(_STEPS):
        change = change.detach().requires_grad_()
        moved = start.with_features(start.features + torch.where(mask, change, 0.0))
        scores = center.differentiable_logits(moved).log_softmax(dim=1)
        loss = scores.gather(1, target).sum()
        (slope,) = torch.autograd.grad(loss, change)
        slope = torch.where(mask, slope, 0.0).nan_to_num(0.0)
        length = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
        change = change.detach() - step * slope / length.clamp_min(1e-30)
        if limit is not None:
            size = torch.linalg.vector_norm(change, dim=1, keepdim=True)
            change = change * (limit / size.clamp_min(1e-30)).clamp(max=1.0)
    return start.with_features(start.features + torch.where(mask, change, 0.0))


def _try_radius(center: FusionCenter, observation: Observation) -> None:
    with torch.no_grad():
        radius, classes = center.radius(observation)  # type: ignore[operator]
    _expect_vector(radius, len(observation), "radius", "radii")
    _expect_vector(classes, len(observation), "radius", "classes")
    expect(
        bool((radius >= 0).all()) and bool(radius.isfinite().all()),
        "finite radii of at least 0 from `radius`",
        "others",
    )
    held = (classes == predictions(answered(center, observation))) & (radius > 0)
    if not held.any():
        return
    certified, before = observation[held], classes[held]
    proved = float(center.facts.get("alpha", 0.001)) == 0
    # A vote over drawn noise holds with some chance, and for infinitely many draws: near
    # its radius the counted one may fall. Half way there hardly one should.
    allowed = 0 if proved else math.ceil(0.1 * len(before))
    size = (0.999 if proved else 0.5) * radius[held].to(certified.features)[:, None]
    mask = certified.layout.expand(certified.observed)
    fell = torch.zeros_like(before, dtype=torch.bool)
    away = [_donors(certified, before, shift) - certified.features for shift in (1, 2)]
    for each in away:
        along = torch.where(mask, each, 0.0)
        along = along / torch.linalg.vector_norm(along, dim=1, keepdim=True)
        sent = certified.with_features(
            certified.features + size * along.nan_to_num(0.0)
        )
        fell |= predictions(answered(center, sent)) != before
    sent = _descended(center, certified, mask, before, size)
    fell |= predictions(answered(center, sent)) != before
    share = "within" if proved else "half way to"
    expect(
        int(fell.sum()) <= allowed,
        f"decisions to stand {share} their radius, but for {allowed} of {len(before)}",
        f"{int(fell.sum())} that fall",
    )


def _expect_vector(found: object, n: int, method: str, what: str) -> None:
    expect(
        isinstance(found, Tensor) and found.shape == (n,),
        f"{what} of shape ({n},) from `{method}`",
        str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__,
    )
