"""Whether the harness would have drawn the compromised agents of a record."""

from __future__ import annotations

from .._errors import UsageError
from ..agents import AgentSelection
from ..layout import AgentLayout
from ..results.record import CellRecord
from ..seeds import scoped_generator


def draw_findings(record: CellRecord) -> list[str]:
    """Where agents drawn for each sample are not those of the record's seed.

    The draw depends on the data set's spec, the rule and the seed alone, so that nobody can
    choose agents that a defense withstands.
    """
    outcomes = record.outcomes
    if outcomes is None:
        return []
    n, agents = len(outcomes.labels), record.agents
    wrong: set[int] = set()
    for at, part in enumerate(record.attack):
        try:
            layout = AgentLayout(tuple(agents), (1,) * len(agents))
            rule = AgentSelection(part.agents)
            if not rule.is_random:
                continue
            generator = scoped_generator(
                record.seed,
                draw="agents",
                dataset=record.dataset.spec,
                rule=part.agents,
                part=str(at),
            )
            ((_, mask),) = rule.masks(layout, n, generator)
        except UsageError as error:
            return [f"{record.cell}: agents: {error}"]
        for sample, row in enumerate(mask.tolist()):
            drawn = sum(1 << agent for agent, hit in enumerate(row) if hit)
            if outcomes.compromised[sample] & drawn != drawn:
                wrong.add(sample)
    if not wrong:
        return []
    return [
        f"{record.cell}: compromised: expected the agents that the harness draws for seed"
        f" {record.seed}, got others in {len(wrong)} of {n} samples"
    ]
