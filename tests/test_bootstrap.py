"""The crossed bootstrap against SciPy, closed forms, brute force and its own promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cibench.bootstrap import (
    REPLICATES,
    block_length,
    difference_interval,
    mean_interval,
    percentiles,
    replicates,
    sample_weights,
    splitmix64,
)
from cibench.results.table import tables
from cibench.statistics import wilson_interval
from helpers_report import outcomes_of, record


def outcomes(seeds, n, *, share=0.7, seed_spread=0.0, seed=0):
    """Outcomes whose difficulty lies in samples and seeds."""
    drawn = np.random.default_rng(seed)
    ease = drawn.normal(size=n) + seed_spread * drawn.normal(size=(seeds, 1))
    noise = 0.5 * drawn.normal(size=(seeds, n))
    return ease + noise < stats.norm.ppf(share) * math.sqrt(1.25)


def all_of(correct):
    return np.ones(correct.shape[1], dtype=bool)


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_splitmix64_is_the_published_sequence(seed, expected):
    found = splitmix64(seed, np.arange(3, dtype=np.uint64))
    assert found.tolist() == expected


@given(st.integers(1, 60), st.data())
@settings(max_examples=15, deadline=None)
def test_every_replicate_draws_as_many_samples_as_there_are(n, data):
    block = data.draw(st.integers(1, n))
    weights = sample_weights(n, block)
    assert weights.shape == (REPLICATES, n)
    assert (weights.sum(1) == n).all()
    # Every sample as often as any other: 5 standard errors of the mean weight.
    assert np.abs(weights.mean(0) - 1).max() < 5 * math.sqrt(block / REPLICATES) + 1e-9


def test_blocks_are_neighbours_wrapped_around():
    for row in sample_weights(12, 4)[:200]:
        # 12 = 3 whole blocks: what is drawn is a sum of runs of 4.
        runs = [np.roll([1] * 4 + [0] * 8, begin) for begin in range(12)]
        assert any(
            (row == runs[a] + runs[b] + runs[c]).all()
            for a in range(12) for b in range(a, 12) for c in range(b, 12)
        )  # fmt: skip


def test_the_last_block_is_cut_to_fit():
    for row in sample_weights(7, 5)[:100]:
        runs = [
            np.roll([1] * 5 + [0] * 2, a) + np.roll([1] * 2 + [0] * 5, b)
            for a in range(7) for b in range(7)
        ]  # fmt: skip
        assert any((row == run).all() for run in runs)


def test_one_seed_agrees_with_scipy():
    correct = outcomes(1, 150)
    expected = stats.bootstrap(
        (correct[0].astype(float),), np.mean, n_resamples=20_000, method="percentile",
        rng=3, vectorized=True,
    )  # fmt: skip
    found = replicates(correct, all_of(correct))
    assert found.std() == pytest.approx(expected.standard_error, rel=0.03)
    low, high = percentiles(found)
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.0068)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.0068)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_the_variance_is_that_of_crossed_resampling(seeds):
    """Var(a' C w) for independent multinomial weights a over seeds and w over samples."""
    correct = outcomes(seeds, 80, seed_spread=0.6, seed=4)
    c, n = correct.astype(float), 80
    w_mean, a_mean = np.full(n, 1 / n), np.full(seeds, 1 / seeds)
    w_cov = (np.diag(w_mean) - np.outer(w_mean, w_mean)) / n
    a_cov = np.zeros((seeds, seeds))
    if seeds > 1:
        a_cov = (np.diag(a_mean) - np.outer(a_mean, a_mean)) / (seeds - 1)
    row, column = a_mean @ c, c @ w_mean
    expected = row @ w_cov @ row + column @ a_cov @ column
    expected += np.trace(a_cov @ c @ w_cov @ c.T)
    found = replicates(correct, all_of(correct))
    assert found.mean() == pytest.approx(c.mean(), abs=4 * math.sqrt(expected / 1e4))
    assert found.var() == pytest.approx(expected, rel=0.05)


def test_the_seeds_part_of_the_variance_is_unbiased():
    """Outcomes that differ between seeds alone: the variance of a mean of seeds, s²/S."""
    shares = [1, 0, 1, 1]
    correct = np.array(shares, dtype=bool)[:, None].repeat(50, axis=1)
    expected = np.var(shares, ddof=1) / len(shares)
    found = replicates(correct, all_of(correct))
    assert found.var() == pytest.approx(expected, rel=0.04)


def test_samples_are_drawn_jointly_for_all_seeds():
    """Seeds that agree on every sample are worth one seed."""
    one = outcomes(1, 100)
    many = one.repeat(5, axis=0)
    everyone = all_of(one)
    assert replicates(many, everyone) == pytest.approx(replicates(one, everyone))


def test_the_variance_of_blocks_has_a_closed_form():
    correct = np.cumsum(outcomes(1, 120, share=0.5), axis=1) % 17 < 9
    block = 10
    ring = np.hstack([correct[0], correct[0, : block - 1]]).astype(float)
    means = np.convolve(ring, np.full(block, 1 / block), mode="valid")
    found = replicates(correct, all_of(correct), block)
    assert found.mean() == pytest.approx(correct.mean(), abs=0.003)
    assert found.var() == pytest.approx(means.var() / (120 / block), rel=0.05)


def test_blocks_widen_the_interval_of_runs_and_not_of_a_regular_pattern():
    runs = (np.arange(300) // 30 % 2 == 0)[None]
    pattern = (np.arange(300) % 2 == 0)[None]
    everyone = all_of(runs)
    widths = {}
    for name, correct in (("runs", runs), ("pattern", pattern)):
        for block in (1, 30):
            low, high = mean_interval(correct, everyone, block)
            widths[name, block] = high - low
    assert widths["runs", 30] > 2 * widths["runs", 1]
    assert widths["pattern", 30] < 0.1 * widths["pattern", 1]


def test_only_counted_samples_count():
    correct = outcomes(3, 90)
    counted = np.arange(90) % 3 > 0
    flipped = np.where(counted, correct, ~correct)
    found = replicates(correct, counted)
    assert found.tolist() == replicates(flipped, counted).tolist()
    assert found.mean() == pytest.approx(correct[:, counted].mean(), abs=0.005)


def test_one_counted_sample_among_many_leaves_no_hole():
    correct, counted = np.ones((2, 50), dtype=bool), np.arange(50) == 7
    assert replicates(correct, counted).tolist() == [1.0] * REPLICATES


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("seeds", [1, 4])
def test_where_the_bootstrap_collapses_wilson_stands(value, seeds):
    correct = np.full((seeds, 70), value)
    counted = np.arange(70) < 40
    correct[:, ~counted] = not value
    assert mean_interval(correct, counted) == wilson_interval(float(value), 40)
    drawn = replicates(correct, counted)
    assert mean_interval(correct, counted, drawn=drawn) == wilson_interval(
        float(value), 40
    )


def test_the_difference_is_paired():
    """Alike on nearly every sample: the difference is far surer than either mean."""
    first = outcomes(3, 200)
    second = first.copy()
    second[:, :10] = False
    everyone = all_of(first)
    drawn = replicates(first, everyone) - replicates(second, everyone)
    low, high = difference_interval(first, second, everyone, drawn)
    gap = float(first.mean() - second.mean())
    assert low < gap < high
    own = mean_interval(first, everyone)
    assert high - low < 0.6 * (own[1] - own[0])
    backwards = difference_interval(second, first, everyone, -drawn)
    assert backwards == pytest.approx((-high, -low))


def test_the_paired_difference_agrees_with_scipy():
    first, second = outcomes(1, 120), outcomes(1, 120, share=0.55, seed=2)
    everyone = all_of(first)
    drawn = replicates(first, everyone) - replicates(second, everyone)
    gaps = first[0].astype(float) - second[0]
    expected = stats.bootstrap(
        (gaps,), np.mean, n_resamples=20_000, method="percentile", rng=5
    )
    low, high = difference_interval(first, second, everyone, drawn)
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.0085)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.0085)


def score_bound(n):
    """Largest difference whose score statistic, without a discordant pair, is 1.96."""
    # Tango's statistic at b = c = 0: n d² / (d (1 - d)) ... solved for z² by bisection.
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        # Restricted estimate of the discordant share is the difference itself.
        statistic = n * middle / math.sqrt(n * (middle - middle * middle))
        low, high = (
            (middle, high) if statistic < stats.norm.ppf(0.975) else (low, middle)
        )
    return low


@pytest.mark.parametrize("n", [10, 465])
def test_equal_outcomes_leave_a_difference_open(n):
    same = outcomes(2, n)
    everyone, none = all_of(same), np.zeros(REPLICATES)
    bound = score_bound(n)
    assert difference_interval(same, same, everyone, none) == pytest.approx(
        (-bound, bound), rel=1e-9
    )
    always, never = np.ones((2, n), dtype=bool), np.zeros((2, n), dtype=bool)
    low, high = difference_interval(always, never, everyone, none + 1)
    assert (low, high) == (pytest.approx(2 * wilson_interval(1.0, n)[0] - 1), 1.0)
    assert difference_interval(never, always, everyone, none - 1) == (-high, -low)


def coverage(seeds, n, trials, *, spread):
    """How often the interval holds the mean of the population it was drawn from."""
    held = 0
    truth = stats.norm.cdf(
        stats.norm.ppf(0.7) * math.sqrt(1.25) / math.sqrt(1.25 + spread**2)
    )
    for trial in range(trials):
        correct = outcomes(seeds, n, seed_spread=spread, seed=1000 + trial)
        low, high = mean_interval(correct, all_of(correct))
        held += low <= truth <= high
    return held / trials


@pytest.mark.parametrize(
    ("seeds", "spread", "least"), [(1, 0.0, 0.92), (5, 0.1, 0.92), (5, 0.5, 0.8)]
)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seeds, spread, least):
    """Five seeds estimate their own spread badly: there the promise is not quite kept."""
    assert least <= coverage(seeds, 200, 300, spread=spread) <= 0.99


@pytest.mark.parametrize(
    ("samples", "time_series", "expected"),
    [(465, True, 30), (465, False, 1), (100, True, 20), (7, True, 1), (1, True, 1)],
)
def test_the_length_of_blocks(samples, time_series, expected):
    assert block_length(samples, time_series=time_series) == expected


@pytest.mark.parametrize(
    ("correct", "counted", "message"),
    [
        (np.ones(4, bool), np.ones(4, bool), r"\(seeds, n\) and a mask \(n,\), got"),
        (np.ones((2, 4), bool), np.ones(3, bool), r"got shapes \(2, 4\) and \(3,\)"),
        (np.ones((2, 4), bool), np.zeros(4, bool), "a counted sample, got none"),
        (np.ones((0, 4), bool), np.ones(4, bool), "expected a seed"),
    ],
)
def test_what_cannot_be_resampled_is_refused(correct, counted, message):
    with pytest.raises(ValueError, match=message):
        replicates(correct, counted)


@pytest.mark.parametrize("block", [0, 5])
def test_a_block_fits_the_samples(block):
    with pytest.raises(ValueError, match=f"a block of 1 to 4 samples, got {block}"):
        replicates(np.ones((1, 4), bool), np.ones(4, bool), block)


def test_the_same_numbers_each_time():
    correct = outcomes(5, 100)
    first = replicates(correct, all_of(correct))
    sample_weights.cache_clear()
    assert replicates(correct, all_of(correct)).tolist() == first.tolist()


# The table's column.


def cell(found):
    (table,) = tables(found)
    column = table.columns.index("95 % interval")
    return table.rows[0][column], " ".join(table.notes)


def test_the_table_shows_the_crossed_bootstrap():
    found = [record("d", seed, outcomes_of(0.6, offset=7 * seed)) for seed in range(5)]
    correct = np.array([outcomes_of(0.6, offset=7 * seed) for seed in range(5)])
    low, high = mean_interval(correct, all_of(correct))
    text, notes = cell(found)
    assert text == f"{100 * low:.1f} to {100 * high:.1f}"
    assert "interval: bootstrap over seeds and samples; Wilson where" in notes


def test_the_table_of_a_time_series_draws_blocks():
    found = [record("d", 0, [i // 20 % 2 == 0 for i in range(200)], time_series=True)]
    text, notes = cell(found)
    plain, _ = cell([record("d", 0, [i // 20 % 2 == 0 for i in range(200)])])
    assert "bootstrap over samples, in blocks of 30 neighbouring samples" in notes
    width = [float(b) - float(a) for a, b in (t.split(" to ") for t in (text, plain))]
    assert width[0] > 1.5 * width[1]


def test_seeds_that_decided_other_samples_cannot_be_crossed():
    found = [record("d", 0, outcomes_of(0.5)), record("d", 1, outcomes_of(0.5, n=50))]
    low, high = wilson_interval(0.5, 50)
    assert cell(found)[0] == f"{100 * low:.1f} to {100 * high:.1f}"
