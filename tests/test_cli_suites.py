"""`cibench run --suite` and `-c`: a study is checked whole, run once, and kept."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from cibench import cli
from cibench.cli._options import check_together
from cibench.cli._study_cells import blocks_of
from cibench.embedding import recipe_of, training
from cibench.execute import runner
from cibench.spec import resolved
from cibench.study import (
    Axis,
    Claim,
    Protocol,
    Published,
    Study,
    StudyRun,
    StudyScenario,
)
from cibench.suites import load_suite, study_of, suite_names
from helpers import forget

SET = "synthetic:agents=4,rank=2,samples=120,width=5"
TINY = f"""
title = "Two attacks"
seeds = 2

[[scenarios]]
label = "flip"
attack = "flip:agents=4"
x = 1

[[scenarios]]
label = "adaptive"
attack = "pgd:steps=2,agents=4"
protocols = ["large"]

[[protocols]]
name = "large"
datasets = ["{SET}"]
embedding = "identity:epochs=4"
[protocols.defenses]
none = "none"
purified = "copur:width=2"

[[protocols]]
name = "small"
datasets = ["{SET}"]
embedding = "identity:epochs=2"
[protocols.defenses]
none = "none"
"""


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in ("CIBENCH_DATA", "CIBENCH_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        forget()
        if arguments[:1] == ("run",) and "--isolation" not in arguments:
            arguments = (*arguments, "--isolation", "none")
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def study(call):
    """Run a study file that ends well: standard output and error."""

    def ok(*arguments, text=TINY, out="out", code=0):
        Path("tiny.toml").write_text(text)
        got, table, err = call("run", "-c", "tiny.toml", "-o", out, *arguments)
        assert got == code, err
        return table, err

    return ok


@pytest.fixture
def refused(call):
    """Assert one line of error and nothing left behind; return the line."""

    def check(code, *arguments, text=TINY):
        Path("tiny.toml").write_text(text)
        got, out, err = call(*arguments, "-o", "out")
        assert (got, out) == (code, ""), err
        lines = [line for line in err.splitlines() if not line.startswith("Usage: ")]
        assert len(lines) == 1, err
        assert not Path("out").exists()
        return lines[0]

    return check


def kept(folder="out"):
    return msgspec.json.decode(Path(folder, "study.json").read_bytes(), type=StudyRun)


def records(folder="out"):
    return [
        json.loads(p.read_text()) for p in sorted(Path(folder).glob("cells/*.json"))
    ]


def spec_of(record):
    return "+".join(part["component"]["spec"] for part in record["attack"])


def identity(record):
    return (
        record["dataset"]["spec"], record["embedding"]["epochs"], spec_of(record),
        record["defense"]["spec"], record["seed"],
    )  # fmt: skip


def numbers(record):
    """Text that must be the same when a cell is run again."""
    return json.dumps([identity(record), record["metrics"], record["outcomes"]])


def test_every_protocol_runs_the_scenarios_that_belong_to_it(study):
    _, err = study()
    assert "10 cells; records in out\nnext: cibench report out\n" in err
    assert sorted(identity(r) for r in records()) == sorted(
        (SET, epochs, attack, defense, seed)
        for epochs, attacks, defenses in (
            (4, ("flip:agents=4", "pgd:agents=4,steps=2"), ("none", "copur:width=2")),
            (2, ("flip:agents=4",), ("none",)),
        )
        for attack in attacks
        for defense in defenses
        for seed in (0, 1)
    )


def test_study_json_says_where_each_record_belongs(study):
    study()
    run = kept()
    assert run.name == "tiny"
    assert msgspec.to_builtins(run.study)["title"] == "Two attacks"
    assert run.unavailable == {}
    parts = [(p.protocol, p.scenario, p.x, p.attack, p.defenses) for p in run.parts]
    both = {"none": "none", "purified": "copur:width=2"}
    assert parts == [
        ("large", "flip", 1.0, "flip:agents=4", both),
        ("large", "adaptive", None, "pgd:agents=4,steps=2", both),
        ("small", "flip", 1.0, "flip:agents=4", {"none": "none"}),
    ]
    found = []
    for part in run.parts:
        assert part.dataset_name == "synthetic"
        epochs = 4 if part.protocol == "large" else 2
        assert part.embedding == resolved(recipe_of(f"identity:epochs={epochs}"))
        mine = [
            r["cell"]
            for r in records()
            if (r["dataset"]["spec"], r["embedding"], spec_of(r))
            == (part.dataset, part.embedding, part.attack)
            and r["defense"]["spec"] in part.defenses.values()
        ]
        assert len(mine) == 2 * len(part.defenses)
        found += mine
    assert sorted(found) == sorted(r["cell"] for r in records())


def test_the_tables_are_those_of_plain_runs(study, call):
    printed, _ = study()
    assert printed.startswith("## Two attacks\n\n### flip · large · ")
    code, plain, _ = call(
        "run", "--dataset", SET, "--embedding", "identity:epochs=4", "-a",
        "flip:agents=4", "-d", "none", "-d", "copur:width=2", "--seeds", "2",
    )  # fmt: skip
    assert code == 0
    own = printed.partition("### adaptive")[0].partition("### flip · large · ")[2]
    assert "### " + own.strip() == plain.strip()
    titles = [line for line in printed.splitlines() if line.startswith("###")]
    assert [t.split(" · ")[:2] for t in titles] == [
        ["### flip", "large"], ["### adaptive", "large"], ["### flip", "small"],
    ]  # fmt: skip


def test_a_second_run_is_answered_from_the_cache(study):
    first, _ = study()
    again, err = study(out="again")
    assert again == first
    assert "10 cells, 10 of them already known" in err


def test_seeds_and_quick_override_the_study(study):
    study("--seeds", "3,5", "--protocol", "small")
    assert [r["seed"] for r in records()] == [3, 5]
    study("--quick", out="quick")
    assert {r["seed"] for r in records("quick")} == {0}
    assert all("partial" in r["flags"] for r in records("quick"))
    study("--quick", "--seeds", "7,8", out="seventh")
    assert {r["seed"] for r in records("seventh")} == {7}


def test_protocols_can_be_chosen(study, refused):
    study("--protocol", "small")
    assert {p.protocol for p in kept().parts} == {"small"}
    assert len(records()) == 2
    Path("out").rename("done")
    line = refused(2, "run", "-c", "tiny.toml", "--protocol", "smal")
    assert "--protocol" in line
    assert "did you mean 'small'?" in line


def test_protocols_run_one_after_another_share_a_report(study, call):
    study()
    whole = kept()
    assert all(part.seeds == [0, 1] for part in whole.parts)
    study("--protocol", "small", out="apart")
    study("--protocol", "large", out="apart")
    assert kept("apart") == whole
    assert call("report", "apart")[1] == call("report", "out")[1]
    # Another study in the same folder takes nothing over.
    study("--protocol", "small", out="apart", text=TINY.replace("Two", "Other"))
    assert {part.protocol for part in kept("apart").parts} == {"small"}


def test_a_protocol_that_is_run_again_replaces_its_parts(study):
    text = TINY.replace(f'["{SET}"]', f'["{SET}", "extrasensory"]', 1)
    study("--protocol", "large", text=text)
    study("--protocol", "small", "--seeds", "1", text=text)
    study("--protocol", "small", "--seeds", "7", text=text)
    found = [(part.protocol, len(part.seeds)) for part in kept().parts]
    assert found == [("large", 2), ("large", 2), ("small", 7)]
    assert list(kept().unavailable) == ["extrasensory"]


def test_json_prints_the_records(study):
    printed, _ = study("--json", "--protocol", "small")
    assert sorted(r["cell"] for r in json.loads(printed)) == [
        r["cell"] for r in records()
    ]


def test_quiet_is_silent(study):
    _, err = study("-q")
    assert err == ""


@pytest.mark.parametrize("cache", [(), ("--no-cache",)], ids=["cache", "no cache"])
def test_nothing_is_fitted_twice(study, monkeypatch, cache):
    fitted, referred = [], []

    def spied(name, module, into):
        original = getattr(module, name)

        def counted(*arguments, **options):
            into.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    spied("fit_embedding", training, fitted)
    spied("fit_head", training, fitted)
    spied("refer", runner, referred)
    study(*cache)
    # Two protocols of two seeds; one head behind the manifold per seed for two attacks.
    assert sorted(fitted) == ["fit_embedding"] * 4 + ["fit_head"] * 2
    assert len(referred) == 2 * 2 + 2


def test_without_a_cache_the_numbers_are_the_same(study):
    study()
    study("--no-cache", out="fresh")
    assert sorted(map(numbers, records())) == sorted(map(numbers, records("fresh")))


def test_a_data_set_that_is_absent_is_left_out_with_a_warning(study):
    text = TINY.replace(f'["{SET}"]', f'["{SET}", "extrasensory"]', 1)
    _, err = study(text=text)
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "extrasensory is left out" in line
    assert "--data-dir" in line
    assert len(records()) == 10
    assert list(kept().unavailable) == ["extrasensory"]
    assert "features_labels.csv" in kept().unavailable["extrasensory"]
    assert {p.dataset_name for p in kept().parts} == {"synthetic"}


def test_no_folder_of_the_user_is_kept(study, tmp_path):
    text = TINY.replace(f'["{SET}"]', f'["{SET}", "extrasensory"]', 1)
    study("--data-dir", str(tmp_path / "secret" / "place"), text=text)
    assert "secret" not in Path("out/study.json").read_text()


def test_without_any_data_set_the_reason_is_the_error(refused):
    text = TINY.replace(f'["{SET}"]', '["extrasensory"]')
    line = refused(3, "run", "-c", "tiny.toml", text=text)
    assert line.startswith("error: extrasensory: expected a data folder")


def test_a_failed_cell_does_not_cost_the_others(study):
    text = TINY.replace('"copur:width=2"', '"copur:width=4000"')
    _, err = study(text=text, code=1)
    assert "4 of 10 cells failed" in err
    assert {r["status"] for r in records()} == {"ok", "failed"}


def test_an_interrupted_run_can_be_reported_and_resumed(study, call, monkeypatch):
    calls = []

    def interrupted(self, cell):
        calls.append(cell)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, cell)

    original = runner.Runner.evaluate
    monkeypatch.setattr(runner.Runner, "evaluate", interrupted)
    _, err = study(code=130)
    assert "2 of 10 cells are finished and kept" in err.splitlines()[-1]
    assert len(kept().parts) == 3
    assert sorted(r["status"] for r in records()) == ["interrupted", "ok", "ok"]
    assert call("report", "out")[0] == 0
    code, _, _ = call("run", "--resume", "out")
    assert code == 0
    assert len(calls) == 3 + 8
    monkeypatch.setattr(runner.Runner, "evaluate", original)
    study("--no-cache", out="whole")
    assert sorted(map(numbers, records())) == sorted(map(numbers, records("whole")))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("flip:agents=4", "flop", "scenarios[0].attack: unknown attack 'flop' (did you"),
        ("flip:agents=4", "all", "scenarios[0].attack: expected one attack, got the pat"),
        ("flip:agents=4", "z*", "scenarios[0].attack: attack 'z*': expected a pattern"),
        ("steps=2", "stpes=2", "scenarios[1].attack: attack pgd: unknown option 'stpes'"),
        (
            "pgd:steps=2,agents=4",
            "pgd:target=0,agents=1+pgd:target=1",
            "scenarios[1].attack: composed attack: expected one target",
        ),
        (
            "copur:width=2",
            "copur:width=0",
            "protocols[0].defenses.purified: defense copur: option width",
        ),
        ('"none"\npur', '"nome"\npur', "protocols[0].defenses.none: unknown defense"),
        ("identity:epochs=2", "identiy", "protocols[1].embedding: embedding: expected"),
        ("identity:epochs=2", "identity:epochs=0", "protocols[1].embedding: embedding"),
        ("rank=2", "rnak=2", "protocols[0].datasets[0]: dataset synthetic: unknown"),
        ("title", "titel", ", line 2: unknown key 'titel' (did you mean 'title'?)"),
        ("seeds = 2", "seeds =", "expected TOML, got: Invalid value (at line 3,"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_before_anything_runs(refused, old, new, says):
    assert old in TINY
    line = refused(2, "run", "-c", "tiny.toml", text=TINY.replace(old, new))
    assert re.match(r"error: study tiny\.toml(, line \d+)?: ", line)
    assert says in line


def test_one_data_set_at_two_places_is_refused(refused):
    text = TINY.replace(SET, "extrasensory:path=a", 1).replace(
        SET, "extrasensory:path=b"
    )
    line = refused(2, "run", "-c", "tiny.toml", text=text)
    assert "extrasensory: expected one place to read it from in a run, got two" in line


def test_an_attack_that_does_not_fit_the_data_is_a_usage_error(refused):
    text = TINY.replace('agents=4"\nx = 1', 'agents=9"\nx = 1')
    assert "agent number" in refused(2, "run", "-c", "tiny.toml", text=text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "copur-tabel1"], ["'copur-tabel1'", "did you mean 'copur-table1'?"]),
        (["-c", "absent.toml"], ["study absent.toml", "No such file"]),
        (["-c", "tiny.toml", "--suite", "copur-table1"], ["--suite", "-c", "got both"]),
        (["-c", "tiny.toml", "-P", "pgd.steps=1"], ["-P", "docs/suites.md"]),
        (["-c", "tiny.toml", "-d", "nome"], ["nome", "did you mean 'none'?"]),
        (["-c", "tiny.toml", "--embedding", "identiy"], ["embedding", "got 'identiy'"]),
        (["--protocol", "clean"], ["--protocol", "--suite or -c"]),
        (["-c", "tiny.toml", "--seeds", "0"], ["--seeds", "at least 1"]),
    ],
)  # fmt: skip
def test_options_that_contradict_a_study(refused, arguments, says):
    line = refused(2, "run", *arguments)
    for text in says:
        assert text in line


def test_the_command_line_beats_the_study(study):
    study("-d", "none", "--seeds", "1", "--embedding", "identity:epochs=1")
    assert sorted(identity(r) for r in records()) == [
        (SET, 1, "flip:agents=4", "none", 0),
        (SET, 1, "pgd:agents=4,steps=2", "none", 0),
    ]
    study("-a", "missing", "-d", "none", "--dataset", SET + ",noise=0.2", out="other")
    assert sorted(identity(r)[1:] for r in records("other")) == [
        (epochs, "missing", "none", seed) for epochs in (2, 4) for seed in (0, 1)
    ]
    assert {r["dataset"]["options"]["noise"] for r in records("other")} == {0.2}


def test_environment_variables_do_not_contradict_a_study():
    check_together({"config", "data_dir", "seeds", "out", "threads", "device"})


def test_a_suite_without_its_data_says_what_to_get(refused):
    line = refused(3, "run", "--suite", "copur-figure3", "--protocol", "paper")
    assert "features_labels.csv.gz" in line


def test_ls_suites(call):
    code, out, err = call("ls", "suites", "--json")
    assert (code, err) == (0, "")
    listed = {row["suite"]: row for row in json.loads(out)}
    assert sorted(listed) == suite_names()
    assert listed["copur-table1"]["data sets"] == "extrasensory, nuswide"
    assert listed["copur-figure3"]["scenarios"] == 4
    code, out, _ = call("ls", "suites")
    assert code == 0
    assert all(name in out for name in suite_names())


def test_every_shipped_suite_expands():
    for name in suite_names():
        study = load_suite(name)
        for protocol in study.protocols:
            seeds = range(study.seeds)
            for block in blocks_of(study, [protocol.name], title=name, seeds=seeds):
                expected = len(block.scenarios) * len(block.defenses) * study.seeds
                assert len(block.cells) == expected
                assert list(block.defenses) == list(protocol.defenses)


def test_the_page_on_suites_shows_a_study_that_can_be_read():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "suites.md").read_text(encoding="utf-8")
    example = text.partition("<<'END'\n")[2].partition("END\n")[0]
    study = study_of(tomllib.loads(example))
    assert len(study.scenarios) == 2
    for struct in (Study, StudyScenario, Protocol, Published, Claim, Axis):
        fields = struct.__struct_fields__
        for field in fields:
            assert f"`{field}`" in text, (struct, field)
