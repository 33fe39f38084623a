"""`cibench certify` on the command line."""

import importlib
import json
import math
import os
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cibench import cli
from cibench.cli._certify_given import parse_numbers
from cibench.cli._certify_tables import ends
from cibench.execute import plugin_file
from cibench.registry import default_registry

SET = "synthetic:agents=5,rank=2,samples=80,width=3"
SMALL = ("--dataset", SET, "--embedding", "identity:batch=20,epochs=2", "--seeds", "1")

#: Certifies as many agents as its option says, by hand; purifies onto a plane that every
#: agent sees in full.
PLUGIN = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
import torch
from msgspec import Meta
from cibench import AbstractDefense, AffineManifold, FusionCenter, OptionError, hookimpl

class Center(FusionCenter):
    def __init__(self, inner, manifold, level):
        super().__init__()
        self.inner, self.manifold, self.level = inner, manifold, level

    @property
    def purifies_onto(self):
        return self.manifold

    def decide(self, observation):
        return self.inner.decide(observation)

    def certify(self, observation, corrupted):
        keep = torch.arange(len(observation)) % 4
        return (keep < self.level) & (corrupted < 3)

    def certificate_parts(self, observation, corrupted):
        one = torch.ones(len(observation), dtype=torch.float64)
        return {{"residual": one, "gap": 0 * one, "rate": 2 * one, "distance": one / 2,
                "radius": one * self.level}}

@dataclass(frozen=True, kw_only=True)
class Mine(AbstractDefense):
    \"\"\"Certifies a share of the samples.\"\"\"

    name: ClassVar[str] = "{name}"
    level: Annotated[int, Meta(ge=0)] = 2

    def fit(self, training, *, generator):
        if self.level == 5:
            raise OptionError("level: expected another than 5, got 5")
        if self.level == 6:
            raise RuntimeError("broken\\non purpose")
        layout = training.layout
        basis = torch.eye(3, 2, dtype=torch.float64).repeat(layout.agents, 1)
        mean = torch.zeros(layout.width, dtype=torch.float64)
        manifold = AffineManifold(layout, mean, basis / layout.agents ** 0.5)
        return Center(training.undefended, manifold, self.level)

    def uncertifiable(self, layout, corrupted):
        return f"level 7 holds nobody" if self.level == 7 else None

@hookimpl
def cibench_defenses():
    return [Mine]
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(tmp_path, cache, monkeypatch):
    """A folder of its own; the cache is shared by the tests here."""
    for name in ("CIBENCH_DATA", "CIBENCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def certify(capsys):
    def run(*arguments):
        code = cli.invoke(["certify", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins") / "certifying_share.py"
    path.write_text(PLUGIN.format(name="certifying-share"))
    made, folder = dict(plugin_file._made), list(plugin_file._folder)
    paths, variable = list(sys.path), os.environ.get("PYTHONPATH")
    yield path
    # Other tests of this process list what is installed, and nothing else.
    plugin_file._made.clear()
    plugin_file._made.update(made)
    plugin_file._folder[:] = folder
    sys.path[:] = paths
    if variable is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = variable
    importlib.invalidate_caches()
    default_registry().__dict__.pop("entries", None)


@pytest.fixture
def own(certify, plugin):
    def run(*arguments, spec="certifying-share"):
        return certify(*SMALL, "--plugin", plugin, "-d", spec, *arguments)

    return run


def rows_of(out):
    """Cells of the first table, by column."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(split[0], row, strict=True)) for row in split[2:]]


def test_every_defense_is_a_row_with_shares_or_a_reason(certify):
    code, out, err = certify(
        *SMALL, "-d", "none", "-d", "partition-vote", "-d", "randomized-ablation:keep=3"
    )
    assert code == 0, err
    none, vote, ablation = rows_of(out)
    assert none["why not more"] == "it has no certificate"
    assert none["1 corrupted"] == "0.0"
    assert float(vote["clean"]) >= float(vote["1 corrupted"]) > 0
    assert float(vote["2 corrupted"]) <= float(vote["1 corrupted"])
    assert ablation["1 corrupted"] == "0.0"
    assert ablation["why not more"] == (
        "1: 1 of 5 agents are in 6 of 10 subsets of size 3: not even a unanimous vote can"
        " be certified; keep fewer agents"
    )
    assert "- partition-vote: the decision stands whichever heard agents" in out
    assert "- partition-vote: confidence 1, no chance is involved" in out
    warning, *told = err.splitlines()
    assert warning.endswith("keep=3: " + ablation["why not more"])
    assert len(told) == 3
    assert told[0].startswith(f"[1/3] {SET} · none · seed 0: clean ")


def test_without_a_defense_one_that_certifies_is_taken(certify):
    code, out, _ = certify(
        *SMALL[:2], "--seeds", "1", "-q", "--corrupted", "1", "--json"
    )
    (row,) = json.loads(out)
    assert (code, row["defense"]) == (0, "copur:gap=0.001")
    assert row["reasons"] == [] or "no proved gap" not in row["reasons"][0]["reason"]


def test_an_uncertifiable_configuration_is_told_with_what_to_do(certify):
    code, out, err = certify(*SMALL, "-d", "copur", "-d", "copur-smoothed:draws=20")
    assert code == 0
    for row, name in zip(rows_of(out), ("copur", "copur-smoothed"), strict=True):
        reason = f"its fits have no proved gap; give it one, as in {name}:gap=0.001"
        assert row["why not more"] == reason
        assert f": 1: {reason}" in err


def test_shares_are_those_of_the_record(certify, tmp_path):
    _, out, _ = certify(*SMALL, "-q", "-d", "partition-vote", "--json")
    (row,) = json.loads(out)
    options = ["-d", "partition-vote", "-a", "none", "-q", "--isolation", "none"]
    assert cli.invoke(["run", *SMALL, *options, "-o", str(tmp_path / "run")]) == 0
    (path,) = (tmp_path / "run" / "cells").glob("*.json")
    record = json.loads(path.read_text())
    radius = np.array(record["certificates"][0]["radius"])
    right = np.array(record["outcomes"]["clean"]) == record["outcomes"]["labels"]
    assert row["clean"] == right.mean()
    assert row["samples"] == len(radius)
    for found in row["corrupted"]:
        assert found["accuracy"] == (right & (radius >= found["agents"])).mean()
    assert [found["agents"] for found in row["corrupted"]] == [1, 2, 3]


def test_missing_agents_and_numbers_that_were_asked_for(certify):
    code, out, err = certify(
        *SMALL, "-q", "-d", "none", "--missing", "2", "--corrupted", "2", "--limit", "9"
    )
    assert (code, err) == (0, "")
    (row,) = rows_of(out)
    assert "1 corrupted" not in row
    assert float(row["clean"]) >= float(row["1 missing"]) >= float(row["2 missing"])
    assert "all sets are tried" in out
    assert "9 clean test samples of 5 agents" in out


def test_json_has_the_reasons(own):
    code, out, _ = own("-q", "--corrupted", "1-3", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["defense"], row["error"], row["agents"]) == (
        "certifying-share",
        None,
        5,
    )
    assert [found["agents"] for found in row["corrupted"]] == [1, 2, 3]
    assert 0 < row["corrupted"][0]["accuracy"] == row["corrupted"][1]["accuracy"] < 1
    assert row["reasons"] == [
        {
            "agents": 3,
            "reason": "the purified point may move by 0.5 or more, decisions stand within"
            " 2 at most",
        }
    ]


def test_what_is_uncertifiable_is_said_before_the_work(own):
    code, out, err = own("--corrupted", "1", spec="certifying-share:level=7")
    assert code == 0
    first, second = err.splitlines()
    assert first.startswith("warning: ")
    assert first.endswith("certifying-share:level=7: 1: level 7 holds nobody")
    assert second.startswith("[1/1]")
    assert rows_of(out)[0]["why not more"] == "1: level 7 holds nobody"


def test_a_defense_that_fails_does_not_stop_the_others(own):
    code, out, err = own("-d", "none", spec="certifying-share:level=6")
    assert code == 1
    failed, none = rows_of(out)
    assert failed["why not more"] == "failed: RuntimeError: broken on purpose"
    assert none["clean"] != ""
    assert err.splitlines()[-1] == (
        f"error: 1 of 2 cells failed; first: {SET} · certifying-share:level=6 · seed 0:"
        " RuntimeError: broken on purpose"
    )


def test_phases_are_reported_if_asked(own, monkeypatch, tmp_path):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "fresh"))
    code, _, err = own("-v", "--corrupted", "1")
    assert code == 0
    phases = [line.partition("] ")[2] for line in err.splitlines()[:-1]]
    assert [phases[0], *phases[-2:]] == ["embedding", "fit", "certify"]


def test_nothing_is_kept_without_a_cache(own, monkeypatch, tmp_path):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "fresh"))
    assert own("-q", "--corrupted", "1", "--no-cache")[0] == 0
    assert not (tmp_path / "fresh").exists()


def test_what_only_a_glob_names_does_not_stop_the_others(own, monkeypatch):
    from cibench.registry import PluginError, Registry

    load = Registry.load

    def broken(self, kind, name):
        if name == "norm-clip":
            raise PluginError("defense norm-clip cannot be loaded")
        return load(self, kind, name)

    monkeypatch.setattr(Registry, "load", broken)
    code, out, err = own("-d", "norm*", "--corrupted", "1")
    assert code == 1
    mine, clip = rows_of(out)
    assert mine["clean"] != ""
    assert clip["why not more"] == "failed: defense norm-clip cannot be loaded"
    assert err.splitlines()[-1].startswith("error: 1 of 2 cells failed; first: ")
    assert own("-d", "norm-clip")[0] == 3
    # Its files are nowhere; named, that ends the command.
    code, out, _ = own("-q", "--dataset", "nuswid*", "--corrupted", "1")
    assert (code, out.count("###")) == (1, 2)
    assert "failed: nuswide" in out
    # A sweep leaves out what has not the option, whatever the reason.
    code, out, _ = own("-q", "-d", "norm*", "--sweep", "level=1,2")
    assert (code, out.count("###")) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--corrupted", "5"), 2, "--corrupted: expected fewer than the 5 agents of"),
        (("--missing", "5"), 2, "--missing: expected fewer than the 5 agents of"),
        (("--corrupted", "0"), 2, "expected a number of agents from 1 on, or several"),
        (("--corrupted", "3-1"), 2, "expected a rising range such as 1-3, got '3-1'"),
        (("--widths", "3/3"), 2, "--widths: expected --matrix with it"),
        (("--figure", "x.svg"), 2, "--figure: expected --sweep with it"),
        (("-d", "nobody"), 2, "nobody"),
        (("-d", "zz*"), 5, "expected a pattern that matches a defense"),
        (("--dataset", "table:path=none.csv"), 3, "none.csv"),
        (("--device", "nowhere"), 2, "--device"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_fitted(
    certify, arguments, code, message
):
    got, out, err = certify(*SMALL, *arguments)
    assert (got, out) == (code, "")
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "numbers"), [("2", [2]), ("3,1,3", [1, 3]), ("1-3,5", [1, 2, 3, 5])]
)
def test_numbers_of_agents(text, numbers):
    assert parse_numbers(text) == numbers


def test_bounds_are_rounded_outwards():
    assert ends((0.49999, 0.50001)) == ("0.4999", "0.5001")


def test_a_sweep_names_the_best_value_and_draws(own):
    code, out, err = own(
        *("--sweep", "level=4,0,2,3,5", "--corrupted", "1,3", "--figure", "x.svg")
    )
    assert code == 0, err
    rows = rows_of(out)
    assert [row["level"] for row in rows] == ["0", "2", "3", "4", "5"] * 2
    assert [row["corrupted"] for row in rows] == ["1"] * 5 + ["3"] * 5
    shares = [float(row["certified %"]) for row in rows[:4]]
    assert shares == sorted(shares)
    assert rows[4]["why nothing"] == "seed 0: level: expected another than 5, got 5"
    assert rows[4]["clean %"] == ""
    assert (rows[1]["delta"], rows[1]["gamma"], rows[1]["Delta"]) == ("1", "2", "0.5")
    lower, upper = float(rows[1]["c at least"]), float(rows[1]["c at most"])
    assert lower <= 0.8 <= upper  # equal blocks: 1 - 1/5
    assert upper - lower < 2e-3
    assert "- 1 corrupted: best level 4: " in out
    assert "- 3 corrupted: nothing is certified at any level" in out
    assert err.splitlines()[-1] == "figure in x.svg"
    drawn = ET.parse("x.svg").getroot()
    assert drawn.tag.endswith("svg")


def test_ties_go_to_the_smaller_value(own):
    # Above level 3 every sample stands.
    code, out, _ = own("-q", "--sweep", "level=10,4,8", "--json")
    assert code == 0
    found = json.loads(out)
    (best,) = found["best"]
    assert (best["value"], best["agents"], best["option"]) == (4, 1, "level")
    assert best["certified"] == best["clean"]
    assert found["rows"][0]["recovery"][0]["agents"] == 1


def test_rank_is_the_code_width_of_a_purifier(certify):
    code, out, err = certify(
        *SMALL, "-q", "-d", "copur", "-d", "manifold-projection", "--sweep", "rank=1,2"
    )
    assert code == 0
    assert "copur:width=1: 1: its fits have no proved gap" in err
    assert f"### {SET} · copur: by rank" in out
    assert f"### {SET} · manifold-projection: by rank" in out
    assert [row["rank"] for row in rows_of(out)[:2]] == ["1", "2"]


def test_a_rank_that_the_embedding_has_no_room_for_is_a_row(certify):
    code, out, _ = certify(*SMALL, "-q", "--sweep", "rank")
    assert code == 0
    last = rows_of(out)[-1]
    assert last["rank"] == "32"
    assert "expected at most 15" in last["why nothing"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("-d", "partition-vote", "--sweep", "rank"),
            2,
            "expected an option of partition-vote, which has groups, got 'width'",
        ),
        (
            ("--sweep", "tau"),
            2,
            "expected rank, or an option with values such as tau=1",
        ),
        (("--sweep", "tau=x"), 2, "option tau: "),
        (
            ("-d", "partition*", "--sweep", "tau=1"),
            5,
            "expected a defense with the option tau",
        ),
        (("--sweep", "rank", "--figure", "x.pdf"), 2, "ends in .svg or .png"),
    ],
)
def test_sweeps_that_cannot_be(certify, arguments, code, message):
    got, out, err = certify(*SMALL, *arguments)
    assert (got, out) == (code, "")
    assert message in err.splitlines()[-1]


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "W.npy"
    np.save(path, np.tile(np.eye(2), (5, 1)))
    return path


def test_a_matrix_is_bounded_and_its_direction_kept(certify, matrix, tmp_path):
    code, out, err = certify(
        *("--matrix", matrix, "--widths", "2/2/2/2/2", "--corrupted", "1-3"),
        *("--direction", tmp_path / "z.npy"),
    )
    assert code == 0, err
    one, two, three = rows_of(out)
    assert float(one["c at least"]) <= 0.8 <= float(one["c at most"])
    assert float(two["c at least"]) <= 0.6 <= float(two["c at most"])
    assert float(one["gamma at least"]) <= 3 / math.sqrt(5) + 1e-9
    assert "above 1/2" in three["why gamma is 0"]
    assert "can see through 3 corrupted agents" in out
    assert err.splitlines()[1].startswith("2 corrupted: 10 sets (")
    assert np.load(tmp_path / "z.npy").shape == (2,)


def test_the_ceiling_of_a_matrix_knows_who_is_missing(certify, matrix):
    given = ("--matrix", matrix, "--widths", "2/2/2/2/2", "-q", "--json")
    for missing, ceiling in ((0, 2), (1, 1), (2, 1), (3, 0)):
        code, out, _ = certify(*given, "--missing", missing)
        assert (code, json.loads(out)["ceiling"]) == (0, ceiling)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "W.npy",
            np.ones((4, 2)) * 1j,
            "expected a matrix to read, got complex numbers",
        ),
        ("W.csv", b"", "expected a matrix to read, got no rows"),
        (
            "W.npy",
            b"nothing",
            "expected a matrix to read, got something that is no array",
        ),
    ],
)
def test_files_that_hold_no_matrix(certify, tmp_path, recwarn, name, content, message):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    code, out, err = certify("--matrix", path, "--widths", "2/2")
    assert (code, out) == (3, "")
    assert message in err.splitlines()[-1]
    assert not recwarn.list


def test_a_matrix_as_json(certify, tmp_path):
    weight = np.random.default_rng(0).standard_normal((8, 7))
    np.savetxt(tmp_path / "W.csv", weight, delimiter=",")
    code, out, err = certify(
        "--matrix", tmp_path / "W.csv", "--widths", "2/2/2/2", "-q", "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    (row,) = found["rows"]
    assert row["leverage"] == row["rate"] == [0.0, 0.0]
    assert row["reason"].startswith("the honest agents have rank below 7")
    assert found["ceiling"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--matrix: expected --widths with it, got none"),
        (("--widths", "2/2"), 2, "got"),
        (("--widths", "2/x"), 2, "--widths: expected a width for each agent"),
        (
            ("--widths", "2/2/2/2/2", "--corrupted", "1-5"),
            2,
            "--corrupted: expected fewer than the 5 agents heard, got 5",
        ),
        (
            ("--widths", "2/2/2/2/2", "--corrupted", "3", "--missing", "2"),
            2,
            "--corrupted: expected fewer than the 3 agents heard, got 3",
        ),
        (
            ("--widths", "2/2/2/2/2", "--missing", "5"),
            2,
            "--missing: expected fewer than the 5 agents of --widths, got 5",
        ),
        (("--widths", "5/5", "-d", "none"), 2, "expected it alone, got --defense too"),
        (("--widths", "5/5", "--direction", "z.csv"), 2, "ends in .npy"),
        (
            ("--widths", "5/5", "--direction", "W.npy/z.npy"),
            3,
            "a file that can be written",
        ),
    ],
)
def test_matrices_that_cannot_be(certify, matrix, arguments, code, message):
    got, out, err = certify("--matrix", matrix, *arguments)
    assert (got, out) == (code, "")
    assert message in err.splitlines()[-1]
