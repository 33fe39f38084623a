"""The defense interface, the fusion center it returns and the decision that makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from ._errors import ContractError
from .layout import AgentLayout
from .observation import Observation

if TYPE_CHECKING:
    from .embedding import Training
    from .manifold import Manifold

#: The name of the differentiable form that every fusion center has.
SURROGATE = "surrogate"

#: A magnitude whose squares could overflow float32 when summed: treated as absent.
ABSURD_MAGNITUDE = 1e15


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """Outcome of a fusion center for `n` samples.

    Args:
        logits: `(n, classes)`; not probabilities.
        abstained: `(n,)` boolean, or None if the fusion center never abstains.
        purified: `(n, width)` purified features of a purifying defense.
        status: `(n,)` uint8 index into `cibench.SOLVER_STATUS`, or None without a solver.
        rejected: `(n, agents)` blocks that arrived unusable and counted as missing.
    """

    logits: Tensor
    abstained: Tensor | None = None
    purified: Tensor | None = None
    status: Tensor | None = None
    rejected: Tensor | None = None


#: What a per-sample solver may report; the index is stored, the text explains it.
SOLVER_STATUS: tuple[tuple[str, str], ...] = (
    ("converged", "the stopping rule was met"),
    ("max-iterations", "the iteration limit came first; try a larger max_iterations"),
    ("non-finite", "the objective left the finite range; the start was returned"),
    ("no-agents", "no agent was observed; the training mean was returned"),
    ("fixed-steps", "a fixed number of steps was taken, as in the released code"),
)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a defense declares about itself; the conformance suite tests it."""

    randomized: bool = False
    optimizes_at_inference: bool = False
    abstains: bool = False
    needs_corrupted_agents: bool = False
    """Uses oracle information: it is told which agents are corrupted."""


class FusionCenter(nn.Module, ABC):
    """The deployed, defended model: `Observation -> Decision`.

    It never sees labels, corrupted agents or clean features. Authors write `decide`;
    the final `forward` treats unusable blocks as missing, reports them and bounds memory
    by splitting the batch. A sample's answer does not depend on its batch.
    """

    samples_per_chunk: int = 4096

    @property
    def facts(self) -> dict[str, float | int | str]:
        """What a reader of the record should know about the fit; plain values."""
        return {}

    @abstractmethod
    def decide(self, observation: Observation) -> Decision:
        """Decide on sanitized observations; under autograd where that is possible."""

    def surrogate(self, observation: Observation) -> Tensor:
        """`(n, classes)` differentiable logits for adversaries that know the defense.

        Override where `decide` is not differentiable or its derivative is useless.
        """
        return self.decide(observation).logits

    @property
    def routes(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """Differentiable forms beside `surrogate`, by name; each as `surrogate` is.

        An adversary who knows the defense knows several ways to differentiate it, and the
        strongest is not known beforehand. Names in use: `unrolled` (through every step of
        a solver), `implicit` (the optimum's own derivative), `bpda` (a derivative that
        stands in for the purifier's) and `votes` (the sum of margins of what votes).
        """
        return {}

    @property
    def purifies_onto(self) -> Manifold | None:
        """The manifold that a purifying defense believes in, for such adversaries."""
        return None

    def samples_per_gradient(self, route: str) -> int:
        """Most samples that are differentiated at once: bounds the memory of a graph."""
        return self.samples_per_chunk

    def with_effort(self, factor: int) -> FusionCenter | None:
        """This fusion center with `factor` times the steps of its solver.

        None where it has no solver, or none whose steps can be raised. The harness
        compares both, to see whether a defense lives on stopping early.
        """
        return None

    def forward(self, observation: Observation) -> Decision:
        """Decide, counting blocks that are non-finite or absurdly large as missing.

        Raises:
            ContractError: the decision has the wrong shape or non-finite logits.
        """
        clean, rejected = sanitize(observation)
        decision = self._in_chunks(clean)
        if not isinstance(decision, Decision):
            raise ContractError(
                f"{type(self).__name__}.decide: expected a Decision, got"
                f" {type(decision).__name__}"
            )
        kind = getattr(decision.logits, "dtype", type(decision.logits).__name__)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ContractError(
                f"{type(self).__name__}.decide: expected logits in floating point, got"
                f" {kind}"
            )
        if decision.logits.ndim != 2 or len(decision.logits) != len(observation):
            raise ContractError(
                f"{type(self).__name__}.decide: expected logits of shape"
                f" ({len(observation)}, classes), got {tuple(decision.logits.shape)}"
            )
        if not torch.isfinite(decision.logits).all():
            bad = int((~torch.isfinite(decision.logits)).any(dim=1).sum())
            raise ContractError(
                f"{type(self).__name__}.decide: expected finite logits, got non-finite"
                f" ones for {bad} of {len(observation)} samples"
            )
        self._check_rest(decision, observation)
        return replace(decision, rejected=rejected)

    def _check_rest(self, decision: Decision, observation: Observation) -> None:
        n, width = observation.features.shape
        for name, shape in (
            ("abstained", (n,)), ("purified", (n, width)), ("status", (n,))
        ):  # fmt: skip
            given = getattr(decision, name)
            if given is not None and given.shape != shape:
                raise ContractError(
                    f"{type(self).__name__}.decide: expected {name} of shape {shape},"
                    f" got {tuple(given.shape)}"
                )
        if decision.purified is not None and not decision.purified.isfinite().all():
            raise ContractError(
                f"{type(self).__name__}.decide: expected finite purified features, got"
                " non-finite ones"
            )
        if decision.abstained is not None and decision.abstained.dtype != torch.bool:
            raise ContractError(
                f"{type(self).__name__}.decide: expected abstained to be boolean, got"
                f" {decision.abstained.dtype}"
            )

    @final
    def differentiable_logits(
        self, observation: Observation, route: str = SURROGATE
    ) -> Tensor:
        """`surrogate`, or another of the `routes`, behind the same gate as `forward`."""
        form = self.surrogate if route == SURROGATE else self.routes[route]
        clean, _ = sanitize(observation)
        return torch.cat([form(part) for part in self._chunks(clean)])

    def _chunks(self, observation: Observation) -> list[Observation]:
        size = self.samples_per_chunk
        starts = range(0, max(1, len(observation)), size)
        return [observation[start : start + size] for start in starts]

    def _in_chunks(self, observation: Observation) -> Decision:
        return joined([self.decide(part) for part in self._chunks(observation)])


def joined(parts: list[Decision]) -> Decision:
    """One decision of the parts of a batch, in order."""
    if len(parts) == 1:
        return parts[0]

    def of(pick: Callable[[Decision], Tensor | None]) -> Tensor | None:
        tensors = [t for part in parts if (t := pick(part)) is not None]
        return torch.cat(tensors) if tensors else None

    return Decision(
        logits=torch.cat([part.logits for part in parts]),
        abstained=of(lambda part: part.abstained),
        purified=of(lambda part: part.purified),
        status=of(lambda part: part.status),
    )


def sanitize(observation: Observation) -> tuple[Observation, Tensor]:
    """Count unusable blocks as missing.

    A block is unusable if it arrived with a non-finite value, one of magnitude above
    `ABSURD_MAGNITUDE`, or a subnormal one, which no sensor means and which slows
    arithmetic down. Values under missing blocks become 0, so that nothing later can
    depend on them.

    Returns:
        The observation to decide on, and `(n, agents)` booleans: blocks refused here.
    """
    layout = observation.layout
    with torch.no_grad():
        size = observation.features.abs()
        usable = size <= ABSURD_MAGNITUDE  # False for NaN
        usable &= (size >= torch.finfo(size.dtype).tiny) | (size == 0)
        whole = torch.stack([usable[:, s].all(dim=1) for s in layout.slices], 1)
        rejected = observation.observed & ~whole
    kept = replace(observation, observed=observation.observed & whole)
    return kept.with_features(kept.filled(0.0)), rejected


class AbstractDefense(ABC):
    """Base of defense plugins: a frozen dataclass whose fields are the options.

    Authors set `name`, declare `capabilities` and write `fit`.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    bibtex: ClassVar[str] = ""
    """BibTeX entries of what it is from; without any, one is made of `citation`."""
    known_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Checks of `cibench.conformance` that it does not pass, each with the reason."""
    capabilities: ClassVar[Capabilities] = Capabilities()

    def uncertifiable(self, layout: AgentLayout, corrupted: int) -> str | None:
        """Why no decision can be certified against so many agents, as far as is known.

        Asked before `fit`, so that nobody waits for a certificate that cannot be.

        Args:
            layout: the agents' embedded blocks.
            corrupted: number of corrupted agents.

        Returns:
            The reason; None where some decision might be certified, or nothing is known.
        """
        return None

    @abstractmethod
    def fit(self, training: Training, *, generator: torch.Generator) -> FusionCenter:
        """Fit to clean training embeddings and return the fusion center to deploy.

        Args:
            training: clean embeddings, labels, the undefended fusion center, and a
                manifold on request.
            generator: the only source of randomness.
        """
