import re

import pytest
import torch

from cibench import ContractError, Observation
from cibench.defense import ABSURD_MAGNITUDE, sanitize
from helpers import Plain, everyone, layout_of, linear_head, normal, observation_of

LAYOUT = layout_of(2, 3, 1)


def test_filled_replaces_missing_blocks_only():
    observed = torch.tensor([[True, False, True], [False, True, False]])
    features = torch.arange(12.0).reshape(2, 6)
    fill = torch.tensor([-1.0, -2, -3, -4, -5, -6])
    assert Observation(features, observed, LAYOUT).filled(fill).tolist() == [
        [0, 1, -3, -4, -5, 5],
        [-1, -2, 8, 9, 10, -6],
    ]
    assert Observation(features, observed, LAYOUT).filled().tolist() == [
        [0, 1, 0, 0, 0, 5],
        [0, 0, 8, 9, 10, 0],
    ]


def test_fill_takes_the_dtype_of_the_features():
    observation = Observation(
        torch.ones(1, 6), torch.zeros(1, 3, dtype=torch.bool), LAYOUT
    )
    assert observation.filled(torch.ones(6, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e300, 7.0])
def test_values_under_missing_agents_change_nothing(junk):
    observation = observation_of(LAYOUT, 20, missing=0.4)
    hidden = ~LAYOUT.expand(observation.observed)
    assert hidden.any()
    spoilt = observation.with_features(observation.features.masked_fill(hidden, junk))
    center = Plain(linear_head(6, 3))
    assert torch.equal(center(spoilt).logits, center(observation).logits)
    assert torch.equal(spoilt.filled(2.0), observation.filled(2.0))
    assert not sanitize(spoilt)[1].any()


def test_getitem_without_and_len():
    observation = observation_of(LAYOUT, 5, missing=0.3)
    part = observation[torch.tensor([4, 1])]
    assert torch.equal(part.features, observation.features[[4, 1]])
    assert torch.equal(part.observed, observation.observed[[4, 1]])
    assert (len(part), len(observation[1:4])) == (2, 3)
    gone = torch.zeros(5, 3, dtype=torch.bool)
    gone[:, 1] = True
    assert not observation.without(gone).observed[:, 1].any()
    assert torch.equal(
        observation.without(gone).observed[:, [0, 2]], observation.observed[:, [0, 2]]
    )


@pytest.mark.parametrize(
    ("features", "observed", "message"),
    [
        ((2, 5), (2, 3), "features: expected shape (2, 6), got (2, 5)"),
        ((2, 6), (2, 2), "observed: expected shape (2, 3), got (2, 2)"),
        ((2, 6), (3, 3), "observed: expected shape (2, 3), got (3, 3)"),
    ],
)
def test_shapes_that_are_refused(features, observed, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        Observation(
            torch.zeros(features), torch.ones(observed, dtype=torch.bool), LAYOUT
        )


@pytest.mark.parametrize("integers", [True, False])
def test_types_that_are_refused(integers):
    features = torch.zeros(2, 6, dtype=torch.long if integers else torch.float32)
    observed = torch.ones(2, 3, dtype=torch.bool if integers else torch.uint8)
    with pytest.raises(ContractError, match="floating-point features and a boolean"):
        Observation(features, observed, LAYOUT)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 2e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unusable_blocks_count_as_missing(value, dtype):
    features = normal(8, 6).to(dtype)
    features[2, 3] = value  # one value of agent b
    features[5, 5] = value  # agent c
    received = everyone(features, LAYOUT)
    clean, rejected = sanitize(received)
    expected = torch.zeros(8, 3, dtype=torch.bool)
    expected[2, 1] = expected[5, 2] = True
    assert torch.equal(rejected, expected)
    assert torch.equal(clean.observed, ~expected)
    assert clean.features[2, 2:5].tolist() == [0.0] * 3
    assert torch.isfinite(clean.features).all()
    untouched = LAYOUT.expand(~expected)
    assert torch.equal(clean.features[untouched], features[untouched])

    center = Plain(linear_head(6, 3).to(dtype))
    decision = center(received)
    silent = center(received.without(expected))
    assert torch.equal(decision.logits, silent.logits)
    assert torch.equal(decision.rejected, expected)
    assert not silent.rejected.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_the_smallest_normal_numbers_and_the_bound_are_usable(dtype):
    tiny = torch.finfo(dtype).tiny
    features = torch.tensor(
        [[ABSURD_MAGNITUDE, tiny, -tiny, 0.0, -0.0, -ABSURD_MAGNITUDE]], dtype=dtype
    )
    clean, rejected = sanitize(everyone(features, LAYOUT))
    assert not rejected.any()
    assert torch.equal(clean.features, features)


def test_sanitizing_leaves_the_argument_alone():
    features = normal(3, 6)
    features[0, 0] = torch.nan
    received = everyone(features.clone(), LAYOUT)
    sanitize(received)
    assert torch.equal(received.features.nan_to_num(9.0), features.nan_to_num(9.0))
    assert received.observed.all()


def test_gradients_are_zero_where_nothing_arrived():
    features = normal(4, 6).requires_grad_()
    observed = torch.ones(4, 3, dtype=torch.bool)
    observed[:, 1] = False
    spoilt = features.masked_fill(torch.tensor([0, 0, 0, 0, 0, 1]).bool(), torch.nan)
    center = Plain(linear_head(6, 3))
    logits = center.differentiable_logits(Observation(spoilt, observed, LAYOUT))
    (gradient,) = torch.autograd.grad(logits.square().sum(), features)
    assert (gradient[:, :2] != 0).all()
    assert (gradient[:, 2:] == 0).all()


def test_chunks_give_the_same_decision():
    received = observation_of(LAYOUT, 23, missing=0.3)
    center = Plain(linear_head(6, 3))
    whole = center(received)
    center.samples_per_chunk = 7
    parts = center(received)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(parts.rejected, whole.rejected)


class _Wrong(Plain):
    def __init__(self, logits):
        super().__init__(torch.nn.Identity())
        self.logits = logits

    def decide(self, observation):
        from cibench import Decision

        return Decision(logits=self.logits)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(3), r"expected logits of shape \(4, classes\), got \(3,\)"),
        (torch.zeros(3, 2), r"got \(3, 2\)"),
        (torch.full((4, 2), torch.nan), "non-finite ones for 4 of 4 samples"),
    ],
)
def test_decisions_that_break_the_contract(logits, message):
    with pytest.raises(ContractError, match=message):
        _Wrong(logits)(observation_of(LAYOUT, 4))
