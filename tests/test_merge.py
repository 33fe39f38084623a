"""`cibench merge`: what is put together, what is kept of two, what is refused."""

import json
from pathlib import Path

import msgspec
import pytest

from cibench import cli
from cibench.results import RunFolder
from cibench.study import RunOptions, StudyRun
from helpers_report import record, study_run


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CIBENCH_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call):
    """Assert one line of error and nothing written; return it."""

    def check(code, *arguments, out="out"):
        got, text, err = call("merge", *arguments, "-o", out)
        assert (got, text) == (code, ""), err
        lines = [line for line in err.splitlines() if not line.startswith("Usage: ")]
        assert len(lines) == 1
        assert not Path("out").exists()
        return lines[0]

    return check


def made(name, *records, invocations=(), kept=None):
    """A run's folder, with its manifest and its study where they are given."""
    folder = RunFolder(Path(name))
    folder.create()
    for each in records:
        folder.write(each)
    if invocations:
        listed = [
            {"created": when, "cibench": "1", "options": {"seeds": seeds}, "cells": 1}
            for when, seeds in invocations
        ]
        text = json.dumps({"format": 1, "invocations": listed})
        (folder.path / "run.json").write_text(text)
    if kept is not None:
        (folder.path / "study.json").write_bytes(msgspec.json.encode(kept))
    return folder


def failure(seed, status="failed", **changes):
    fields = {"reason": "it broke", "metrics": None, "outcomes": None, "timings": None}
    return record("none", seed, [True], status=status, **{**fields, **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder, "cells").iterdir()}


def test_records_logs_and_commands_of_all_runs(call):
    one = made(
        "a",
        record("none", 0, [True], log="logs/a.log"),
        invocations=[("2026-01-03", "0"), ("2026-01-01", "0")],
    )
    one.write_log("a", b"from a")
    two = made("b", record("none", 1, [False]), invocations=[("2026-01-02", "1")])
    code, out, err = call("merge", "a", "b", "-o", "out")
    assert (code, out, err) == (0, "out: 2 cells of 2 runs\n", "")
    assert contents("out") == contents(one.path) | contents(two.path)
    assert Path("out/logs/a.log").read_bytes() == b"from a"
    manifest = json.loads(Path("out/run.json").read_text())
    when = [invocation["created"] for invocation in manifest["invocations"]]
    assert when == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert not Path("out/study.json").exists()


def test_show_and_report_read_the_result(call):
    made("a", record("none", 0, [True, True]), record("copur", 0, [True, True]))
    made("b", record("none", 1, [True, False]), record("copur", 1, [True, True]))
    assert call("merge", "a", "b", "-o", "out")[0] == 0
    shown = call("show", "out")
    assert "seeds 0, 1" in shown[1]
    assert shown[2] == "4 cells: 4 ok\n"
    assert call("report", "out")[0] == 0


def test_of_equal_records_the_older_is_kept(call):
    old = record("none", 0, [True], created="2026-01-01", seconds=1.0)
    new = record("none", 0, [True], created="2026-01-02", seconds=2.0)
    made("a", new)
    made("b", old)
    code, out, _ = call("merge", "a", "b", "-o", "out")
    assert code == 0
    assert out == "out: 1 cell of 2 runs, 1 record left out as there already\n"
    assert contents("out") == contents("b")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (record("none", 0, [True], created="2026-01-02"), failure(0)),
        (failure(0, created="2026-01-02"), failure(0, "interrupted")),
        (failure(0, "timeout", created="2025"), failure(0, created="2026")),
    ],
)
def test_which_of_two_ends_is_kept_is_said(call, order, better, worse):
    made("a", worse)
    made("b", better)
    code, out, _ = call("merge", *order, "-o", "out")
    assert code == 0
    assert contents("out") == contents("b")
    kept = (
        f"{better.cell}: {better.status} in b is kept rather than {worse.status} in a"
    )
    assert kept in out


def test_two_logs_of_one_name_are_both_kept(call):
    for name, seed in (("a", 0), ("b", 1)):
        folder = made(name, failure(seed, log="logs/fit-0.log"))
        folder.write_log("fit-0", name.encode())
    assert call("merge", "a", "b", "-o", "out")[0] == 0
    assert call("show", "out", "none--0", "--log")[1] == "a\n"
    assert call("show", "out", "none--1", "--log")[1] == "b\n"


def test_logs_that_are_gone_or_elsewhere_are_counted_and_not_read(call):
    Path("secret.log").write_text("x")
    made("a", failure(0, log="logs/gone.log"), failure(1, log="../secret.log"))
    assert (
        call("merge", "a", "-o", "out")[1]
        == "out: 2 cells of 1 run, 2 logs not found\n"
    )
    assert not Path("out/logs").exists()


def test_what_attacks_sent_travels_with_the_records(call):
    here, there = record("none", 0, [True]), record("none", 1, [True])
    made("a", here).write_witness(here.cell, b"zero")
    made("b", here, there).write_witness(there.cell, b"one")
    RunFolder(Path("b")).write_witness(here.cell, b"of the copy left out")
    code, text, _ = call("merge", "a", "b", "-o", "out")
    assert code == 0
    assert "2 with what the attack sent" in text
    out = RunFolder(Path("out"))
    assert out.witness(here.cell).read_bytes() == b"zero"
    assert out.witness(there.cell).read_bytes() == b"one"


def test_a_witness_of_either_run_is_kept(call):
    one = record("none", 0, [True])
    made("a", one)
    made("b", one).write_witness(one.cell, b"sent")
    assert call("merge", "b", "-o", "a", "--into")[0] == 0
    assert RunFolder(Path("a")).witness(one.cell).read_bytes() == b"sent"
    told = json.loads(call("merge", "a", "-o", "out", "--json")[1])
    assert told["witnesses"] == 1


def test_protocols_are_not_mixed(refused):
    made("a", record("none", 0, [True]))
    made("b", record("none", 1, [True], protocol=2))
    line = refused(2, "a", "b")
    assert "protocol 1 in a and protocol 2 in b" in line


def test_other_schemas_are_refused(refused):
    folder = made("a", record("none", 0, [True]))
    path = folder.file("toy--flip--none--0")
    path.write_text(
        path.read_text().replace('"schema_version": 2', '"schema_version": 1')
    )
    line = refused(3, "a")
    assert "run a: record toy--flip--none--0.json" in line
    assert "cell record of this version" in line


def test_other_data_under_one_spec_is_refused(refused):
    made("a", record("none", 0, [True]))
    made("b", record("none", 1, [True], fingerprint="g"))
    line = refused(2, "a", "b")
    for text in ("data set toy", "f in a", "g in b"):
        assert text in line


def test_a_record_whose_data_could_not_be_read_fits_any(call):
    made("a", record("none", 0, [True]))
    made("b", failure(1, "skipped", fingerprint=""))
    assert call("merge", "a", "b", "-o", "out")[0] == 0


def test_other_numbers_for_one_cell_are_refused(refused):
    made("a", record("none", 0, [True, False]))
    made("b", record("none", 0, [True, True]))
    line = refused(2, "a", "b")
    assert "toy--flip--none--0" in line
    assert "different ones in a and b" in line
    assert "cibench reproduce a toy--flip--none--0" in line


def test_a_record_under_another_name_is_refused(refused):
    folder = made("a", record("none", 0, [True]))
    folder.file("toy--flip--none--0").rename(folder.file("other"))
    assert "other.json" in refused(3, "a")


def test_folders_that_are_no_runs_are_refused(refused):
    made("a", record("none", 0, [True]))
    assert "cells/*.json" in refused(3, "a", "nowhere")
    assert "Missing argument" in refused(2)


def test_a_filled_folder_is_merged_with_only_where_that_is_asked_for(call):
    made("a", record("none", 0, [True]))
    made("b", record("none", 1, [True]))
    code, out, err = call("merge", "a", "-o", "b")
    assert (code, out) == (2, "")
    assert "--into" in err
    assert list(contents("b")) == ["toy--flip--none--1.json"]
    for _ in range(2):  # merging again changes nothing
        assert call("merge", "a", "a", "-o", "b", "--into")[0] == 0
        assert len(contents("b")) == 2
    made("c", failure(0), failure(2))
    code, out, _ = call("merge", "c", "-o", "b", "--into", "--json")
    told = json.loads(out)
    assert (told["runs"], told["cells"], told["repeated"]) == (["b", "c"], 3, 1)
    assert len(told["preferred"]) == 1
    assert contents("b") == contents("a") | contents("b")


def kept_of(folder):
    return msgspec.json.decode(Path(folder, "study.json").read_bytes(), type=StudyRun)


SCENARIOS = {"one": ("flip", 1), "two": ("flip:agents=2", 2)}


def ran(*places, seeds=(0,), unavailable=None, **changes):
    """A study of which the scenarios at these places were run with these seeds."""
    run = study_run(
        SCENARIOS, {"none": "none"}, datasets=("toy", "b"), unavailable=unavailable
    )
    kept = [run.parts[place] for place in places]
    kept = [msgspec.structs.replace(each, seeds=list(seeds)) for each in kept]
    study = msgspec.structs.replace(run.study, **changes)
    return msgspec.structs.replace(run, parts=kept, study=study)


def test_runs_of_one_study_become_a_run_of_it(call):
    """However each was run; parts and seeds are united, in the study's order."""
    made("a", record("none", 0, [True]), kept=ran(1, 2))
    made(
        "b",
        record("none", 3, [True]),
        kept=ran(0, 1, seeds=[3], run=RunOptions(jobs=7)),
    )
    assert call("merge", "a", "b", "-o", "out")[0] == 0
    parts = [(p.dataset, p.scenario, p.seeds) for p in kept_of("out").parts]
    assert parts == [
        ("toy", "one", [3]),
        ("toy", "two", [0, 3]),
        ("b", "one", [0]),
    ]
    assert kept_of("out").study == ran().study
    assert call("report", "out")[0] == 0


def test_a_data_set_that_one_run_had_is_available(call):
    made(
        "a", record("none", 0, [True]), kept=ran(0, unavailable={"b": "no", "c": "no"})
    )
    made("b", record("none", 3, [True]), kept=ran(2, unavailable={"c": "no"}))
    assert call("merge", "a", "b", "-o", "out")[0] == 2  # the studies name others
    run = msgspec.structs.replace(ran(0), unavailable={"b": "no", "c": "no"})
    made("d", record("none", 0, [True]), kept=run)
    made("e", record("none", 3, [True]), kept=ran(2))
    assert call("merge", "d", "e", "-o", "out")[0] == 0
    assert kept_of("out").unavailable == {"c": "no"}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (ran(0, title="Another"), "which differ in title"),
        (None, "got a of one and b of none"),
    ],
)
def test_studies_are_not_mixed_but_records_may_be(refused, call, other, says):
    made("a", record("none", 0, [True]), kept=ran(0))
    made("b", record("none", 3, [True]), kept=other)
    line = refused(2, "a", "b")
    assert says in line
    assert "--records-only" in line
    assert call("merge", "a", "b", "-o", "out", "--records-only")[0] == 0
    assert len(contents("out")) == 2
    assert not Path("out/study.json").exists()


def test_records_alone_do_not_become_part_of_a_study(call):
    made("a", record("none", 0, [True]), kept=ran(0))
    made("b", record("none", 3, [True]))
    code, _, err = call("merge", "b", "-o", "a", "--into", "--records-only")
    assert code == 2
    assert "study.json" in err
    assert len(contents("a")) == 1


def test_a_damaged_study_is_an_error(refused):
    folder = made("a", record("none", 0, [True]))
    (folder.path / "study.json").write_text("{")
    assert "study.json" in refused(3, "a")


def test_protocols_run_again_with_other_limits_stay_one_study(tmp_path):
    from cibench.cli._run_study import _with_others

    path = tmp_path / "study.json"
    path.write_bytes(msgspec.json.encode(ran(0)))
    new = ran(1, run=RunOptions(timeout="20m"))
    assert len(_with_others(new, path, set()).parts) == 2
    assert len(_with_others(ran(1, seeds=[2], title="Another"), path, set()).parts) == 1
