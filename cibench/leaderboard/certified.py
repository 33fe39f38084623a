"""Certified accuracy by radius; never mixed with accuracy under attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bootstrap import Floats
from ..results.record import Certificate
from .model import Certified
from .places import Held
from .worst import Samples, share

#: Points of a curve; steps between them are left out.
POINTS = 60


def certified(
    clean: dict[int, Held], board: Samples, compromised: int | None
) -> list[Certified]:
    """A row's certified accuracies, over all test samples and the board's seeds.

    Args:
        clean: records without attack, by seed.
        board: the samples that are decided.
        compromised: how many agents the board's adversary holds, if that is known.
    """
    found = []
    for kind in ("agents", "l2"):
        proofs, right = [], []
        for seed in board.seeds:
            held = clean.get(seed)
            own = None if held is None else _of_kind(held.record.certificates, kind)
            if held is None or own is None or held.record.outcomes is None:
                break
            decided = np.array(held.record.outcomes.clean)
            if len(own.radius) != len(board.labels) or len(decided) != len(
                board.labels
            ):
                break
            proofs.append(own)
            right.append(decided == board.labels)
        if len(proofs) < len(board.seeds):
            continue
        radius = np.array([own.radius for own in proofs])
        correct = np.array(right)
        radii = steps(np.where(correct, radius, 0.0), whole=kind == "agents")
        accuracy = [float((correct & (radius >= r)).mean()) for r in radii]
        here = None
        # An l2 ball holds no change without bound, nor an agent that falls silent.
        if kind == "agents" and compromised is not None:
            here = share(
                correct & (radius >= compromised), np.ones(len(board.labels), bool)
            )
        found.append(
            Certified(
                kind=kind,
                confidence=min(own.confidence for own in proofs),
                radii=radii,
                accuracy=accuracy,
                here=here,
            )
        )
    return found


def steps(radius: Floats, *, whole: bool) -> list[float]:
    """Radii at which a curve of these is given, from 0 up; at most `POINTS`.

    Numbers of agents run one beyond the largest, where nothing is certified.
    """
    if whole:
        return [float(count) for count in range(min(POINTS, int(radius.max()) + 2))]
    distinct = np.unique(np.append(radius.ravel(), 0.0))
    if len(distinct) > POINTS:
        chosen = np.linspace(0, len(distinct) - 1, POINTS).round().astype(int)
        distinct = distinct[chosen]
    return [float(value) for value in distinct]


def _of_kind(certificates: Sequence[Certificate], kind: str) -> Certificate | None:
    return next((own for own in certificates if own.kind == kind), None)
