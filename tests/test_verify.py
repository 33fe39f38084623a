"""`cibench verify`: badges that are earned, and planted lies that are caught."""

import json
import zipfile
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load, save

from cibench import cli
from cibench.execute.keys import options_text
from cibench.results import Proportion
from cibench.submission.inputs import cell_key
from cibench.submission.names import witness_name
from cibench.submission.verify import chosen
from helpers_submission import Opened, run

pytestmark = pytest.mark.xdist_group("verify")

PGD = "--pgd--copur--"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    attacks = ("none", "pgd:agents=random:1", "flip:agents=worst:1")
    run(folder, attacks, ("copur", "randomized-ablation:keep=2"))
    arguments = ["submit", str(folder / "run"), "--author", "Ada"]
    assert cli.invoke([*arguments, "-o", str(folder / "b.zip")]) == 0
    return folder


@pytest.fixture
def bundle(made, tmp_path, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(made / "cache"))  # embeddings and fits
    monkeypatch.chdir(tmp_path)
    return Opened(made / "b.zip")


@pytest.fixture
def verify(capsys):
    def verify(path, *arguments):
        options = ["--isolation", "none", "--cached", "-q", "--json", *arguments]
        code = cli.invoke(["verify", str(path), *options])
        told = capsys.readouterr()
        found = json.loads(told.out)
        assert code == (4 if found["refused"] else 0)
        assert found["refused"] == bool(told.err)
        return found

    return verify


def badge(found):
    assert found["findings"] == []
    return found["verification"]["badge"]


def caught(found, match):
    assert any(match in text for text in found["findings"]), found["findings"]


def test_all_witnesses_replayed_is_re_scored(made, bundle, verify):
    found = verify(made / "b.zip")
    assert badge(found) == "re-scored"
    assert found["notes"] == []
    told = found["verification"]
    assert (told["records"], told["witnesses"], told["replayed"]) == (6, 6, 6)


def test_in_a_process_of_its_own(made, bundle, capsys):
    assert cli.invoke(["verify", str(made / "b.zip"), "--cached", "--replay", "1"]) == 0
    told = capsys.readouterr()
    assert "badge: re-scored (1 of 6 witnesses were replayed and agree)" in told.out
    assert "replay · synthetic" in told.err


def test_cells_that_are_run_again_are_reproduced(made, bundle, verify):
    found = verify(made / "b.zip", "--replay", "none", "--rerun", "2")
    assert badge(found) == "reproduced"
    assert found["verification"]["reran"] == 2
    assert found["verification"]["replayed"] == 0


def test_nothing_replayed_is_claimed(made, bundle, verify):
    assert badge(verify(made / "b.zip", "--replay", "none")) == "claimed"


def test_without_some_witnesses_it_is_claimed(bundle, verify):
    del bundle.files[witness_name(bundle.only(PGD))]
    assert badge(verify(bundle.save("x"))) == "claimed"


def test_cells_are_chosen_by_the_digest_and_the_salt(bundle):
    records = list(bundle.records.values())
    first = [chosen(records, 1, f"{n}")[0].cell for n in range(400)]
    assert set(first) == set(bundle.records)
    assert chosen(records, 3, "a") == chosen(records[::-1], 3, "a")
    salted = {chosen(records, 1, "a", str(n))[0].cell for n in range(400)}
    assert salted == set(bundle.records)


def test_an_outcome_flipped(bundle, verify):
    cell = bundle.only(PGD)
    attacked = list(bundle.records[cell].outcomes.attacked)
    attacked[0] = 1 - attacked[0]
    bundle.outcomes(cell, attacked=attacked)
    caught(verify(bundle.save("x")), "attacked: claims")


def test_a_metric_edited(bundle, verify):
    cell = bundle.only(PGD)
    bundle.metrics(cell, attacked=Proportion(successes=18, n=18))
    caught(verify(bundle.save("x")), "attacked: claims 18 of 18, its samples say")


def lie(bundle, cell):
    """Claim that every sample withstood, in samples and metrics alike."""
    record = bundle.records[cell]
    labels, clean = record.outcomes.labels, record.outcomes.clean
    right = sum(a == b for a, b in zip(labels, clean, strict=True))
    bundle.outcomes(cell, attacked=clean)
    bundle.metrics(
        cell,
        attacked=Proportion(successes=right, n=18),
        universal=Proportion(successes=right, n=18),
        success_rate=Proportion(successes=0, n=right),
        balanced_attacked=record.metrics.balanced_clean,
    )


def test_samples_and_metrics_edited_alike_are_caught_by_replay(bundle, verify):
    cell = bundle.only("--pgd--randomized-ablation--")
    assert bundle.records[cell].outcomes.attacked != bundle.records[cell].outcomes.clean
    lie(bundle, cell)
    path = bundle.save("x")
    assert badge(verify(path, "--replay", "none")) == "claimed"
    found = verify(path)
    caught(found, "decisions differ when its witness is replayed")
    assert found["verification"]["badge"] == "claimed"
    assert badge(verify(path, "--tol", "1")) == "re-scored"


def test_the_same_lie_is_caught_by_running_again(bundle, verify):
    cell = bundle.only("--pgd--randomized-ablation--")
    lie(bundle, cell)
    found = verify(bundle.save("x"), "--replay", "none", "--rerun", "6")
    caught(found, f"{cell}: attacked: claims")


def weakened(bundle, cell, change):
    tensors = load(bundle.files[witness_name(cell)])
    change(tensors)
    bundle.files[witness_name(cell)] = save(tensors)
    return bundle.save("x")


def test_a_weakened_witness(bundle, verify):
    cell = bundle.only("--pgd--randomized-ablation--")
    path = weakened(bundle, cell, lambda t: t["observed"].__setitem__(0, False))
    assert badge(verify(path, "--replay", "none")) == "claimed"
    caught(verify(path), "which may not silence them")
    path = weakened(
        bundle,
        cell,
        lambda t: (t["features"].zero_(), t["observed"].fill_(True)),
    )
    caught(verify(path), "decisions differ when its witness is replayed")


def test_a_removed_flag(bundle, verify):
    cell = bundle.only("--flip--copur--")
    flags = [flag for flag in bundle.records[cell].flags if flag != "not-adaptive"]
    assert flags != bundle.records[cell].flags
    bundle.change(cell, flags=flags)
    caught(verify(bundle.save("x")), "expected not-adaptive")


def test_a_radius_that_an_attack_contradicts_is_refused(bundle, verify):
    cell = bundle.only("--none--randomized-ablation--")
    (one,) = bundle.records[cell].certificates
    raised = msgspec.structs.replace(one, radius=[3.0] * len(one.radius))
    bundle.change(cell, certificates=[raised])
    caught(verify(bundle.save("x"), "--replay", "none"), "certifies against as many")


def test_a_raised_radius_that_holds_is_caught_by_running_again(bundle, verify):
    cell = bundle.only("--none--randomized-ablation--")
    (one,) = bundle.records[cell].certificates
    rows = [r.outcomes for r in bundle.records.values() if "ablation" in r.cell]
    # Where the defense is wrong anyway, no attack can contradict a proof.
    holds = [
        rows[0].clean[at] != label or all(o.attacked[at] == label for o in rows)
        for at, label in enumerate(rows[0].labels)
    ]
    pairs = zip(one.radius, holds, strict=True)
    raised = [min(3.0, radius + 1) if held else radius for radius, held in pairs]
    assert raised != one.radius
    other = msgspec.structs.replace(one, radius=raised)
    bundle.change(cell, certificates=[other])
    path = bundle.save("x")
    assert badge(verify(path)) == "re-scored"
    caught(verify(path, "--rerun", "6"), "radii are others when run again")


def renamed(bundle, cell, part, **spec):
    """An attack or defense whose spec hides what was configured."""
    record = bundle.records[cell]
    if part == "defense":
        changed = msgspec.structs.replace(record.defense, **spec)
        bundle.change(cell, defense=changed)
    else:
        (one,) = record.attack
        own = msgspec.structs.replace(one.component, **spec)
        bundle.change(cell, attack=[msgspec.structs.replace(one, component=own)])


def rekeyed(bundle, cell, **inputs):
    """The same cell with inputs and key as the harness would form them."""
    record = bundle.records.pop(cell)
    told = {**record.inputs, **inputs}
    key = cell_key(told)
    new = cell.replace(record.key[:8], key[:8])
    if witness_name(cell) in bundle.files:
        bundle.files[witness_name(new)] = bundle.files.pop(witness_name(cell))
    bundle.records[new] = msgspec.structs.replace(
        record, cell=new, inputs=told, key=key
    )
    return new


def test_a_weakened_attack_does_not_pass_for_the_suites(bundle, verify):
    """Fewer steps among the options, and a spec that does not say so."""
    cell = bundle.only(PGD)
    options = dict(bundle.records[cell].attack[0].component.options)
    options["steps"] = 1
    renamed(bundle, cell, "attack", options=options)
    new = rekeyed(bundle, cell, **{"attack options": options_text(options)})
    found = verify(bundle.save("x"), "--replay", "none")
    caught(found, "attack pgd: expected the spec of its options")
    assert "steps=1" in found["findings"][0]
    assert new != cell


def test_places_of_files_are_no_options_of_records(bundle, verify):
    cell = bundle.only("--none--copur--")
    component = bundle.records[cell].attack[0].component
    options = {"file": "/etc/passwd", "agents": "none", "knowledge": "adaptive"}
    options["knowledge"] = bundle.records[cell].attack[0].knowledge
    renamed(bundle, cell, "attack", name="witness", spec="witness", options=options)
    text, where = options_text(options), f"cibench {component.version}"
    new = cell.replace("--none--", "--witness--")
    record = bundle.records.pop(cell)
    bundle.records[new] = msgspec.structs.replace(record, cell=new)
    bundle.files.pop(witness_name(cell), None)
    rekeyed(bundle, new, **{"attack": "witness", "attack options": text,
                            "attack distribution": where})  # fmt: skip
    caught(verify(bundle.save("x")), "expected no option that says where files are")


def test_cibench_has_only_the_plugins_it_has(bundle, verify):
    cell = bundle.only(PGD)
    new = cell.replace("copur", "zz")
    renamed(bundle, cell, "defense", name="zz", spec="zz")
    bundle.records[new] = msgspec.structs.replace(bundle.records.pop(cell), cell=new)
    bundle.files.pop(witness_name(cell))
    rekeyed(bundle, new, defense="zz")
    caught(verify(bundle.save("x")), "defense 'zz': expected one of cibench")


def test_what_a_defense_is_told_is_flagged(bundle, verify):
    cell = bundle.only(PGD)
    flags = sorted([*bundle.records[cell].flags, "oracle-information"])
    bundle.change(cell, flags=flags)
    caught(verify(bundle.save("x")), "copur is not told which agents are compromised")


def test_nothing_is_from_the_future(bundle, verify):
    cell = bundle.only(PGD)
    bundle.change(cell, created="9999-12-31T00:00:00+00:00")
    caught(verify(bundle.save("x")), "expected a date until today, got '9999")


def test_a_defense_that_is_not_installed(bundle, verify):
    cell = bundle.only(PGD)
    record = bundle.records[cell]
    defense = msgspec.structs.replace(
        record.defense, name="absent", spec="absent", distribution="acme", version="1"
    )
    new = record.cell.replace("copur", "absent")
    named = {"defense": "absent", "defense distribution": "acme 1"}
    inputs = {**record.inputs, **named}
    key = cell_key(inputs)
    new = new.replace(record.key[:8], key[:8])
    content = bundle.files.pop(witness_name(cell))
    bundle.files[witness_name(new)] = content
    del bundle.records[cell]
    bundle.records[new] = msgspec.structs.replace(
        record, cell=new, defense=defense, inputs=inputs, key=key
    )
    found = verify(bundle.save("x"))
    assert badge(found) == "claimed"
    assert found["verification"]["replayed"] == 5
    assert any("absent" in note and "not installed" in note for note in found["notes"])


def test_an_entry_is_verified_as_far_as_it_goes(bundle, verify, made):
    with zipfile.ZipFile(made / "b.zip") as opened:
        for name in ("bundle.json", "records.jsonl.xz"):
            Path(name).write_bytes(opened.read(name))
    assert badge(verify(".")) == "claimed"
    assert badge(verify(".", "--rerun", "1")) == "reproduced"


def test_what_is_no_bundle(bundle, verify, capsys):
    Path("x").write_text("hello")
    found = verify("x")
    assert found["verification"] is None
    caught(found, "whole zip file")
    assert cli.invoke(["verify", "absent", "-q"]) == 4
    assert capsys.readouterr().err.startswith("error: absent is refused")
    assert cli.invoke(["verify", "x", "--replay", "some"]) == 2
