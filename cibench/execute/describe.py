"""What the runner derives for records: thinned splits, norms, attack parts, versions."""

from __future__ import annotations

import datetime
import platform
import re

import torch

from .._version import PROTOCOL, VERSION
from ..dataset import AgentDataset, Split
from ..embedding import EmbeddingRecipe
from ..grid import Cell
from ..observation import Observation
from ..results import AttackPart, CellRecord
from ..scenario import Scenario, set_names
from ..spec import resolved

TIME_SERIES = (
    "neighbouring samples are correlated in time: an interval that takes them as"
    " independent is too narrow"
)


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
    cell: Cell, scenario: Scenario | None, *, radii: bool = True
) -> list[AttackPart]:
    """What a record keeps of each part of an attack.

    Args:
        scenario: says which sets of agents are tried; None where the attack does not fit.
        radii: whether the scenario knows the scale of the blocks.
    """
    sets: list[list[list[str]]] = [[] for _ in cell.attack]
    if scenario is not None:
        layout = scenario.clean.layout
        for draw in scenario.draws():
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
                counts_target=threat.counts_target,
                budget=threat.budget,
                radius=None if radius is None else radius.tolist(),
            )
        )
    return parts


def blank_record(
    cell: Cell,
    key: str,
    dataset: AgentDataset,
    recipe: EmbeddingRecipe,
    attack: list[AttackPart],
    device: str,
) -> CellRecord:
    """The record of a cell that has not been run."""
    attacks = "+".join(part.entry.name for part in cell.attack)
    names = [cell.dataset.entry.name, attacks, cell.defense.entry.name]
    return CellRecord(
        protocol=PROTOCOL,
        cell="--".join([*names, str(cell.seed), key[:8]]),
        key=key,
        status="ok",
        dataset=cell.dataset.component,
        fingerprint=dataset.fingerprint,
        agents=list(dataset.layout.names),
        classes=list(dataset.class_names),
        embedding=resolved(recipe),
        attack=attack,
        defense=cell.defense.component,
        seed=cell.seed,
        notes=[*dataset.notes, *([TIME_SERIES] if dataset.time_series else [])],
        environment=environment(),
        device=device,
        time_series=dataset.time_series,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def environment() -> dict[str, str]:
    """Versions and thread count; nothing that identifies a person or a machine."""
    return {
        "cibench": VERSION,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def scrub(text: str) -> str:
    """One line of limited length; of an absolute path only the last part stays."""
    text = re.sub(
        r"(?<![\w.~:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":]+[/\\])+", "", text
    )
    return " ".join(text.split())[:500]
