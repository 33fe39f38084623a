"""`cibench show`: tables, how the cells ended, what is missing, failures and logs."""

import json
from pathlib import Path

import pytest

from cibench import cli
from cibench.results import RunFolder
from helpers_report import record


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


def made(name, *records):
    """A run's folder with these records."""
    folder = RunFolder(Path(name))
    folder.create()
    for each in records:
        folder.write(each)
    return folder


def failure(seed, status="failed", reason="it broke | badly", **changes):
    return record(
        "copur", seed, [True], status=status, reason=reason, metrics=None, outcomes=None,
        timings=None, seconds=1.25, **changes,
    )  # fmt: skip


def asked(folder, *invocations):
    """A manifest: each invocation as its options and its number of cells."""
    listed = [
        {
            "created": f"2026-01-0{at}",
            "cibench": "1",
            "options": options,
            "cells": cells,
        }
        for at, (options, cells) in enumerate(invocations, 1)
    ]
    text = json.dumps({"format": 1, "invocations": listed})
    (folder.path / "run.json").write_text(text)


@pytest.fixture
def mixed():
    """Five cells that ended in four ways, two with a log."""
    folder = made(
        "mixed",
        record("none", 0, [True, False]),
        record("copur", 0, [True, True], log="logs/loud.log"),
        failure(1, log="logs/toy--flip--copur--1.log"),
        failure(2, "timeout", "no answer within 3 s"),
        failure(3, "skipped", "two classes are needed"),
    )
    folder.write_log("loud", b"hello\nworld")
    folder.write_log("toy--flip--copur--1", b"Traceback\n  \xff boom\n")
    return folder


def test_after_the_tables_standard_error_says_how_the_cells_ended(mixed, call):
    code, out, err = call("show", "mixed")
    assert code == 0
    assert out.startswith("### toy")
    assert err == "5 cells: 2 ok, 1 failed, 1 timeout, 1 skipped\n"


def test_cells_that_one_selection_lacks_are_counted(mixed, call):
    options = {"seeds": "8"}
    asked(mixed, (options, 8), ({**options, "timeout": "3"}, 8))
    assert (
        "; 3 not run yet (go on: cibench run --resume mixed)"
        in call("show", "mixed")[2]
    )
    asked(mixed, (options, 5))
    assert "not run" not in call("show", "mixed")[2]


DATA = "synthetic:agents=3"


def test_several_selections_are_expanded_for_they_may_share_cells(call):
    inputs = {"samples": "all", "threads": "1"}
    folder = made("out", record("none", 0, [True], dataset=DATA, inputs=inputs))
    one = {"datasets": [DATA], "attacks": ["flip"], "defenses": ["none"]}
    asked(folder, ({**one, "seeds": "2"}, 2), ({**one, "seeds": "0,5"}, 2))
    err = call("show", "out")[2]
    assert "1 cell: 1 ok; 2 not run yet (go on: cibench run --resume out)" in err
    asked(folder, ({**one, "seeds": "2"}, 2), ({**one, "seeds": "0,"}, 1))
    assert "1 not run yet (an earlier command with -o out" in call("show", "out")[2]
    # Part of the samples makes another cell of it.
    asked(folder, ({**one, "seeds": "1"}, 1), ({**one, "seeds": "1", "limit": 9}, 1))
    assert "1 not run yet (go on" in call("show", "out")[2]


def test_that_a_selection_cannot_be_expanded_is_said(mixed, call):
    asked(mixed, ({"defenses": ["gone"]}, 9), ({"defenses": ["none"]}, 2))
    err = call("show", "mixed")[2]
    assert "; at least 4 not run yet (" in err
    assert "not counted exactly: unknown defense 'gone'" in err


def test_a_damaged_manifest_is_an_error(mixed, call):
    (mixed.path / "run.json").write_text("{")
    code, _, err = call("show", "mixed")
    assert code == 3
    assert "run.json" in err


def test_failed_cells_are_listed_with_reason_and_log(mixed, call):
    code, out, err = call("show", "mixed", "--failed")
    rows = [line for line in out.splitlines() if line.startswith("| toy")]
    assert code == 0
    assert len(rows) == 2
    words = [cell.strip() for cell in rows[0].strip("|").split(" | ")]
    assert words == [
        *("toy--flip--copur--1", "failed", "1.2", r"it broke \| badly"),
        "logs/toy--flip--copur--1.log",
    ]
    assert "no answer within 3 s" in rows[1]
    assert err == "2 of 5 cells; all: 2 ok, 1 failed, 1 timeout, 1 skipped\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--failed"], [1, 2]),
        (["--skipped"], [3]),
        (["--failed", "--skipped"], [1, 2, 3]),
        (["--status", "timeout"], [2]),
        (["--status", "killed"], []),
    ],
)
def test_cells_are_filtered_by_status(mixed, call, options, expected):
    code, out, _ = call("show", "mixed", *options, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["cell"][-1] for row in rows] == [str(seed) for seed in expected]
    names = ["cell", "status", "seconds", "reason", "log"]
    assert all(list(row) == names for row in rows)


def test_the_log_of_one_cell(mixed, call):
    assert call("show", "mixed", "copur--0", "--log") == (0, "hello\nworld\n", "")
    _, out, _ = call("show", "mixed", "copur--1", "--log")
    assert out == "Traceback\n  \N{REPLACEMENT CHARACTER} boom\n"


def test_a_silent_cell_is_no_error(mixed, call):
    code, out, err = call("show", "mixed", "none", "--log")
    assert (code, out, err) == (0, "", "toy--flip--none--0 printed nothing\n")


def test_the_logs_of_all_failed_cells_have_headers(mixed, call):
    code, out, _ = call("show", "mixed", "--failed", "--log")
    assert code == 0
    assert out == (
        "==> toy--flip--copur--1: failed: it broke | badly <==\n"
        "Traceback\n  \N{REPLACEMENT CHARACTER} boom\n\n"
        "==> toy--flip--copur--2: timeout: no answer within 3 s <==\n"
        "(it printed nothing)\n\n"
    )


def test_a_log_that_is_gone_is_an_error_but_does_not_cost_the_others(mixed, call):
    (mixed.path / "logs" / "toy--flip--copur--1.log").unlink()
    code, out, err = call("show", "mixed", "copur--1", "--log")
    assert (code, out) == (3, "")
    assert "logs/toy--flip--copur--1.log" in err
    assert "cibench reproduce mixed" in err
    code, out, _ = call("show", "mixed", "--failed", "--log")
    assert code == 0
    assert "copur--2: timeout" in out


def test_a_log_outside_of_the_run_is_refused(call):
    Path("secret").write_text("x")
    made("run", record("none", 0, [True], log="../secret"))
    code, out, err = call("show", "run", "none", "--log")
    assert (code, out) == (3, "")
    assert "below the run's folder" in err


def test_an_id_is_its_cell_even_where_it_is_part_of_another(call):
    made("run", record("none", 1, [True]), record("none", 10, [True]))
    assert json.loads(call("show", "run", "toy--flip--none--1")[1])["seed"] == 1
    code, _, err = call("show", "run", "none--1x")
    assert code == 2
    assert "0 matches; cells: toy--flip--none--1, toy--flip--none--10" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--log"], "--failed"),
        (["none", "--failed"], "got both"),
        (["none", "--log", "--json"], "--log or --json"),
        (["--status", "broken"], "timeout"),
    ],
)
def test_options_that_do_not_fit(mixed, call, arguments, says):
    code, out, err = call("show", "mixed", *arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_a_folder_without_a_run(call):
    for arguments in ([], ["--failed"], ["x"]):
        code, _, err = call("show", "nowhere", *arguments)
        assert code == 3
        assert "cells/*.json" in err


def test_a_damaged_record_is_named(mixed, call):
    (mixed.cells / "zzz.json").write_text("{")
    code, _, err = call("show", "mixed", "--failed")
    assert code == 3
    assert "zzz.json" in err
