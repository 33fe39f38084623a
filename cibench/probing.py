"""What is measured of a cell to raise its flags, beside its numbers.

Only attacks that know the defense and follow its gradients are probed. Some checks look at
every sample of the attack itself; the others ask the fusion center, or attack it again, on
a few samples, so that they cost a small part of the cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .defense import SURROGATE, FusionCenter
from .gradient_check import check_gradient
from .observation import Observation
from .oracle import OracleFusionCenter
from .planted import planted_missed
from .references import decide, predictions
from .scenario import Draw, Scenario
from .seeds import scoped_generator
from .threat import Knowledge
from .watch import Watch

#: Most samples that are probed, and least, of those there are.
MOST, LEAST = 32, 16
#: One sample in so many is probed, within these limits.
SHARE = 16
#: Logits differ where they do by more than this share of the largest.
DIFFERS = 0.01
#: Relative size of a change of the last digits that arrive.
LAST_DIGITS = 1e-6


class Signs:
    """Collects what the draws of a cell show, then probes the fusion center.

    Args:
        scenario: the cell's.
        clean_logits: `(n, classes)` decisions on clean embeddings.
        undefended: the undefended fusion center.
    """

    def __init__(
        self, scenario: Scenario, clean_logits: Tensor, undefended: FusionCenter
    ) -> None:
        self.scenario, self.undefended = scenario, undefended
        criterion = scenario.criterion
        self._start = criterion.margin(clean_logits)
        #: Samples the attack has yet to move.
        self._moved = criterion.eligible & ~criterion.succeeded(clean_logits)
        nobody = torch.zeros_like(self._moved)
        self._lost, self._progress, self._own = nobody, nobody, nobody
        self._late, self._early = nobody, nobody
        self._watched = self._averaged = self._followed = False
        self._hardest: tuple[int, Draw, Observation] | None = None

    def add(
        self,
        draw: Draw,
        watches: list[Watch],
        sent: Observation,
        logits: Tensor,
        decided: Tensor,
    ) -> None:
        """Take in one more draw.

        Args:
            watches: of the parts of the attack; empty if nobody watched.
            sent: what the attack sent.
            logits: `(n, classes)` decisions under attack.
            decided: `(n,)` classes that were decided.
        """
        criterion = self.scenario.criterion
        right = int(((decided == criterion.labels) & criterion.eligible).sum())
        if self._hardest is None or right < self._hardest[0]:
            self._hardest = right, draw, sent
        self._progress = self._progress | (criterion.margin(logits) < self._start)
        reached = (draw.compromised & self.scenario.clean.observed).any(dim=1)
        self._own = self._own | reached
        if watches:
            self._watched = True
            goal = criterion.target
            won = decided != criterion.labels if goal is None else decided == goal
            last = watches[-1]
            self._lost = self._lost | (last.found & ~won)
            self._late = self._late | last.late
            self._early = self._early | ((last.first > 0) & ~last.late)
            self._averaged |= any(watch.averaged for watch in watches)
            self._followed |= any(watch.asked > 0 for watch in watches)

    def measured(self, center: FusionCenter, standing: Tensor) -> dict[str, float]:
        """Everything measured, by name; see `cibench.flags`. The hardest draw is probed.

        Args:
            center: the defended fusion center.
            standing: `(n,)` samples decided rightly after all.
        """
        assert self._hardest is not None
        _, draw, sent = self._hardest
        counted = self.scenario.criterion.eligible
        found: dict[str, float | None] = {}
        if self._watched:
            found["lost_success"] = _share(self._lost & standing, counted)
            late = self._late & ~self._early & ~standing
            found["broken_late"] = _share(late, counted)
        if not isinstance(center, OracleFusionCenter):
            stuck = self._moved & self._own & ~self._progress
            found["no_progress"] = _share(stuck, self._moved & self._own)
        own = draw.compromised & self.scenario.clean.observed
        reached = counted & own.any(dim=1)
        chosen = self._some(reached)
        if len(chosen):
            found |= self._asked(center, draw, sent, chosen)
            found |= self._attacked(center, draw, chosen)
        return {name: value for name, value in found.items() if value is not None}

    def _some(self, samples: Tensor) -> Tensor:
        """Indices of some of the given samples, spread evenly."""
        at = samples.nonzero().squeeze(1)
        wanted = min(MOST, max(LEAST, len(samples) // SHARE))
        if len(at) <= wanted:
            return at
        return at[torch.linspace(0, len(at) - 1, wanted).round().long().to(at.device)]

    def _asked(
        self, center: FusionCenter, draw: Draw, sent: Observation, at: Tensor
    ) -> dict[str, float | None]:
        """Checks that only ask the fusion center."""
        scenario = self.scenario
        clean, told = scenario.clean[at], _told(center, draw.compromised[at])
        own = draw.compromised[at] & clean.observed
        differ = _differ(told, clean, self._generator("last digits"))
        found: dict[str, float | None] = {}
        if self._followed or not self._watched:
            found["answers_differ"] = differ
        if differ:
            # Differences of an answer by chance say nothing of its slope.
            found["answers_differ_averaged"] = float(self._averaged)
        else:
            norms = torch.where(own, scenario.median_norms.to(clean.features), 0.0)
            checked = check_gradient(
                told,
                clean,
                scenario.criterion[at],
                own=own,
                length=torch.linalg.vector_norm(norms.double(), dim=1),
                generator=self._generator("gradient"),
                route=str(getattr(scenario.attack[-1], "gradient", SURROGATE)),
            )
            found["gradient_cosine"] = checked.cosine
            found["gradient_descends"] = checked.descends
        slower = told.with_effort(10)
        if slower is not None:
            given, labels = sent[at], scenario.labels[at]
            before, after = (
                (predictions(decide(each, given)[0]) == labels).double().mean()
                for each in (told, slower)
            )
            found["more_solver_steps"] = float((before - after).abs())
        return found

    def _attacked(
        self, center: FusionCenter, draw: Draw, at: Tensor
    ) -> dict[str, float]:
        """The same attack on planted counter-examples."""
        scenario = self.scenario
        if len(scenario.attack) != 1 or not scenario.attack[0].threat.may_corrupt:
            return {}
        return planted_missed(
            _told(center, draw.compromised[at]),
            scenario.attack[0],
            scenario.clean[at],
            scenario.clean,
            compromised=draw.compromised[at],
            radius=scenario.radius(0),
            targeted=scenario.criterion.target is not None,
            recorded=scenario.recorded,
            generator=self._generator("planted"),
        )

    def _generator(self, of: str) -> torch.Generator:
        return scoped_generator(
            self.scenario.seed, draw="probes", dataset=self.scenario.dataset, of=of
        )


def in_reach(
    compromised: Tensor | None, decided: Tensor, scenario: Scenario
) -> dict[str, float]:
    """`undefended_in_reach`: accuracy where a compromised agent was heard at all.

    An agent that recorded nothing has nothing to corrupt: that no attack moves such a
    sample says nothing of the attack. Empty where there is none of them, or no other.

    Args:
        compromised: `(n, agents)` agents the adversary controlled.
        decided: `(n,)` classes the undefended fusion center decided under attack.
    """
    counted = scenario.criterion.eligible
    if compromised is None:
        return {}
    reached = counted & (compromised & scenario.clean.observed).any(dim=1)
    if not reached.any() or torch.equal(reached, counted):
        return {}
    share = _share(decided == scenario.labels, reached)
    return {} if share is None else {"undefended_in_reach": share}


def probed(scenario: Scenario, gradients: int) -> bool:
    """Whether a cell is probed: its attack knows the defense and follows gradients."""
    knows = any(a.threat.knowledge is Knowledge.ADAPTIVE for a in scenario.attack)
    return knows and gradients > 0


def _told(center: FusionCenter, corrupted: Tensor) -> FusionCenter:
    if isinstance(center, OracleFusionCenter):
        return center.told(corrupted)
    return center


def _differ(
    center: FusionCenter, clean: Observation, generator: torch.Generator
) -> float:
    """Share of samples answered otherwise when asked again, or of other last digits."""
    noise = torch.randn(clean.features.shape, generator=generator)
    nudged = clean.features * (1 + LAST_DIGITS * noise.to(clean.features))
    with torch.no_grad():
        first = center(clean).logits
        others = [center(each).logits for each in (clean, clean.with_features(nudged))]
    least = DIFFERS * first.abs().amax(dim=1)
    differs = [(other - first).abs().amax(dim=1) > least for other in others]
    return float((differs[0] | differs[1]).double().mean())


def _share(holds: Tensor, counted: Tensor) -> float | None:
    total = int(counted.sum())
    return int((holds & counted).sum()) / total if total else None
