"""Smoothing's limits, tests and radii against SciPy, statsmodels and closed forms."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm
from statsmodels.stats.proportion import proportion_confint

from cibench._errors import UsageError
from cibench.certify import (
    largest_radius,
    lower_limit,
    smoothed_prediction,
    smoothed_radius,
    two_sided_test,
)

ALPHAS = (0.05, 0.001)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("draws", [1, 7, 100, 1000, 100_000])
def test_lower_limit_against_two_libraries(draws, alpha):
    counts = np.unique(np.linspace(0, draws, 40).astype(int))
    limit = lower_limit(torch.from_numpy(counts), draws, alpha).numpy()
    # Twice alpha, for the lower end of an interval with two ends.
    theirs, _ = proportion_confint(counts, draws, alpha=2 * alpha, method="beta")
    np.testing.assert_allclose(limit, np.nan_to_num(theirs), rtol=1e-9, atol=0)
    quantile = beta.ppf(alpha, counts[1:], draws - counts[1:] + 1)
    np.testing.assert_allclose(limit[1:], quantile, rtol=1e-9)
    assert limit[0] == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.data(), st.floats(1e-6, 0.5))
def test_lower_limit_solves_its_equation(draws, data, alpha):
    count = data.draw(st.integers(1, draws))
    limit = float(lower_limit(torch.tensor([count]), draws, alpha))
    assert 0 < limit < count / draws + 1e-12
    assert binom.sf(count - 1, draws, limit) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("p", [0.3, 0.51, 0.9, 0.999])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_lower_limit_covers(p, alpha):
    """Summed over all outcomes, the limit is above p with chance at most alpha."""
    counts = torch.arange(201)
    above = lower_limit(counts, 200, alpha).numpy() > p
    assert binom.pmf(counts.numpy(), 200, p)[above].sum() <= alpha


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 800), st.integers(0, 800))
def test_two_sided_test_against_scipy(first, second):
    p_value = float(two_sided_test(torch.tensor([first]), torch.tensor([second])))
    total = first + second
    theirs = binomtest(first, total, 0.5).pvalue if total else 1.0
    assert p_value == pytest.approx(theirs, rel=1e-9)


def test_prediction_by_hand():
    votes = torch.tensor(
        [[90, 10, 0], [40, 40, 20], [0, 45, 55], [20, 20, 60], [3, 0, 0]]
    )
    winner, abstains = smoothed_prediction(votes, 0.001)
    assert winner.tolist() == [0, 0, 2, 2, 0]
    # The third of 55 to 45 is what a fair coin gives (p = 0.37); three to none has 0.25.
    assert abstains.tolist() == [False, True, True, False, True]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=5).filter(sum),
    st.floats(0.001, 0.5),
)
def test_prediction_against_scipy(counts, alpha):
    winner, abstains = smoothed_prediction(torch.tensor([counts]), alpha)
    first, second = sorted(counts, reverse=True)[:2]
    assert int(winner) == counts.index(first)
    p_value = binomtest(first, first + second, 0.5).pvalue
    if abs(p_value - alpha) > 1e-9:
        assert bool(abstains) == (p_value > alpha)


def test_radius_is_of_the_selected_class():
    selection = torch.tensor([[6, 4, 0], [4, 6, 0], [5, 5, 0], [0, 0, 10]])
    votes = torch.tensor([[900, 60, 40], [900, 60, 40], [200, 700, 100], [0, 0, 1000]])
    radius, chosen = smoothed_radius(selection, votes, sigma=0.7, alpha=0.001)
    assert chosen.tolist() == [0, 1, 0, 2]
    limit = beta.ppf(0.001, 900, 101)
    assert float(radius[0]) == pytest.approx(0.7 * norm.ppf(limit), rel=1e-9)
    assert radius[1:3].tolist() == [0.0, 0.0]
    assert float(radius[3]) == pytest.approx(0.7 * norm.ppf(0.001**0.001), rel=1e-9)


def test_a_majority_within_the_error_has_no_radius():
    """520 of 1000 votes leave 1/2 possible, 560 do not."""
    votes = torch.tensor([[520, 480], [560, 440]])
    radius, _ = smoothed_radius(votes, votes, sigma=1.0, alpha=0.001)
    assert float(radius[0]) == 0.0
    assert float(radius[1]) > 0.0


@pytest.mark.parametrize("draws", [1, 10, 100, 1000, 100_000])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_largest_radius_in_closed_form(draws, alpha):
    expected = max(0.0, 2.5 * norm.ppf(alpha ** (1 / draws)))
    assert largest_radius(draws, sigma=2.5, alpha=alpha) == pytest.approx(
        expected, rel=1e-9
    )


def test_no_sample_at_all():
    none = torch.zeros(0, 3, dtype=torch.long)
    assert [len(t) for t in smoothed_prediction(none, 0.01)] == [0, 0]
    assert [len(t) for t in smoothed_radius(none, none, sigma=1.0, alpha=0.01)] == [
        0,
        0,
    ]


def test_errors():
    votes = torch.tensor([[3, 1]])
    with pytest.raises(
        UsageError, match="alpha: expected a number between 0 and 1, got 1"
    ):
        smoothed_prediction(votes, 1.0)
    with pytest.raises(UsageError, match="values from 0 to the 2 draws, got 3 to 3"):
        lower_limit(votes[:, 0], 2, 0.1)
    with pytest.raises(UsageError, match="draws: expected at least 1, got 0"):
        lower_limit(votes[:, 0], 0, 0.1)
    uneven = torch.tensor([[3, 1], [3, 2]])
    with pytest.raises(UsageError, match=r"same number of votes .* got 4 to 5"):
        smoothed_radius(uneven, uneven, sigma=1.0, alpha=0.1)


def test_importing_it_is_light():
    code = "import sys, cibench.certify; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
