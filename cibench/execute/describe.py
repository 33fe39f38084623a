"""What the runner derives for records: thinned splits, norms, attack parts, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import torch

from .._version import VERSION
from ..dataset import Split
from ..grid import Cell
from ..observation import Observation
from ..results import AttackPart
from ..scenario import Draw, Scenario, set_names


def thinned(split: Split, samples: int) -> Split:
    """At most so many samples, evenly spaced over the split."""
    count = min(samples, len(split))
    indices = torch.linspace(0, len(split) - 1, count).round().long()
    return Split(split.features[indices], split.labels[indices])


def median_norms(train: Observation) -> torch.Tensor:
    """`(agents,)` median clean block norm over the samples whose agent was heard."""
    norms = train.layout.block_norms(train.filled(0.0))
    heard = norms.masked_fill(~train.observed, torch.nan)
    return heard.nanmedian(dim=0).values.nan_to_num(0.0)


def attack_parts(
    cell: Cell,
    scenario: Scenario | None,
    *,
    radii: bool = True,
    draws: Iterable[Draw] | None = None,
) -> list[AttackPart]:
    """What a record keeps of each part of an attack.

    Args:
        scenario: says which sets of agents are tried; None where the attack does not fit.
        radii: whether the scenario knows the scale of the blocks.
        draws: the agents of each run, where they are known; None takes those that do not
            depend on the defense.
    """
    sets: list[list[list[str]]] = [[] for _ in cell.attack]
    if scenario is not None:
        layout = scenario.clean.layout
        if draws is None:
            draws = scenario.draws() if scenario.searched is None else ()
        for draw in draws:
            for known, agents in zip(sets, draw.sets, strict=True):
                names = set_names(layout, agents)
                if agents is not None and names not in known:
                    known.append(names)
    parts = []
    for index, plugin in enumerate(cell.attack):
        threat = plugin.configured.threat
        radius = scenario.radius(index) if scenario and radii else None
        parts.append(
            AttackPart(
                component=plugin.component,
                agents=threat.agents.rule,
                sets=sets[index],
                knowledge=str(threat.knowledge),
                target=threat.target,
                corrupts=threat.may_corrupt,
                drops=threat.may_drop,
                counts_target=threat.counts_target,
                budget=threat.budget,
                radius=None if radius is None else radius.tolist(),
            )
        )
    return parts


def environment() -> dict[str, str]:
    """Versions and thread counts; nothing that identifies a person or a machine."""
    from threadpoolctl import threadpool_info

    pools = {
        f"{pool['internal_api']} {pool['version'] or ''} x{pool['num_threads']}".replace(
            "  ", " "
        )
        for pool in threadpool_info()
    }
    return {
        "cibench": VERSION,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "pools": ", ".join(sorted(pools)),
    }
