"""The command line: every mistake gets one line that helps, and every run a table."""

import gzip
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import jsonschema
import pytest

import helpers_extrasensory as extrasensory
from cibench import VERSION, cli, registry
from cibench.flags import FLAGS
from helpers import forget

SET = "synthetic:agents=4,rank=2,samples=200,width=6"
FAST = ("--seeds", "1", "--embedding", "identity:epochs=20,batch=20")
PROGRAM = Path(sys.executable).with_name("cibench")
PLUGINS = [
    ("defense", "none"),
    ("attack", "none"),
    *((e.kind, e.name) for e in registry.Registry().entries if e.name != "none"),
]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A folder of its own, a cache of its own, no data, no colours."""
    for name in ("CIBENCH_DATA", "CIBENCH_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Run the command line in this process: exit code, standard output and error.

    Cells too, which is quick, unless `--isolation` is given.
    """

    def run(*arguments):
        forget()
        if arguments[:1] == ("run",) and "--isolation" not in arguments:
            arguments = (*arguments, "--isolation", "none")
        code = cli.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call):
    """Assert that a command fails as documented and leaves nothing behind."""

    def check(code, *arguments, says=()):
        before = sorted(Path().iterdir())
        got, out, err = call(*arguments)
        assert got == code, err
        assert out == ""
        lines = [line for line in err.splitlines() if not line.startswith("Usage: ")]
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        for text in says:
            assert text in lines[0]
        left = {p.name for p in set(Path().iterdir()) - set(before)}
        assert left <= {"cache"}
        return lines[0]

    return check


@pytest.fixture
def run(call):
    """A small run that ends well: standard output and error."""

    def ok(*arguments, code=0, attack="flip", dataset=SET, out="out"):
        got, table, err = call(
            "run", "-a", attack, "--dataset", dataset, *FAST, "-o", out, *arguments
        )
        assert got == code, err
        return table, err

    return ok


def records(folder="out"):
    return [
        json.loads(p.read_text()) for p in sorted(Path(folder).glob("cells/*.json"))
    ]


def numbers(record):
    """What must be the same when a cell is run again."""
    return tuple(record[key] for key in ("metrics", "outcomes", "fitted", "flags"))


def rows(markdown):
    """The body of each markdown table by its first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|") and not line.startswith("|-")
    ]
    return {cell[0]: cell[1:] for cell in cells if cell[0] != "defense"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a distribution of one module, as metadata files."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    modules = []

    def add(source, *points, dist="hostile", module=None):
        module = module or f"{dist}_{tmp_path.name.replace('-', '_')}"
        (site / f"{module}.py").write_text(dedent(source))
        info = site / f"{dist}-6.6.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 6.6\n"
        )
        lines = [f"{point} = {module}" for point in points]
        (info / "entry_points.txt").write_text("\n".join(["[cibench]", *lines, ""]))
        importlib.invalidate_caches()
        registry.default_registry.cache_clear()
        modules.append(module)
        return site

    yield add
    registry.default_registry.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


# Bad input: usage.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-d", "coper"], ["unknown defense 'coper'", "did you mean 'copur'?", "none"]),
        (["-a", "pdg"], ["unknown attack 'pdg'", "did you mean 'pgd'?", "ls attacks"]),
        (
            ["--dataset", "synthetik"],
            ["unknown dataset 'synthetik'", "did you mean 'synthetic'?", "ls datasets"],
        ),
        (
            ["-d", "copur:tua=1"],
            ["defense copur", "unknown option 'tua'", "did you mean 'tau'?"],
        ),
        (
            ["-a", "pgd:stpes=3"],
            ["attack pgd", "unknown option 'stpes'", "did you mean 'steps'?"],
        ),
        (
            ["--dataset", "synthetic:agent=3"],
            ["dataset synthetic", "unknown option 'agent'", "did you mean 'agents'?"],
        ),
        (["-a", "pgd:steps=three"], ["pgd", "steps", "integer >= 1", "'three'"]),
        (["-a", "pgd:steps=2.5"], ["pgd", "steps", "integer >= 1", "'2.5'"]),
        (["-a", "pgd:steps=0"], ["pgd", "steps", "integer >= 1", "'0'"]),
        (["-a", "pgd:budget=-1"], ["pgd", "budget", "number > 0", "'-1'"]),
        (["-a", "pgd:loss=hinge"], ["pgd", "loss", "margin or ce", "'hinge'"]),
        (["-a", "flip:amplification=x"], ["flip", "amplification", "number > 0"]),
        (["-a", "flip:agents="], ["flip", "expected option=value", "'agents='"]),
        (["-a", "pgd:agents=9"], ["agent number", "1 to 4", "got 9", "agent1"]),
        (["-a", "pgd:agents=0"], ["agent number", "1 to 4", "got 0"]),
        (["-a", "pgd:agents=3-9"], ["agent number", "1 to 4", "got 9"]),
        (["-a", "pgd:agents=3-2"], ["rising range", "'3-2'"]),
        (["-a", "pgd:agents=2/2"], ["each agent once", "'2/2'"]),
        (["-a", "pgd:agents=bob"], ["agent", "agent1, agent2", "'bob'"]),
        (["-a", "pgd:agents=random:9"], ["random:9", "at most 4", "got 9"]),
        (["-a", "pgd:agents=worst:9"], ["worst:9", "at most 4", "got 9"]),
        (["-a", "pgd:agents=worst:0"], ["worst:q with q >= 1", "'worst:0'"]),
        (["-a", "pgd:target=class7"], ["target", "class0, class1", "'class7'"]),
        (["-a", "pgd:target=2"], ["target", "below 2", "'2'"]),
        (
            ["-a", "pgd:target=other", "--dataset", f"{SET},classes=3"],
            ["target=other", "two classes", "got 3", "name a class"],
        ),
        (["-a", "missing:agents=4+pgd"], ["composed attack", "different agents"]),
        (
            ["-a", "missing:agents=worst:1+pgd:agents=worst:1"],
            ["composed attack", "at most one", "worst:q"],
        ),
        (
            ["-a", "pgd:target=0+flip:agents=1+pgd:agents=2,target=1"],
            ["composed attack", "one target", "0, 1"],
        ),
        (
            ["-a", "missing:agents=random:4+pgd"],
            ["composed attack", "different agents"],
        ),
        (["-a", "pgd+"], ["name:option=value", "'pgd+'"]),
        (["-a", ""], ["name:option=value", "''"]),
        (["-a", "pgd[steps=3"], ["name:option=value", "'pgd[steps=3'"]),
        (["-a", "pgd:steps"], ["pgd", "option=value", "'steps'"]),
        (["-a", "pgd:steps=3,steps=4"], ["pgd", "steps once", "twice"]),
        (["--seeds", "0"], ["--seeds", "at least 1", "'0'"]),
        (["--seeds", "-3"], ["--seeds", "a count such as 3", "'-3'"]),
        (["--seeds", "1,x"], ["--seeds", "seeds such as 0,4,7", "'1,x'"]),
        (["--seeds", ","], ["--seeds", "','"]),
        (["--seeds", ""], ["--seeds", "''"]),
        (["--quick", "--seeds", "x"], ["--seeds", "'x'"]),
        (["--device", "abacus"], ["--device", "cpu or cuda", "'abacus'"]),
        (["--device", "cpu:nine"], ["--device", "'cpu:nine'"]),
        (["--device", "meta"], ["--device", "'meta'"]),
        (
            ["--embedding", "linear-23"],
            ["embedding", "identity, linear-32", "'linear-23'", "mean 'linear-32'?"],
        ),
        (
            ["--embedding", "identity:epcohs=2"],
            ["identity", "unknown option 'epcohs'", "did you mean 'epochs'?"],
        ),
        (["--embedding", "identity:epochs=0"], ["identity", "epochs", "integer >= 1"]),
        (["--embedding", "identity:fill=7"], ["identity", "fill", "mean or zero"]),
        (["--sedes", "3"], ["--sedes", "--seeds"]),
        (["surplus"], ["surplus"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("-") else None,
)
def test_a_usage_error_is_one_line_that_helps(refused, arguments, says):
    given = ["--dataset", SET, "-d", "none", "-o", "out"]
    for flag in ("--dataset", "-d"):
        if flag in arguments:
            at = given.index(flag)
            del given[at : at + 2]
    refused(2, "run", *given, *arguments, says=says)


def test_an_unknown_command_suggests_the_nearest(refused):
    refused(2, "rnu", says=["no command 'rnu'", "did you mean 'run'?", "show"])


def test_info_suggests_the_nearest(refused):
    refused(
        2, "info", "coper", says=["unknown plugin 'coper'", "mean 'copur'?", "mfeat"]
    )


def test_ls_names_its_choices(refused):
    refused(2, "ls", "defences", says=["'defences'", "defenses", "recipes"])


def test_a_target_every_sample_has_is_refused(refused, monkeypatch):
    from cibench_plugins.datasets.synthetic import Synthetic

    load = Synthetic.load

    def one_class_tested(self, **options):
        from dataclasses import replace

        from cibench import Split

        data = load(self, **options)
        kept = data.test.labels == 1
        return replace(
            data, test=Split(data.test.features[kept], data.test.labels[kept])
        )

    monkeypatch.setattr(Synthetic, "load", one_class_tested)
    refused(
        2, "run", "-a", "pgd:target=class1", "--dataset", SET, "-o", "out",
        says=["pgd", "label is not the target", "got none"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-d", "z*"], ["defense 'z*'", "copur"]),
        (["-a", "?"], ["attack '?'", "pgd"]),
        (["--dataset", "z*"], ["dataset 'z*'", "mfeat"]),
    ],
)
def test_a_glob_that_matches_nothing_is_an_empty_selection(refused, arguments, says):
    refused(5, "run", "-o", "out", *arguments, says=says)


def test_a_usage_error_in_a_real_process(tmp_path):
    done = subprocess.run(
        [PROGRAM, "run", "-a", "pdg", "--dataset", SET, "-o", "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: unknown attack 'pdg'")
    assert not Path("out").exists()


# Bad input: surroundings.


@pytest.fixture
def user_file(tmp_path):
    return extrasensory.write_user(tmp_path / "data", rows=300)


CHRONOLOGICAL = "extrasensory:split=chronological"


@pytest.fixture
def data_refused(refused):
    def check(says, dataset=CHRONOLOGICAL):
        return refused(
            3, "run", "-d", "none", "-a", "none", "--dataset", dataset, "-o", "out",
            "--data-dir", "data", says=says,
        )  # fmt: skip

    return check


def test_without_a_data_folder_the_remedy_is_named(refused):
    refused(
        3, "run", "--dataset", "extrasensory", "-o", "out",
        says=["features_labels.csv.gz", "--data-dir", "CIBENCH_DATA", "http"],
    )  # fmt: skip


def test_a_missing_data_file(data_refused):
    data_refused(["features_labels.csv.gz", "no such file", "--data-dir"])


def test_a_truncated_data_file(data_refused, user_file):
    user_file.write_bytes(user_file.read_bytes()[:-4000])
    data_refused([user_file.name, "truncated or damaged", "fetch it again"])


def test_a_corrupt_data_file(data_refused, user_file):
    content = bytearray(user_file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    user_file.write_bytes(content)
    data_refused([user_file.name, "truncated or damaged"])


def test_a_data_file_that_is_no_gzip_file(data_refused, user_file):
    user_file.write_text("timestamp,label:SITTING\n1,1\n")
    data_refused([user_file.name, "gzip"])


def test_a_data_file_with_another_header(data_refused, user_file):
    text = gzip.decompress(user_file.read_bytes())
    user_file.write_bytes(
        gzip.compress(text.replace(b"raw_acc:3d:mean_x", b"acc_x", 1))
    )
    data_refused([user_file.name, "header", "raw_acc:3d:mean_x", "acc_x"])


@pytest.mark.parametrize("value", [b"inf", b"-inf", b"1e39", b"lots"])
def test_a_data_file_with_a_value_that_is_no_number(data_refused, user_file, value):
    lines = gzip.decompress(user_file.read_bytes()).split(b"\r\n")
    cells = lines[7].split(b",")
    cells[3] = value
    lines[7] = b",".join(cells)
    user_file.write_bytes(gzip.compress(b"\r\n".join(lines)))
    data_refused([user_file.name, "line 8", "raw_acc:magnitude_stats:moment3"])


def test_nan_in_a_data_file_is_a_missing_value(run, user_file):
    lines = gzip.decompress(user_file.read_bytes()).split(b"\r\n")
    cells = lines[7].split(b",")
    cells[3] = b"nan"
    lines[7] = b",".join(cells)
    user_file.write_bytes(gzip.compress(b"\r\n".join(lines)))
    table, _ = run(
        "-d", "none", "--data-dir", "data",
        "--embedding", "linear-32:epochs=1", dataset=CHRONOLOGICAL,
    )  # fmt: skip
    assert "none" in rows(table)


def test_a_label_of_one_class(data_refused, user_file):
    data_refused(
        [user_file.name, "LOC_home", "both classes in train", "choose another label"],
        f"{CHRONOLOGICAL},label=LOC_home",
    )


def test_an_unknown_label(data_refused, user_file):
    data_refused(
        ["unknown label 'SITING'", "did you mean 'SITTING'?"],
        f"{CHRONOLOGICAL},label=SITING",
    )


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_output_where_a_file_is(refused, place):
    Path("taken").write_text("")
    refused(
        3, "run", "-d", "none", "-a", "none", "--dataset", SET, "-o", place,
        says=[place, "a folder that can be written", "-o"],
    )  # fmt: skip
    assert Path("taken").read_text() == ""


def test_a_cache_that_cannot_be_written(refused, monkeypatch):
    Path("taken").write_text("")
    monkeypatch.setenv("CIBENCH_CACHE", "taken")
    refused(
        3, "run", "-d", "none", "-a", "none", "--dataset", SET, "-o", "out",
        says=["cache", "taken", "writable", "CIBENCH_CACHE", "--no-cache"],
    )  # fmt: skip


def test_a_cache_whose_records_cannot_be_written(refused):
    Path("cache").mkdir()
    Path("cache/records").write_text("")
    refused(
        3, "run", "-d", "none", "-a", "none", "--dataset", SET, "-o", "out",
        says=["cache", "writable", "CIBENCH_CACHE", "--no-cache"],
    )  # fmt: skip


def test_no_cache_needs_no_cache_folder(run, monkeypatch):
    Path("taken").write_text("")
    monkeypatch.setenv("CIBENCH_CACHE", "taken")
    run("-d", "none", "--no-cache")
    assert Path("taken").read_text() == ""


@pytest.mark.parametrize(
    "source",
    ["raise RuntimeError('two\\nlines')", "import sys; sys.exit('closed')", "def ("],
    ids=["error", "exit", "syntax"],
)
def test_a_requested_plugin_that_fails_on_import(install, refused, source):
    install(source, "defenses.broken")
    refused(
        3, "run", "-d", "broken", "-a", "none", "--dataset", SET, "-o", "out",
        says=["defense broken", "hostile 6.6", "cannot be loaded", "uninstall hostile"],
    )  # fmt: skip
    refused(3, "info", "broken", says=["cannot be loaded"])


def test_a_broken_plugin_breaks_nothing_else(install, run, call):
    install("raise RuntimeError('no')", "defenses.broken")
    run("-d", "none")
    code, out, err = call("ls", "defenses")
    assert (code, err) == (0, "")
    assert re.search(r"broken +hostile 6.6", out)
    assert call("--help")[0] == 0


def test_a_broken_plugin_that_only_a_glob_named_is_a_failed_row(install, run, call):
    install("raise RuntimeError('no')", "defenses.broken")
    table, err = run("-d", "brok*", "-d", "none", code=1)
    status = {r["defense"]["name"]: r["status"] for r in records()}
    assert status == {"broken": "failed", "none": "ok"}
    assert rows(table)["broken"][0] == "1 of 1 seeds failed"
    assert float(rows(table)["none"][0]) > 90
    assert "hostile 6.6" in err.splitlines()[-1]
    schema = json.loads(call("schema")[1])
    for record in records():
        jsonschema.validate(record, schema)


def test_absent_data_that_only_a_glob_named_is_a_skipped_row(run, call):
    table, _ = run("-d", "none", "--dataset", "extrasens*")
    status = {r["dataset"]["name"]: r["status"] for r in records()}
    assert status == {"extrasensory": "skipped", "synthetic": "ok"}
    (skipped,) = (r for r in records() if r["status"] == "skipped")
    assert "features_labels.csv.gz" in skipped["reason"]
    assert skipped["reason"] in table
    assert call("show", "out")[1] == table
    assert call("report", "out")[0] == 0


def test_two_distributions_that_claim_one_name(install, refused, call):
    install("", "defenses.copur", module="pretender")
    refused(
        3, "run", "-d", "copur", "-a", "none", "--dataset", SET, "-o", "out",
        says=["'copur' is claimed by", "cibench", "hostile 6.6", "uninstall one"],
    )  # fmt: skip
    code, out, _ = call("ls", "defenses")
    assert code == 0
    assert "claimed by" in out


def test_broken_plugin_in_a_real_process(install, monkeypatch):
    site = install("raise SystemExit(0)", "defenses.broken")
    monkeypatch.setenv("PYTHONPATH", str(site))
    done = subprocess.run(
        [PROGRAM, "run", "-d", "broken", "--dataset", SET, "-o", "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "hostile 6.6" in done.stderr.splitlines()[-1]
    assert not Path("out").exists()


def test_show_needs_a_run(refused):
    refused(3, "show", "nowhere", says=["nowhere", "cells/*.json", "-o"])


def test_an_internal_error_is_one_line(call, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("cibench.cli._chosen.expand", broken)
    code, _, err = call("run")
    assert code == 70
    assert err.count("\n") == 1
    assert "ZeroDivisionError" in err
    assert "CIBENCH_DEBUG=1" in err
    monkeypatch.setenv("CIBENCH_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.invoke(["run"])


def test_an_interrupt_keeps_finished_cells(call, monkeypatch):
    from cibench.execute import runner

    evaluate, calls = runner.evaluate, []

    def second_interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(runner, "evaluate", second_interrupted)
    code, out, err = call(
        "run", "-d", "none", "-a", "flip", "-a", "missing", "--dataset", SET, *FAST,
        "-o", "out",
    )  # fmt: skip
    assert (code, out) == (130, "")
    assert "interrupted; 1 of 2 cells are finished and kept" in err.splitlines()[-1]
    assert "cibench run --resume out" in err.splitlines()[-1]
    status = {r["attack"][0]["component"]["name"]: r["status"] for r in records()}
    assert status == {"flip": "ok", "missing": "interrupted"}
    code, table, err = call("run", "--resume", "out")
    assert code == 0, err
    assert "2 cells, 1 of them already known" in err
    assert {r["status"] for r in records()} == {"ok"}
    assert len(calls) == 3
    assert table.count("###") == 2


# Good paths.


def test_a_run_prints_a_markdown_table_and_reports_on_standard_error(run):
    table, err = run("-d", "none")
    assert table.startswith(f"### {SET} · flip\n\n| defense ")
    (row,) = rows(table).values()
    assert float(row[0]) > 90
    assert "[1/1]" in err
    assert err.splitlines()[-1] == "1 cells; records in out"


def test_quiet_is_silent(run):
    table, err = run("-d", "none", "-q")
    assert rows(table)
    assert err == ""


def test_verbose_reports_phases(run):
    _, err = run("-d", "none", "-v")
    for phase in ("embedding", "references", "fit", "attack", "predict"):
        assert any(line.endswith(f": {phase}") for line in err.splitlines())


def test_records_follow_the_schema_in_output_and_on_disk(run, call):
    out, _ = run("-d", "none", "-d", "copur", "--json", attack="pgd:steps=3,budget=2")
    schema = json.loads(call("schema")[1])
    validator = jsonschema.Draft202012Validator(schema)
    printed, stored = json.loads(out), records()
    assert len(printed) == len(stored) == 2
    for record in printed + stored:
        validator.validate(record)
    assert sorted(printed, key=lambda r: r["cell"]) == stored
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**stored[0], "surplus": 1})


def test_show_prints_the_table_of_the_run_again(run, call):
    table, _ = run(
        "-d", "none", "-d", "copur:tau=2", "-d", "copur:tau=1", "-a", "none",
        "--dataset", "synthetic:agents=3,rank=2,samples=100,width=4",
        "--seeds", "10,2", "--embedding", "identity:epochs=2",
    )  # fmt: skip
    code, shown, _ = call("show", "out")
    assert (code, shown) == (0, table)


def test_show_prints_one_record(run, call):
    run("-d", "none", "-d", "copur")
    for record in records():
        for part in (record["cell"], record["cell"][5:]):
            code, out, _ = call("show", "out", part)
            assert code == 0
            assert json.loads(out) == record
    code, out, _ = call("show", "out", "--json")
    assert json.loads(out) == records()


def test_show_wants_one_cell(run, refused):
    run("-d", "none", "-d", "copur")
    refused(2, "show", "out", "zzz", says=["'zzz'", "0 matches", records()[0]["cell"]])
    refused(2, "show", "out", "flip", says=["'flip'", "2 matches"])


@pytest.mark.parametrize(
    ("what", "column", "expected"),
    [
        ("defenses", "name", {"none", "copur", "manifold-projection"}),
        ("attacks", "name", {"none", "pgd", "flip", "missing", "pgd-paper"}),
        ("datasets", "name", {"mfeat", "synthetic", "extrasensory"}),
        ("plugins", "name", {"copur", "pgd", "mfeat"}),
        ("recipes", "recipe", {"identity", "linear-32", "mlp-32"}),
        ("flags", "flag", set(FLAGS)),
    ],
)
def test_ls(call, what, column, expected):
    code, out, err = call("ls", what, "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert expected <= {entry[column] for entry in listed}
    if what in ("defenses", "attacks", "datasets"):
        assert {e["kind"] for e in listed} == {what[:-1]}
        assert all(entry["summary"] for entry in listed)
    code, out, _ = call("ls", what)
    assert code == 0
    assert all(name in out for name in expected)


def test_ls_lists_all_kinds_by_default(call):
    assert call("ls") == call("ls", "plugins")


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_info_describes_every_plugin(call, kind, name):
    code, out, err = call("info", name, "--json")
    assert (code, err) == (0, "")
    (plugin,) = (p for p in json.loads(out) if p["kind"] == kind)
    assert plugin["description"]
    assert plugin["distribution"] == "cibench"
    assert all(option["type"] for option in plugin["options"])
    code, out, _ = call("info", name)
    assert code == 0
    assert f"{kind} {name}  (cibench {VERSION}" in out
    assert all(option["option"] in out for option in plugin["options"])


def test_the_bare_command_prints_help(call):
    bare, short, long = call(), call("-h"), call("--help")
    assert bare == short == long
    assert bare[0] == 0
    assert all(verb in bare[1] for verb in cli.VERBS)


def test_version(call):
    assert call("--version") == (0, f"cibench, version {VERSION}\n", "")


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help(call, verb):
    code, out, err = call(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cibench {verb}")


def test_in_a_real_process(tmp_path):
    def program(*arguments):
        return subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, check=False
        )

    done = program(
        "run", "-d", "none", "-a", "flip", "--dataset", SET, *FAST, "-o", "o"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"### {SET} · flip\n")
    assert done.stderr.splitlines()[-1] == "1 cells; records in o"
    assert program("show", "o").stdout == done.stdout


def test_a_closed_pipe_is_no_error(tmp_path):
    done = subprocess.run(
        f"{PROGRAM} schema | head -n 1; echo ${{PIPESTATUS[0]}}",
        capture_output=True, text=True, shell=True, executable="/bin/bash", check=False,
    )  # fmt: skip
    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


def test_quick_runs_one_seed_on_fewer_samples_and_says_so(call):
    code, table, _ = call(
        "run", "--quick", "-d", "none", "-a", "flip", "--seeds", "4,5", "-o", "out",
        "--dataset", "synthetic:agents=3,rank=2,samples=500,width=4",
        "--embedding", "identity:epochs=5",
    )  # fmt: skip
    assert code == 0
    (record,) = records()
    assert record["seed"] == 4
    assert record["metrics"]["clean"]["n"] == len(record["outcomes"]["labels"]) == 100
    assert "partial" in record["flags"]
    assert "partial" in rows(table)["none"][-1]
    assert "never to be published" in table or "partial:" in table


def test_a_full_run_is_not_partial(run):
    run("-d", "none")
    assert "partial" not in records()[0]["flags"]


def test_a_second_run_is_answered_from_the_cache_and_a_fresh_one_agrees(run):
    arguments = ("-d", "none", "-d", "copur", "-a", "pgd:agents=random:1,steps=3")
    first, err = run(*arguments)
    assert "already known" not in err
    second, err = run(*arguments, out="again")
    assert "4 cells, 4 of them already known; records in again" in err
    assert second == first
    files = [sorted(Path(f).glob("cells/*.json")) for f in ("out", "again")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    _, err = run(*arguments, "--no-cache", out="fresh")
    assert "already known" not in err
    assert [numbers(r) for r in records("fresh")] == [numbers(r) for r in records()]


def test_results_do_not_depend_on_the_order_of_the_arguments(run):
    run("-d", "none", "-d", "copur", "-a", "pgd:steps=3")
    run("-a", "pgd:steps=3", "-d", "copur", "-d", "none", "--no-cache", out="turned")
    assert [numbers(r) for r in records("turned")] == [numbers(r) for r in records()]


def test_globs_and_all_select_by_name(run):
    run("-d", "n?ne", "-a", "pgd*", attack="mis*")
    names = [r["cell"].split("--")[1:3] for r in records()]
    assert names == [["missing", "none"], ["pgd", "none"], ["pgd-paper", "none"]]


# Plugins that fail.

HOSTILE = '''
    """Defenses and an attack that fail, each in its own way."""

    from dataclasses import dataclass, replace

    import torch

    from cibench import AbstractAttack, AbstractDefense, Decision, FusionCenter, hookimpl


    def changed(undefended, change):
        class Changed(FusionCenter):
            def decide(self, observation):
                return change(undefended(observation), observation)

        return Changed()


    def defense(method, fit):
        @dataclass(frozen=True, kw_only=True)
        class Hostile(AbstractDefense):
            name = method

            def fit(self, training, *, generator):
                return fit(training)

        return Hostile


    def stop(*_):
        raise SystemExit("enough")


    def fail(*_):
        raise ValueError("no\\nluck in /srv/somewhere/else/data.bin")


    def flaky(training):
        return training.undefended if training.seed == 0 else fail()


    def poison(training):
        with torch.no_grad():
            for parameter in training.undefended.parameters():
                parameter.zero_()
        return training.undefended


    def decision(change):
        return lambda training: changed(training.undefended, change)


    def writes(given, observation):
        observation.features.fill_(1.0)
        return given


    def facts(training):
        class Talks(type(changed(training.undefended, lambda d, o: d))):
            facts = {"generator": torch.Generator()}

        return Talks()


    def around(training):
        """Goes around the checks of `forward`."""

        class Around(FusionCenter):
            def decide(self, observation):
                return training.undefended(observation)

            def forward(self, observation):
                return Decision(logits=torch.full((len(observation), 2), torch.nan))

        return Around()


    def sometimes_nan(given, observation):
        logits = given.logits.clone()
        logits[3] = torch.nan
        return Decision(logits=logits)


    DEFENSES = {
        "fails": fail,
        "stops": stop,
        "flaky": flaky,
        "poison": poison,
        "nothing": lambda training: None,
        "nan": decision(sometimes_nan),
        "flat": decision(lambda d, o: Decision(logits=d.logits[:, 0])),
        "short": decision(lambda d, o: Decision(logits=d.logits[1:])),
        "wide": decision(lambda d, o: Decision(logits=d.logits.repeat(1, 2))),
        "narrow": decision(lambda d, o: Decision(logits=d.logits[:, :1])),
        "column": decision(
            lambda d, o: replace(d, abstained=torch.zeros(len(o), 1, dtype=torch.bool))
        ),
        "scores": decision(lambda d, o: replace(d, abstained=torch.zeros(len(o)))),
        "purified": decision(lambda d, o: replace(d, purified=o.features[:, :1])),
        "status": decision(
            lambda d, o: replace(d, status=torch.zeros(len(o), 2, dtype=torch.uint8))
        ),
        "no-decision": decision(lambda d, o: d.logits),
        "lost": decision(lambda d, o: replace(d, purified=o.features * torch.nan)),
        "facts": facts,
        "around": around,
    }


    @dataclass(frozen=True, kw_only=True)
    class Boom(AbstractAttack):
        name = "boom"

        def run(self, victim, observation, criterion, **_):
            fail()


    @dataclass(frozen=True, kw_only=True)
    class Curious(AbstractAttack):
        name = "curious"

        def run(self, victim, observation, criterion, **_):
            victim.logits(observation)


    @hookimpl
    def cibench_defenses():
        return [defense(*item) for item in DEFENSES.items()]


    @hookimpl
    def cibench_attacks():
        return [Boom, Curious]
'''
#: What the reason of the failed cell says.
CONTRACT = "ContractError: "
DECIDE = CONTRACT + "Changed.decide: expected "
REASONS = {
    "fails": "fit: ValueError: no luck",
    "stops": "fit: SystemExit: enough",
    "nothing": f"fit: {CONTRACT}defense nothing: expected a FusionCenter from fit, got N",
    "nan": DECIDE + "finite logits, got non-finite ones for 1",
    "flat": DECIDE + "logits of shape (60, classes), got (60",
    "short": DECIDE + "logits of shape (60, classes), got (59",
    "wide": CONTRACT + "defense wide: expected logits of 2 classes, got 4",
    "narrow": CONTRACT + "defense narrow: expected logits of 2 classes, got 1",
    "column": DECIDE + "abstained of shape (60,), got (60, 1)",
    "scores": DECIDE + "abstained",
    "purified": DECIDE + "purified of shape (60, 24), got (60",
    "status": DECIDE + "status of shape (60,), got (60, 2)",
    "no-decision": DECIDE + "a Decision, got Tensor",
    "lost": DECIDE + "finite purified features, got",
    "facts": "TypeError: Encoding objects of type torch",
    "around": CONTRACT + "Around: expected finite logits",
}


@pytest.fixture
def hostile(install):
    names = [*REASONS, "flaky", "poison"]
    install(
        HOSTILE, *(f"defenses.{n}" for n in names), "attacks.boom", "attacks.curious"
    )


@pytest.mark.parametrize("name", list(REASONS))
def test_a_defense_that_fails_is_a_row(hostile, run, name):
    table, err = run("-d", name, "-d", "none", code=1)
    by_name = {r["defense"]["name"]: r for r in records()}
    failed = by_name[name]
    assert failed["status"] == "failed"
    assert failed["reason"].startswith(REASONS[name])
    assert "\n" not in failed["reason"]
    assert failed["metrics"] is None
    assert by_name["none"]["status"] == "ok"
    assert rows(table)[name] == ["1 of 1 seeds failed", *[""] * 8]
    assert float(rows(table)["none"][0]) > 90
    assert failed["reason"] in table
    last = err.splitlines()[-1]
    assert last.startswith("error: 1 of 2 cells failed (1 failed); first: ")
    assert failed["reason"] in last


def test_each_fails_alike_in_a_process_of_its_own(hostile, run):
    named = [part for name in ("none", "poison", *REASONS) for part in ("-d", name)]
    _, err = run(*named, out="here", code=1)
    _, isolated = run(*named, "--isolation", "process", "--no-cache", code=1)
    here, apart = records("here"), records()
    assert len(apart) == len(REASONS) + 2
    for one, other in zip(here, apart, strict=True):
        for part in ("cell", "key", "status", "reason", "outcomes", "flags"):
            assert one[part] == other[part]
    assert "Traceback" in err
    assert "Traceback" not in isolated
    for record in apart:
        if record["status"] == "failed":
            assert "Traceback" in (Path("out") / record["log"]).read_text()


def test_a_failed_cell_follows_the_schema_and_names_no_folder(hostile, run, call):
    run("-d", "fails", code=1)
    (record,) = records()
    jsonschema.validate(record, json.loads(call("schema")[1]))
    assert "/srv/somewhere" not in record["reason"]
    assert "data.bin" in record["reason"]


def test_a_failure_is_not_remembered(hostile, run):
    run("-d", "fails", code=1)
    _, err = run("-d", "fails", code=1, out="again")
    assert "already known" not in err
    # In the folder of the run it stays until it is asked for.
    _, err = run("-d", "fails", code=1)
    assert "1 cells, 1 of them already known" in err
    _, err = run("-d", "fails", "--rerun", "failed", code=1)
    assert "already known" not in err


def test_no_mean_over_the_seeds_that_survived(hostile, run):
    table, _ = run("-d", "flaky", "-d", "none", "--seeds", "2", code=1)
    assert rows(table)["flaky"] == ["1 of 2 seeds failed", *[""] * 8]
    assert "±" in rows(table)["none"][0]


def test_no_mean_over_the_seeds_whose_embedding_survived(run, call, monkeypatch):
    from cibench.execute import runner

    prepare = runner.prepare

    def second_fails(*args, seed, **options):
        if seed == 1:
            raise MemoryError("full")
        return prepare(*args, seed=seed, **options)

    monkeypatch.setattr(runner, "prepare", second_fails)
    table, _ = run("-d", "none", "--seeds", "2", code=1)
    assert rows(table)["none"] == ["1 of 2 seeds out-of-memory", *[""] * 8]
    assert table.count("###") == 1
    assert call("show", "out")[1] == table


def test_a_defense_that_changes_what_it_learns_from_harms_nobody_else(hostile, run):
    run("-d", "none", "-d", "manifold-projection")
    run(
        "-d", "poison", "-d", "none", "-d", "manifold-projection", "--no-cache",
        out="poisoned", code=1,
    )  # fmt: skip
    found = {r["defense"]["name"]: r for r in records("poisoned")}
    assert found["poison"]["status"] == "failed"
    assert "unchanged" in found["poison"]["reason"]
    for record in records():
        assert numbers(found[record["defense"]["name"]]) == numbers(record)


def test_an_attack_that_fails_is_a_row_for_every_defense(hostile, run):
    table, _ = run("-d", "none", "-d", "copur", "-a", "boom", code=1)
    boom = [r for r in records() if "boom" in r["cell"]]
    assert [r["status"] for r in boom] == ["failed", "failed"]
    assert {r["reason"].partition(" (")[0] for r in boom} == {
        "references: ValueError: no luck in data.bin"
    }
    assert boom[0]["attack"][0]["component"]["name"] == "boom"
    flip, failed = table.split("### ")[2], table.split("### ")[1]
    assert failed.startswith(f"{SET} · boom")
    assert set(rows(failed)) == set(rows(flip)) == {"none", "copur"}
    assert all(row[0] == "1 of 1 seeds failed" for row in rows(failed).values())


def test_an_attack_that_asks_for_too_much_fails(hostile, run):
    run("-d", "none", attack="curious", code=1)
    reason = records()[0]["reason"]
    assert reason.startswith("references: KnowledgeError: Victim.logits: expected")


def test_a_failure_in_a_real_process(install, monkeypatch):
    site = install(HOSTILE, "defenses.stops", module="hostile_in_a_process")
    monkeypatch.setenv("PYTHONPATH", str(site))
    done = subprocess.run(
        [PROGRAM, "run", "-d", "stops", "-d", "none", "-a", "flip", "--dataset", SET,
         *FAST, "-o", "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert rows(done.stdout)["stops"][0] == "1 of 1 seeds failed"
    assert "SystemExit: enough" in done.stderr.splitlines()[-1]


def test_an_observer_that_fails_does_not_cost_the_run(install, run):
    install(
        """
        from dataclasses import dataclass

        from cibench import AbstractDefense, hookimpl

        @dataclass(frozen=True, kw_only=True)
        class Observed(AbstractDefense):
            name = "observed"

            def fit(self, training, *, generator):
                return training.undefended

        @hookimpl
        def cibench_defenses():
            return [Observed]

        @hookimpl
        def cibench_cell_finished(record):
            raise OSError("no disk")
        """,
        "defenses.observed",
    )
    table, err = run("-d", "observed", "-d", "none", code=1)
    assert set(rows(table)) == {"observed", "none"}
    assert len(records()) == 2
    assert "cibench_cell_finished failed: no disk" in err.splitlines()[-1]


def test_many_agents_are_told_apart_in_the_outcomes(run):
    many = "synthetic:agents=70,rank=1,samples=40,width=1"
    run("-d", "none", attack="flip:agents=1/64/65/70", dataset=many)
    (record,) = records()
    bits = sum(1 << (agent - 1) for agent in (1, 64, 65, 70))
    assert set(record["outcomes"]["compromised"]) == {bits}


def test_two_paths_of_one_data_set_are_refused(run, user_file):
    """Where a file lies is not part of a cell: neither may vanish silently."""
    _, err = run(
        "-d", "none", "--dataset", f"{CHRONOLOGICAL},path=data",
        dataset=f"{CHRONOLOGICAL},path={user_file}", code=2,
    )  # fmt: skip
    assert "expected one place to read it from in a run, got two" in err
    assert not Path("out").exists()


def test_a_path_is_no_part_of_a_record(run, user_file):
    run(
        "-d", "none", "--embedding", "linear-32:epochs=1",
        dataset=f"{CHRONOLOGICAL},path={user_file}",
    )  # fmt: skip
    assert "path" not in records()[0]["dataset"]["spec"]
    assert "path" not in records()[0]["dataset"]["options"]


def test_an_attack_that_fits_no_other_data_set_is_skipped_there(run, call):
    """`target=other` needs two classes: a row with a reason, not an error."""
    table, _ = run(
        "-d", "none", "--dataset", SET + ",classes=3", attack="pgd-paper", code=0
    )
    skipped = [r for r in records() if r["status"] == "skipped"]
    assert len(records()) == 2
    assert [r["dataset"]["options"]["classes"] for r in skipped] == [3]
    assert "expected a data set of two classes" in skipped[0]["reason"]
    assert "seeds skipped" in table
    assert call("show", "out")[1] == table


def test_of_two_records_of_one_cell_the_newer_is_shown(run, call, monkeypatch):
    from cibench.execute import keys

    run("-d", "none")
    monkeypatch.setattr(keys, "harness_hash", lambda: "another source")
    run("-d", "none")
    assert len(records()) == 2
    shown = call("show", "out")[1]
    assert "±" not in shown
    assert "1 older records of the same cells are not shown" in shown


def test_a_reused_folder_does_not_average_over_embeddings(run, call):
    run("-d", "none")
    run("-d", "none", "--embedding", "identity:epochs=1")
    _, out, _ = call("show", "out")
    assert out.count("###") == 2
    assert "±" not in out


def test_all_defenses_and_attacks_run_on_ten_classes(call):
    """What `all` names and does not fit is a row with a reason."""
    code, table, err = call(
        "run", "-d", "none", "-a", "all", *("--dataset", SET + ",classes=3"),
        *("--embedding", "identity:epochs=1", "--seeds", "1", "-o", "out"),
    )  # fmt: skip
    assert code == 0, err
    status = {r["cell"].split("--")[1]: r["status"] for r in records()}
    assert status.pop("pgd-paper") == "skipped"
    assert set(status.values()) == {"ok"}
    assert "expected a data set of two classes" in table
