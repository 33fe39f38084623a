"""`AbstractAttack.__call__` contains any attack; `Victim` grants what was agreed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench import (
    AbstractAttack,
    AgentSelection,
    ContractError,
    Criterion,
    Knowledge,
    KnowledgeError,
    Observation,
    ThreatModelError,
    Victim,
    project,
)
from helpers import (
    Plain,
    everyone,
    layout_of,
    linear_head,
    normal,
    observation_of,
    seeded,
)

LAYOUT = layout_of(2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class Cheat(AbstractAttack):
    """Runs any function of the arguments of `run`."""

    name: ClassVar[str] = "cheat"

    do: Callable[..., object]

    def run(
        self, victim, observation, criterion, *, compromised, radius, generator
    ) -> Observation:
        return self.do(observation, compromised, radius, criterion)


class MayDrop(Cheat):
    may_drop = True


class MayOnlyDrop(MayDrop):
    may_corrupt = False


def launch(attack, observation, compromised, radius=None, criterion=None):
    labels = torch.zeros(len(observation), dtype=torch.long)
    center = Plain(linear_head(observation.layout.width, 2))
    return attack(
        Victim(Knowledge.OBLIVIOUS, undefended=center, defended=center),
        observation,
        criterion or Criterion(labels),
        compromised=compromised,
        radius=radius,
        generator=seeded(),
    )


def half_compromised(samples):
    """Different agents for different samples."""
    return torch.rand(samples, LAYOUT.agents, generator=seeded(9)) < 0.5


def all_silent(observation, *_):
    return replace(observation, observed=torch.zeros_like(observation.observed))


def all_moved(observation, *_):
    return observation.with_features(observation.features + 100.0)


def test_honest_blocks_are_restored_and_own_blocks_are_sent():
    clean, own = observation_of(LAYOUT, 30), half_compromised(30)
    result = launch(Cheat(do=all_moved), clean, own)
    columns = LAYOUT.expand(own)
    assert torch.equal(result.features[~columns], clean.features[~columns])
    assert torch.equal(result.features[columns], clean.features[columns] + 100.0)
    assert torch.equal(result.observed, clean.observed)


class Fusion(Cheat):
    knowledge: ClassVar[str] = "fusion"


@pytest.mark.parametrize("kind", [Cheat, Fusion])
def test_an_oblivious_attack_sees_its_own_blocks_only(kind):
    clean, own = observation_of(LAYOUT, 30, missing=0.2), half_compromised(30)
    seen = []

    def look(observation, *_):
        seen.append((observation.features.clone(), observation.observed.clone()))
        return observation

    result = launch(kind(do=look), clean, own)
    assert torch.equal(result.features, clean.features)
    assert torch.equal(result.observed, clean.observed)
    ((features, observed),) = seen
    if kind is Fusion:
        assert torch.equal(features, clean.features)
        assert torch.equal(observed, clean.observed)
        return
    assert torch.equal(observed, clean.observed & own)
    columns = LAYOUT.expand(own & clean.observed)
    assert torch.equal(features[columns], clean.features[columns])
    assert features[~columns].isnan().all()


def test_an_agent_that_recorded_nothing_cannot_send():
    clean, own = observation_of(LAYOUT, 30, missing=0.4), half_compromised(30)
    silent = own & ~clean.observed
    assert silent.any()

    def speak(observation, *_):
        return Observation(
            observation.features + 1.0, torch.ones_like(observation.observed), LAYOUT
        )

    for kind in (Cheat, MayDrop):
        result = launch(kind(do=speak), clean, own)
        assert torch.equal(result.observed, clean.observed)
        columns = LAYOUT.expand(silent)
        assert torch.equal(result.features[columns], clean.features[columns])


def test_only_compromised_agents_fall_silent_and_only_if_allowed():
    clean, own = observation_of(LAYOUT, 30, missing=0.2), half_compromised(30)
    assert torch.equal(
        launch(Cheat(do=all_silent), clean, own).observed, clean.observed
    )
    assert torch.equal(
        launch(MayDrop(do=all_silent), clean, own).observed, clean.observed & ~own
    )


def test_an_attack_that_may_only_drop_sends_nothing_else():
    clean, own = observation_of(LAYOUT, 30), half_compromised(30)
    result = launch(MayOnlyDrop(do=lambda o, *_: all_silent(all_moved(o))), clean, own)
    assert torch.equal(result.features, clean.features)
    assert torch.equal(result.observed, ~own)


def test_the_budget_holds_for_every_block():
    clean, own = observation_of(LAYOUT, 30), half_compromised(30)
    radius = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    result = launch(Cheat(do=all_moved), clean, own, radius)
    change = LAYOUT.block_norms(result.features - clean.features)
    assert (change <= radius).all()
    wanted = (own * radius).double()
    torch.testing.assert_close(change, wanted, rtol=1e-5, atol=0.0)


def test_writing_into_the_observation_changes_nothing_outside():
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    before = (clean.features.clone(), clean.observed.clone())

    def vandal(observation, *_):
        observation.features.fill_(9.0)
        observation.observed.zero_()
        return observation

    result = launch(Cheat(do=vandal), clean, own)
    assert torch.equal(clean.features, before[0])
    assert torch.equal(clean.observed, before[1])
    columns = LAYOUT.expand(own)
    assert torch.equal(result.features[~columns], clean.features[~columns])
    assert (result.features[columns] == 9.0).all()


def test_writing_into_the_mask_wins_no_agent():
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    before = own.clone()

    def annex(observation, compromised, *_):
        compromised.fill_(True)
        return all_moved(observation)

    result = launch(Cheat(do=annex), clean, own)
    assert torch.equal(own, before)
    columns = LAYOUT.expand(before)
    assert torch.equal(result.features[~columns], clean.features[~columns])


def test_writing_into_the_radius_buys_no_budget():
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    radius = torch.ones(3, dtype=torch.float64)

    def inflate(observation, _compromised, radius, *_):
        radius.fill_(1e9)
        return all_moved(observation)

    result = launch(Cheat(do=inflate), clean, own, radius)
    assert (LAYOUT.block_norms(result.features - clean.features) <= 1.0).all()


def test_writing_into_the_criterion_changes_no_label():
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    criterion = Criterion(torch.zeros(10, dtype=torch.long))

    def relabel(observation, _compromised, _radius, criterion):
        criterion.labels.fill_(1)
        return observation

    launch(Cheat(do=relabel), clean, own, criterion=criterion)
    assert (criterion.labels == 0).all()


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "features",
        torch.zeros(10, 6),
        pytest.param(observation_of(LAYOUT, 9), id="wrong-length"),
        pytest.param(observation_of(layout_of(2, 2), 10), id="other-layout"),
    ],
)
def test_garbage_is_refused(garbage):
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    with pytest.raises(ContractError, match="cheat: expected an Observation of 10"):
        launch(Cheat(do=lambda *_: garbage), clean, own)


def test_the_result_is_detached_and_of_the_clean_dtype():
    clean = observation_of(LAYOUT, 5)
    clean = clean.with_features(clean.features.float())
    result = launch(
        Cheat(do=lambda o, *_: o.with_features(o.features.double().requires_grad_())),
        clean,
        half_compromised(5),
    )
    assert result.features.dtype == torch.float32
    assert not result.features.requires_grad


def test_the_threat_model_is_read_from_the_options():
    attack = MayDrop(agents="1/3", do=all_moved)
    assert attack.threat.agents == AgentSelection("1/3")
    assert attack.threat.knowledge is Knowledge.OBLIVIOUS
    assert (attack.threat.may_drop, attack.threat.may_corrupt) == (True, True)
    assert (attack.threat.target, attack.threat.budget) == ("any", None)
    with pytest.raises(ThreatModelError, match="worst:q with q >= 1"):
        Cheat(agents="worst:0", do=all_moved)


# project

finite = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    clean=st.lists(finite, min_size=6, max_size=6),
    sent=st.lists(finite, min_size=6, max_size=6),
    radius=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    single=st.booleans(),
)
def test_projection_stays_in_the_ball_and_keeps_the_direction(
    clean, sent, radius, single
):
    dtype = torch.float32 if single else torch.float64
    observation = everyone(torch.tensor([clean], dtype=dtype), LAYOUT)
    sent = torch.tensor([sent], dtype=dtype)
    radius = torch.tensor(radius, dtype=dtype)
    result = project(sent, observation, radius)
    # What is sent is rounded where the clean features are, not where the change is.
    rounding = 4 * torch.finfo(dtype).eps * observation.features.abs().max()
    wanted, change = sent - observation.features, result - observation.features
    assert (LAYOUT.block_norms(change) <= radius + rounding).all()
    for columns, bound in zip(LAYOUT.slices, radius, strict=True):
        block, moved = wanted[0, columns].double(), change[0, columns].double()
        if block.norm() <= bound:
            assert torch.equal(result[0, columns], sent[0, columns])
        elif block.norm() > 0:
            expected = block * float(bound) / block.norm()
            gap = (moved - expected).norm()
            assert gap <= 1e-5 * float(bound) + 4 * float(rounding)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size=st.floats(1e-6, 1e6), missing=st.booleans())
def test_no_attack_leaves_its_ball_or_touches_an_honest_block(seed, size, missing):
    clean = observation_of(LAYOUT, 4, missing=0.3 * missing, seed=seed)
    own = torch.rand(4, 3, generator=seeded(seed)) < 0.5
    radius = torch.rand(3, generator=seeded(seed + 1), dtype=torch.float64)
    noise = size * normal(4, 6, seed=seed + 2)
    result = launch(
        MayDrop(do=lambda o, *_: all_silent(o.with_features(o.features + noise))),
        clean,
        own,
        radius,
    )
    change = LAYOUT.block_norms(result.features - clean.features)
    free = own & clean.observed
    assert (change[free] <= radius.expand(4, 3)[free]).all()
    assert (change[~free] == 0).all()
    assert torch.equal(result.observed, clean.observed & ~own)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_budget_rules_out_values_that_are_not_finite(value):
    clean, own = observation_of(LAYOUT, 10), half_compromised(10)
    radius = torch.ones(3, dtype=torch.float64)
    result = launch(
        Cheat(do=lambda o, *_: o.with_features(torch.full_like(o.features, value))),
        clean,
        own,
        radius,
    )
    assert (LAYOUT.block_norms(result.features - clean.features) <= 1.0).all()


# Victim


def victim(knowledge):
    undefended = Plain(linear_head(6, 3, seed=1))
    defended = Plain(linear_head(6, 3, seed=2))
    return Victim(knowledge, undefended=undefended, defended=defended), {
        Knowledge.FUSION: undefended,
        Knowledge.QUERY: defended,
        Knowledge.ADAPTIVE: defended,
    }.get(knowledge)


@pytest.mark.parametrize("knowledge", list(Knowledge))
def test_victim_grants_exactly_what_the_knowledge_allows(knowledge):
    caller, model = victim(knowledge)
    here = observation_of(LAYOUT, 7, missing=0.3)
    if model is None:
        with pytest.raises(KnowledgeError, match=r"Victim.logits.*got oblivious"):
            caller.logits(here)
    else:
        assert torch.equal(caller.logits(here), model(here).logits)
    assert caller.queries == (0 if model is None else 7)

    if knowledge in (Knowledge.OBLIVIOUS, Knowledge.QUERY):
        with pytest.raises(
            KnowledgeError, match=f"fusion or adaptive, got {knowledge}"
        ):
            caller.loss_gradient(here, lambda logits: logits[:, 0])
        assert caller.gradients == 0
        return
    gradient, logits = caller.loss_gradient(here, lambda z: z[:, 0] - 2 * z[:, 1])
    assert torch.equal(logits, model(here).logits)
    row = model.head.weight[0] - 2 * model.head.weight[1]
    expected = torch.where(LAYOUT.expand(here.observed), row, 0.0)
    torch.testing.assert_close(gradient, expected)
    assert (caller.queries, caller.gradients) == (7, 7)
    caller.logits(here[:3])
    caller.loss_gradient(here[:2], lambda z: z[:, 0])
    assert (caller.queries, caller.gradients) == (10, 9)
    assert not here.features.requires_grad
    assert not logits.requires_grad


def test_victim_offers_no_model_under_a_plain_name():
    caller, _ = victim(Knowledge.OBLIVIOUS)
    public = {name for name in vars(caller) if not name.startswith("_")}
    assert public <= {"knowledge", "queries", "gradients", "unusable"}


def test_gradients_work_where_gradients_are_off():
    caller, _ = victim(Knowledge.ADAPTIVE)
    with torch.no_grad():
        gradient, _ = caller.loss_gradient(
            observation_of(LAYOUT, 2), lambda z: z.sum(1)
        )
    assert (gradient != 0).all()
