"""Witnesses: what is kept of an attack, that it can be scored again, what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save

from cibench import ContractError, Criterion, Observation, cli
from cibench.evaluate import Worst, evaluate
from cibench.execute.settings import Settings
from cibench.grid import expand
from cibench.references import decide, predictions
from cibench.registry import default_registry
from cibench.results import RunFolder
from cibench.scenario import Draw
from cibench.spec import Spec
from cibench.witness import packed, replayed, unpacked, witness_tensors
from helpers import forget, layout_of, observation_of
from helpers_report import record

SET = "synthetic:agents=4,rank=2,samples=60,width=3"
FAST = ("--dataset", SET, "--seeds", "1", "--embedding", "identity:epochs=10,batch=20")
LAYOUT = layout_of(2, 1, 2)
N = 5
GOAL = Criterion(torch.zeros(N, dtype=torch.long))


def mask_of(*agents, samples=N):
    mask = torch.zeros(samples, LAYOUT.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def tensors(**changes):
    """A good witness of agent `b`, with some tensors replaced or, by None, left out."""
    own = LAYOUT.expand(mask_of(1))
    good = {
        "compromised": mask_of(1),
        "features": torch.where(own, 7.0, 0.0),
        "observed": torch.ones(N, LAYOUT.agents, dtype=torch.bool),
        **changes,
    }
    return {name: tensor for name, tensor in good.items() if tensor is not None}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CIBENCH_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        forget()
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def ran(call):
    """Run in this process; give the records by attack and defense."""

    def run(*arguments, code=0, out="runs/x", isolation="none"):
        got, _, err = call(
            "run", *FAST, "-o", out, "--isolation", isolation, *arguments
        )
        assert got == code, err
        return {
            ("+".join(p.component.name for p in r.attack), r.defense.name): r
            for r in RunFolder(Path(out)).read()
        }

    return run


# The file.


def test_a_packed_witness_comes_back():
    content = packed(record("none", 0, [True] * N), tensors())
    found = unpacked(content, LAYOUT, N)
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensors()[name]) for name in found)
    assert b'"cibench witness":"toyflipnone0"' in content
    assert len({packed(record("none", 0, [True]), tensors()) for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected a safetensors file"),
        (b"\x80\x04N.", "expected a safetensors file"),
        (b"PK\x03\x04" + b"0" * 40, "expected a safetensors file"),
        (save(tensors())[:-1], "expected a safetensors file"),
        (save(tensors(observed=None)), "compromised, features, observed, got comp"),
        (save({**tensors(), "labels": torch.zeros(1)}), "features, labels, observed"),
        (save(tensors(features=torch.zeros(N, 4))), r"shape \(5, 5\) .* got \(5, 4\)"),
        (save(tensors(compromised=mask_of(1, samples=4))), "expected compromised of"),
        (save(tensors(features=tensors()["features"].double())), "torch.float64"),
        (save(tensors(observed=torch.ones(N, 3, dtype=torch.int64))), "torch.int64"),
        (save(tensors(features=torch.ones(N, 5))), "honest agents, .* in 5 of 5"),
    ],
)  # fmt: skip
def test_what_is_no_witness_is_refused(content, says):
    with pytest.raises(ContractError, match=says):
        unpacked(content, LAYOUT, N)


@pytest.mark.parametrize("value", [1e-38, torch.nan, -torch.inf])
def test_one_value_in_an_honest_block_is_refused(value):
    features = tensors()["features"]
    features[3, 0] = value
    with pytest.raises(ContractError, match=r"honest agents, .* in 1 of 5"):
        unpacked(save(tensors(features=features)), LAYOUT, N)


def test_compromised_blocks_may_hold_anything():
    own = LAYOUT.expand(mask_of(1))
    for value in (torch.nan, torch.inf, 1e38, 1e-40):
        features = torch.where(own, value, 0.0)
        found = unpacked(save(tensors(features=features)), LAYOUT, N)
        assert torch.equal(found["features"].isnan(), features.isnan())


# Replaying.


def test_a_replay_changes_compromised_agents_alone():
    clean = observation_of(LAYOUT, N, seed=1)
    witness = tensors(
        observed=~mask_of(0, 2) & ~(mask_of(1) & (torch.arange(N) < 2)[:, None])
    )
    sent = replayed(witness, clean)
    own = LAYOUT.expand(mask_of(1))
    assert (sent.features[own] == 7.0).all()
    assert torch.equal(sent.features[~own], clean.features[~own])
    # Others stay heard, whatever the witness says of them.
    assert sent.observed.tolist() == [[True, i >= 2, True] for i in range(N)]


def test_an_agent_that_recorded_nothing_stays_missing():
    clean = observation_of(LAYOUT, N, seed=1).without(mask_of(1))
    sent = replayed(tensors(), clean)
    assert torch.equal(sent.observed, clean.observed)
    assert torch.equal(sent.features, clean.features)


def test_the_draw_that_breaks_a_sample_is_kept():
    """Under `worst:q`: sample 0 falls to the first set, 1 to the second, 2 to neither."""
    worst = Worst(torch.zeros(3, dtype=torch.long))
    counted = torch.ones(3, dtype=torch.bool)
    for agent, decided in ((0, [1, 0, 0]), (1, [1, 2, 0])):
        mask = mask_of(agent, samples=3)
        sent = Observation(
            torch.full((3, LAYOUT.width), 10.0 + agent),
            ~mask_of(agent, samples=3),
            LAYOUT,
        )
        worst.add(torch.tensor(decided), Draw((mask,), ((agent,),)), counted, sent=sent)
    found = witness_tensors(worst.features, worst.observed, worst.compromised)
    assert found["compromised"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert found["features"].tolist() == [
        [10, 10, 0, 0, 0], [0, 0, 11, 0, 0], [0, 0, 11, 0, 0],
    ]  # fmt: skip
    assert found["observed"].tolist() == [[0, 1, 1], [1, 0, 1], [1, 0, 1]]


ATTACKS = (
    "none", "flip", "missing:agents=random:2", "missing:agents=worst:1", "nonfinite",
    "pgd:agents=random:1,steps=3", "pgd:agents=worst:1,steps=2,restarts=1",
    "pgd:budget=0.5,knowledge=fusion,steps=2", "replay:agents=random:1",
    "combined:agents=random:1,steps=2,restarts=1", "missing:agents=2+flip:agents=4",
)  # fmt: skip
DEFENSES = ("none", "genie", "norm-clip", "leave-one-out", "randomized-ablation:keep=1")


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_a_replay_gives_the_recorded_decisions(gaps, monkeypatch):
    from cibench import OracleFusionCenter
    from cibench.execute import runner
    from helpers import run_cells

    seen = []

    def checked(scenario, references, defense, training, *, fusion_center, **options):
        found = evaluate(
            scenario, references, defense, training, fusion_center=fusion_center,
            **options,
        )  # fmt: skip
        content = save(found.witness)
        witness = unpacked(content, scenario.clean.layout, len(scenario.clean))
        center = fusion_center
        if isinstance(center, OracleFusionCenter):
            center = center.told(witness["compromised"])
        decided, _ = decide(center, replayed(witness, scenario.clean))
        assert predictions(decided).tolist() == found.outcomes.attacked
        bits = [
            sum(1 << agent for agent, hit in enumerate(row) if hit)
            for row in witness["compromised"].tolist()
        ]
        assert bits == found.outcomes.compromised
        assert set(witness) == {"compromised", "features", "observed"}
        seen.append((scenario.specs, found.metrics.attacked.value))
        return found

    monkeypatch.setattr(runner, "evaluate", checked)
    if gaps:
        whole = runner.Runner._scenario

        def with_gaps(self, cell, training, clean):
            if clean is not None:
                at = torch.arange(len(clean))
                absent = torch.zeros_like(clean.observed)
                absent[at, at % clean.layout.agents] = at % 3 == 0
                clean = clean.without(absent)
            return whole(self, cell, training, clean)

        monkeypatch.setattr(runner.Runner, "_scenario", with_gaps)
    cells = expand(
        default_registry(), datasets=[SET], attacks=ATTACKS, defenses=DEFENSES, seeds=[0],
        embedding="identity:epochs=10,batch=20",
    )  # fmt: skip
    found = run_cells(cells)
    assert [r.reason for _, r, _ in found if r.status != "ok"] == []
    assert len(seen) == len(ATTACKS) * len(DEFENSES)
    assert len({share for _, share in seen}) > 3


# `run --witnesses`.


def witnesses(out="runs/x"):
    return {path.stem: path for path in Path(out, "witnesses").glob("*")}


def test_a_run_keeps_witnesses_if_asked(ran):
    found = ran("-a", "flip", "-a", "none", "-d", "none", "-d", "genie", "--witnesses")
    kept = witnesses()
    assert kept.keys() == {r.cell for r in found.values()}
    for each in found.values():
        stored = load_file(kept[each.cell])
        assert stored["compromised"].any() == (each.attack[0].component.name == "flip")
    ran("-a", "flip", "-d", "none", out="runs/without")
    assert not Path("runs/without/witnesses").exists()


def test_the_flag_changes_no_record(ran):
    plain = ran("-a", "flip", "-d", "none", "--no-cache", out="a")
    kept = ran("-a", "flip", "-d", "none", "--no-cache", "--witnesses", out="b")
    one, other = plain["flip", "none"], kept["flip", "none"]
    assert (one.cell, one.key) == (other.cell, other.key)
    assert (one.metrics, one.outcomes) == (other.metrics, other.outcomes)


def test_processes_keep_the_same_witnesses(ran):
    args = ("-a", "pgd:agents=random:1,steps=2", "-d", "none", "-d", "genie")
    ran(*args, "--witnesses", out="a")
    ran(*args, "--witnesses", "--no-cache", "-j", "2", out="b", isolation="process")
    first, second = witnesses("a"), witnesses("b")
    assert first.keys() == second.keys()
    assert len(first) == 2
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes()


def test_a_cell_without_its_witness_is_computed_again(ran, call):
    args = ("-a", "flip", "-d", "none", "-d", "genie")
    before = ran(*args)  # records are in the folder and in the cache
    ran(*args, "--witnesses")
    assert len(witnesses()) == 2
    ages = {name: path.stat().st_mtime_ns for name, path in witnesses().items()}
    gone = before["flip", "genie"].cell
    stays = before["flip", "none"].cell
    content = witnesses()[gone].read_bytes()
    witnesses()[gone].unlink()
    ran(*args, "--witnesses")
    assert witnesses()[gone].read_bytes() == content
    assert witnesses()[stays].stat().st_mtime_ns == ages[stays]
    # A new folder has none, although the records are cached.
    ran(*args, "--witnesses", out="runs/new")
    assert len(witnesses("runs/new")) == 2


def test_a_resumed_run_keeps_witnesses_too(ran, call):
    ran("-a", "flip", "-d", "none", "--witnesses")
    (path,) = witnesses().values()
    path.unlink()
    code, _, err = call("run", "--resume", "runs/x", "--isolation", "none")
    assert code == 0, err
    assert path.exists()


def test_a_cell_that_is_not_ok_has_no_witness(ran):
    found = ran(
        "-a", "flip", "-d", "none", "-d", "randomized-ablation:keep=9", "--witnesses",
        code=1,
    )  # fmt: skip
    assert found["flip", "randomized-ablation"].status == "failed"
    assert witnesses().keys() == {found["flip", "none"].cell}


def test_settings_say_whether_witnesses_are_kept():
    assert not Settings().witnesses
    assert Settings(witnesses=True).witnesses


# The attack `witness`.


def kept_file(ran, attack="flip:agents=random:1", out="runs/x", name="w.safetensors"):
    """The witness of an attack on the undefended fusion center, and its record."""
    found = ran("-a", attack, "-d", "none", "--witnesses", out=out)
    (one,) = found.values()
    content = witnesses(out)[one.cell].read_bytes()
    Path(name).write_bytes(content)
    return one, content


@pytest.mark.parametrize(
    "attack",
    [
        "flip:agents=random:1",
        "missing:agents=random:2",
        "nonfinite:agents=random:1",
        "combined:agents=random:1,steps=2,restarts=1",
        "pgd:agents=last,budget=0.5,steps=2",
    ],
)
def test_a_file_does_what_its_attack_did(ran, attack):
    one, _ = kept_file(ran, attack)
    rule = one.attack[0].agents
    budget = ",budget=0.5" if "budget" in attack else ""
    found = ran(
        "-a", f"witness:file=w.safetensors,agents={rule}{budget}", "-d", "none",
        out="runs/w",
    )  # fmt: skip
    again = found["witness", "none"]
    assert again.outcomes.attacked == one.outcomes.attacked
    assert again.outcomes.compromised == one.outcomes.compromised
    assert again.attack[0].knowledge == "adaptive"
    assert again.attack[0].agents == rule
    assert again.metrics.gradients == 0
    assert "not-adaptive" not in again.flags
    assert "transfer-beats-adaptive" not in again.flags


def test_a_file_is_named_by_its_digest_and_never_by_its_path(ran):
    from hashlib import sha256

    _, content = kept_file(ran, name="secret-name.safetensors")
    found = ran(
        "-a", "witness:file=secret-name.safetensors,agents=random:1", "-d", "none",
        out="runs/w",
    )  # fmt: skip
    part = found["witness", "none"].attack[0]
    digest = sha256(content).hexdigest()
    assert part.component.options["digest"] == digest
    assert part.component.spec == f"witness:agents=random:1,digest={digest}"
    assert "file" not in part.component.options
    for path in Path("runs/w/cells").iterdir():
        assert b"secret-name" not in path.read_bytes()


def test_another_file_is_another_cell(ran):
    _, content = kept_file(ran)
    found = load(content)
    found["features"] *= 2
    Path("v.safetensors").write_bytes(save(found))
    keys = set()
    for name in ("w", "v"):
        kept = ran(
            "-a", f"witness:file={name}.safetensors,agents=random:1", "-d", "none",
            out=f"runs/{name}",
        )  # fmt: skip
        keys.add(kept["witness", "none"].key)
    assert len(keys) == 2


def test_one_file_meets_every_defense(ran):
    kept_file(ran)
    found = ran(
        "-a", "witness:file=w.safetensors,agents=random:1", "-d", "none", "-d", "genie",
        "-d", "norm-clip", out="runs/w",
    )  # fmt: skip
    assert len(found) == 3
    flags = {name: r.flags for (_, name), r in found.items()}
    assert "oracle-information" in flags["genie"]


def test_what_its_author_knew_is_an_option(ran):
    one, _ = kept_file(ran)
    found = ran(
        "-a", "witness:file=w.safetensors,agents=random:1,knowledge=oblivious",
        "-d", "norm-clip", out="runs/w",
    )  # fmt: skip
    again = found["witness", "norm-clip"]
    assert "not-adaptive" in again.flags
    assert again.outcomes.attacked_undefended == one.outcomes.attacked


@pytest.mark.parametrize(
    ("options", "more", "says"),
    [
        ("agents=random:1", ("--seeds", "1,"), "made for another seed or rule"),
        ("agents=random:2", (), "others in 18 of 18 samples"),
        ("agents=last", (), "made for another seed or rule"),
        ("agents=random:1", ("--limit", "5"), "expected compromised of shape (5, 4)"),
    ],
)
def test_a_file_for_something_else_fails_the_cell(ran, options, more, says):
    kept_file(ran)
    found = ran(
        "-a", f"witness:file=w.safetensors,{options}", "-d", "none", *more, out="runs/w",
        code=1,
    )  # fmt: skip
    failed = found["witness", "none"]
    assert failed.status == "failed"
    assert says in failed.reason


def test_a_file_of_another_form_fails_the_cell(ran):
    Path("w.safetensors").write_bytes(b"\x80\x04N.")
    found = ran("-a", "witness:file=w.safetensors", "-d", "none", code=1)
    assert "expected a safetensors file" in found["witness", "none"].reason


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("witness", "attack witness: expected file=FILE.safetensors, got no file"),
        ("wit*", "expected file=FILE.safetensors, got no file"),
        ("witness:file=gone.safetensors", "gone.safetensors: No such file"),
        ("witness:file=.", "Is a directory"),
        ("witness:file=w.safetensors,agents=worst:1", "expected one set of agents"),
        ("witness:file=w.safetensors,digest=abc", "option digest"),
        (f"witness:file=w.safetensors,digest={'0' * 64}", "expected the file with digest"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused_before_anything_runs(call, spec, says):
    Path("w.safetensors").write_bytes(save(tensors()))
    code, out, err = call("run", *FAST, "-a", spec, "-d", "none")
    assert (code, out) == (2, "")
    assert says in err
    assert not Path("runs").exists()


@pytest.mark.parametrize("pattern", ["all", "*i*"])
def test_all_and_globs_leave_it_out(pattern):
    cells = expand(
        default_registry(), datasets=[SET], attacks=[pattern], defenses=["none"],
        seeds=[0],
    )  # fmt: skip
    names = {cell.attack[0].entry.name for cell in cells}
    assert "witness" not in names
    assert {"flip", "mimic"} <= names


def test_a_record_gives_the_attack_back_without_the_file():
    digest = "5" * 64
    attack = default_registry().configure(
        "attack", Spec.parse(f"witness:digest={digest}")
    )
    assert attack.digest == digest
    clean = observation_of(LAYOUT, N, seed=2)
    with pytest.raises(ContractError, match="which records leave out"):
        attack(None, clean, GOAL, compromised=mask_of(1), radius=None, generator=None)


def test_a_file_that_changed_meanwhile_is_refused():
    Path("w.safetensors").write_bytes(save(tensors()))
    spec = Spec.parse("witness:file=w.safetensors,agents=2")
    attack = default_registry().configure("attack", spec)
    clean = observation_of(LAYOUT, N, seed=2)
    given = {"compromised": mask_of(1), "radius": None, "generator": None}
    sent = attack(None, clean, GOAL, **given)
    own = LAYOUT.expand(mask_of(1) & clean.observed)
    assert (sent.features[own] == 7.0).all()
    Path("w.safetensors").write_bytes(save(tensors(features=None)))
    with pytest.raises(ContractError, match="changed meanwhile"):
        attack(None, clean, GOAL, **given)
    Path("w.safetensors").unlink()
    with pytest.raises(ContractError, match="began with, got none"):
        attack(None, clean, GOAL, **given)


def test_blocks_outside_the_budget_are_shrunk_to_it():
    Path("w.safetensors").write_bytes(save(tensors()))
    spec = Spec.parse("witness:file=w.safetensors,agents=2,budget=0.5")
    attack = default_registry().configure("attack", spec)
    clean = observation_of(LAYOUT, N, seed=2)
    radius = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    sent = attack(
        None, clean, GOAL, compromised=mask_of(1), radius=radius, generator=None
    )
    change = LAYOUT.block_norms(sent.features - clean.features)
    assert (change[:, 1] <= 0.5).all()
    assert (change[clean.observed[:, 1], 1] > 0.4).all()
    assert (change[:, [0, 2]] == 0).all()
