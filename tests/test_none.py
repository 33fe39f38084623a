"""The baselines: which head decides, and on what."""

import dataclasses

import pytest
import torch
from torch import nn

from cibench import ManifoldRecipe, OptionError, fusion_head
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.registry import default_registry
from cibench.spec import Spec, canonical
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.none import NoDefense
from helpers import seeded

DATA = Synthetic(agents=4, width=6, rank=2, samples=300, margin=0.3)
RECIPE = dataclasses.replace(RECIPES["linear-32"], block=4, head=8, epochs=6)


def prepared(recipe=RECIPE, store=None):
    training, clean, _ = prepare(
        DATA.load(), recipe, seed=0, store=store or ArtifactStore(None),
        device=torch.device("cpu"),
    )  # fmt: skip
    return training, clean


@pytest.fixture(scope="module")
def data():
    """What defenses learn from, and test embeddings of which some are incomplete."""
    training, clean = prepared()
    lost = torch.rand(clean.observed.shape, generator=seeded(1)) < 0.4
    lost[0] = True
    return training, dataclasses.replace(clean, observed=clean.observed & ~lost)


def logits(defense, training, observation, seed=0):
    return defense.fit(training, generator=seeded(seed))(observation).logits


def weights(center):
    return torch.cat([p.flatten() for p in center.head.parameters()])


def test_by_default_the_head_trained_with_the_encoders_decides(data):
    training, _ = data
    assert NoDefense().fit(training, generator=seeded()) is training.undefended


def test_the_plain_head_is_a_logistic_regression_on_all_agents(data):
    """Trained to the end, almost linear, it reaches the minimum of the plain loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    training, _ = data
    recipe = dataclasses.replace(
        RECIPE, slope=0.99, epochs=400, patience=400, batch=10_000, weight_decay=0.0,
        learning_rate=0.02, agent_dropout=0.9,
    )  # fmt: skip
    noisy = torch.rand(len(training.train), generator=seeded(2)) < 0.3
    labels = torch.where(noisy, 1 - training.train_labels, training.train_labels)
    training = dataclasses.replace(
        training, recipe=recipe, train_labels=labels, store=ArtifactStore(None),
        validation=training.train, validation_labels=labels,
    )  # fmt: skip
    center = NoDefense(head="plain").fit(training, generator=seeded())
    values = training.train.features.double().numpy()
    fitted = LogisticRegression(C=1e6, max_iter=10_000).fit(values, labels.numpy())
    lowest = log_loss(labels.numpy(), fitted.predict_proba(values))
    own = nn.functional.cross_entropy(center(training.train).logits, labels)
    assert lowest > 0.3
    assert float(own) == pytest.approx(lowest, abs=0.02)


def test_the_plain_head_fills_missing_blocks_like_the_undefended(data):
    training, partly = data
    center = NoDefense(head="plain").fit(training, generator=seeded())
    fill = training.undefended.fill
    expected = center.head(partly.filled(fill))
    torch.testing.assert_close(center(partly).logits, expected)
    nobody = dataclasses.replace(partly, observed=torch.zeros_like(partly.observed))
    assert center(nobody).logits.isfinite().all()
    torch.testing.assert_close(
        center(nobody).logits, center.head(fill).expand(len(partly), -1)
    )


def test_the_plain_head_depends_on_the_generator_and_is_stored(tmp_path):
    training, _ = prepared(store=ArtifactStore(tmp_path))
    before = len(list(tmp_path.rglob("*.safetensors")))
    one = NoDefense(head="plain").fit(training, generator=seeded(0))
    assert len(list(tmp_path.rglob("*.safetensors"))) == before + 1
    again = NoDefense(head="plain").fit(training, generator=seeded(1))
    assert torch.equal(weights(one), weights(again))  # stored under one label
    fresh, _ = prepared()
    other = NoDefense(head="plain").fit(fresh, generator=seeded(1))
    assert not torch.equal(weights(one), weights(other))
    skeleton = fusion_head(16, 2, RECIPE, seeded())
    assert weights(one).numel() == sum(p.numel() for p in skeleton.parameters())
    assert not any(p.requires_grad for p in one.parameters())


@pytest.mark.parametrize(("family", "width"), [("affine", 3), ("mlp", 3)])
def test_the_manifolds_head_is_fed_raw_embeddings(data, family, width):
    training, partly = data
    defense = NoDefense(head="manifold", manifold=family, width=width)
    recipe = ManifoldRecipe(family=family, width=width)
    head = training.manifold_head(recipe)
    expected = head(partly.filled(training.undefended.fill))
    torch.testing.assert_close(logits(defense, training, partly), expected)
    projected = training.manifold(recipe).manifold.reconstruct(
        partly.filled(0).double()
    )
    assert not torch.allclose(expected, head(projected.float()))


def test_the_released_behaviour_has_a_spec():
    spec = "none:head=manifold,manifold=mlp,width=150"
    configured = default_registry().configure("defense", Spec.parse(spec))
    assert configured == NoDefense(head="manifold", manifold="mlp", width=150)
    assert canonical(configured) == spec


@pytest.mark.parametrize("spec", ["width=3", "manifold=mlp", "head=plain,width=3"])
def test_an_option_of_the_manifold_needs_it(spec):
    with pytest.raises(OptionError, match=r"expected head=manifold .* got head=\w+"):
        default_registry().configure("defense", Spec.parse(f"none:{spec}"))
