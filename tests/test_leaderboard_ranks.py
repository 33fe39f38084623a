"""Intervals, ranks and comparisons of rows that are drawn together."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import rankdata
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from cibench.bootstrap import mean_interval, replicates
from cibench.leaderboard.ranks import comparisons, draw, rank_intervals
from cibench.leaderboard.worst import share


def outcomes(rows, seeds, n, seed=0):
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.3, 0.9, size=(rows, 1, 1))
    return rng.uniform(size=(rows, seeds, n)) < strength


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 4])
def test_rows_drawn_together_are_those_drawn_alone(seeds, block):
    correct = outcomes(4, seeds, 30)
    counted = np.arange(30) % 4 > 0
    drawn = draw(correct, counted, block)
    for row, own in enumerate(correct):
        np.testing.assert_allclose(
            drawn.shares(row), replicates(own, counted, block), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            drawn.interval(row), mean_interval(own, counted, block), atol=1e-12
        )


def test_replicates_without_a_counted_sample_take_the_observed_share():
    correct = outcomes(3, 2, 6)
    counted = np.arange(6) == 2
    drawn = draw(correct, counted)
    for row, own in enumerate(correct):
        np.testing.assert_allclose(drawn.shares(row), replicates(own, counted))


def test_interval_is_that_of_scipy_where_samples_are_all_that_is_drawn():
    correct = outcomes(1, 1, 150)
    found = draw(correct, np.ones(150, bool)).interval(0)
    other = scipy_bootstrap(
        (correct[0, 0].astype(float),), np.mean, method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found, other, atol=0.008)


@pytest.mark.parametrize("wide", [False, True])
def test_ranks_are_those_counted_one_replicate_at_a_time(wide):
    rng = np.random.default_rng(1)
    # Few values, so that there are ties; more replicates than are drawn at a time.
    sums = rng.integers(0, 9 if wide else 3, (6, 2500)).astype(np.float32)
    lows = np.stack([rankdata(-column, "min") for column in sums.T], 1)
    highs = np.stack([rankdata(-column, "max") for column in sums.T], 1)
    brute = [1 + sum(other > sums[2, 7] for other in sums[:, 7])]
    brute.append(sum(other >= sums[2, 7] for other in sums[:, 7]))
    assert brute == [lows[2, 7], highs[2, 7]]
    for row, (low, high) in enumerate(rank_intervals(sums)):
        assert (lows[row] < low).mean() <= 0.025 < (lows[row] <= low).mean()
        assert (highs[row] > high).mean() <= 0.025 < (highs[row] >= high).mean()


def test_equal_rows_share_all_ranks():
    correct = np.repeat(outcomes(1, 3, 40), 4, axis=0)
    assert rank_intervals(draw(correct, np.ones(40, bool)).sums) == [(1, 4)] * 4


def test_a_row_that_is_better_on_every_sample_is_first():
    correct = outcomes(4, 3, 40)
    correct[2], correct[[0, 1, 3], :, ::2] = True, False
    assert rank_intervals(draw(correct, np.ones(40, bool)).sums)[2] == (1, 1)


def test_a_single_row_is_first():
    assert rank_intervals(draw(outcomes(1, 2, 9), np.ones(9, bool)).sums) == [(1, 1)]


def test_pairs_of_one_seed_are_those_of_statsmodels():
    correct, counted = outcomes(4, 1, 80, seed=5), np.arange(80) % 5 > 0
    order = sorted(range(4), key=lambda row: -correct[row, 0, counted].sum())
    labels = [f"row {row}" for row in order]
    found = comparisons(draw(correct, counted), order, labels)
    best = correct[order[0], 0, counted]
    raw = []
    for row in order[1:]:
        own = correct[row, 0, counted]
        table = [[sum(a & b) for b in (best, ~best)] for a in (own, ~own)]
        raw.append(statsmodels_mcnemar(table, exact=True).pvalue)
    adjusted = multipletests(raw, method="holm")[1]
    np.testing.assert_allclose([versus.p for versus in found[1:]], adjusted)
    assert found[0].p == found[1].p
    assert [versus.other for versus in found] == [labels[1], *[labels[0]] * 3]
    for row, versus in zip(order[1:], found[1:], strict=True):
        gap = correct[row, 0, counted].mean() - best.mean()
        assert versus.difference == pytest.approx(gap)
        assert versus.low <= versus.difference <= versus.high
    assert found[0].difference == pytest.approx(-found[1].difference)


def test_differences_draw_the_same_samples_for_both():
    correct, counted = outcomes(2, 3, 60, seed=2), np.ones(60, bool)
    versus = comparisons(draw(correct, counted), [0, 1], ["a", "b"])[1]
    gap = replicates(correct[1], counted) - replicates(correct[0], counted)
    expected = np.quantile(gap, [0.025, 0.975])
    np.testing.assert_allclose([versus.low, versus.high], expected, atol=1e-12)


@pytest.mark.parametrize("right", [0, 7, 50])
def test_a_share_alone_has_wilsons_interval(right):
    found = share((np.arange(50) < right)[None], np.ones(50, bool))
    expected = proportion_confint(right, 50, method="wilson")
    np.testing.assert_allclose([found.low, found.high], expected, atol=1e-12)
    assert (found.value, found.n, found.spread) == (right / 50, 50, None)


def test_the_spread_of_a_share_is_that_of_the_seeds():
    correct, counted = outcomes(1, 4, 30)[0], np.arange(30) < 20
    found = share(correct, counted)
    means = [np.mean(row[:20]) for row in correct]
    assert found.value == pytest.approx(np.mean(means))
    assert found.spread == pytest.approx(np.std(means, ddof=1))
