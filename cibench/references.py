"""Fresh decisions, and what a scenario shows without any defense."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ._errors import ContractError
from .agent_search import SAMPLES, Agents, Standing, bandit, greedy
from .defense import Decision, FusionCenter
from .observation import Observation
from .oracle import OracleFusionCenter
from .scenario import Cost, Draw, Scenario
from .seeds import scoped_generator

#: `abstained` as a class index in outcomes.
ABSTAINED = -1


def predictions(decision: Decision) -> Tensor:
    """`(n,)` decided classes; `ABSTAINED` where the fusion center refused."""
    decided = decision.logits.argmax(dim=1)
    if decision.abstained is None:
        return decided
    return torch.where(decision.abstained, ABSTAINED, decided)


def decide(
    fusion_center: FusionCenter, observation: Observation
) -> tuple[Decision, float]:
    """A fresh decision without gradients, and the seconds it took.

    Raises:
        ContractError: the fusion center wrote into what it received.
    """
    given = Observation(
        observation.features.clone(), observation.observed.clone(), observation.layout
    )
    started = time.perf_counter()
    with torch.no_grad():
        decision: Decision = fusion_center(given)
    if given.features.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    same = torch.equal(given.observed, observation.observed) and torch.equal(
        given.features.nan_to_num(), observation.features.nan_to_num()
    )
    if not torch.isfinite(decision.logits).all():  # `forward` may be overridden
        raise ContractError(
            f"{type(fusion_center).__name__}: expected finite logits, got non-finite ones"
        )
    if not same:
        raise ContractError(
            f"{type(fusion_center).__name__}: expected the observation to be left"
            " unchanged, got a modified one"
        )
    return decision, seconds


def facing(fusion_center: FusionCenter, draw: Draw) -> FusionCenter:
    """The fusion center as it faces a draw: an oracle is told its agents."""
    if isinstance(fusion_center, OracleFusionCenter):
        return fusion_center.told(draw.compromised)
    return fusion_center


def search(
    scenario: Scenario, *, undefended: FusionCenter, defended: FusionCenter
) -> tuple[Agents | None, Cost]:
    """The set of agents that a part searches for, and what the search asked for.

    Sets are compared by at most `agent_search.SAMPLES` of the samples that count, the same
    for every defense: how many of them the defense decides rightly under attack, then by
    the mean margin. Its decisions count as queries.

    Returns:
        The set, None where no part searches.
    """
    part = scenario.searched
    if part is None:
        return None, Cost()
    rule = scenario.attack[part].threat.agents
    candidates, count = scenario.candidates(), rule.count(scenario.clean.layout)
    cost = Cost()
    if len(candidates) == count:
        return candidates, cost
    generator = scoped_generator(
        scenario.seed,
        draw="search",
        dataset=scenario.dataset,
        rule=rule.rule,
        part=str(part),
    )
    counted = scenario.criterion.eligible.nonzero().flatten()
    kept = torch.randperm(len(counted), generator=generator)[:SAMPLES].sort().values
    kept = counted[kept.to(counted.device)]

    def judge(agents: Agents, samples: Tensor | None = None) -> Standing:
        nonlocal cost
        those = kept if samples is None else kept[samples.to(kept.device)]
        some = scenario.of(those)
        (whole,) = scenario.draws(agents)
        draw = Draw(tuple(mask[those] for mask in whole.masks), whole.sets)
        center = facing(defended, draw)
        sent, spent = some.run(draw, undefended=undefended, defended=center)
        decision, _ = decide(center, sent)
        cost += spent + Cost(queries=len(sent))
        right = predictions(decision) == some.labels
        return int(right.sum()), float(some.criterion.margin(decision.logits).mean())

    if rule.rule.startswith("greedy:"):
        return greedy(candidates, count, judge), cost
    found = bandit(candidates, count, judge, samples=len(kept), generator=generator)
    return found, cost


@dataclass(frozen=True, eq=False)
class References:
    """What a scenario shows without any defense, shared by all its cells.

    Args:
        draws: the agents of each run of the attack.
        clean: `(n,)` undefended predictions on clean embeddings.
        attacked: undefended predictions under its own attack, one `(n,)` per draw.
        genie: undefended predictions with the corrupted agents dropped, per draw.
        observations: what the attack on the undefended fusion center sent, per draw.
        cost, seconds: of those attacks, a search for their agents included.
        found: the agents of the part that searches for them; None where none does.
    """

    draws: list[Draw]
    clean: Tensor
    attacked: list[Tensor]
    genie: list[Tensor]
    observations: list[Observation]
    cost: Cost
    seconds: float
    found: Agents | None = None


def refer(
    scenario: Scenario, undefended: FusionCenter, found: Agents | None = None
) -> References:
    """Evaluate a scenario without defense and with the genie.

    Args:
        found: the agents of the part that searches for them; None searches for those that
            hurt the undefended fusion center.
    """
    clean = predictions(decide(undefended, scenario.clean)[0])
    draws, attacked, genie, observations = [], [], [], []
    started, cost = time.perf_counter(), Cost()
    if found is None:
        found, cost = search(scenario, undefended=undefended, defended=undefended)
    seconds = time.perf_counter() - started
    for draw in scenario.draws(found):
        started = time.perf_counter()
        sent, spent = scenario.run(draw, undefended=undefended, defended=undefended)
        seconds += time.perf_counter() - started
        cost += spent
        draws.append(draw)
        observations.append(sent)
        attacked.append(predictions(decide(undefended, sent)[0]))
        told = scenario.clean.without(draw.compromised)
        genie.append(predictions(decide(undefended, told)[0]))
    return References(draws, clean, attacked, genie, observations, cost, seconds, found)


def meet(
    scenario: Scenario,
    references: References,
    *,
    undefended: FusionCenter,
    defended: FusionCenter,
) -> tuple[References, Cost, float]:
    """References of the agents that are searched for against a defense.

    Returns:
        Those references, what the search asked, and the seconds it took.
    """
    started = time.perf_counter()
    found, cost = search(scenario, undefended=undefended, defended=defended)
    seconds = time.perf_counter() - started
    if found == references.found:
        return references, cost, seconds
    return refer(scenario, undefended, found), cost, seconds


def reference_tensors(found: References, scenario: Scenario) -> dict[str, Tensor]:
    """References as named tensors; of an attack's blocks only those it controlled."""
    layout = scenario.clean.layout
    sent = [
        observation.features[layout.expand(draw.compromised)]
        for draw, observation in zip(found.draws, found.observations, strict=True)
    ]
    cost = [found.cost.queries, found.cost.gradients, found.cost.unusable]
    agents = {} if found.found is None else {"found": torch.tensor(found.found)}
    return {
        **agents,
        "clean": found.clean,
        "attacked": torch.stack(found.attacked),
        "genie": torch.stack(found.genie),
        "sent": torch.cat(sent),
        "observed": torch.stack([o.observed for o in found.observations]),
        "cost": torch.tensor(cost),
        "seconds": torch.tensor([found.seconds], dtype=torch.float64),
    }


def references_from(tensors: dict[str, Tensor], scenario: Scenario) -> References:
    """The inverse of `reference_tensors`; the draws are those of the scenario."""
    found = tuple(tensors["found"].tolist()) if "found" in tensors else None
    clean = scenario.clean
    on = {k: v.to(clean.features.device) for k, v in tensors.items()}
    draws = list(scenario.draws(found))
    masks = [clean.layout.expand(draw.compromised) for draw in draws]
    blocks = torch.split(on["sent"], [int(mask.sum()) for mask in masks])
    observations = []
    for mask, values, observed in zip(masks, blocks, on["observed"], strict=True):
        features = clean.features.clone()
        features[mask] = values
        observations.append(Observation(features, observed, clean.layout))
    return References(
        draws=draws,
        clean=on["clean"],
        attacked=list(on["attacked"]),
        genie=list(on["genie"]),
        observations=observations,
        cost=Cost(*map(int, tensors["cost"])),
        seconds=float(tensors["seconds"]),
        found=found,
    )
