"""Why nothing can be certified, where that is known before the work of certifying."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._errors import UsageError
from ..certify.leverage.blocks import compress
from ..certify.leverage.family import family
from ..certify.leverage.zero import reasons as zero_reasons
from ..defense import FusionCenter
from ..layout import AgentLayout


def check_budgets(
    layout: AgentLayout, heard: int, corrupted: int, missing: int, dataset: str
) -> None:
    """Refuse numbers of agents that leave nobody honest, or nobody heard.

    Args:
        layout: the agents of the data set.
        heard: most agents that any test sample hears.
        corrupted, missing: largest numbers asked for; 0 for none.
        dataset: what messages call it.

    Raises:
        UsageError: one is too large.
    """
    for flag, number in (("--corrupted", corrupted), ("--missing", missing)):
        if number >= layout.agents:
            raise UsageError(
                f"{flag}: expected fewer than the {layout.agents} agents of {dataset}, got"
                f" {number}"
            )
        if number >= heard:
            raise UsageError(
                f"{flag}: expected fewer than the {heard} agents that are present at most"
                f" in a test sample of {dataset}, got {number}"
            )


def before_fit(defense: Any, layout: AgentLayout, corrupted: int) -> str | None:
    """What the defense itself says."""
    say = getattr(defense, "uncertifiable", None)
    return say(layout, corrupted) if callable(say) else None


def after_fit(
    fusion_center: FusionCenter, layout: AgentLayout, corrupted: int
) -> str | None:
    """What a fitted defense rules out for every sample, without looking at any.

    A certificate by recovery radius has none where honest agents miss a direction of the
    affine manifold that it purifies onto: the exact test of ranks, over all sets of agents.
    Of another decoder the last layer's range holds more than its points: nothing is ruled
    out.

    Args:
        fusion_center: the fitted defense.
        layout: the agents' embedded blocks.
        corrupted: number of corrupted agents.

    Raises:
        UsageError: there are too many sets.
    """
    manifold, weight = fusion_center.purifies_onto, decoder(fusion_center)
    if manifold is None or weight is None or manifold.family != "affine":
        return None
    if not by_recovery(fusion_center):
        return None
    sets = family(layout, corrupted, 0, weight.device)
    return next(filter(None, zero_reasons(compress(weight, layout), sets)[0]), None)


def beyond(fusion_center: FusionCenter, corrupted: int) -> str | None:
    """Why it is no surprise that nothing stands: its fact `certifiable_corrupted_agents`.

    That many it may outlast whatever the class; a vote that ties favor may outlast more, so
    that this rules nothing out.
    """
    most = fusion_center.facts.get("certifiable_corrupted_agents")
    if not isinstance(most, int) or corrupted <= most:
        return None
    agents = "agent" if most == 1 else "agents"
    return f"it outlasts {most} corrupted {agents} at most, ties aside"


def by_recovery(fusion_center: FusionCenter) -> bool:
    """Whether its certificate is a recovery radius that it can take apart."""
    return callable(getattr(fusion_center, "certificate_parts", None))


def decoder(fusion_center: FusionCenter) -> Tensor | None:
    """`(width, code)` last linear layer of the manifold it purifies onto, if it does."""
    manifold = fusion_center.purifies_onto
    return None if manifold is None else manifold.layers()[-1][0].detach().double()
