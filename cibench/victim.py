"""`Victim`: everything an adversary may call, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._errors import KnowledgeError
from .defense import SURROGATE, Decision, FusionCenter
from .observation import Observation
from .oracle import of_samples
from .threat import Knowledge
from .watch import Watch

if TYPE_CHECKING:
    from .manifold import Manifold


@dataclass(eq=False)
class _Tally:
    """What an adversary asked for; one for a victim and all that is made of it."""

    queries: int = 0
    gradients: int = 0
    unusable: int = 0


class Victim:
    """The adversary's view of the deployed system, limited by its knowledge.

    Args:
        knowledge: what the threat model grants.
        undefended: the undefended fusion center; granted at `fusion`.
        defended: the deployed, defended fusion center; granted at `query` (answers) and
            `adaptive` (answers and gradients).
        own: `(n, agents)` blocks the adversary controls, to judge its gradients by.
        recorded: clean training embeddings and labels, see `recordings`.
        watch: takes note of what is asked of the deployed fusion center.

    Attributes:
        queries: samples answered so far.
        gradients: samples differentiated so far.
        unusable: gradients among them that are not finite or, over the blocks the
            adversary controls, below 1e-10 of the whole.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        undefended: FusionCenter,
        defended: FusionCenter,
        own: Tensor | None = None,
        recorded: tuple[Observation, Tensor] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.__own = own
        # What is learned of the undefended fusion center says nothing of the deployed one.
        self.__watch = None if knowledge is Knowledge.FUSION else watch
        self.__recorded = recorded
        self.__knowledge = knowledge
        self.__rows: Tensor | None = None
        self.__judged = True
        self.__manifold: Manifold | None = None
        self.__abstained: Tensor | None = None
        self.__tally = _Tally()
        self.__undefended = undefended
        self.__model = {
            Knowledge.OBLIVIOUS: None,
            Knowledge.FUSION: undefended,
            Knowledge.QUERY: defended,
            Knowledge.ADAPTIVE: defended,
        }[knowledge]

    @property
    def knowledge(self) -> Knowledge:
        """What the threat model grants."""
        return self.__knowledge

    @property
    def queries(self) -> int:
        """See the class."""
        return self.__tally.queries

    @property
    def gradients(self) -> int:
        """See the class."""
        return self.__tally.gradients

    @property
    def unusable(self) -> int:
        """See the class."""
        return self.__tally.unusable

    @property
    def routes(self) -> tuple[str, ...]:
        """Names that `loss_gradient` takes as `route`; none where it grants nothing."""
        model = self.__model
        if model is None or self.knowledge is Knowledge.QUERY:
            return ()
        return (SURROGATE, *model.routes)

    @property
    def manifold(self) -> Manifold | None:
        """A copy of what the defense purifies onto, at `adaptive`; None without any."""
        if self.knowledge is not Knowledge.ADAPTIVE:
            return None
        assert self.__model is not None
        if self.__manifold is None:
            self.__manifold = copy.deepcopy(self.__model.purifies_onto)
        return self.__manifold

    @property
    def abstained(self) -> Tensor | None:
        """`(n,)` where the last of `logits` came with a refusal to decide; or None."""
        return self.__abstained

    def part(self, samples: Tensor) -> Victim:
        """The victim for some of the samples: what is asked of it counts here, too.

        Args:
            samples: `(k,)` indices or `(n,)` booleans of the samples it is asked about.
        """
        part = copy.copy(self)
        if samples.dtype == torch.bool:
            samples = samples.nonzero().squeeze(1)
        part.__rows = samples if self.__rows is None else self.__rows[samples]
        if self.__model is not None:
            part.__model = of_samples(self.__model, samples)
        part.__undefended = of_samples(self.__undefended, samples)
        part.__own = None if self.__own is None else self.__own[samples]
        return part

    def transfer(self) -> Victim:
        """The undefended fusion center, which one who knows the defense knows as well.

        Raises:
            KnowledgeError: the adversary has neither.
        """
        if self.knowledge not in (Knowledge.FUSION, Knowledge.ADAPTIVE):
            raise KnowledgeError(
                "Victim.transfer: expected knowledge of fusion or adaptive, got"
                f" {self.knowledge}"
            )
        weaker = copy.copy(self)
        weaker.__knowledge, weaker.__model = Knowledge.FUSION, self.__undefended
        weaker.__watch, weaker.__judged = None, False
        return weaker

    def logits(self, observation: Observation) -> Tensor:
        """`(n, classes)` answers of the model the adversary knows.

        Raises:
            KnowledgeError: the adversary knows no model.
        """
        model = self.__model
        if model is None:
            raise KnowledgeError(
                "Victim.logits: expected knowledge of query, fusion or adaptive,"
                f" got {self.knowledge}"
            )
        self.__tally.queries += len(observation)
        with torch.no_grad():
            decision: Decision = model(observation)
        refused = decision.abstained
        self.__abstained = refused
        if self.__watch is not None:
            self.__watch.answered(observation, decision.logits, refused, self.__rows)
        return decision.logits

    def recordings(self) -> tuple[Observation, Tensor]:
        """Clean training embeddings and their `(k,)` labels, recorded by the adversary.

        At `oblivious` and `query` only the blocks of agents it controls for some sample
        are observed; at `fusion` and `adaptive` it knows the training data.

        Raises:
            KnowledgeError: there are no recordings here.
        """
        if self.__recorded is None:
            raise KnowledgeError(
                "Victim.recordings: expected clean training embeddings, got none"
            )
        known, labels = self.__recorded
        observed = known.observed.clone()
        if self.__own is not None and self.knowledge in (
            Knowledge.OBLIVIOUS,
            Knowledge.QUERY,
        ):
            observed &= self.__own.any(dim=0)
        values = torch.where(known.layout.expand(observed), known.features, torch.nan)
        return Observation(values, observed, known.layout), labels.clone()

    def loss_gradient(
        self,
        observation: Observation,
        loss: Callable[[Tensor], Tensor],
        *,
        route: str = SURROGATE,
    ) -> tuple[Tensor, Tensor]:
        """Differentiate a loss of the logits with respect to the features.

        Args:
            observation: where to differentiate.
            loss: maps `(n, classes)` logits to `(n,)` losses, sample by sample.
            route: which differentiable form; one that this model does not have, as the
                undefended fusion center has no purifier to unroll, is its surrogate.

        Returns:
            `(n, width)` gradient and the `(n, classes)` logits it belongs to.

        Raises:
            KnowledgeError: the knowledge level grants no gradients.
        """
        whole = self.__model
        if whole is None or self.knowledge is Knowledge.QUERY:
            raise KnowledgeError(
                "Victim.loss_gradient: expected knowledge of fusion or adaptive,"
                f" got {self.knowledge}"
            )
        if route not in self.routes:
            route = SURROGATE
        n = len(observation)
        self.__tally.gradients += n
        size = max(1, whole.samples_per_gradient(route))
        gradients, answers = [], []
        for start in range(0, max(1, n), size):
            rows = torch.arange(start, min(start + size, n))
            rows = rows.to(observation.features.device)
            model = whole if size >= n else of_samples(whole, rows)
            with torch.enable_grad():
                features = observation.features[rows].detach().requires_grad_()
                part = observation[rows].with_features(features)
                logits = model.differentiable_logits(part, route)
                # A loss is one of all samples; what others answer does not matter to it.
                every = logits.new_zeros((n, logits.shape[1]))
                own = loss(every.index_copy(0, rows, logits))[rows]
                (gradient,) = torch.autograd.grad(own.sum(), features)
            gradients.append(gradient)
            answers.append(logits.detach())
        found, shown = torch.cat(gradients), torch.cat(answers)
        # A vote that is won has nothing to follow; the undefended one is not on trial.
        if self.__judged and route != "votes":
            self.__tally.unusable += int(self._unusable(observation, found).sum())
        if self.__watch is not None:
            self.__watch.differentiated(observation.features.detach().clone(), shown)
            # Where a surrogate stands in, its answers are not the deployed ones.
            plain = type(whole).surrogate is FusionCenter.surrogate
            if plain and route == SURROGATE:
                self.__watch.answered(observation, shown, None, self.__rows)
        return found, shown

    def _unusable(self, observation: Observation, gradient: Tensor) -> Tensor:
        norms = observation.layout.block_norms(gradient.double())
        whole: Tensor = torch.linalg.vector_norm(norms, dim=1)
        if self.__own is None or len(self.__own) != len(observation):
            return ~(whole > 0) | ~whole.isfinite()
        own: Tensor = torch.linalg.vector_norm(norms * self.__own, dim=1)
        # A sample without a block to move needs no gradient.
        return (~(own > 1e-10 * whole) | ~whole.isfinite()) & self.__own.any(dim=1)
