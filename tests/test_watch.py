"""What the harness sees of an attack's calls."""

from dataclasses import replace

import pytest
import torch

from cibench import Criterion, Knowledge, Victim
from cibench.watch import Watch
from helpers import Plain, everyone, layout_of, linear_head, normal

LAYOUT = layout_of(2, 3)
N, CLASSES = 6, 3


@pytest.fixture
def clean():
    return everyone(normal(N, LAYOUT.width), LAYOUT)


def watching(clean, *, radius=None, **may):
    own = torch.tensor([[False, True]]).repeat(N, 1)
    criterion = Criterion(torch.zeros(N, dtype=torch.long))
    return Watch(clean, criterion, own, radius, **may)


def moved(clean, column, by):
    features = clean.features.clone()
    features[:, column] += by
    return clean.with_features(features)


def logits(*classes):
    return torch.nn.functional.one_hot(torch.tensor(classes), CLASSES).double()


def test_success_is_noted_for_each_sample_and_kept(clean):
    watch = watching(clean)
    watch.answered(moved(clean, 2, 1.0), logits(0, 1, 0, 2, 0, 0))
    watch.answered(moved(clean, 2, 2.0), logits(1, 0, 0, 0, 0, 0))
    assert watch.found.tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("column", "by", "radius", "within"),
    [
        (2, 1.0, None, True),
        (0, 1.0, None, False),  # an honest block
        (2, 1.0, 1.1, True),
        (2, 1.0, 0.9, False),
        (2, torch.nan, None, True),  # nothing bounds it
        (2, torch.nan, 0.9, False),
    ],
)
def test_only_points_within_the_threat_model_count(clean, column, by, radius, within):
    ball = None if radius is None else torch.full((2,), radius)
    watch = watching(clean, radius=ball)
    watch.answered(moved(clean, column, by), logits(*[1] * N))
    assert watch.found.tolist() == [within] * N


def test_silence_counts_where_it_is_allowed(clean):
    silent = clean.without(torch.tensor([[False, True]]).repeat(N, 1))
    for may_drop in (False, True):
        watch = watching(clean, may_drop=may_drop)
        watch.answered(silent, logits(*[1] * N))
        assert watch.found.tolist() == [may_drop] * N
    corrupting = watching(clean, may_corrupt=False)
    corrupting.answered(moved(clean, 2, 1.0), logits(*[1] * N))
    assert not corrupting.found.any()


def test_abstaining_and_questions_about_some_samples_do_not_count(clean):
    watch = watching(clean)
    everything = torch.ones(N, dtype=torch.bool)
    watch.answered(moved(clean, 2, 1.0), logits(*[1] * N), everything)
    watch.answered(moved(clean, 2, 1.0)[:3], logits(1, 1, 1))
    assert not watch.found.any()


def test_averaging_is_seen_in_a_row_and_side_by_side(clean):
    shown = logits(*[0] * N)
    for asked, averaged in (
        ([clean.features, clean.features + 1], False),
        ([clean.features, clean.features.clone()], True),
        ([torch.cat([clean.features, clean.features])], True),
        ([torch.cat([clean.features, clean.features + 1])], False),
        ([clean.features + step for step in (0, 0, 1, 2)], False),  # one of four
        ([clean.features + step for step in (0, 0, 1, 1)], True),
    ):
        watch = watching(clean)
        for features in asked:
            watch.differentiated(features, shown)
        assert watch.averaged == averaged


def test_samples_broken_in_the_last_quarter_are_late(clean):
    watch = watching(clean)
    for step in range(1, 9):
        broken = [step >= first for first in (1, 6, 7, 8, 9, 9)]
        watch.differentiated(clean.features + step, logits(*map(int, broken)))
    assert watch.first.tolist() == [1, 6, 7, 8, 0, 0]
    assert watch.late.tolist() == [False, False, True, True, False, False]


class Other(Plain):
    """Shows an adversary something else than what is deployed."""

    def surrogate(self, observation):
        return -super().surrogate(observation)


@pytest.mark.parametrize("kind", [Plain, Other])
def test_gradients_show_success_only_where_they_are_of_the_deployed_one(clean, kind):
    center = kind(linear_head(LAYOUT.width, CLASSES))
    decided = center(clean).logits
    criterion = Criterion(torch.zeros(N, dtype=torch.long))
    own = torch.ones(N, 2, dtype=torch.bool)
    watch = Watch(clean, criterion, own, None)
    victim = Victim(
        Knowledge.ADAPTIVE, undefended=center, defended=center, own=own, watch=watch
    )
    victim.loss_gradient(clean, criterion.margin)
    won = criterion.succeeded(decided)
    assert won.any()
    assert torch.equal(watch.found, won if kind is Plain else torch.zeros_like(won))
    victim.logits(clean)
    assert torch.equal(watch.found, won)


def test_the_undefended_fusion_center_says_nothing_of_the_deployed_one(clean):
    center = Plain(linear_head(LAYOUT.width, CLASSES))
    watch = watching(replace(clean))
    victim = Victim(Knowledge.FUSION, undefended=center, defended=center, watch=watch)
    victim.logits(clean)
    victim.loss_gradient(clean, lambda z: z[:, 0])
    assert not watch.found.any()
    assert watch.gradients == 0


def test_a_question_about_other_last_digits_is_the_same_question(clean):
    """Noise that is a function of the input is averaged by asking so."""
    for size, averaged in ((1e-6, True), (1e-3, False)):
        watch = watching(clean)
        for digits in range(4):
            noise = size * normal(N, LAYOUT.width, seed=digits)
            watch.differentiated(clean.features * (1 + noise), logits(0, 0, 0, 0, 0, 0))
        assert watch.averaged == averaged
