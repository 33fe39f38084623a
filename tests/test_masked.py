"""Defenses that blind an attack on purpose are flagged; honest ones are not."""

import sys
from pathlib import Path

import pytest
import torch

from cibench import ContractError
from cibench.certificates import contradicted
from cibench.flags import OF_MASKING, raise_flags
from cibench.grid import expand
from cibench.registry import default_registry
from helpers import Plain, layout_of, linear_head, observation_of, run_cells

MASKED = Path(__file__).with_name("masked")
DATA = "synthetic:samples=500"
HONEST = ("none", "agent-dropout", "randomized-ablation")
#: Each mask with the flags that tell of it.
EXPECTED = {
    "rounding": {"gradient-unusable", "attack-misses-planted"},
    "detached": {"gradient-wrong"},
    "posing": {"gradient-wrong"},
    "noise": {"randomized-without-eot"},
    "early": {"solver-budget", "solver-not-converged"},
}


@pytest.fixture(scope="module")
def found():
    """Records by defense, under one adaptive attack."""
    sys.path.insert(0, str(MASKED))
    try:
        default_registry.cache_clear()
        cells = expand(
            default_registry(),
            datasets=[DATA],
            attacks=["pgd:steps=30"],
            defenses=[*HONEST, *(f"masked:by={by}" for by in EXPECTED)],
            seeds=[0],
        )
        records = {record.defense.spec: record for _, record, _ in run_cells(cells)}
    finally:
        sys.path.remove(str(MASKED))
        default_registry.cache_clear()
    for spec, record in records.items():
        metrics = record.metrics
        assert metrics is not None, record.reason
        marks = ", ".join(sorted(OF_MASKING.intersection(record.flags))) or "-"
        print(f"{spec:22} {metrics.attacked.value:7.1%}  {marks}")
    return records


@pytest.mark.parametrize("by", EXPECTED)
def test_every_mask_is_flagged(found, by):
    spec = "masked" if by == "rounding" else f"masked:by={by}"
    assert EXPECTED[by] <= set(found[spec].flags)


@pytest.mark.parametrize("spec", HONEST)
def test_no_honest_baseline_is_flagged_for_masking(found, spec):
    record = found[spec]
    assert not OF_MASKING.intersection(record.flags)
    assert record.probes["planted_missed"] <= 0.05
    assert record.probes["gradient_descends"] > 0.9


def test_the_flags_follow_from_what_the_record_holds(found):
    for record in found.values():
        again = raise_flags(
            record, partial=False, test_statistics=False, transfer_breaks=None,
            unusable_gradients=None,
        )  # fmt: skip
        assert set(again) <= set(record.flags)
        assert set(record.flags) - set(again) <= {
            "gradient-unusable", "static-reference", "transfer-beats-adaptive",
        }  # fmt: skip


def test_what_is_masked_protects_nothing(found):
    """The accuracy that a mask pretends falls once the attack does without its gradient."""
    masked = found["masked"]
    assert masked.metrics.attacked.value > 0.5
    assert "transfer-beats-adaptive" in masked.flags


LAYOUT = layout_of(2, 2, 1)


class Boasting(Plain):
    """Certifies everything for one corrupted agent."""

    def certify(self, observation, corrupted):
        return torch.full((len(observation),), corrupted <= 1)


def test_a_contradicted_certificate_is_an_error():
    center = Boasting(linear_head(LAYOUT.width, 2))
    clean = observation_of(LAYOUT, 5)
    agents = torch.zeros(5, 3, dtype=torch.bool)
    agents[:, 0] = True
    agents[4, :2] = True
    before = torch.zeros(5, dtype=torch.long)
    contradicted(center, clean, agents, before, before)
    two = before.clone()
    two[4] = 1  # two agents changed it: nothing was promised
    assert clean.observed[4, :2].all()
    contradicted(center, clean, agents, before, two)
    one = before.clone()
    one[:2] = 1
    with pytest.raises(
        ContractError,
        match=r"Boasting.certify: expected certified decisions to stand, got 2 of 5 that"
        r" 1 corrupted agents changed",
    ):
        contradicted(center, clean, agents, before, one)
    # Who controls nobody that was heard changed nothing.
    contradicted(center, clean.without(agents), agents, before, one)
    contradicted(Plain(center.head), clean, agents, before, one)
