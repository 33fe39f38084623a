"""`Victim`: everything an adversary may call, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._errors import KnowledgeError
from .defense import Decision, FusionCenter
from .observation import Observation
from .threat import Knowledge
from .watch import Watch


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
        self.knowledge = knowledge
        self.queries = 0
        self.gradients = 0
        self.unusable = 0
        self.__model = {
            Knowledge.OBLIVIOUS: None,
            Knowledge.FUSION: undefended,
            Knowledge.QUERY: defended,
            Knowledge.ADAPTIVE: defended,
        }[knowledge]

    def logits(self, observation: Observation) -> Tensor:
        """`(n, classes)` answers of the model the adversary knows.

        Raises:
            KnowledgeError: the adversary knows no model.
        """
        if self.__model is None:
            raise KnowledgeError(
                "Victim.logits: expected knowledge of query, fusion or adaptive,"
                f" got {self.knowledge}"
            )
        self.queries += len(observation)
        with torch.no_grad():
            decision: Decision = self.__model(observation)
        if self.__watch is not None:
            self.__watch.answered(observation, decision.logits, decision.abstained)
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
        self, observation: Observation, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Differentiate a loss of the logits with respect to the features.

        Args:
            observation: where to differentiate.
            loss: maps `(n, classes)` logits to `(n,)` losses, sample by sample.

        Returns:
            `(n, width)` gradient and the `(n, classes)` logits it belongs to.

        Raises:
            KnowledgeError: the knowledge level grants no gradients.
        """
        if self.__model is None or self.knowledge is Knowledge.QUERY:
            raise KnowledgeError(
                "Victim.loss_gradient: expected knowledge of fusion or adaptive,"
                f" got {self.knowledge}"
            )
        self.gradients += len(observation)
        with torch.enable_grad():
            features = observation.features.detach().clone().requires_grad_()
            logits = self.__model.differentiable_logits(
                observation.with_features(features)
            )
            (gradient,) = torch.autograd.grad(loss(logits).sum(), features)
        self.unusable += int(self._unusable(observation, gradient).sum())
        if self.__watch is not None:
            self.__watch.differentiated(features.detach(), logits.detach())
            # Where a surrogate stands in, its answers are not the deployed ones.
            if type(self.__model).surrogate is FusionCenter.surrogate:
                self.__watch.answered(observation, logits.detach())
        return gradient, logits.detach()

    def _unusable(self, observation: Observation, gradient: Tensor) -> Tensor:
        norms = observation.layout.block_norms(gradient.double())
        whole: Tensor = torch.linalg.vector_norm(norms, dim=1)
        if self.__own is None or len(self.__own) != len(observation):
            return ~(whole > 0) | ~whole.isfinite()
        own: Tensor = torch.linalg.vector_norm(norms * self.__own, dim=1)
        # A sample without a block to move needs no gradient.
        return (~(own > 1e-10 * whole) | ~whole.isfinite()) & self.__own.any(dim=1)
