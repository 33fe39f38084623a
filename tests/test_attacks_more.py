"""Every shipped attack against its contract, and the simple ones against brute force."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cibench import Criterion, Knowledge, Observation, OracleFusionCenter, Victim
from cibench._errors import PluginError
from cibench.embedding import prepare, recipe_of
from cibench.execute.store import ArtifactStore
from cibench.fit import guarded
from cibench.registry import default_registry
from cibench.scenario import audit
from cibench_plugins.attacks import _donors
from cibench_plugins.attacks._best import Best
from cibench_plugins.attacks._blocks import block_rms
from cibench_plugins.attacks._descent import block_scale
from cibench_plugins.attacks._donors import Donors
from cibench_plugins.attacks.combined import Combined
from cibench_plugins.attacks.constant import Constant
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.attacks.gaussian import Gaussian
from cibench_plugins.attacks.mimic import Mimic
from cibench_plugins.attacks.missing import Missing
from cibench_plugins.attacks.nonfinite import NonFinite
from cibench_plugins.attacks.pgd import PGD
from cibench_plugins.attacks.pgd_paper import PaperPGD
from cibench_plugins.attacks.replay import Replay
from cibench_plugins.datasets.synthetic import Synthetic
from helpers import Plain, layout_of, mlp_head, observation_of, seeded

LAYOUT = layout_of(2, 4, 3)
CLASSES, N, K = 3, 25, 60
CENTER = Plain(mlp_head(LAYOUT.width, CLASSES, seed=3))
KINDS = ("nan", "inf", "-inf", "huge", "subnormal")


def recordings(missing=0.2, samples=K):
    """Recorded samples, NaN under what is missing, and labels of three classes."""
    given = observation_of(LAYOUT, samples, missing=missing, seed=40)
    hidden = ~LAYOUT.expand(given.observed)
    labels = torch.randint(0, CLASSES, (samples,), generator=seeded(41))
    return given.with_features(given.features.masked_fill(hidden, torch.nan)), labels


def clean_of(missing=0.25, samples=N):
    return observation_of(LAYOUT, samples, missing=missing, seed=4)


def labels_of(clean, center=CENTER):
    return center(clean).logits.argmax(dim=1)


def some(samples=N):
    """Other agents for other samples."""
    return torch.rand(samples, LAYOUT.agents, generator=seeded(9)) < 0.5


def mask_of(*agents, samples=N):
    mask = torch.zeros(samples, LAYOUT.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def launch(
    attack, clean, compromised, *, criterion=None, radius=None, recorded=None, seed=0,
    run=False,
):  # fmt: skip
    """The result, and the victim with its counts; `run` leaves out what the base does."""
    victim = Victim(
        attack.threat.knowledge, undefended=CENTER, defended=CENTER,
        own=compromised & clean.observed, recorded=recorded or recordings(),
    )  # fmt: skip
    call = attack.run if run else attack
    result = call(
        victim, clean, criterion or Criterion(labels_of(clean)),
        compromised=compromised & clean.observed if run else compromised,
        radius=radius, generator=seeded(seed),
    )  # fmt: skip
    return result, victim


# Every attack.

CONFIGURED = [
    Flip(),
    Missing(),
    PGD(steps=2, restarts=3),
    PaperPGD(steps=2, target="any"),
    Gaussian(),
    Gaussian(mode="replace", scale=0.1),
    Constant(),
    Constant(value=0.0, unit="one"),
    *(NonFinite(kind=kind) for kind in (*KINDS, "mixed")),
    Mimic(),
    Mimic(scale=5.0, target="1"),
    Replay(),
    Replay(donor="nearest"),
    Replay(donor="nearest", knowledge="fusion"),
    Replay(donor="search", knowledge="query", candidates=3),
    Combined(steps=2),
    Combined(payload="flip", knowledge="query"),
    Combined(payload="flip", knowledge="oblivious", silent="2", agents="2-3"),
]
# A witness needs a file made for the agents at hand: see test_witness.py.
COVERED = {attack.name for attack in CONFIGURED} | {"witness"}
OTHERS = [
    default_registry().load("attack", entry.name)()
    for entry in default_registry().entries
    if entry.kind == "attack"
    and entry.distribution == "cibench"
    and entry.name not in COVERED
]
ATTACKS = [*CONFIGURED, *OTHERS]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)


def same(first, second):
    """Equal bit by bit where something was heard."""
    known = LAYOUT.expand(first.observed)
    return torch.equal(first.observed, second.observed) and torch.equal(
        first.features.masked_fill(~known, 0.0).view(torch.int64),
        second.features.masked_fill(~known, 0.0).view(torch.int64),
    )


@every_attack
@pytest.mark.parametrize("agents", ["none", "all", "random"])
def test_an_attack_stays_within_its_threat_model(attack, agents):
    clean = clean_of()
    own = {"none": mask_of(), "all": mask_of(0, 1, 2), "random": some()}[agents]
    if getattr(attack, "silent", "any") != "any":
        own = own & mask_of(1, 2)
    result, _ = launch(attack, clean, own, run=True)
    if not attack.may_drop:
        assert torch.equal(result.observed, clean.observed)
    assert not (result.observed & ~clean.observed).any()
    # The attack itself keeps honest blocks, not only the base that restores them.
    honest = LAYOUT.expand(~own & clean.observed)
    assert torch.equal(result.features[honest], clean.features[honest])
    contained, _ = launch(attack, clean, own)
    audit(clean, contained, own, None, attack)
    assert same(contained, result)
    if agents == "none":
        assert same(result, clean)
    elif attack.name != "none":
        assert not same(result, clean)


@every_attack
def test_an_attack_writes_into_nothing_it_is_given(attack):
    clean, own, labels = clean_of(), some() & mask_of(1, 2), None
    labels = labels_of(clean)
    recorded = recordings()
    radius = torch.full((3,), 2.0, dtype=torch.float64)
    given = [clean.features, clean.observed, own, labels, radius]
    given += [recorded[0].features, recorded[0].observed, recorded[1]]
    before = [tensor.clone() for tensor in given]
    launch(
        attack, clean, own, criterion=Criterion(labels), radius=radius,
        recorded=recorded, run=True,
    )  # fmt: skip
    for tensor, old in zip(given, before, strict=True):
        torch.testing.assert_close(tensor, old, rtol=0, atol=0, equal_nan=True)


@every_attack
def test_an_attack_respects_the_radius(attack):
    clean, own = clean_of(), some() & mask_of(1, 2)
    radius = torch.tensor([0.1, 0.5, 0.0], dtype=torch.float64)
    result, _ = launch(attack, clean, own, radius=radius)
    audit(clean, result, own, radius, attack)


@every_attack
def test_an_attack_is_a_function_of_its_seed(attack):
    clean, own = clean_of(), some() & mask_of(1, 2)
    first, _ = launch(attack, clean, own, seed=5)
    again, _ = launch(attack, clean, own, seed=5)
    assert same(first, again)


@every_attack
def test_what_lies_under_a_missing_block_does_not_matter(attack):
    clean, own = clean_of(), some() & mask_of(1, 2)
    hidden = ~LAYOUT.expand(clean.observed)
    answers = [
        launch(
            attack,
            clean.with_features(clean.features.masked_fill(hidden, junk)),
            own,
            recorded=(
                recordings()[0].with_features(
                    recordings()[0].features.nan_to_num(junk)
                ),
                recordings()[1],
            ),
        )[0]
        for junk in (torch.nan, 7.0)
    ]
    assert same(*answers)


@every_attack
def test_the_result_has_the_dtype_of_the_clean_features(attack):
    clean = clean_of()
    clean = clean.with_features(clean.features.float())
    center = Plain(mlp_head(LAYOUT.width, CLASSES, seed=3).float())
    recorded, labels = recordings()
    victim = Victim(
        attack.threat.knowledge, undefended=center, defended=center,
        recorded=(recorded.with_features(recorded.features.float()), labels),
    )  # fmt: skip
    result = attack.run(
        victim, clean, Criterion(labels_of(clean, center)),
        compromised=some() & mask_of(1, 2) & clean.observed, radius=None,
        generator=seeded(),
    )  # fmt: skip
    assert result.features.dtype == torch.float32


@pytest.mark.parametrize(
    "attack",
    [Gaussian(), NonFinite(kind="mixed"), Replay(),
     Replay(donor="search", knowledge="query", candidates=2)],
    ids=lambda a: a.name,
)  # fmt: skip
def test_a_random_attack_depends_on_its_seed(attack):
    clean, own = clean_of(), mask_of(1, 2)
    first, second = (launch(attack, clean, own, seed=seed)[0] for seed in (1, 2))
    assert not same(first, second)


@pytest.mark.parametrize(
    "attack",
    [Constant(), NonFinite(), Mimic(), Mimic(target="1"), Replay(donor="nearest"),
     Replay(donor="nearest", knowledge="fusion"),
     Combined(payload="flip", knowledge="query")],
    ids=lambda a: a.name,
)  # fmt: skip
def test_without_randomness_a_sample_does_not_depend_on_its_batch(attack):
    clean, own = clean_of(), some()
    labels = labels_of(clean)
    whole, _ = launch(attack, clean, own, criterion=Criterion(labels))
    chosen = torch.tensor([17, 3, 11])
    # The same recordings, which otherwise follow from the agents of the whole batch.
    recorded = recordings()
    center = {"undefended": CENTER, "defended": CENTER}
    part = attack(
        Victim(attack.threat.knowledge, **center, own=own, recorded=recorded),
        clean[chosen], Criterion(labels[chosen]), compromised=own[chosen], radius=None,
        generator=seeded(3),
    )  # fmt: skip
    assert same(part, whole[chosen])


def test_targeted_attacks_say_whether_they_count_the_target():
    for kind in (PGD, PaperPGD, Replay, Mimic, Combined):
        assert not kind(target="1").threat.counts_target
        assert kind(target="1", count_target=True).threat.counts_target


# Noise and constants.


def rms_by_loop(observation):
    """Root mean square of every block, sample by sample; 0 where nothing was heard."""
    rows = []
    for row, heard in zip(
        observation.features.tolist(), observation.observed.tolist(), strict=True
    ):
        values = []
        for block, there in zip(LAYOUT.slices, heard, strict=True):
            squares = [x * x for x in row[block]] if there else [0.0]
            size = math.sqrt(sum(squares) / len(squares))
            values += [size] * (block.stop - block.start)
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


def test_block_rms_against_a_loop():
    clean = clean_of(missing=0.4)
    hidden = ~LAYOUT.expand(clean.observed)
    spoilt = clean.with_features(clean.features.masked_fill(hidden, torch.nan))
    torch.testing.assert_close(block_rms(spoilt), rms_by_loop(spoilt))


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("scale", [0.5, 10.0])
def test_gaussian_noise_has_the_declared_deviation(mode, scale):
    clean = clean_of(missing=0.0, samples=400)
    sizes = torch.logspace(-2, 2, 400, dtype=torch.float64)[:, None]
    clean = clean.with_features(sizes * clean.features)
    attack = Gaussian(mode=mode, scale=scale)
    result, victim = launch(attack, clean, mask_of(1, samples=400))
    noise = result.features - (clean.features if mode == "add" else 0.0)
    unit = (noise / rms_by_loop(clean))[:, LAYOUT.slices[1]].flatten() / scale
    assert stats.kstest(unit.numpy(), "norm").pvalue > 0.01
    assert len(set(unit.tolist())) == unit.numel()
    assert (victim.queries, victim.gradients) == (0, 0)
    assert attack.threat.knowledge is Knowledge.OBLIVIOUS


def test_constant_fills_the_block():
    clean = clean_of(missing=0.0)
    block = LAYOUT.slices[1]
    plain, _ = launch(Constant(value=-2.5, unit="one"), clean, mask_of(1))
    assert (plain.features[:, block] == -2.5).all()
    scaled, _ = launch(Constant(value=-2.5), clean, mask_of(1))
    expected = -2.5 * rms_by_loop(clean)[:, block]
    torch.testing.assert_close(scaled.features[:, block], expected)
    zero, _ = launch(Constant(value=0.0), clean, mask_of(1))
    assert (zero.features[:, block] == 0).all()
    assert zero.observed.all()


def test_default_payloads_have_the_size_of_the_default_flip():
    clean, own = clean_of(missing=0.0, samples=500), mask_of(1, samples=500)
    norms = {}
    for attack in (Flip(), Constant(), Gaussian(mode="replace")):
        result, _ = launch(attack, clean, own)
        norms[attack.name] = LAYOUT.block_norms(result.features)[:, 1]
    torch.testing.assert_close(norms["constant"], norms["flip"])
    ratio = norms["gaussian"].square().mean() / norms["flip"].square().mean()
    assert 0.85 < ratio < 1.15


# Values that are no numbers.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_nonfinite_fills_the_block_with_its_kind(kind, dtype):
    clean = clean_of(missing=0.0)
    clean = clean.with_features(clean.features.to(dtype))
    labels = torch.zeros(N, dtype=torch.long)
    result, _ = launch(
        NonFinite(kind=kind), clean, mask_of(1), criterion=Criterion(labels)
    )
    sent = result.features[:, LAYOUT.slices[1]]
    expected = {
        "nan": sent.isnan(),
        "inf": sent == torch.inf,
        "-inf": sent == -torch.inf,
        "huge": sent == torch.tensor(1e38, dtype=dtype),
        "subnormal": (sent > 0) & (sent < torch.finfo(dtype).tiny),
    }[kind]
    assert expected.all()


def test_mixed_poisons_one_value_of_each_block():
    clean, own = clean_of(missing=0.0, samples=400), mask_of(1, 2, samples=400)
    result, _ = launch(NonFinite(kind="mixed"), clean, own)
    changed = result.features != clean.features
    counts = torch.stack([changed[:, s].sum(dim=1) for s in LAYOUT.slices], dim=1)
    assert counts.tolist() == [[0, 1, 1]] * 400
    kinds = Counter(repr(value) for value in result.features[changed].tolist())
    assert set(kinds) == {"nan", "inf", "-inf", "1e+38", repr(2.0**-1024)}
    assert min(kinds.values()) > 100
    places = Counter(changed.nonzero()[:, 1].tolist())
    assert set(places) == set(range(2, 9))
    assert min(places.values()) > 60


@pytest.fixture(scope="module")
def tiny():
    """Training data, clean test embeddings and their labels."""
    data = Synthetic(agents=4, width=4, rank=2, samples=120, redundancy=0.3).load()
    return prepare(
        data, recipe_of("identity:epochs=10,batch=20"), seed=0,
        store=ArtifactStore(None), device=torch.device("cpu"),
    )  # fmt: skip


def loadable():
    registry = default_registry()
    for entry in registry.entries:
        if entry.kind == "defense" and entry.distribution == "cibench":
            try:
                yield registry.load("defense", entry.name)
            except PluginError:  # what cannot be imported fails in tests of its own
                continue


@pytest.mark.parametrize("defense", list(loadable()), ids=lambda d: d.name)
def test_every_defense_answers_garbage_as_it_answers_silence(defense, tiny):
    training, clean, labels = tiny
    own = torch.rand(len(labels), 4, generator=seeded(1)) < 0.4
    own[0] = True  # nobody is left
    with guarded(training, defense.name):
        center = defense().fit(training, generator=seeded(7)).eval()
    center = center.told(own) if isinstance(center, OracleFusionCenter) else center

    def decided(attack):
        sent = attack(
            Victim(Knowledge.OBLIVIOUS, undefended=center, defended=center),
            clean, Criterion(labels), compromised=own, radius=None, generator=seeded(),
        )  # fmt: skip
        with torch.no_grad():
            decision = center(sent)
        assert torch.equal(
            decision.rejected,
            own & (attack.name == "nonfinite"),
        )
        return decision

    silent = decided(Missing())
    assert silent.logits.isfinite().all()
    for kind in (*KINDS, "mixed"):
        decision = decided(NonFinite(kind=kind))
        assert torch.equal(decision.logits, silent.logits), kind
        for name in ("abstained", "purified", "status"):
            mine, theirs = getattr(decision, name), getattr(silent, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs), (kind, name)


# Donors.


def allowed_by_loop(recorded, labels, criterion, own, i):
    """Recordings that may stand in for sample `i`."""
    need = {a for a in range(LAYOUT.agents) if own[i, a]}
    for k in range(len(labels)):
        holds = {a for a in range(LAYOUT.agents) if recorded.observed[k, a]}
        if criterion.target is None:
            suits = labels[k] != criterion.labels[i]
        else:
            suits = labels[k] == criterion.target[i]
        if suits and need <= holds:
            yield k


def criteria(clean):
    labels = labels_of(clean)
    yield Criterion(labels)
    yield Criterion(labels, (labels + 1) % CLASSES)
    yield Criterion(labels, torch.full_like(labels, 2), counts_target=True)


def test_donors_against_a_loop():
    clean, own = clean_of(), some()
    own &= clean.observed
    recorded, labels = recordings(missing=0.5)
    for criterion in criteria(clean):
        donors = Donors(
            recorded=recorded, labels=labels, criterion=criterion, compromised=own
        )
        drawn = donors.drawn(300, seeded())
        for i in range(N):
            allowed = set(allowed_by_loop(recorded, labels, criterion, own, i))
            assert set(drawn[:, i].tolist()) <= allowed
            assert len(set(drawn[:, i].tolist())) > 0.9 * len(allowed)


def test_donors_are_drawn_evenly():
    clean, own = clean_of(missing=0.0, samples=1), mask_of(1, samples=1)
    recorded, labels = recordings(missing=0.5, samples=30)
    criterion = Criterion(labels_of(clean))
    donors = Donors(
        recorded=recorded, labels=labels, criterion=criterion, compromised=own
    )
    allowed = list(allowed_by_loop(recorded, labels, criterion, own, 0))
    assert 3 < len(allowed) < 20
    counts = Counter(donors.drawn(4000, seeded())[:, 0].tolist())
    assert set(counts) == set(allowed)
    assert stats.chisquare([counts[k] for k in allowed]).pvalue > 0.01


def test_donors_do_not_depend_on_how_many_samples_are_compared_at_a_time(monkeypatch):
    recorded, labels = recordings(missing=0.0)
    clean = clean_of()
    donors = Donors(
        recorded=recorded, labels=labels, criterion=Criterion(labels_of(clean)),
        compromised=mask_of(2),
    )  # fmt: skip
    units = torch.ones(LAYOUT.width)
    whole = donors.drawn(3, seeded()), donors.nearest(clean, ~mask_of(2), units)
    monkeypatch.setattr(_donors, "_PAIRS", 7 * K)
    assert [piece.stop - piece.start for piece in donors._pieces()] == [7] * 4
    pieces = donors.drawn(3, seeded()), donors.nearest(clean, ~mask_of(2), units)
    assert all(map(torch.equal, whole, pieces))


def test_without_a_donor_there_is_none():
    clean = clean_of(missing=0.0, samples=3)
    labels = torch.tensor([0, 1, 1])
    recorded = observation_of(LAYOUT, 4, seed=1)
    recorded.observed[:3, 1] = False
    donors = Donors(
        recorded=recorded, labels=torch.tensor([0, 0, 1, 1]),
        criterion=Criterion(labels), compromised=mask_of(1, samples=3),
    )  # fmt: skip
    # Only the last recording holds the block, and it is of class 1.
    assert donors.drawn(2, seeded()).tolist() == [[3, -1, -1]] * 2
    seen = mask_of(0, 2, samples=3)
    nearest = donors.nearest(clean, seen, torch.ones(LAYOUT.width))
    assert nearest.tolist() == [3, -1, -1]
    sent = donors.sent(clean, nearest)
    assert torch.equal(sent.features[1:], clean.features[1:])
    block = LAYOUT.slices[1]
    assert torch.equal(sent.features[0, block], recorded.features[3, block])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.3, 0.7]),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_the_nearest_donor_against_a_loop(seed, missing, scale):
    clean = observation_of(LAYOUT, 6, missing=missing, seed=seed)
    recorded = observation_of(LAYOUT, 15, missing=missing, seed=seed + 1)
    recorded.observed[:, 0] &= torch.rand(15, generator=seeded(seed)) > missing
    labels = torch.randint(0, 2, (15,), generator=seeded(seed))
    criterion = Criterion(torch.tensor([0, 1] * 3))
    own = (torch.rand(6, 3, generator=seeded(seed)) < 0.3) & clean.observed
    seen = ~own
    units = scale * torch.arange(1.0, 10.0, dtype=torch.float64)
    donors = Donors(
        recorded=recorded, labels=labels, criterion=criterion, compromised=own
    )
    found = donors.nearest(clean, seen, units)
    for i in range(6):
        distances = {}
        for k in allowed_by_loop(recorded, labels, criterion, own, i):
            shared = seen[i] & clean.observed[i] & recorded.observed[k]
            columns = LAYOUT.expand(shared[None])[0].numpy()
            gap = ((clean.features[i] - recorded.features[k]) / units).numpy()[columns]
            distances[k] = np.mean(gap**2) if columns.any() else np.inf
        if not distances:
            assert found[i] == -1
        else:
            near = distances[int(found[i])]
            assert near == min(distances.values()) or near == pytest.approx(
                min(distances.values()), rel=1e-9
            )


# Replay.


def row_sent(result, recorded, own, i):
    """Recordings whose blocks sample `i` sends."""
    columns = LAYOUT.expand(own)[i]
    return [
        k
        for k in range(len(recorded))
        if torch.equal(recorded.features[k, columns], result.features[i, columns])
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"donor": "nearest"}, {"donor": "nearest", "knowledge": "fusion"},
     {"donor": "search", "knowledge": "adaptive"}],
)  # fmt: skip
def test_replay_sends_blocks_of_one_recording_of_another_class(options):
    clean, own = clean_of(), some()
    own &= clean.observed
    recorded, labels = recordings(missing=0.3)
    for criterion in criteria(clean):
        attack = Replay(**options)
        result, _ = launch(
            attack, clean, own, criterion=criterion, recorded=(recorded, labels)
        )
        for i in own.any(dim=1).nonzero().flatten().tolist():
            columns = LAYOUT.expand(own)[i]
            stays = torch.equal(result.features[i, columns], clean.features[i, columns])
            if attack.donor == "search" and stays:
                continue
            (k,) = row_sent(result, recorded, own, i)
            assert k in allowed_by_loop(recorded, labels, criterion, own, i)


def test_the_nearest_replay_looks_at_what_it_may_see():
    """At `fusion` the honest blocks, else, or where there are none, its own."""
    clean = clean_of(missing=0.0)
    recorded, labels = recordings(missing=0.0)
    scale = block_scale(recorded)
    criterion = Criterion(labels_of(clean))
    cases = [("oblivious", (1,), (1,)), ("fusion", (1,), (0, 2)),
             ("fusion", (0, 1, 2), (0, 1, 2))]  # fmt: skip
    for knowledge, agents, compared in cases:
        own = mask_of(*agents)
        attack = Replay(donor="nearest", knowledge=knowledge)
        result, _ = launch(attack, clean, own, recorded=(recorded, labels))
        columns = LAYOUT.expand(mask_of(*compared))[0]
        for i in range(N):
            (k,) = row_sent(result, recorded, own, i)
            gaps = ((recorded.features - clean.features[i]) / scale)[:, columns]
            distance = gaps.square().mean(dim=1)
            other = labels != criterion.labels[i]
            assert distance[k] == distance[other].min()


def test_search_keeps_the_best_candidate_of_each_sample():
    clean, own = clean_of(), some()
    own &= clean.observed
    recorded, labels = recordings()
    criterion = Criterion(labels_of(clean))
    attack = Replay(donor="search", knowledge="query", candidates=6)
    result, victim = launch(attack, clean, own, recorded=(recorded, labels), seed=3)
    donors = Donors(
        recorded=recorded, labels=labels, criterion=criterion, compromised=own
    )
    tried = [clean]
    for row in donors.drawn(6, seeded(3)).tolist():
        features = clean.features.clone()
        for i, k in enumerate(row):
            columns = LAYOUT.expand(own)[i]
            features[i, columns] = recorded.features[k, columns]
        tried.append(clean.with_features(features))
    margins = torch.stack([criterion.margin(CENTER(sent).logits) for sent in tried])
    reached = criterion.margin(CENTER(result).logits)
    torch.testing.assert_close(reached, margins.amin(dim=0))
    assert (victim.queries, victim.gradients) == (7 * N, 0)
    assert (reached < margins[0])[own.any(dim=1)].any()


def test_more_candidates_and_a_bound_inside_which_they_are_judged():
    clean, own = clean_of(missing=0.0), mask_of(1, 2)
    criterion = Criterion(labels_of(clean))
    radius = torch.full((3,), 0.3, dtype=torch.float64)
    reached = []
    for candidates in (1, 5, 20):
        attack = Replay(
            donor="search", knowledge="query", candidates=candidates, budget=1.0
        )
        result, _ = launch(attack, clean, own, radius=radius)
        reached.append(criterion.margin(CENTER(result).logits))
    start = criterion.margin(CENTER(clean).logits)
    # Judged outside of the ball, a candidate could leave a sample worse off.
    assert (reached[0] <= start + 1e-9).all()
    assert reached[2].mean() < reached[0].mean()


@pytest.mark.parametrize(
    ("donor", "knowledge", "expected"),
    [("random", "adaptive", "oblivious with donor=random, got adaptive"),
     ("nearest", "query", "oblivious or fusion with donor=nearest, got query"),
     ("search", "oblivious", "query or fusion or adaptive with donor=search, got obl")],
)  # fmt: skip
def test_replay_claims_no_knowledge_it_does_not_use(donor, knowledge, expected):
    with pytest.raises(ValueError, match=f"knowledge: expected {expected}"):
        Replay(donor=donor, knowledge=knowledge)


def test_a_tie_of_logits_is_no_success_by_itself():
    """Of two attempts of margin 0 the one that is decided as wanted is kept."""

    class Fixed:
        abstained = None

        def __init__(self, *logits):
            self.logits_of = iter(torch.tensor(logits).double())

        def logits(self, observation):
            return next(self.logits_of)[None]

    clean = clean_of(samples=1)
    criterion = Criterion(torch.tensor([0]), torch.tensor([1]))
    # argmax takes the first of equal logits: class 1 wins only in the second attempt.
    victim = Fixed([2.0, 2.0, 0.0], [0.0, 2.0, 2.0], [2.0, 2.0, 0.0])
    best = Best(victim, criterion)
    attempts = [clean.with_features(clean.features + i) for i in range(3)]
    taken = [bool(best.offer(attempt)) for attempt in attempts]
    assert taken == [True, True, False]
    assert torch.equal(best.result(clean).features, attempts[1].features)
    assert best.success.all()


# Mimicry.


def centroids_by_numpy(recorded, labels):
    """`(classes, width)`, and the mean of all; NaN where nothing was recorded."""
    values = recorded.features.masked_fill(~LAYOUT.expand(recorded.observed), torch.nan)
    values = values.numpy()
    rows = []
    for c in range(CLASSES):
        rows.append(np.nanmean(values[labels.numpy() == c], axis=0))
    return np.stack(rows), np.nanmean(values, axis=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_mimic_sends_the_centroid_of_the_target(scale):
    clean, own = clean_of(), some()
    own &= clean.observed
    recorded, labels = recordings(missing=0.3)
    centroids, mean = centroids_by_numpy(recorded, labels)
    true = labels_of(clean)
    criterion = Criterion(true, (true + 1) % CLASSES)
    result, victim = launch(
        Mimic(target="1", scale=scale), clean, own, criterion=criterion,
        recorded=(recorded, labels),
    )  # fmt: skip
    expected = mean + scale * (centroids[criterion.target.numpy()] - mean)
    columns = LAYOUT.expand(own)
    torch.testing.assert_close(
        result.features[columns], torch.from_numpy(expected)[columns]
    )
    assert (victim.queries, victim.gradients) == (0, 0)


def test_an_untargeted_mimic_chooses_the_nearest_other_class():
    clean, own = clean_of(), some()
    own &= clean.observed
    recorded, labels = recordings(missing=0.3)
    centroids, _ = centroids_by_numpy(recorded, labels)
    true = labels_of(clean)
    result, _ = launch(Mimic(), clean, own, recorded=(recorded, labels))
    # The units are those the adversary knows: of its own recordings.
    scale = block_scale(recorded).numpy()
    classes = set()
    for i in own.any(dim=1).nonzero().flatten().tolist():
        columns = LAYOUT.expand(own)[i].numpy()
        gaps = (centroids - clean.features[i].numpy()) / scale
        distance = np.square(gaps[:, columns]).sum(axis=1)
        distance[true[i]] = np.inf
        chosen = int(distance.argmin())
        classes.add((int(true[i]), chosen))
        sent = result.features[i].numpy()[columns]
        np.testing.assert_allclose(sent, centroids[chosen][columns])
    assert len(classes) > 3


def test_mimic_needs_a_recording_of_every_agent():
    """Of class 2 agent b was never heard: a sample attacked through b stays clean."""
    clean = clean_of(missing=0.0)
    recorded, labels = recordings(missing=0.0)
    observed = recorded.observed.clone()
    observed[labels == 2, 1] = False
    recorded = Observation(recorded.features, observed, LAYOUT)
    true = torch.zeros(N, dtype=torch.long)
    criterion = Criterion(true, torch.full_like(true, 2))
    own = mask_of(1)
    own[:5] = mask_of(2)[:5]
    result, _ = launch(
        Mimic(target="2"), clean, own, criterion=criterion, recorded=(recorded, labels)
    )
    moved = (result.features != clean.features).any(dim=1)
    assert moved.tolist() == [True] * 5 + [False] * 20
    # Untargeted, another class serves instead.
    result, _ = launch(
        Mimic(), clean, own, criterion=Criterion(true), recorded=(recorded, labels)
    )
    ones = recorded.features[labels == 1].mean(dim=0).numpy()
    np.testing.assert_allclose(
        result.features[5:, 2:6].numpy(), np.tile(ones[2:6], (20, 1))
    )
