"""CoPur with a smoothed head: purify, then vote under Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    AbstractDefense,
    AgentLayout,
    Capabilities,
    Decision,
    FusionCenter,
    Observation,
    Training,
    hookimpl,
)
from cibench.certify import Lead

from .. import papers
from ._certified import Certify, Guard, Parts, uncertifiable
from ._noise import CertifyingOptions, Clean
from ._purified import Family, PurifyingFusionCenter, Spread, Width
from ._smoothing import Smoother
from .copur import CoPur, _Converged


@final
class _SmoothedCoPur(PurifyingFusionCenter):
    """The vote of a head over noise on all purified features.

    Args:
        purifier: CoPur's converged solver.
        smoother: the head with its bank of noise.
    """

    def __init__(self, purifier: _Converged, smoother: Smoother) -> None:
        super().__init__(purifier.fitted, smoother.head)
        self.purifier = purifier
        self.smoother = smoother

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The manifold, the noise and the largest radius it can certify."""
        return {**self.purifier.facts, **self.smoother.facts}

    @property
    def certify(self) -> Certify | None:
        """Of the very votes that decide, without chance; None without a gap."""
        guard = self.purifier.guard
        if guard is None:
            return None
        return partial(guard.certify, self, self._lead(guard))

    @property
    def certificate_parts(self) -> Parts | None:
        """The parts of such a certificate; None without a gap.

        Their `lead` is in votes; `radius` is that of `purified_radius`, or 0 where its
        class is not the one decided.
        """
        return None if self.purifier.guard is None else self._parts

    def _lead(self, guard: Guard) -> Lead:
        return partial(self.smoother.vote_lead, guard.manifold.basis)

    def _parts(self, observation: Observation, corrupted: int) -> dict[str, Tensor]:
        guard = self.purifier.guard
        assert guard is not None
        found = guard.certificate_parts(self, self._lead(guard), observation, corrupted)
        radius, classes = self.purified_radius(observation)
        same = classes == self(observation).logits.argmax(dim=1)
        return {**found, "radius": torch.where(same, radius, 0.0)}

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """Those of CoPur, before the vote."""
        return {"unrolled": self.unrolled, **super().routes}

    def samples_per_gradient(self, route: str) -> int:
        """As CoPur's."""
        return self.purifier.samples_per_gradient(route)

    def with_effort(self, factor: int) -> _SmoothedCoPur:
        """Behind the purifier with so many times the iterations."""
        return _SmoothedCoPur(self.purifier.with_effort(factor), self.smoother)

    def answers(self, purified: Tensor) -> Tensor:
        """The mean softmax over the bank."""
        everyone = torch.ones_like(purified[:, : self.manifold.layout.agents])
        return self.smoother.surrogate(purified, everyone.bool())

    def unrolled(self, observation: Observation) -> Tensor:
        """The vote's surrogate behind the first steps towards Eq. 5."""
        with torch.no_grad():
            true = self.purify(observation)[0].to(observation.features)
        change = self.purifier.unrolled_change(observation)
        return self.answers(true + change.to(true))

    def purify(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """CoPur's purified features and its solver's status."""
        return self.purifier.purify(observation)

    def decide(self, observation: Observation) -> Decision:
        """Purify, then vote: missing blocks are purified too, so all take noise."""
        purified, status = self.purify(observation)
        purified = purified.to(observation.features.dtype)
        voted = self.smoother.decide(purified, _all(observation))
        return replace(voted, purified=purified, status=status)

    def surrogate(self, observation: Observation) -> Tensor:
        """The mean softmax over the bank behind Eq. 5 with its implicit derivative.

        Where Eq. 6 moves the point, the mean is taken there; only its derivative is left
        out.
        """
        purified = self.purifier.differentiable_eq5(observation)
        if self.purifier.tau is not None:
            with torch.no_grad():
                true = self.purify(observation)[0].to(purified.dtype)
            purified = true + (purified - purified.detach())
        return self.smoother.surrogate(purified, _all(observation))

    def purified_radius(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """CERTIFY of Cohen et al.: how far the purified features may move, jointly.

        Returns:
            `(n,)` l2 radius around the purified features, 0 where it abstains; and the
            `(n,)` class that holds within it. A bound on how far an adversary moves the
            purified features, such as CoPur's theorem 4, turns it into robustness.
        """
        purified = self(observation).purified
        assert purified is not None
        return self.smoother.radius(purified, _all(observation))


def _all(observation: Observation) -> Tensor:
    return torch.ones_like(observation.observed)


@final
@dataclass(frozen=True, kw_only=True)
class CoPurSmoothed(CertifyingOptions):
    """CoPur's purifier in front of a smoothed head.

    CoPur bounds how far an adversary can move the purified features; smoothing tells how
    far they may move without another decision. Purification is `copur` with its converged
    solver. The noise is drawn once, when the defense is fitted, and is the same for all
    samples; a certificate holds for each sample with probability 1 - alpha over that draw.

    Args:
        sigma: standard deviation of the noise.
        units: of sigma: `relative` to the root mean square deviation of the clean
            features on the manifold, so that one default serves data of any scale; or
            `absolute` (the released code: 0.5 for ExtraSensory, 0.01 for NUS-WIDE).
        draws: noise vectors in the bank; the paper takes 1000.
        head: `clean`, the head trained without noise, as in the paper; or `noisy`, one
            trained with noise of that sigma, as Cohen et al. do.
        mode: `paper`, the class of most votes; or `cohen`, which abstains where a binomial
            test does not tell the two first classes apart.
        alpha: chance that such a test answers another class than infinitely many draws
            would, and that a radius is too large; each for a single sample.
        selection: draws beside the bank that choose the class a radius is for.
        manifold: family of the manifold, as in `copur`.
        width: width of the code, as in `copur`.
        spread: as in `copur`.
        gap: as in `copur`: with it the fitted fusion center has `certify`. It counts the
            votes of the drawn noise that no error within the purifier's bound can move,
            and holds without chance; `purified_radius` is for infinitely many draws.

    Source: Liu, Xie, Koyejo and Li 2022, section 4; Cohen, Rosenfeld and Kolter 2019.
    """

    name: ClassVar[str] = "copur-smoothed"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, section 4"
    bibtex: ClassVar[str] = papers.COPUR + papers.COHEN
    capabilities: ClassVar[Capabilities] = Capabilities(
        optimizes_at_inference=True, abstains=True
    )

    manifold: Family = "affine"
    width: Width = None
    spread: Spread = 0.0
    gap: Annotated[float, Meta(ge=1e-6, le=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._copur()

    def _copur(self) -> CoPur:
        return CoPur(
            manifold=self.manifold, width=self.width, spread=self.spread, gap=self.gap
        )

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """As of CoPur."""
        return uncertifiable(self.name, self.gap, layout, corrupted)

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit CoPur, draw the noise; train a head with it if asked to."""
        purifier = self._copur().fit(training, generator=generator)
        assert isinstance(purifier, _Converged)

        def on_manifold(clean: Observation) -> Observation:
            filled = clean.filled(purifier.manifold.mean).double()
            points = purifier.manifold.reconstruct(filled).to(clean.features)
            return Observation(points, torch.ones_like(clean.observed), clean.layout)

        clean = Clean(
            head=purifier.head,
            train=on_manifold(training.train),
            validation=on_manifold(training.validation),
            fill=purifier.manifold.mean,
            dropout=0.0,
        )
        smoother = self.certifying(training, clean, generator=generator)
        return _SmoothedCoPur(purifier, smoother)


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `copur-smoothed`."""
    return [CoPurSmoothed]
