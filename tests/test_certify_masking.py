"""Two rounds of masking against the published rule, and against all turned answers."""

import itertools
from collections import Counter

import pytest
import torch

from cibench.certify import (
    mask_unions,
    masked_decision,
    masking_certified,
    stable_masks,
)
from helpers import seeded


def drawn(samples, unions, classes, seed, share=0.85):
    """Answers that mostly agree: there certificates hold, or nearly so."""
    generator = seeded(seed)
    favorite = torch.randint(0, classes, (samples, 1), generator=generator)
    other = torch.randint(0, classes, (samples, unions), generator=generator)
    loyal = torch.rand(samples, unions, generator=generator) < share
    return torch.where(loyal, favorite, other)


def published(answers, unions, masked):
    """PatchCleanser's inference for one sample, by its own steps."""
    table = {frozenset(u): a for u, a in zip(unions, answers, strict=True)}
    masks = [m for m in table if len(m) == masked]
    first = Counter(table[m] for m in masks)
    if len(first) == 1:
        return table[masks[0]]
    majority = min(first, key=lambda c: (-first[c], c))
    for mask in masks:
        if table[mask] != majority and all(
            table[mask | second] == table[mask] for second in masks
        ):
            return table[mask]
    return majority


def as_sets(unions):
    return [row.nonzero().flatten().tolist() for row in unions]


@pytest.mark.parametrize(("agents", "masked"), [(3, 1), (4, 1), (5, 2), (2, 1), (4, 3)])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_decision_is_the_published_one(agents, masked, share):
    unions, pairs = mask_unions(agents, masked)
    answers = drawn(300, len(unions), 3, agents, share)
    expected = [published(row, as_sets(unions), masked) for row in answers.tolist()]
    assert masked_decision(answers, pairs, 3).tolist() == expected
    assert len(set(expected)) == 3


@pytest.mark.parametrize(("agents", "masked"), [(3, 1), (6, 1), (6, 2), (4, 3)])
def test_unions_are_those_of_two_masks(agents, masked):
    unions, pairs = mask_unions(agents, masked)
    masks = list(itertools.combinations(range(agents), masked))
    assert len({tuple(row) for row in unions.tolist()}) == len(unions)
    assert pairs.unique().tolist() == list(range(len(unions)))
    assert len(pairs) == len(masks)
    for (i, one), (j, other) in itertools.product(enumerate(masks), repeat=2):
        assert as_sets(unions)[pairs[i, j]] == sorted({*one, *other})


def brought_down(answers, unions, pairs, bad, classes):
    """Whether some choice of the answers that see one of `bad` changes the decision."""
    covered = unions[:, list(bad)].all(dim=1)
    free = (~covered).nonzero().flatten()
    choices = torch.cartesian_prod(*[torch.arange(classes)] * len(free))
    changed = answers.repeat(len(choices), 1)
    changed[:, free] = choices.reshape(len(choices), len(free))
    before = masked_decision(answers[None], pairs, classes)
    return bool((masked_decision(changed, pairs, classes) != before).any())


@pytest.mark.parametrize(
    ("agents", "masked", "classes", "corrupted"),
    [
        (3, 1, 2, 1),
        (3, 1, 3, 1),
        (4, 1, 2, 1),
        (4, 1, 3, 1),
        (5, 2, 2, 1),
        (4, 2, 2, 2),
    ],
)
def test_certificates_are_sound_and_exact_for_whole_masks(
    agents, masked, classes, corrupted
):
    unions, pairs = mask_unions(agents, masked)
    answers = drawn(40, len(unions), classes, agents, 0.9)
    observed = torch.ones(40, agents, dtype=torch.bool)
    certified = masking_certified(answers, observed, unions, pairs, corrupted)
    stands = torch.tensor(
        [
            not any(
                brought_down(row, unions, pairs, bad, classes)
                for bad in itertools.combinations(range(agents), corrupted)
            )
            for row in answers
        ]
    )
    assert 0 < int(certified.sum()) < 40
    assert not (certified & ~stands).any()
    if corrupted == masked:
        assert torch.equal(certified, stands)


@pytest.mark.parametrize(
    ("agents", "masked", "missing"), [(4, 1, 1), (4, 1, 2), (5, 2, 1)]
)
def test_certificates_are_sound_with_missing_agents(agents, masked, missing):
    """Corrupted agents may fall silent, too: then answers of nobody become none."""
    unions, pairs = mask_unions(agents, masked)
    heard = torch.arange(agents) >= missing
    nobody = (unions | ~heard).all(dim=1)
    answers = drawn(60, len(unions), 2, agents, 0.93).masked_fill(nobody, -1)
    observed = heard.expand(60, -1)
    certified = masking_certified(answers, observed, unions, pairs, 1)
    if agents - missing > 2 * masked:
        assert 0 < int(certified.sum()) < 60
    before = masked_decision(answers, pairs, 2)
    for bad in range(missing, agents):
        covered = unions[:, bad]
        free = (~covered).nonzero().flatten()
        for silent in (False, True):
            fewer = heard.clone()
            fewer[bad] = not silent
            gone = (unions | ~fewer).all(dim=1)
            for draw in range(200):
                changed = answers.clone()
                turned = drawn(60, len(free), 2, 1000 + draw, 0.8)
                changed[:, free] = turned.masked_fill(gone[free], -1)
                after = masked_decision(changed, pairs, 2)
                assert not ((after != before) & certified).any()


def test_without_anybody_left_there_is_no_answer():
    unions, pairs = mask_unions(3, 1)
    # Agents 0 and 1 were heard. Alone each says 1, both say 0, nobody says nothing.
    sets = [set(members) for members in as_sets(unions)]
    answers = torch.tensor(
        [[-1 if {0, 1} <= s else 1 if s & {0, 1} else 0 for s in sets]]
    )
    assert stable_masks(answers, pairs).tolist() == [[False, False, False]]
    # The first round: 1 without agent 0, 1 without agent 1, 0 without agent 2.
    assert masked_decision(answers, pairs, 2).tolist() == [1]
    nothing = torch.full_like(answers, -1)
    assert not stable_masks(nothing, pairs).any()
    assert masked_decision(nothing, pairs, 2).tolist() == [0]


@pytest.mark.parametrize("masked", [1, 2])
def test_with_everybody_heard_it_is_that_all_pairs_agree(masked):
    """Theorem 1 of the source: two-mask correctness."""
    unions, pairs = mask_unions(6, masked)
    answers = drawn(400, len(unions), 2, 3, 0.97)
    observed = torch.ones(400, 6, dtype=torch.bool)
    agree = (answers == answers[:, :1]).all(dim=1)
    found = masking_certified(answers, observed, unions, pairs, masked)
    assert torch.equal(found, agree)
    assert 0 < int(found.sum()) < 400
    # Fewer corrupted agents ask for less, none for nothing, more cannot be covered.
    for corrupted, expected in ((0, True), (masked + 1, False)):
        held = masking_certified(answers, observed, unions, pairs, corrupted)
        assert held.tolist() == [expected] * 400
    fewer = masking_certified(answers, observed, unions, pairs, masked - 1)
    assert not (found & ~fewer).any()
    assert int(fewer.sum()) > int(found.sum())


def test_sets_with_missing_agents_are_not_asked_for():
    """Without a missing agent masks are smaller: only heard ones can be corrupted."""
    unions, pairs = mask_unions(4, 1)
    place = {tuple(members): i for i, members in enumerate(as_sets(unions))}
    answers = torch.zeros(1, len(unions), dtype=torch.long)
    # The mask of agent 3, which was not heard, is not stable; the others are.
    observed = torch.tensor([[True, True, True, False]])
    answers[0, place[(3,)]] = 1
    assert masking_certified(answers, observed, unions, pairs, 1).all()
    assert not masking_certified(answers, ~observed, unions, pairs, 1).any()
    everyone = torch.ones_like(observed)
    assert not masking_certified(answers, everyone, unions, pairs, 1).any()
    # Fewer heard than corrupted: some set has them all.
    unions, pairs = mask_unions(5, 2)
    answers = torch.zeros(1, len(unions), dtype=torch.long)
    alone = torch.tensor([[True, False, False, False, False]])
    assert masking_certified(answers, alone, unions, pairs, 2).all()
    answers[0, 3] = 1
    assert not masking_certified(answers, alone, unions, pairs, 2).any()
