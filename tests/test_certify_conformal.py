"""Conformal limits: the exact rank, and the coverage it promises."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cibench._errors import UsageError
from cibench.certify import conformal_limit, conformal_rank
from helpers import seeded


@given(st.integers(0, 400), st.integers(1, 999))
def test_the_rank_is_the_smallest_that_covers(scores, thousandths):
    miss = thousandths / 1000
    exact = Fraction(thousandths, 1000)
    covering = [k for k in range(1, scores + 1) if 1 - Fraction(k, scores + 1) <= exact]
    assert conformal_rank(scores, miss) == (covering[0] if covering else None)


@pytest.mark.parametrize("scores", [4, 5, 6])
@pytest.mark.parametrize("miss", [0.15, 0.2, 1 / 3, 0.5])
def test_coverage_over_all_orders_ties_included(scores, miss):
    """Exchangeable scores take all orders alike: count them."""
    for values in (range(scores + 1), [0, 0, *range(1, scores)]):
        above, total = 0, 0
        for order in itertools.permutations(values):
            limit = conformal_limit(torch.tensor(order[:-1]).double(), miss)
            above += order[-1] > limit
            total += 1
        assert above <= miss * total + 1e-9
        distinct = len(set(values)) == scores + 1
        rank = conformal_rank(scores, miss)
        if distinct and rank is not None:
            assert above * (scores + 1) == total * (scores + 1 - rank)


def test_coverage_of_drawn_scores():
    """Coverage k / (n + 1) = 0.9 exactly for 99 continuous scores."""
    draws = torch.randn(20000, 100, generator=seeded()).exp()
    limits = draws[:, :99].kthvalue(conformal_rank(99, 0.1), dim=1).values
    covered = (draws[:, 99] <= limits).double().mean()
    assert abs(float(covered) - 0.9) < 4 * math.sqrt(0.09 / 20000)
    assert conformal_limit(draws[0, :99], 0.1) == float(limits[0])


def test_too_few_scores_have_no_limit():
    assert conformal_limit(torch.arange(8.0), 0.1) == math.inf
    assert conformal_limit(torch.arange(9.0), 0.1) == 8.0
    assert conformal_limit(torch.empty(0), 0.5) == math.inf


def test_bad_input():
    with pytest.raises(UsageError, match="miss: expected a number between 0 and 1"):
        conformal_rank(10, 1.0)
    with pytest.raises(UsageError, match=r"expected a vector.*shape \(2, 2\)"):
        conformal_limit(torch.ones(2, 2), 0.1)
    with pytest.raises(UsageError, match="with 1 non-finite"):
        conformal_limit(torch.tensor([1.0, torch.nan]), 0.1)
