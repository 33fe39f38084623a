"""What smoothed heads share: votes of a head over one bank of Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cibench import AgentLayout, Decision, certify

#: Maps `(k, width)` features and their `(k, agents)` mask to `(k, draws, classes)` logits.
Logits = Callable[[Tensor, Tensor], Tensor]

#: Noise vectors of the bank that the differentiable surrogate averages over.
SURROGATE_DRAWS = 100

#: Most numbers that one piece of a batch may hold per layer: what stays near the processor.
PIECE = 2**18


@final
class Smoother(nn.Module):
    """A head that votes over noise drawn once, the same for every sample.

    The decision is a function of the sample alone, given the fit. A certificate holds for
    each sample with probability 1 - alpha over the draw of the banks; as the samples share
    the banks, certificates of different samples fail together rather than independently.

    Args:
        head: `(n, width)` features to `(n, classes)` logits.
        layout: blocks of the features.
        bank: `(draws, width)` noise that votes, of deviation sigma.
        selection: `(n0, width)` noise, independent of the bank, that chooses the class a
            radius is for; None if none is asked for.
        alpha: chance that a single test or radius is wrong.
        abstains: whether to abstain where the two first classes are not told apart.

    Source: Cohen, Rosenfeld and Kolter 2019.
    """

    bank: Tensor
    selection: Tensor | None

    def __init__(
        self,
        head: nn.Module,
        layout: AgentLayout,
        bank: Tensor,
        *,
        sigma: float,
        selection: Tensor | None = None,
        alpha: float = 0.001,
        abstains: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.layout = layout
        self.sigma = sigma
        self.alpha = alpha
        self.abstains = abstains
        self.register_buffer("bank", bank)
        self.register_buffer("selection", selection)

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The noise in the features' own units, and the largest radius it can certify."""
        facts: dict[str, float | int | str] = {"sigma": self.sigma}
        if self.selection is not None:
            facts["alpha"] = self.alpha
            facts["largest_radius"] = certify.largest_radius(
                len(self.bank), sigma=self.sigma, alpha=self.alpha
            )
        return facts

    def decide(self, features: Tensor, noisy: Tensor) -> Decision:
        """The logarithm of the vote shares, half a vote added to each class.

        Args:
            features: `(n, width)`, missing blocks filled.
            noisy: `(n, agents)` blocks that take noise.
        """
        votes = self.votes(features, noisy, self.bank)
        counts = votes.to(features.dtype) + 0.5
        shares = counts / (len(self.bank) + 0.5 * votes.shape[1])
        abstained = None
        if self.abstains:
            _, abstained = certify.smoothed_prediction(votes, self.alpha)
        return Decision(logits=shares.log(), abstained=abstained)

    def surrogate(self, features: Tensor, noisy: Tensor) -> Tensor:
        """Logarithm of the mean softmax over the first vectors of the very bank.

        Expectation over transformation (Athalye et al. 2018): votes have no derivative,
        the mean probability over the same noise has.
        """
        bank = self.bank[:SURROGATE_DRAWS]

        def mean(part: Tensor, mask: Tensor, logits: Logits) -> Tensor:
            shares: Tensor = logits(part, mask).log_softmax(dim=2).logsumexp(dim=1)
            return shares - math.log(len(bank))

        # Recomputed on the way back: else the draws of all samples stay in memory.
        again = partial(checkpoint, mean, use_reentrant=False)
        return torch.cat(
            [again(*piece) for piece in self._pieces(features, noisy, bank)]
        )

    @torch.no_grad()
    def votes(self, features: Tensor, noisy: Tensor, bank: Tensor) -> Tensor:
        """`(n, classes)` how many noise vectors make the head answer each class."""
        counts = []
        for part, mask, logits in self._pieces(features, noisy, bank):
            answers = logits(part, mask)
            count = answers.new_zeros(len(part), answers.shape[2], dtype=torch.long)
            winners = answers.argmax(dim=2)
            counts.append(count.scatter_add(1, winners, torch.ones_like(winners)))
        return torch.cat(counts)

    def radius(self, features: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """CERTIFY: `(n,)` l2 radius, 0 where it abstains, and the `(n,)` class."""
        assert self.selection is not None
        return certify.smoothed_radius(
            self.votes(features, noisy, self.selection),
            self.votes(features, noisy, self.bank),
            sigma=self.sigma,
            alpha=self.alpha,
        )

    @torch.no_grad()
    def vote_lead(self, directions: Tensor, points: Tensor, radius: Tensor) -> Tensor:
        """`(n,)` votes by which the class decided leads in all of a ball, at the least.

        The noise is drawn already, so this is a count and holds without any chance: a
        draw whose decision at `point + noise` stands within the radius keeps its vote, and
        all the others may go to any one class. Above 0 the class decided at the point is
        decided in the ball, and nowhere in it is there an abstention.

        Args:
            directions: `(width, r)` orthonormal columns whose span the ball lies in.
            points: `(n, width)` float64 features, all of which take noise.
            radius: `(n,)` finite radii.
        """
        dtype, draws = self.bank.dtype, len(self.bank)
        noise = self.bank.double()
        size = max(1, 16 * PIECE // noise.numel())
        leads = []
        for start in range(0, len(points), size):
            part = points[start : start + size, None]
            noised = (part + noise).flatten(0, 1)
            made_of = (part.abs() + noise.abs()).flatten(0, 1)
            far = radius[start : start + size].repeat_interleave(draws)
            lead = certify.smallest_lead(self.head, noised, far, directions)
            lead -= certify.lead_rounding(self.head, made_of, far, dtype)
            answers = self.head(noised.to(dtype))
            sure = nn.functional.one_hot(answers.argmax(dim=1), answers.shape[1])
            sure = (sure * (lead > 0)[:, None]).reshape(len(part), draws, -1).sum(dim=1)
            leads.append(self._least_lead(sure))
        return torch.cat(leads)

    def _least_lead(self, sure: Tensor) -> Tensor:
        """`(n,)` least lead of the first class, given `(n, classes)` sure votes."""
        kept, first = sure.max(dim=1, keepdim=True)
        others = len(self.bank) - sure.sum(dim=1, keepdim=True) + sure
        second = others.scatter(1, first, 0).amax(dim=1)
        lead = (kept.squeeze(1) - second).double()
        if self.abstains:
            # Fewer votes for the second, or more for the first, only lower the p-value.
            split = certify.two_sided_test(kept.squeeze(1), second) <= self.alpha
            lead = torch.where(split, lead, lead.clamp(max=0.0))
        return lead

    def _pieces(
        self, features: Tensor, noisy: Tensor, bank: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Logits]]:
        """Parts of the batch, their masks, and what makes `(k, draws, classes)` of them.

        A head that starts with a linear layer takes the noise through it once for all
        samples, agent by agent: W (h + e) = W h + sum_i W_i e_i over the noisy agents.
        """
        first, rest = _split(self.head)
        if isinstance(first, nn.Linear):
            weight = first.weight
            through = torch.stack(
                [bank[:, s] @ weight[:, s].T for s in self.layout.slices]
            )
            inner = weight.shape[0]

            def shift(mask: Tensor) -> Tensor:
                moved = mask.to(through.dtype) @ through.flatten(1)
                return moved.reshape(len(mask), len(bank), inner)
        else:
            inner = bank.shape[1]

            def shift(mask: Tensor) -> Tensor:
                return torch.where(self.layout.expand(mask)[:, None], bank, 0.0)

        # One mask for all, as without missing agents, shifts all samples alike.
        shared = len(noisy) > 0 and bool((noisy == noisy[:1]).all())
        common = shift(noisy[:1]) if shared else None

        def logits(part: Tensor, mask: Tensor) -> Tensor:
            shifts = shift(mask) if common is None else common
            moved = first(part)[:, None] + shifts
            out: Tensor = rest(moved.flatten(0, 1))
            return out.reshape(*moved.shape[:2], out.shape[1])

        size = max(1, PIECE // (len(bank) * inner))
        for start in range(0, max(1, len(features)), size):
            yield features[start : start + size], noisy[start : start + size], logits


def _split(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A head's first layer if that is linear, and the rest."""
    if isinstance(head, nn.Linear):
        return head, nn.Identity()
    if isinstance(head, nn.Sequential) and len(head) and isinstance(head[0], nn.Linear):
        return head[0], head[1:]
    return nn.Identity(), head
