"""`cibench reproduce`: a cell once more from its record, and what is compared."""

import contextlib
import importlib
import io
import json
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from cibench import cli, registry
from cibench.cli._rebuild import recipe_spec
from cibench.embedding import RECIPES, recipe_of
from cibench.results import Proportion, RunFolder
from cibench.results.comparison import compare, numbers
from cibench.results.record import decode
from cibench.spec import resolved
from helpers_report import failed, record

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("reproduce")

SET = "synthetic:agents=3,rank=2,samples=60,width=3"
FAST = ("--seeds", "1", "--embedding", "identity:batch=10,epochs=3", "-q")
COPUR = "synthetic--flip--copur"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in ("CIBENCH_DATA", "CIBENCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two defenses on 10 of the test samples, and its cache."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIBENCH_CACHE", str(folder / "cache"))
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.invoke(
                [
                    *("run", "-a", "flip", "-d", "none", "-d", "copur:tau=2", *FAST),
                    *("--dataset", SET, "--limit", "10", "-o", str(folder / "out")),
                ]
            )
    assert code == 0
    return folder / "out"


@pytest.fixture
def out(finished):
    """A copy of the finished run to change, as `out`."""
    shutil.copytree(finished, "out")
    return RunFolder(Path("out"))


def only(folder, part):
    (name,) = (name for name in folder.names() if part in name)
    return folder.read_one(name)


def altered(folder, part, **changes):
    """Change a record in place."""
    folder.write(msgspec.structs.replace(only(folder, part), **changes))


def test_a_cell_is_reproduced_from_its_record_alone(out, call):
    (out.path / "run.json").unlink()
    code, text, err = call("reproduce", "out", "copur", "-q")
    assert (code, err) == (0, "")
    assert text.splitlines() == [
        "sources, versions, data and settings: as in the record",
        "reproduced: 17 metrics and 10 lists of outcomes equal",
    ]
    assert not Path("cache").exists()


def test_the_new_record_is_the_same_but_for_times(out, call, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(Path("cache").resolve()))
    code, text, _ = call("reproduce", "out", "copur", "--cached", "-o", "new", "--json")
    assert code == 0
    told = json.loads(text)
    assert told["reproduced"]
    assert told["differences"] == told["surroundings"] == []
    new, old = only(RunFolder(Path("new")), "copur"), only(out, "copur")
    assert numbers(new) == numbers(old)
    assert new.inputs == old.inputs
    assert list(Path("cache/artifacts").rglob("*.safetensors"))
    assert not list(Path("cache/records").rglob("*.json"))


def test_another_number_is_shown_beside_the_recorded_one(out, call):
    old = only(out, "copur").metrics
    changed = msgspec.structs.replace(
        old, clean=Proportion(successes=1, n=old.clean.n), majority_share=0.125
    )
    altered(out, "copur", metrics=changed, seconds=99.0, log="logs/x.log")
    code, text, err = call("reproduce", "out", "copur", "-q")
    assert code == 4
    rows = [line.split("  ") for line in text.splitlines()[1:]]
    named = [[cell.strip() for cell in row if cell] for row in rows]
    assert named == [
        ["result", "record", "now"],
        ["clean", "1 of 10", f"{old.clean.successes} of 10"],
        ["majority_share", "0.125", repr(old.majority_share)],
    ]
    assert err.splitlines()[-1] == (
        f"error: {only(out, 'copur').cell} is not reproduced: 2 results differ"
    )


def test_what_differs_around_the_record_is_told_first(out, call):
    old = only(out, "none")
    inputs = {**old.inputs, "defense source": "1a2b" * 4, "data": "0f" * 16}
    altered(
        out, "none", inputs=inputs, fingerprint="0f" * 16,
        environment={**old.environment, "torch": "1.0"},
    )  # fmt: skip
    code, text, err = call("reproduce", "out", "none", "-q", "--isolation", "none")
    assert code == 0
    now = old.defense.source[:12]
    package = old.inputs["defense module"].partition(".")[0]
    lines = text.splitlines()
    assert (
        f"defense source: 1a2b1a2b1a2b -> {now} (the code of {package} changed)"
        in lines
    )
    assert f"data: 0f0f0f0f0f0f -> {old.fingerprint[:12]}" in lines
    assert f"torch: 1.0 -> {old.environment['torch']}" in lines
    assert lines[-1].startswith("reproduced: ")
    assert err == ""


def test_other_data_is_warned_of_before_anything_runs(out, call):
    altered(out, "none", fingerprint="0f" * 16)
    _, _, err = call("reproduce", "out", "none", "--isolation", "none")
    assert err.startswith("warning: data set synthetic:")
    assert "0f0f0f0f0f0f" in err


def test_defaults_that_changed_since_do_not_change_the_cell(out, call):
    """All options are in the record, whatever its spec says."""
    old = only(out, "copur")
    assert old.defense.options["tau"] == 2
    spec = msgspec.structs.replace(old.defense, spec="copur")
    altered(out, "copur", defense=spec)
    assert call("reproduce", "out", "copur", "-q", "--isolation", "none")[0] == 0


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """An installed defense that fails, and one that takes its time."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (site / "broken_defenses.py").write_text(
        dedent("""
        import time
        from dataclasses import dataclass
        from cibench import AbstractDefense, Capabilities, hookimpl

        class Base(AbstractDefense):
            citation = "nobody"
            capabilities = Capabilities()
            def fit(self, training, generator):
                print("about to fail")
                self.deed()

        @dataclass(frozen=True, kw_only=True)
        class Fails(Base):
            name = "fails"
            def deed(self):
                raise RuntimeError("as always")

        @dataclass(frozen=True, kw_only=True)
        class Hangs(Base):
            name = "hangs"
            def deed(self):
                while True:
                    time.sleep(1)

        @hookimpl
        def cibench_defenses():
            return [Fails, Hangs]
        """)
    )
    info = site / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[cibench]\ndefense.fails = broken_defenses\ndefense.hangs = broken_defenses\n"
    )
    importlib.invalidate_caches()
    registry.default_registry.cache_clear()
    yield site
    registry.default_registry.cache_clear()
    sys.modules.pop("broken_defenses", None)


def test_a_failure_is_reproduced_by_failing_for_the_same_reason(broken, call):
    given = ("run", "-a", "flip", "--dataset", SET, *FAST)
    assert call(*given, "-d", "fails", "-o", "out")[0] == 1
    folder = RunFolder(Path("out"))
    code, text, err = call("reproduce", "out", "fails", "-q")
    assert code == 0, (text, err)
    reason = only(folder, "fails").reason
    assert "as always" in reason
    assert text.splitlines()[-1] == f"reproduced: failed again: {reason}"
    altered(folder, "fails", reason="fit: another")
    code, text, _ = call("reproduce", "out", "fails", "-q", "-o", "new")
    assert code == 4
    assert "fit: another" in text
    assert "about to fail" in call("show", "new", "fails", "--log")[1]


def test_a_timeout_is_reproduced_with_the_limit_of_the_run(broken, call):
    given = ("run", "-a", "flip", "--dataset", SET, *FAST, "-o", "out")
    code, _, err = call(*given, "-d", "none")  # so that only the fit is left to do
    assert code == 0, err
    code, _, err = call(*given, "-d", "hangs", "--timeout", "5")
    assert code == 1, err
    assert only(RunFolder(Path("out")), "hangs").status == "timeout"
    code, text, err = call("reproduce", "out", "hangs", "--cached", "-q")
    assert code == 0, (text, err)
    assert text.endswith("reproduced: timeout again: fit: no answer within 5 s\n")


def test_a_plugin_that_is_gone_is_named(out, call):
    gone = msgspec.structs.replace(only(out, "none").defense, name="vanished")
    altered(out, "none", defense=gone)
    code, text, err = call("reproduce", "out", "none", "-q")
    assert (code, text) == (2, "")
    for part in ("defense vanished", "not installed", "--plugin"):
        assert part in err


def test_an_option_that_is_gone_is_named(out, call):
    old = only(out, "copur").defense
    options = {**old.options, "gone": 1}
    altered(out, "copur", defense=msgspec.structs.replace(old, options=options))
    code, _, err = call("reproduce", "out", "copur", "-q")
    assert code == 2
    assert "unknown option 'gone'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["zzz"], 2, "0 matches"),
        (["synthetic"], 2, "2 matches"),
        (["none", "-o", "out"], 2, "that is no run"),
        (["none", "--tol", "-1"], 2, "--tol"),
        (["none", "--timeout", "soon"], 2, "--timeout"),
        (["none", "--device", "abacus"], 2, "--device"),
        (["none", "--dataset", "mfeat"], 2, "the record's data set"),
    ],
)
def test_mistakes(out, call, arguments, code, says):
    got, text, err = call("reproduce", "out", *arguments, "-q")
    assert (got, text) == (code, "")
    assert says in err


def test_a_folder_without_a_run(call):
    code, _, err = call("reproduce", "nowhere", "x")
    assert code == 3
    assert "cells/*.json" in err


# Options that say where files are, which records leave out.

TABLE = "\n".join(
    ["a,b,label", *(f"{i % 7},{i * 3 % 5},{'yx'[i % 7 < 3]}" for i in range(60))]
)
MAPPING = """
label = "label"
[agents]
one = ["a"]
two = ["b"]
"""


@pytest.fixture
def table(call):
    Path("data.csv").write_text(TABLE)
    Path("map.toml").write_text(MAPPING)
    spec = "table:path=data.csv,mapping=map.toml"
    given = ("-a", "flip", "-d", "none", "--dataset", spec, *FAST, "-o", "out")
    code, _, err = call("run", *given)
    assert code == 0, err
    return RunFolder(Path("out"))


def test_where_files_are_comes_from_the_run_or_the_user(table, call):
    code, _, err = call("reproduce", "out", "none", "-q")
    assert code == 0, err
    Path("data.csv").rename("moved.csv")
    (table.path / "run.json").unlink()
    code, _, err = call("reproduce", "out", "none", "-q")
    assert code == 3
    assert "--dataset table:path=...,mapping=..." in err
    moved = "table:path=moved.csv,mapping=map.toml"
    assert call("reproduce", "out", "none", "-q", "--dataset", moved)[0] == 0
    Path("moved.csv").write_text(TABLE.replace("6,", "9,"))
    code, text, err = call("reproduce", "out", "none", "--dataset", moved)
    assert code in (0, 4)
    assert "warning: data set table" in err
    assert "data: " in text


# Recipes.


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_named_by_its_shortest_spec(name):
    assert recipe_spec(resolved(RECIPES[name])) == name


@pytest.mark.parametrize(
    "spec", ["linear-32:agent_dropout=0.3", "mlp-32:block=none,epochs=7,fill=zero"]
)
def test_a_recipe_is_the_same_after_a_record(spec):
    options = resolved(recipe_of(spec))
    assert resolved(recipe_of(recipe_spec(options))) == options


# What is compared.

OLD = record("none", 0, [True, False, True, True])


def differing(**changes):
    found = compare(OLD, msgspec.structs.replace(OLD, **changes))
    return {name: (old, new) for name, old, new in found.differences}


def test_times_dates_logs_and_machines_are_no_results():
    changed = {
        "seconds": 5.0, "peak_memory": 7, "created": "2031", "log": "logs/x.log",
        "environment": {"torch": "0"}, "inputs": {"harness": "0"},
        "timings": msgspec.structs.replace(OLD.timings, fit_seconds=9.0),
    }  # fmt: skip
    assert differing(**changed) == {}
    assert numbers(msgspec.structs.replace(OLD, **changed)) == numbers(OLD)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"flags": ["x"]}, {"flags": ("", "x")}),
        ({"fitted": {"width": 3}}, {"fitted: width": ("none", "3")}),
        ({"status": "failed", "reason": "r"},
         {"status": ("ok", "failed"), "reason": ("", "r")}),
        ({"metrics": msgspec.structs.replace(OLD.metrics, queries=4)},
         {"queries": ("0", "4")}),
        ({"metrics": msgspec.structs.replace(OLD.metrics, recovery_error=0.5)},
         {"recovery_error": ("none", "0.5")}),
        ({"metrics": msgspec.structs.replace(OLD.metrics, universal_set=["a"])},
         {"universal_set": ("['c']", "['a']")}),
        ({"outcomes": msgspec.structs.replace(OLD.outcomes, clean=[0, 0, 0, 0])},
         {"outcomes: clean": ("4 samples", "2 of them differ")}),
        ({"outcomes": msgspec.structs.replace(OLD.outcomes, clean=[0])},
         {"outcomes: clean": ("4 samples", "1 samples")}),
        ({"outcomes": msgspec.structs.replace(OLD.outcomes, recovery_error=[0.0] * 4)},
         {"outcomes: recovery_error": ("none", "4 samples")}),
        ({"attack": [msgspec.structs.replace(OLD.attack[0], radius=[1.0])]},
         {"attack: radius": ("none", "[1.0]")}),
    ],
)  # fmt: skip
def test_every_result_is_compared(changes, expected):
    assert differing(**changes) == expected
    assert numbers(msgspec.structs.replace(OLD, **changes)) != numbers(OLD)


def test_every_metric_and_list_of_outcomes_is_compared():
    found = compare(OLD, OLD)
    assert found.same
    absent = sum(
        getattr(part, name) is None
        for part in (OLD.metrics, OLD.outcomes)
        for name in part.__struct_fields__
    )
    fields = OLD.metrics.__struct_fields__ + OLD.outcomes.__struct_fields__
    assert found.metrics + found.outcomes == len(fields) - absent


@pytest.mark.parametrize(
    ("fitted", "tolerance", "same"),
    [
        (1.0, 0.0, True),
        (1.01, 0.0, False),
        (1.01, 0.02, True),
        (1.01, 0.005, False),
    ],
)
def test_numbers_may_be_off_by_the_tolerance(fitted, tolerance, same):
    old = msgspec.structs.replace(OLD, fitted={"a": [1.0, 500.0], "b": "word"})
    new = msgspec.structs.replace(
        OLD, fitted={"a": [fitted, 500 * fitted], "b": "word"}
    )
    assert compare(old, new, tolerance=tolerance).same is same


def test_a_share_of_decisions_may_differ_by_the_tolerance():
    first, *rest = OLD.outcomes.attacked
    outcomes = msgspec.structs.replace(OLD.outcomes, attacked=[1 - first, *rest])
    metrics = msgspec.structs.replace(
        OLD.metrics, attacked=Proportion(successes=2, n=4)
    )
    new = msgspec.structs.replace(OLD, outcomes=outcomes, metrics=metrics)
    assert compare(OLD, new, tolerance=0.25).same
    assert len(compare(OLD, new, tolerance=0.2).differences) == 2
    labels = msgspec.structs.replace(OLD.outcomes, labels=[1, 1, 0, 1])
    new = msgspec.structs.replace(OLD, outcomes=labels)
    assert not compare(OLD, new, tolerance=0.5).same


def test_of_cells_without_numbers_status_and_reason_are_compared():
    assert compare(failed("none", 0), failed("none", 0)).same
    found = compare(failed("none", 0), failed("none", 0, reason="other")).differences
    assert found == [("reason", "why", "other")]
    names = [one.name for one in compare(OLD, failed("none", 0)).differences]
    assert names == ["status", "reason", "metrics", "outcomes"]
    # The reason may name a file or a time: bytes are equal without it.
    assert numbers(failed("none", 0)) == numbers(failed("none", 0, reason="other"))


def test_numbers_survive_a_file():
    from cibench.results.record import encode

    assert numbers(decode(encode(OLD))) == numbers(OLD)
