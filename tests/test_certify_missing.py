"""Silent agents by enumeration, against brute force; the ceiling of identifiability."""

import dataclasses
import itertools

import pytest
import torch

from cibench._errors import ContractError, UsageError
from cibench.certify import identifiability, missing_tolerance
from helpers import layout_of, mlp_head, normal, observation_of, orthonormal

LAYOUT = layout_of(2, 1, 3, 1)


def table(seed):
    """A decision that is arbitrary for each set of heard agents; -1 abstains."""
    votes = torch.randint(0, 10, (16, 2), generator=torch.Generator().manual_seed(seed))
    answers = torch.tensor([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1])[votes]

    def classify(observation):
        place = (observation.observed * torch.tensor([1, 2, 4, 8])).sum(1)
        kind = (observation.filled(0.0)[:, 0] > 0).long()
        return answers[place, kind]

    return classify


@pytest.mark.parametrize("seed", range(20))
def test_every_set_is_tried(seed):
    observation = observation_of(LAYOUT, 30, missing=0.3, seed=seed)
    observation.observed[0] = False
    classify = table(seed)
    decided = classify(observation)
    for most in (0, 1, 2, 3, 4, 9):
        found = missing_tolerance(classify, observation, most)
        for n in range(30):
            heard = [i for i, o in enumerate(observation.observed[n].tolist()) if o]
            largest = 0
            for size in range(1, min(most, len(heard)) + 1):
                answers = set()
                for gone in itertools.combinations(heard, size):
                    mask = observation.observed[n : n + 1].clone()
                    mask[0, list(gone)] = False
                    one = dataclasses.replace(observation[n : n + 1], observed=mask)
                    answers.add(int(classify(one)))
                if answers != {int(decided[n])}:
                    break
                largest = size
            expected = largest if decided[n] >= 0 else 0
            assert int(found[n]) == expected


def test_a_head_on_what_is_heard():
    head = mlp_head(LAYOUT.width, 3, seed=4)
    observation = observation_of(LAYOUT, 40, seed=1)
    found = missing_tolerance(lambda o: head(o.filled(0.0)).argmax(1), observation, 4)
    assert len(found.unique()) >= 3
    constant = missing_tolerance(
        lambda o: torch.ones(len(o), dtype=torch.long), observation, 9
    )
    assert constant.tolist() == [4] * 40
    nobody = missing_tolerance(lambda o: o.observed.sum(1), observation[:0], 2)
    assert nobody.shape == (0,)


def test_bad_questions():
    observation = observation_of(LAYOUT, 3)
    with pytest.raises(UsageError, match="most: expected at least 0 agents, got -1"):
        missing_tolerance(lambda o: o.observed.sum(1), observation, -1)
    with pytest.raises(ContractError, match="an integer for each of 3 samples"):
        missing_tolerance(lambda o: o.features[:, 0], observation, 1)


def by_rank(weight, layout, heard):
    """The definition: ranks of all stacks of all but 2q blocks."""
    rank = torch.linalg.matrix_rank
    whole, corrupted = int(rank(weight)), -1
    for q in range((len(heard) + 1) // 2):
        sets = list(itertools.combinations(heard, len(heard) - 2 * q))
        if not all(
            int(rank(torch.cat([weight[layout.slices[i]] for i in s]))) == whole
            for s in sets
        ):
            break
        corrupted = q
    return corrupted


@pytest.mark.parametrize(
    ("widths", "rank"),
    [
        ((1,) * 7, 1),
        ((1,) * 7, 2),
        ((1,) * 7, 3),
        ((2,) * 6, 2),
        ((2,) * 6, 5),
        ((1, 5, 2, 2, 3), 4),
        ((3, 1, 1, 1, 1), 3),
        ((60,) * 4, 130),
    ],
)
def test_identifiability_is_that_of_the_ranks(widths, rank):
    layout = layout_of(*widths)
    weight = normal(layout.width, rank, seed=rank)
    everyone = list(range(layout.agents))
    for heard in (everyone, everyone[:-1], everyone[1:-2]):
        mask = torch.zeros(layout.agents, dtype=torch.bool)
        mask[heard] = True
        found = identifiability(weight, layout, mask)
        assert found.corrupted == by_rank(weight, layout, heard)
        assert found.rank == rank
        assert len(found.conditions) == found.corrupted + 1
        assert list(found.conditions) == sorted(found.conditions, reverse=True)
        if found.blind is not None:
            assert len(found.blind) == len(heard) - 2 * (found.corrupted + 1)
            rows = torch.cat([weight[layout.slices[i]] for i in found.blind])
            assert int(torch.linalg.matrix_rank(rows)) < rank


def test_conditions_are_what_the_rest_sees_at_least():
    layout = layout_of(2, 2, 2, 2, 2)
    weight = normal(10, 3) @ normal(3, 6, seed=1)
    found = identifiability(weight, layout)
    assert found.rank == 3
    assert found.conditions[0] == pytest.approx(1.0)
    assert found.corrupted == 1
    v = weight @ normal(6, 2000, seed=2)
    shares = [
        torch.cat([v[layout.slices[i]] for i in s]).norm(dim=0) / v.norm(dim=0)
        for s in itertools.combinations(range(5), 3)
    ]
    least = float(torch.stack(shares).amin())
    assert found.conditions[1] <= least < 1.5 * found.conditions[1]
    # Neither the basis of the codes nor rotations of blocks matter.
    other = weight @ normal(6, 6, seed=5)
    turned = torch.cat([orthonormal(2, 2, i) @ other[s] for i, s in enumerate(
        layout.slices
    )])  # fmt: skip
    assert identifiability(turned, layout).conditions == pytest.approx(found.conditions)


def test_two_points_that_nobody_can_tell_apart():
    """What a blind set means: one observation, two points, q corrupted agents for each."""
    layout = layout_of(1, 1, 1, 1, 1)
    weight = normal(5, 3, seed=4)
    found = identifiability(weight, layout)
    assert (found.corrupted, found.blind is not None) == (1, True)
    assert len(found.blind) == 1
    # Two rows of rank 3 leave a direction that they do not see.
    rows = weight[list(found.blind)]
    v = weight @ torch.linalg.svd(rows).Vh[-1]
    assert v[list(found.blind)].abs().max() < 1e-12
    assert v.norm() > 0.1


def test_bad_matrices():
    layout = layout_of(2, 2)
    with pytest.raises(
        UsageError, match=r"W: expected a matrix with 4 rows.*got shape \(3, 2\)"
    ):
        identifiability(normal(3, 2), layout)
    with pytest.raises(UsageError, match="W: expected an entry that is not zero"):
        identifiability(torch.zeros(4, 2), layout)
    with pytest.raises(UsageError, match="W: expected finite entries"):
        identifiability(normal(4, 2) * torch.nan, layout)
    nobody = identifiability(normal(4, 2), layout, torch.tensor([False, False]))
    assert (nobody.corrupted, nobody.conditions) == (-1, ())
