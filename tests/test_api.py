"""`cibench.run`: the grid of the command line from Python."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import cibench
from cibench._errors import OptionError, UnknownPluginError, UsageError
from cibench.cli import invoke
from cibench.cli.run import command as run_command
from cibench_plugins.attacks.flip import Flip
from cibench_plugins.defenses.norm_clip import NormClip

GRID = {
    "defense": ["none", "norm-clip"],
    "attack": ["flip", "missing"],
    "dataset": "synthetic",
    "seeds": 2,
    "limit": 60,
}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder and a cache of the module's own."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIBENCH_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def results(place):
    return cibench.run(**GRID)


def test_a_row_for_each_attack_and_defense_with_numbers_as_numbers(results):
    assert list(zip(results.attack, results.defense, strict=True)) == [
        ("flip", "none"),
        ("flip", "norm-clip"),
        ("missing", "none"),
        ("missing", "norm-clip"),
    ]
    numbers = results[["clean", "clean_std", "attacked", "low", "high", "genie"]]
    assert (numbers.dtypes == np.float64).all()
    assert numbers.stack().between(0, 1).all()
    assert set(results.status) == {"ok"}
    assert set(results.seeds) == {2}
    assert set(results.n) == {60}
    assert results.recovery_error[results.defense == "none"].isna().all()


def test_the_numbers_are_those_of_the_command_line(results, capsys):
    words = "run -q -d none -d norm-clip -a flip -a missing --dataset synthetic"
    assert invoke([*words.split(), "--seeds", "2", "--limit", "60", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert len(cells) == 8
    for row in results.itertuples():
        mine = [
            cell
            for cell in cells
            if cell["defense"]["spec"] == row.defense
            and cell["attack"][0]["component"]["spec"] == row.attack
        ]
        shares = [
            sum(
                np.array(cell["outcomes"]["attacked"]) == cell["outcomes"]["labels"],
            )
            / 60
            for cell in mine
        ]
        assert row.attacked == pytest.approx(np.mean(shares), abs=1e-12)
        assert row.attacked_std == pytest.approx(np.std(shares, ddof=1), abs=1e-12)
        assert row.low <= row.attacked <= row.high


def test_it_is_quiet_and_prints_nothing(results, capfd):
    cibench.run(**GRID, out=results.folder)
    assert capfd.readouterr() == ("", "")
    cibench.run(**GRID, out=results.folder, progress=True)
    assert "8/8" in capfd.readouterr().err


def test_records_are_those_of_the_folder(results):
    assert results.folder.is_absolute()
    assert [record.seed for record in results.records] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(results.attrs["cells"]) == 8
    assert "partial" in results["flags"].iloc[0]


def test_parts_of_it_are_ordinary_frames(results, tmp_path):
    part = results[results.attack == "flip"]
    assert type(part) is pd.DataFrame
    assert type(results.sort_values("attacked")) is pd.DataFrame
    assert results.groupby("defense").attacked.mean().shape == (2,)
    results.to_csv(tmp_path / "results.csv", index=False)
    again = pd.read_csv(tmp_path / "results.csv")
    assert np.allclose(again.attacked, results.attacked)


def test_a_notebook_shows_the_tables(results):
    html = results._repr_html_()
    assert html.count("<table>") == 2
    assert "<h4>synthetic · flip</h4>" in html
    assert "norm-clip" in html
    assert "accuracy in %" in html


def test_a_notebook_shows_a_frame_where_records_are_gone(tmp_path):
    found = cibench.run("none", "none", "synthetic", seeds=1, limit=20, out=tmp_path)
    for path in found.folder.rglob("*.json"):
        path.unlink()
    html = found._repr_html_()
    assert "dataframe" in html
    assert "<td>synthetic</td>" in html


def test_configured_plugins_stand_for_their_specs():
    found = cibench.run(
        NormClip(quantile=0.5),
        [Flip(amplification=3.0), "missing"],
        "synthetic",
        seeds=[3],
        limit=20,
    )
    assert list(found.defense) == ["norm-clip:quantile=0.5"] * 2
    assert list(found.attack) == ["flip:amplification=3.0", "missing"]
    assert {record.seed for record in found.records} == {3}
    assert found.attacked_std.isna().all()


def test_a_configured_plugin_keeps_where_its_files_are(tmp_path):
    from cibench_plugins.datasets.features import Features

    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    blocks = {
        f"features/a{i}": labels[:, None] + 0.1 * rng.normal(size=(90, 2))
        for i in range(3)
    }
    np.savez(tmp_path / "blocks.npz", labels=labels, **blocks)
    data = Features(path=str(tmp_path / "blocks.npz"))
    found = cibench.run("none", "flip", data, seeds=1)
    assert list(found.status) == ["ok"]
    assert str(tmp_path) not in found.dataset[0]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [(np.int64(2), {0, 1}), ("2", {0, 1}), ("4,", {4}), (np.arange(2, 4), {2, 3})],
)
def test_seeds_may_be_numbers_of_numpy_and_text(seeds, expected):
    found = cibench.run("none", "none", "synthetic", seeds=seeds, limit=20)
    assert {record.seed for record in found.records} == expected


def test_parameters_and_exclusions_span_the_grid():
    found = cibench.run(
        ["none", "norm-clip"],
        "flip",
        "synthetic",
        seeds=1,
        limit=20,
        parameters={"norm-clip.quantile": [0.5, 0.9]},
        exclude="none",
    )
    assert list(found.defense) == ["norm-clip:quantile=0.5", "norm-clip:quantile=0.9"]


def test_every_option_of_the_command_has_an_argument():
    """But for those that say how the command prints, and for taking up a run."""
    names = {
        "defenses": "defense", "attacks": "attack", "datasets": "dataset",
        "protocols": "protocol", "plugin_files": "plugin", "no_cache": "cache",
        "quiet": "progress",
    }  # fmt: skip
    command_only = {"as_json", "json_log", "verbose", "resume", "help"}
    options = {parameter.name for parameter in run_command.params} - command_only
    arguments = set(inspect.signature(cibench.run).parameters)
    assert {names.get(option, option) for option in options} == arguments


class Stranger(NormClip):
    name = "norm-clip"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"defense": "coupr"}, UnknownPluginError, "did you mean 'copur'"),
        ({"defense": "copur:tua=2"}, OptionError, "did you mean 'tau'"),
        ({"seeds": 0}, UsageError, "expected at least 1 seed"),
        ({"seeds": []}, UsageError, "expected a count such as 3"),
        ({"limit": 0}, UsageError, "not in the range"),
        ({"backend": "x"}, UsageError, "not one of 'serial'"),
        ({"timeout": "soon"}, UsageError, "expected a duration"),
        ({"suite": "a", "config": "b.toml"}, UsageError, "expected one of --suite"),
        ({"defense": 3}, UsageError, "expected specs, or configured plugins"),
        ({"defense": Stranger()}, UsageError, "expected specs, or configured plugins"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(asked, error, says, place):
    before = set((place / "runs").iterdir())
    with pytest.raises(error, match=says):
        cibench.run(**asked)
    assert set((place / "runs").iterdir()) == before


BROKEN = """
from dataclasses import dataclass
from cibench import AbstractDefense, FusionCenter, hookimpl


class Falls(FusionCenter):
    def decide(self, observation):
        raise RuntimeError("<b>no</b> | answer")


@dataclass(frozen=True, kw_only=True)
class Broken(AbstractDefense):
    name = "broken"

    def fit(self, training, *, generator):
        return Falls()


@hookimpl
def cibench_defenses():
    return [Broken]
"""

NOTEBOOK = """
import cibench, json
found = cibench.run(["none", "broken"], "flip", "synthetic", seeds=2, limit=20,
                    plugin="broken.py")
rows = json.loads(found.to_json(orient="records"))
print(json.dumps([rows, found._repr_html_()]))
"""


def test_a_failed_cell_is_a_row_and_its_words_are_escaped(tmp_path):
    """As typed into a notebook: no file, no `__main__` guard."""
    (tmp_path / "broken.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-"], input=NOTEBOOK, cwd=tmp_path, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    rows, html = json.loads(done.stdout)
    assert [(row["defense"], row["status"]) for row in rows] == [
        ("broken", "failed"),
        ("none", "ok"),
    ]
    broken, fine = rows
    assert "RuntimeError" in broken["reason"]
    assert [broken[name] for name in ("clean", "attacked", "low", "genie")] == [
        None
    ] * 4
    assert fine["attacked"] is not None
    assert "<b>no</b>" not in html
    assert "&lt;b&gt;no&lt;/b&gt;" in html
    assert "2 of 2 seeds failed" in html
