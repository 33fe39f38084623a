import pytest
import torch
from cibench_example_defense import TrimmedMean, trimmed_mean

from cibench.conformance import parametrize_with_checks


@parametrize_with_checks([TrimmedMean(), TrimmedMean(trim=0), TrimmedMean(trim=2)])
def test_conformance(plugin, check):
    check(plugin)


def test_a_trimmed_mean_by_hand():
    values = torch.tensor([[[9.0], [1.0], [2.0], [3.0], [-50.0]]])
    everyone = torch.ones(1, 5, dtype=torch.bool)
    assert trimmed_mean(values, everyone, 0).item() == -7
    assert trimmed_mean(values, everyone, 1).item() == 2
    assert trimmed_mean(values, everyone, 2).item() == 2
    assert trimmed_mean(values, everyone, 9).item() == 2
    two = torch.tensor([[True, False, False, True, False]])
    assert trimmed_mean(values, two, 1).item() == 6
    assert trimmed_mean(values, ~everyone, 1).item() == 0


@pytest.mark.parametrize("agents", [3, 5, 8])
def test_liars_cannot_leave_the_range_of_the_honest(agents):
    generator = torch.Generator().manual_seed(agents)
    trim = (agents - 1) // 2
    values = torch.randn(200, agents, 4, generator=generator, dtype=torch.float64)
    honest = values[:, trim:]
    lies = 1e6 * torch.randn(200, trim, 4, generator=generator, dtype=torch.float64)
    values[:, :trim] = lies
    everyone = torch.ones(200, agents, dtype=torch.bool)
    fused = trimmed_mean(values, everyone, trim)
    assert (fused >= honest.amin(dim=1) - 1e-9).all()
    assert (fused <= honest.amax(dim=1) + 1e-9).all()
