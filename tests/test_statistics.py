"""Intervals and summaries against scipy and the standard library."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.multitest import multipletests

from cibench.statistics import (
    deviation,
    holm,
    mcnemar,
    mcnemar_over_seeds,
    mean,
    wilson_interval,
)

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.integers(1, 5000), st.data())
def test_wilson_interval_agrees_with_scipy(n, data):
    successes = data.draw(st.integers(0, n))
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(successes / n, n)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@given(st.floats(0, 1), st.integers(1, 10**9))
def test_wilson_interval_holds_the_proportion_and_stays_in_range(proportion, n):
    low, high = wilson_interval(proportion, n)
    assert 0 <= low <= proportion + 1e-12
    assert proportion - 1e-12 <= high <= 1


@pytest.mark.parametrize("n", [1, 7, 100, 10**6])
def test_wilson_interval_at_the_ends(n):
    low, high = wilson_interval(0.0, n)
    assert low == 0
    assert 0 < high < 1
    assert wilson_interval(1.0, n) == (pytest.approx(1 - high), 1.0)


def test_wilson_interval_narrows_with_samples():
    widths = [
        high - low for low, high in (wilson_interval(0.3, n) for n in (9, 90, 900))
    ]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    ("proportion", "n"), [(-0.1, 5), (1.1, 5), (math.nan, 5), (0.5, 0), (0.5, -1)]
)
def test_wilson_interval_refuses_what_is_no_proportion(proportion, n):
    with pytest.raises(ValueError, match=r"proportion in \[0, 1\] and n >= 1"):
        wilson_interval(proportion, n)


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_mean_agrees_with_the_standard_library(values):
    assert mean(values) == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    assert mean(values) == mean(values[::-1])


@given(st.lists(NUMBERS, min_size=2, max_size=30))
def test_deviation_agrees_with_the_standard_library(values):
    assert deviation(values) == pytest.approx(
        statistics.stdev(values), rel=1e-6, abs=1e-6
    )
    assert deviation(values) == deviation(values[::-1])


def test_too_few_numbers():
    assert deviation([]) is None
    assert deviation([0.5]) is None
    assert deviation([0.5, 0.5]) == 0
    with pytest.raises(ZeroDivisionError):
        mean([])


# Paired tests.


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_statsmodels_and_scipy(first_only, second_only):
    found = mcnemar(first_only, second_only)
    table = [[7, first_only], [second_only, 11]]
    assert found == pytest.approx(exact_mcnemar(table, exact=True).pvalue, abs=1e-12)
    if first_only + second_only:
        expected = binomtest(first_only, first_only + second_only).pvalue
        assert found == pytest.approx(expected, abs=1e-12)
    else:
        assert found == 1


def test_mcnemar_of_large_counts_stays_exact():
    assert 0 < mcnemar(600, 0) == pytest.approx(2 * 0.5**600)
    assert mcnemar(5000, 5000) == 1


COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(COUNTS, min_size=1, max_size=5))
def test_over_seeds_every_seed_must_show_it_in_one_direction(tables):
    def one_sided(alternative):
        return max(
            binomtest(a, a + b, alternative=alternative).pvalue if a + b else 1.0
            for a, b in tables
        )

    expected = min(1.0, 2 * min(one_sided("greater"), one_sided("less")))
    found = mcnemar_over_seeds(tables)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found >= max(mcnemar(a, b) for a, b in tables) - 1e-12
    assert found == mcnemar_over_seeds(tables[::-1])
    assert found == mcnemar_over_seeds([(b, a) for a, b in tables])


def test_seeds_that_contradict_one_another_show_nothing():
    assert mcnemar(30, 2) < 1e-6
    assert mcnemar_over_seeds([(30, 2), (2, 30)]) == 1
    # Adding the tables up would call ten seeds of one and the same split ten times surer.
    assert mcnemar_over_seeds([(9, 2)] * 10) == mcnemar(9, 2)


@pytest.mark.parametrize("tables", [[], [(-1, 3)], [(3, 1), (0, -2)]])
def test_over_seeds_refuses_what_is_no_count(tables):
    with pytest.raises(ValueError, match="expected counts >= 0 for a seed or more"):
        mcnemar_over_seeds(tables)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_holm_agrees_with_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist(), abs=1e-12)


def test_holm_of_nothing():
    assert holm([]) == []
