"""`plan` foretells what `run` does; `cache explain` names what made a cell be computed."""

import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cibench import _sources, cli, registry
from cibench.cli._plan_cells import rough
from cibench.execute import history as history_module
from cibench.execute import keys as keys_module
from cibench.execute.history import KEPT, History, Past
from cibench.execute.planning import Plan, PlannedWork
from cibench.execute.settings import Settings
from cibench.execute.task import Answer
from cibench.grid import expand

SET = "synthetic:agents=3,rank=2,samples=40,width=3"
RECIPE = ("--embedding", "identity:batch=10,epochs=2")
GRID = ("-a", "flip", "-d", "none", "-d", "norm-clip", "--dataset", SET, *RECIPE)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A folder and a cache of its own."""
    for name in ("CIBENCH_DATA", "CIBENCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Run the command line in this process: exit code, standard output and error."""

    def run(*arguments):
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run(call):
    """A run that ends well, in this process."""

    def ok(*arguments, grid=GRID, code=0):
        got, _, err = call("run", *grid, "--isolation", "none", *arguments)
        assert got == code, err
        return err

    return ok


@pytest.fixture
def plan(call):
    """The plan of a run in words."""

    def ok(*arguments, grid=GRID):
        code, out, err = call("plan", *grid, "--isolation", "none", *arguments)
        assert code == 0, err
        return out.splitlines()

    return ok


@pytest.fixture
def planned(plan):
    """The plan of a run as an object, with its cells."""

    def ok(*arguments, **options):
        (line,) = plan(*arguments, "--json", "--long", **options)
        return json.loads(line)

    return ok


@pytest.fixture
def why(call):
    """The explanation of cells as an object."""

    def ok(*arguments):
        code, out, err = call("cache", "explain", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return ok


def states(found):
    names = ("cached", "in_folder", "run", "skipped", "failed")
    return {name: found[name] for name in names if found[name]}


def tasks(found):
    return {work["kind"]: work["tasks"] for work in found["work"]}


def artifacts():
    """How many artifacts of each kind the cache holds."""
    from cibench.execute.upkeep import survey

    return Counter(file.kind for file in survey(Path("cache")))


# What a plan says.


def test_a_plan_without_history_has_no_times_and_leaves_nothing_behind(plan):
    lines = plan("--seeds", "2", "-o", "out")
    assert lines[0] == "4 cells: 4 to run, time unknown"
    assert "to prepare first: 2 embeddings, 2 references, 4 fits" in lines
    assert "no history of any embedding" in lines
    assert "memory: unknown" in lines
    assert not Path("out").exists()
    assert not Path("runs").exists()


def test_a_plan_foretells_what_the_run_does(planned, run):
    run("--seeds", "1", "-o", "out")
    before = artifacts()
    foretold = planned("--seeds", "3", "-o", "out")
    assert states(foretold) == {"in_folder": 2, "run": 4}
    err = run("--seeds", "3", "-o", "out")
    assert "6 cells, 2 of them already known" in err
    made = artifacts() - before
    assert tasks(foretold) == {
        "embed": made["embedding"],
        "refer": made["references"],
        "fit": made["fit"],
        "evaluate": made["record"],
    }
    done = planned("--seeds", "3", "-o", "out")
    assert states(done) == {"in_folder": 6}
    assert set(tasks(done).values()) == {0}
    assert done["seconds"] == 0


def test_the_cache_is_told_from_the_folder(plan, planned, run):
    run("--seeds", "2", "-o", "out")
    assert states(planned("--seeds", "2")) == {"cached": 4}
    assert plan("--seeds", "2") == ["4 cells: 4 cached, nothing to run"]
    gone = sorted(Path("out/cells").iterdir())[0]
    gone.unlink()
    found = planned("--seeds", "3", "-o", "out")
    assert states(found) == {"cached": 1, "in_folder": 3, "run": 2}
    by_seed = Counter((cell["seed"], cell["state"]) for cell in found["list"])
    assert by_seed[2, "run"] == 2
    assert states(planned("--seeds", "2", "-o", "out", "--no-cache")) == {
        "in_folder": 3,
        "run": 1,
    }


@pytest.mark.parametrize(
    ("words", "left"),
    [(["all"], 4), (["none"], 2), (["none", "norm-clip"], 4), (["failed"], 0)],
    ids=lambda value: str(value),
)
def test_rerun_counts_as_to_be_run(planned, run, words, left):
    run("--seeds", "2", "-o", "out")
    given = itertools.chain.from_iterable(("--rerun", word) for word in words)
    assert planned("--seeds", "2", "-o", "out", *given)["run"] == left


def test_a_run_is_planned_to_be_taken_up(call, run):
    run("--seeds", "2", "-o", "out", "--no-cache")
    sorted(Path("out/cells").iterdir())[0].unlink()
    before = sorted(Path("out").rglob("*"))
    code, out, _ = call("plan", "--resume", "out", "-q")
    assert (code, out.splitlines()[0][:37]) == (
        0,
        "4 cells: 3 in the folder, 1 to run, t",
    )
    assert sorted(Path("out").rglob("*")) == before
    code, _, err = call("plan", "--resume", "out", "-d", "none")
    assert code == 2
    assert "got --defense too" in err


def test_quiet_is_the_first_line_and_long_has_every_cell(plan):
    (first,) = plan("--seeds", "2", "-q")
    lines = plan("--seeds", "2", "--long")
    assert lines[0] == first
    assert len([line for line in lines if line.endswith(": run")]) == 4


def test_skipped_cells_have_their_reasons(plan, planned):
    other = "synthetic:agents=4,rank=2,samples=40,width=3"
    grid = ("-a", "flip:agents=4", "-d", "none", "--dataset", SET, "--dataset", other)
    lines = plan("--seeds", "2", grid=(*grid, *RECIPE))
    assert lines[0] == "4 cells: 2 to run, 2 skipped, time unknown"
    (reason,) = [line for line in lines if line.startswith("skipped:")]
    assert reason.startswith("skipped: 2 cells: agent number: expected 1 to 3, got 4")
    found = planned("--seeds", "2", grid=(*grid, *RECIPE))
    (group,) = found["reasons"]
    assert (group["state"], group["cells"]) == ("skipped", 2)
    skipped = [cell for cell in found["list"] if cell["state"] == "skipped"]
    assert {cell["reason"] for cell in skipped} == {group["reason"]}


def test_plugins_that_cannot_be_loaded_are_told(planned, install):
    install("raise RuntimeError('nope')", "defenses.n-broken")
    grid = ("-a", "flip", "-d", "n*", "--dataset", SET, *RECIPE)
    found = planned("--seeds", "1", grid=grid)
    assert states(found) == {"run": 2, "failed": 1}
    assert "RuntimeError: nope" in found["reasons"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-d", "z*"], 5, "expected a pattern that matches a defense"),
        (["-d", "nnoe"], 2, "did you mean 'none'?"),
        (["--rerun", "nnoe"], 2, "did you mean 'none'?"),
        (["-j", "0"], 2, "expected a number from 1 on"),
        (["--dataset", "extrasensory"], 3, "--data-dir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_a_run_would_refuse_is_refused(call, arguments, code, says):
    start = () if "-d" in arguments else ("-d", "none")
    data = () if "--dataset" in arguments else ("--dataset", SET)
    given = ("plan", "-a", "flip", *start, *data, *arguments, "-o", "out")
    got, out, err = call(*given)
    assert (got, out) == (code, "")
    assert says in err
    assert not Path("out").exists()


def test_a_plan_says_what_its_times_rest_on(plan, planned, run):
    run("--seeds", "1", "-o", "out")
    known = planned("--seeds", "4", "-o", "out")
    assert known["seconds"] > 0
    assert [work["history"] for work in known["work"]] == [
        {"same": 3}, {"same": 3}, {"same": 6}, {"same": 6},
    ]  # fmt: skip
    lines = plan("--seeds", "2", "-P", "norm-clip.quantile=0.9")
    assert lines[0].startswith("4 cells: 1 cached, 3 to run, about ")
    assert (
        "no history for 2 of 3 fits: taken as the mean of the same plugins with other"
        " options or settings"
    ) in lines
    quick = planned("--seeds", "1", "--limit", "5")
    assert quick["work"][3]["history"] == {"options": 2}


def test_help_and_listing_stay_light():
    script = (
        "import sys; from cibench import cli; cli.invoke(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    for arguments in (["plan", "--help"], ["cache", "explain", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        heavy = {"torch", "joblib", "psutil", "rich", "distributed", "numpy"}
        assert heavy.isdisjoint(done.stderr.split())


# Estimates.


def cells_of(**change):
    texts = {"datasets": [SET], "attacks": ["flip"], "defenses": ["none"]}
    texts |= {name: [value] for name, value in change.items()}
    return expand(registry.default_registry(), seeds=[0], **texts)[0]


def took(history, kind, seconds, memory=100, **change):
    history.add(kind, cells_of(**change), Answer(seconds=seconds, peak_memory=memory))


def test_an_estimate_is_the_mean_of_the_nearest_work():
    history = History()
    assert history.estimate("evaluate", cells_of()) is None
    other_set = "synthetic:agents=4,rank=2,samples=40,width=3"
    steps = [
        ("any", 64.0, {"datasets": "mfeat", "attacks": "pgd", "defenses": "vflip"}),
        ("dataset", 32.0, {"attacks": "pgd", "defenses": "vflip"}),
        ("attack", 16.0, {"datasets": "mfeat", "defenses": "copur"}),
        ("defense", 8.0, {"datasets": "mfeat", "attacks": "replay"}),
        ("datasets", 4.0, {"datasets": "mfeat"}),
        ("options", 2.0, {"datasets": other_set}),
        ("same", 1.0, {}),
    ]
    means = {
        "any": 64.0, "dataset": 32.0, "attack": 16.0, "defense": 8.0,
        "datasets": (4.0), "options": 2.0, "same": 1.0,
    }  # fmt: skip
    for basis, seconds, change in steps:
        took(history, "evaluate", seconds, **change)
        found = history.estimate("evaluate", cells_of())
        assert (found.basis, found.seconds) == (basis, means[basis])
    took(history, "evaluate", 3.0, memory=700)
    found = history.estimate("evaluate", cells_of())
    assert (found.seconds, found.peak_memory) == (2.0, 700)
    assert history.estimate("fit", cells_of()) is None


def test_failures_say_nothing_of_what_success_takes():
    history = History()
    failed = Answer(status="timeout", seconds=1e6)
    history.add("evaluate", cells_of(), failed)
    assert history.estimate("evaluate", cells_of()) is None


def test_other_settings_are_not_the_same(tmp_path):
    history = History(Settings(samples=10))
    took(history, "evaluate", 1.0)
    took(history, "fit", 1.0)
    history.write(tmp_path, "one")
    for settings, fit, cell in [
        (Settings(samples=10), "same", "same"),
        (Settings(), "same", "options"),
        (Settings(samples=10, threads=2), "options", "options"),
        (Settings(samples=10, device="cuda"), "options", "options"),
    ]:
        read = History.read(tmp_path, settings)
        assert read.estimate("fit", cells_of()).basis == fit
        assert read.estimate("evaluate", cells_of()).basis == cell


def test_history_survives_files_that_are_damaged_and_forgets_the_oldest(
    tmp_path, monkeypatch
):
    moments = itertools.count(10)
    monkeypatch.setattr(history_module.time, "time_ns", lambda: next(moments))
    for seconds in range(KEPT + 3):
        history = History()
        took(history, "embed", float(seconds))
        history.write(tmp_path, f"{99999 - seconds:05}")  # names do not rise
    files = sorted((tmp_path / "history").iterdir())
    assert len(files) == KEPT
    left = range(3, KEPT + 3)
    found = History.read(tmp_path).estimate("embed", cells_of())
    assert found.seconds == pytest.approx(sum(left) / KEPT)
    files[0].write_bytes(b"[{")
    files[1].write_bytes(msgspec.json.encode([Past("embed", "x", "", "", n=-5)]))
    found = History.read(tmp_path).estimate("embed", cells_of())
    assert found.seconds == pytest.approx(sum(left[2:]) / (KEPT - 2))
    assert History.read(tmp_path / "nowhere").estimate("embed", cells_of()) is None


def test_history_of_many_options_is_kept_in_brief(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "DETAILED", 3)
    history = History()
    for at, quantile in enumerate((0.2, 0.4, 0.6, 0.8), 1):
        took(history, "fit", float(at), defenses=f"norm-clip:quantile={quantile}")
    history.write(tmp_path, "one")
    read = History.read(tmp_path)
    assert len(list(read)) == 1
    found = read.estimate("fit", cells_of(defenses="norm-clip:quantile=0.2"))
    assert (found.basis, found.seconds) == ("options", 2.5)


def work(kind, tasks, seconds, longest):
    return PlannedWork(
        kind=kind,
        tasks=tasks,
        seconds=seconds,
        longest=longest,
        peak_memory=5,
        bases={},
    )


def test_a_stage_takes_as_long_as_its_longest_task_at_least():
    stages = [
        work("embed", 1, 10.0, 10.0),
        work("refer", 4, 8.0, 2.0),
        work("fit", 4, 8.0, 5.0),
        work("evaluate", 40, 40.0, 1.0),
    ]
    alone = Plan(cells=[], work=stages, workers=1)
    assert alone.seconds == 66.0
    assert Plan(cells=[], work=stages, workers=4).seconds == 10.0 + 5.0 + 10.0
    assert Plan(cells=[], work=stages, workers=1000).seconds == 10.0 + 5.0 + 1.0
    stages[1] = dataclasses.replace(stages[1], seconds=None)
    assert Plan(cells=[], work=stages, workers=4).seconds is None
    stages[1] = work("refer", 0, 0.0, 0.0)
    assert Plan(cells=[], work=stages, workers=1).seconds == 58.0


@given(st.floats(min_value=0, max_value=1e8))
def test_rough_times_are_roughly_right(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    words = rough(seconds).split()
    if len(words) == 3:
        words.append("min")  # as in 1 h 10
    told = sum(
        int(n) * units[unit] for n, unit in zip(words[::2], words[1::2], strict=True)
    )
    assert told == pytest.approx(seconds, rel=0.34, abs=1)
    assert told > 0


def test_what_cells_share_is_hashed_once_whatever_their_number(monkeypatch, planned):
    calls = Counter()
    real = keys_module.key_of

    def counted(inputs):
        calls["key_of"] += 1
        return real(inputs)

    monkeypatch.setattr(keys_module, "key_of", counted)
    counts = []
    for seeds in ("2", "50"):
        calls.clear()
        planned("--seeds", seeds)
        counts.append(calls["key_of"])
    assert counts[0] == counts[1] > 0


# Why a cell is found or not.


@pytest.mark.parametrize(
    ("change", "cause", "says"),
    [
        (["--seeds", "4,"], "seed", "seed 0 -> 4"),
        (["--limit", "3"], "samples", "samples all -> 3"),
        (["--threads", "2"], "threads", "threads 1 -> 2"),
        (["--embedding", "identity:batch=10,epochs=3"], "embedding", "epochs 2 -> 3"),
        (["-P", "flip.amplification=2"], "attack options", "amplification 10.0 -> 2.0"),
        (["-P", "synthetic.noise=0.5"], "dataset options", "noise"),
    ],
    ids=lambda value: value[0] + value[1] if isinstance(value, list) else None,
)
def test_the_part_of_the_key_that_changed_is_named(run, why, change, cause, says):
    grid = ("-a", "flip", "-d", "none", "--dataset", SET)
    recipe = () if "--embedding" in change else RECIPE
    seeds = () if "--seeds" in change else ("--seeds", "1")
    run("--seeds", "1", "-o", "out", grid=(*grid, *RECIPE))
    found = why(*grid, *recipe, *seeds, *change)
    assert (found["hit"], found["miss"]) == (0, 1)
    assert cause in found["causes"]
    # The data's hash changes with what is taken of it.
    assert set(found["causes"]) <= {cause, "data"}
    (cell,) = found["list"]
    assert says in cell["words"]
    assert set(cell["artifacts"]) == {"embed", "refer", "fit"}


def test_artifacts_of_a_miss_are_told(run, why):
    run("--seeds", "1", "-o", "out")
    found = why(*GRID, "--seeds", "1", "-P", "norm-clip.quantile=0.9")
    states = {cell["state"]: cell for cell in found["list"]}
    assert set(states) == {"hit", "miss"}
    assert states["hit"]["artifacts"] == {}
    assert states["miss"]["artifacts"] == {
        "embed": "stored",
        "refer": "stored",
        "fit": "missing",
    }
    assert (
        "embedding: stored, references: stored, fit: missing"
        in (states["miss"]["words"])
    )


def test_an_empty_cache_and_cells_that_cannot_run(why, call):
    grid = ("-a", "flip:agents=3", "-d", "none", *RECIPE, "--seeds", "1")
    small = "synthetic:agents=2,rank=2,samples=40,width=3"
    found = why(*grid, "--dataset", SET, "--dataset", small)
    assert found["causes"] == {"nothing alike is stored": 1}
    assert Counter(cell["state"] for cell in found["list"]) == {"miss": 1, "skipped": 1}
    _, out, _ = call("cache", "explain", *grid, "--dataset", SET, "--dataset", small)
    assert out.startswith("2 cells: 1 miss, 1 skipped: nothing alike is stored (1)\n")


def test_a_run_and_a_cell_of_it_are_explained(run, why, call):
    run("--seeds", "2", "-o", "out")
    code, out, _ = call("cache", "explain", "out")
    assert (code, out.splitlines()[0]) == (0, "4 cells: 4 hit")
    one = why("out", "norm-clip--1")
    (cell,) = one["list"]
    assert (cell["defense"], cell["seed"], cell["state"]) == ("norm-clip", 1, "hit")
    # A record whose key is another now is still found by its id.
    (name,) = [p.stem for p in Path("out/cells").iterdir() if "norm-clip--1" in p.name]
    (cell,) = why("out", name, "--threads", "2")["list"]
    assert (cell["seed"], cell["state"], cell["in_folder"]) == (1, "miss", False)
    for path in Path("cache/records").rglob("*.json"):
        path.unlink()
    (cell,) = why("out", name)["list"]
    assert (cell["state"], cell["in_folder"]) == ("miss", True)
    assert cell["words"].endswith("; its record is in the run's folder")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 3, "expected a folder with run.json"),
        (["out", "norm-clip"], 2, "got 2 matches"),
        (["out", "zebra"], 2, "got 0 matches"),
        (["out", "-d", "none"], 2, "got --defense too"),
        (["-d", "z*"], 5, "expected a pattern"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_explain_refuses_what_names_nothing(run, call, arguments, code, says):
    if "out" in arguments:
        run("--seeds", "2", "-o", "out")
    got, out, err = call("cache", "explain", *arguments)
    assert (got, out) == (code, "")
    assert says in err


def test_many_cells_are_told_in_short(run, call):
    run("--seeds", "1", "-o", "out")
    grid = ("cache", "explain", *GRID, "--seeds", "40")
    _, out, _ = call(*grid)
    lines = out.splitlines()
    assert lines[0] == "80 cells: 2 hit, 78 miss: seed (78)"
    assert lines[-1] == "... and 30 more (--long)"
    assert len(lines) == 52
    assert not any(": hit: " in line for line in lines)
    _, out, _ = call(*grid, "--long")
    assert len(out.splitlines()) == 81


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of one module, or change its source, as metadata files."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = f"planned_{tmp_path.name.replace('-', '_')}"

    def add(source, point):
        (site / f"{module}.py").write_text(dedent(source))
        info = site / "planned-6.6.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: planned\nVersion: 6.6\n"
        )
        (info / "entry_points.txt").write_text(f"[cibench]\n{point} = {module}\n")
        forget()

    def forget():
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        registry.default_registry.cache_clear()
        _sources.source_hash.cache_clear()

    yield add
    forget()


PLUGIN = """
from dataclasses import dataclass
from cibench import AbstractDefense, hookimpl

FACTOR = {factor}

@dataclass(frozen=True, kw_only=True)
class Same(AbstractDefense):
    name = "same"

    def fit(self, training, *, generator):
        return training.undefended

@hookimpl
def cibench_defenses():
    return [Same]
"""


def test_a_defense_whose_source_changed_is_named(install, run, why):
    install(PLUGIN.format(factor=1), "defenses.same")
    grid = ("-a", "flip", "-d", "same", "-d", "none", "--dataset", SET, *RECIPE)
    run("--seeds", "2", "-o", "out", grid=grid)
    assert why(*grid, "--seeds", "2")["hit"] == 4
    install(PLUGIN.format(factor=2), "defenses.same")
    found = why("out")
    assert (found["hit"], found["miss"]) == (2, 2)
    assert found["causes"] == {"defense source": 2}
    words = {cell["words"] for cell in found["list"] if cell["state"] == "miss"}
    for text in words:
        assert text.startswith("miss: 1 of 24 inputs differs from the record of ")
        assert "defense source " in text
        assert "(the code of planned" in text
        assert "embedding: stored, references: stored, fit: missing" in text
