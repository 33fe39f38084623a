"""CoPur: purify the received features on a manifold with a robust l2,1 fit, then decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from cibench import (
    AbstractDefense,
    AffineManifold,
    AgentLayout,
    Capabilities,
    FittedManifold,
    FusionCenter,
    Observation,
    Training,
    differentiable_code,
    hookimpl,
    robust_fit,
)
from cibench.certify import Lead

from .. import papers
from ._certified import Certify, Guard, Parts, guard_for, head_lead, uncertifiable
from ._eq6 import refine
from ._fixed_steps import FixedSteps
from ._purified import (
    Family,
    PurifyingFusionCenter,
    Spread,
    Width,
    manifold_recipe,
)
from ._unrolled import STEPS, unrolled_code


@final
class _Converged(PurifyingFusionCenter):
    """Eq. 5 to convergence from several starts, then Eq. 6; or Eq. 5 within a gap."""

    def __init__(
        self,
        fitted: FittedManifold,
        head: nn.Module,
        tau: float | None,
        max_iterations: int,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(fitted, head)
        self.tau = tau
        self.max_iterations = max_iterations
        self.guard = guard

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The manifold, and with a gap its limit."""
        return {**super().facts, **({} if self.guard is None else self.guard.facts)}

    @property
    def certify(self) -> Certify | None:
        """See `Guard`; None without a gap."""
        if self.guard is None:
            return None
        return partial(self.guard.certify, self, self._lead(self.guard))

    @property
    def certificate_parts(self) -> Parts | None:
        """See `Guard`; None without a gap."""
        if self.guard is None:
            return None
        return partial(self.guard.certificate_parts, self, self._lead(self.guard))

    def _lead(self, guard: Guard) -> Lead:
        return head_lead(self.head, guard.manifold)

    def with_effort(self, factor: int) -> _Converged:
        """With so many times the iterations of Eq. 5."""
        most = factor * self.max_iterations
        guard = self.guard and replace(self.guard, max_iterations=most)
        return _Converged(self.fitted, self.head, self.tau, most, guard)

    def purify(self, observation: Observation) -> tuple[Tensor, Tensor]:
        if self.guard is not None:
            return self.guard.purify(observation)
        fit = robust_fit(self.manifold, observation, max_iterations=self.max_iterations)
        if self.tau is None:
            return self.manifold.decode(fit.code), fit.status
        return refine(self.manifold, observation, fit, tau=self.tau)

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """Through the steps of Eq. 5's solver, and past the solver."""
        return {"unrolled": self.unrolled, **super().routes}

    def samples_per_gradient(self, route: str) -> int:
        """Every step keeps a working set of its own."""
        whole = super().samples_per_gradient(route)
        return max(1, whole // STEPS) if route == "unrolled" else whole

    def unrolled(self, observation: Observation) -> Tensor:
        """The true answer, with the derivative of the first steps towards Eq. 5."""
        dtype = observation.features.dtype
        with torch.no_grad():
            true = self.purify(observation)[0].to(dtype)
        received = observation.filled(0.0)
        return self.answers(true + self.unrolled_change(observation).to(received))

    def unrolled_change(self, observation: Observation) -> Tensor:
        """`(n, width)` zeros with the derivative of the unrolled purified features."""
        wide = observation.with_features(observation.features.double())
        if self.manifold.family == "affine":
            start = self.manifold.encode(wide.filled(self.manifold.mean))
        else:
            with torch.no_grad():
                start = robust_fit(self.manifold, wide, max_iterations=10).code
        purified = self.manifold.decode(unrolled_code(self.manifold, wide, start))
        return purified - purified.detach()

    def surrogate(self, observation: Observation) -> Tensor:
        """The head behind Eq. 5 with its implicit derivative.

        Where Eq. 6 moves the point, its logits are the true ones; only its derivative is
        left out.
        """
        logits: Tensor = self.head(self.differentiable_eq5(observation))
        if self.tau is None:
            return logits
        with torch.no_grad():
            true = self.decide(observation).logits
        return true + (logits - logits.detach())

    def differentiable_eq5(self, observation: Observation) -> Tensor:
        """`(n, width)` solution of Eq. 5 with its implicit derivative."""
        wide = observation.with_features(observation.features.double())
        with torch.no_grad():
            fit = robust_fit(self.manifold, wide, max_iterations=60, tolerance=1e-5)
        code = differentiable_code(self.manifold, wide, fit.code)
        return self.manifold.decode(code).to(observation.features.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class CoPur(AbstractDefense):
    """Feature purification: find the point of a manifold that explains most blocks.

    Eq. 5 fits the manifold to the observed blocks in the sum of block norms, which a
    minority of corrupted blocks cannot drag far when honest blocks are redundant; Eq. 6
    then trades distance to what was received against distance to the manifold. The head
    decides on D(E(l)).

    Args:
        solver: `converged` solves both problems; `paper` takes the published number of
            gradient steps; `released` does so with the released code's variants (stage 1
            also fits missing blocks as zeros; a sample stops at gradient norm 0.1).
        tau: weight of the manifold residual in Eq. 6; none takes 2 for the converged
            solver and the published 1000 for the others.
        refine: whether the converged solver goes on from Eq. 5 to Eq. 6. On an affine
            manifold with tau >= 1 both have the same solution, and Eq. 6 is not run.
        manifold: `affine` (the problem is convex: one global minimum, found in
            microseconds), `mlp` (the paper's autoencoder, several starts), or `auto`:
            whichever recovers simulated corruptions of validation data better. None takes
            `affine` for the converged solver and `mlp` for the others.
        width: width of the code (the paper's: 150); none selects it by the same rule.
        max_iterations: limit per sample of the converged solver's Eq. 5; Eq. 6 has 60.
        spread: of an affine manifold: how much explained energy is given up so that no
            agent alone holds a direction of the code, which certificates need; 0 for
            principal components.
        gap: every answer's Eq. 5 is proved to be within this share of the sum of block
            deviations of a typical clean sample, and blocks beyond 100 times the largest
            clean deviation are moved to there. Decisions can then be certified, and the
            fitted fusion center has `certify`. None: neither.

    Source: Liu, Xie, Koyejo and Li 2022, Eq. 5 and 6.
    """

    name: ClassVar[str] = "copur"
    citation: ClassVar[str] = "Liu, Xie, Koyejo, Li: CoPur. NeurIPS 2022, Eq. 5-6"
    bibtex: ClassVar[str] = papers.COPUR
    capabilities: ClassVar[Capabilities] = Capabilities(optimizes_at_inference=True)

    solver: Literal["converged", "paper", "released"] = "converged"
    tau: Annotated[float, Meta(gt=0)] | None = None
    refine: bool = True
    manifold: Family | None = None
    width: Width = None
    max_iterations: Annotated[int, Meta(ge=1)] = 200
    spread: Spread = 0.0
    gap: Annotated[float, Meta(ge=1e-6, le=1)] | None = None

    def __post_init__(self) -> None:
        own = "affine" if self.solver == "converged" else "mlp"
        if self.spread and (self.manifold or own) != "affine":
            raise ValueError(
                "spread: expected an affine manifold, whose basis agents can share evenly,"
                f" got manifold={self.manifold or own}"
            )
        if self.gap is None:
            return
        if self.solver != "converged" or self.manifold not in (None, "affine"):
            raise ValueError(
                "gap: expected the converged solver and an affine manifold, whose fit has"
                f" one minimum, got solver={self.solver} and manifold={self.manifold}"
            )
        if self.refine and self.tau is not None and self.tau < 1:
            raise ValueError(
                "gap: expected tau of at least 1, for which Eq. 6 has the solution of"
                f" Eq. 5, or refine=false, got tau={self.tau:g}"
            )

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """Without a gap, however many agents; with one, half of them."""
        return uncertifiable(self.name, self.gap, layout, corrupted)

    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit the manifold and the head on its output."""
        own: Family = "affine" if self.solver == "converged" else "mlp"
        recipe = manifold_recipe(self.manifold or own, self.width, self.spread)
        fitted = training.manifold(recipe)
        head = training.manifold_head(recipe)
        if self.solver == "converged":
            tau = (self.tau or 2.0) if self.refine else None
            # An affine D(E(.)) is a projection P, so for tau >= 1 the sum of Eq. 6 is at
            # least sum ||h - P l||: Eq. 5's minimizer is its own, and nothing is left.
            if fitted.manifold.family == "affine" and tau is not None and tau >= 1:
                tau = None
            guard = None
            if self.gap is not None:
                assert isinstance(fitted.manifold, AffineManifold)
                guard = guard_for(
                    fitted.manifold, training, self.gap, self.max_iterations
                )
            return _Converged(fitted, head, tau, self.max_iterations, guard)
        return FixedSteps(
            fitted, head, self.tau or 1000.0, released=self.solver == "released"
        )


@hookimpl
def cibench_defenses() -> list[type[AbstractDefense]]:
    """Provide `copur`."""
    return [CoPur]
