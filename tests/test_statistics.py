"""Intervals and summaries against scipy and the standard library."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cibench.statistics import deviation, mean, wilson_interval

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
