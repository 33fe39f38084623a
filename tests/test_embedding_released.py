"""The released schedule: plain SGD, and one fusion head on the autoencoder's output."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cibench import ManifoldRecipe
from cibench.embedding import RECIPES, prepare
from cibench.embedding.released import (
    CODE_WIDTH,
    DECAY,
    DECAY_STEPS,
    RATE,
    released_descent,
)
from cibench.evaluate import _same_model
from cibench.execute.store import ArtifactStore
from cibench.manifold.autoencoder import fit_released_autoencoder
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.none import NoDefense
from helpers import layout_of, observation_of, seeded


def silent(phase, done, total):
    pass


class Point(nn.Module):
    """One parameter w; its loss w^2 / 2 contracts by 1 - rate at every step."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))


def descend(point, *, epochs, batch=10, n=30, **options):
    released_descent(
        point, lambda indices: point.w.square().sum() / 2, n=n, epochs=epochs,
        batch=batch, generator=seeded(), progress=silent, phase="", **options,
    )  # fmt: skip
    return float(point.w.detach())


def test_a_quadratic_contracts_by_the_rate_at_every_step():
    assert descend(Point(), epochs=5) == pytest.approx((1 - RATE) ** 15, rel=1e-12)


def test_the_rate_decays_by_steps():
    expected = 1.0
    for step in range(12):
        expected *= 1 - RATE * DECAY ** (step / DECAY_STEPS)
    assert descend(Point(), epochs=4, decayed=True) == pytest.approx(
        expected, rel=1e-12
    )
    assert expected != pytest.approx((1 - RATE) ** 12, rel=1e-9)


def test_every_sample_is_seen_once_per_epoch():
    seen, point = [], Point()

    def loss(indices):
        seen.append(indices)
        return point.w.sum() * 0

    released_descent(
        point, loss, n=25, epochs=2, batch=10, generator=seeded(), progress=silent,
        phase="",
    )  # fmt: skip
    assert [len(batch) for batch in seen] == [10, 10, 5] * 2
    epochs = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert all(torch.equal(e.sort().values, torch.arange(25)) for e in epochs)
    assert not torch.equal(*epochs)


def test_the_weights_of_the_lowest_validation_loss_are_kept_where_one_is_given():
    point, losses = Point(), iter([3.0, 1.0, 2.0])
    kept = descend(
        point, epochs=3, validation_loss=lambda: torch.tensor(next(losses))
    )  # fmt: skip
    assert kept == pytest.approx((1 - RATE) ** 6, rel=1e-12)


def test_the_autoencoder_has_no_scaling_and_sees_missing_blocks_as_zeros():
    layout = layout_of(3, 2)
    train = observation_of(layout, 40, missing=0.3)
    poisoned = train.with_features(train.filled(float("nan")))
    model, same = (
        fit_released_autoencoder(o, 2, generator=seeded(1)) for o in (train, poisoned)
    )
    assert torch.equal(model.mean, torch.zeros(5, dtype=torch.float64))
    assert float(model.scale) == 1.0
    assert all(map(torch.equal, model.parameters(), same.parameters()))


@pytest.fixture(scope="module")
def released():
    recipe = replace(RECIPES["copur-extrasensory"], block=3, head=5)
    dataset = Synthetic(agents=3, width=4, rank=2, samples=200, margin=0.3).load()
    training, *_ = prepare(
        dataset, recipe, seed=0, store=ArtifactStore(None),
        device=torch.device("cpu"),
    )  # fmt: skip
    return training


def test_the_undefended_head_is_the_one_trained_on_the_autoencoder(released):
    head = released.manifold_head(ManifoldRecipe(family="mlp", width=CODE_WIDTH))
    ours = released.undefended.head.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in head.state_dict().items())
    assert torch.equal(released.undefended.fill, torch.zeros(9))


def test_nothing_is_judged_where_nothing_is_to_be_chosen(released):
    fitted = released.manifold(ManifoldRecipe(family="mlp", width=CODE_WIDTH))
    assert fitted.recovery == {}
    assert fitted.manifold.rank == CODE_WIDTH
    assert 0 < fitted.residual < 2


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"head": "plain"}, False),
        ({"head": "manifold", "manifold": "mlp", "width": CODE_WIDTH}, True),
    ],
)
def test_what_an_attacker_of_the_undefended_knows(released, options, same):
    center = NoDefense(**options).fit(released, generator=seeded())
    assert _same_model(center, released.undefended) is same
