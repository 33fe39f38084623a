"""`cibench leaderboard`: from a run to pages and back to what is stale, by the commands."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cibench import cli
from cibench.leaderboard import build
from cibench.submission.manifest import RECORDS, VERIFICATION
from helpers_submission import Opened, run

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

pytestmark = pytest.mark.xdist_group("leaderboard")

SUITE = """\
title = "A tiny suite"
description = "For tests."
seeds = 1
[[scenarios]]
label = "no attack"
attack = "none"
[[scenarios]]
label = "flip"
attack = "flip:agents=random:1"
[[protocols]]
name = "p"
description = "Tiny."
datasets = ["synthetic:agents=3,rank=2,samples=60,width=3"]
[protocols.defenses]
none = "none"
"""
SETTINGS = 'title = "Tiny boards"\nowner = "Ann"\nsuite = "suite.toml"\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles of a run of the suite, and of a stronger attack on one of its defenses."""
    folder = tmp_path_factory.mktemp("made")
    suite = ("none", "flip:agents=random:1")
    parts = {
        "base": (suite, ("none", "norm-clip", "randomized-ablation:keep=2"), "Ann"),
        "stronger": (("pgd:agents=random:1",), ("norm-clip",), "Eve"),
        "again": (suite, ("randomized-ablation:keep=2",), "Bob"),
    }
    for name, (attacks, defenses, author) in parts.items():
        place = folder / name
        place.mkdir()
        run(place, attacks, defenses)
        arguments = ["submit", str(place / "run"), "--author", author, "--name", name]
        assert cli.invoke([*arguments, "-o", str(folder / f"{name}.zip")]) == 0
    return folder


def test_missing_libraries_are_told_before_anything_is_verified(
    made, tmp_path, monkeypatch, capsys
):
    (tmp_path / "leaderboard.toml").write_text(
        'title = "T"\nowner = "A"\nsuite = "s"\n'
    )
    find = build.importlib.util.find_spec
    monkeypatch.setattr(
        build.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else find(name, *rest),
    )
    arguments = ["leaderboard", "add", str(made / "base.zip"), str(tmp_path)]
    assert cli.invoke(arguments) == 3
    told = capsys.readouterr().err
    assert 'expected matplotlib to be installed, got none; pip install "cibench' in told
    assert "replays" not in told
    assert not (tmp_path / "entries").exists()


@pytest.fixture
def call(capsys, monkeypatch, made, tmp_path):
    monkeypatch.setenv("CIBENCH_CACHE", str(made / "base" / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.invoke(["leaderboard", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def boards(tmp_path):
    folder = tmp_path / "boards"
    folder.mkdir()
    (folder / "leaderboard.toml").write_text(SETTINGS)
    (folder / "suite.toml").write_text(SUITE)
    return folder


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_from_a_bundle_to_pages_and_a_challenge(call, made, boards):
    code, out, err = call(
        "add", made / "base.zip", boards, "--replay", "all", "--rerun", 1,
    )  # fmt: skip
    assert code == 0, err
    assert out == f"{boards / 'entries' / 'base'}\n"
    assert "badge: reproduced" in err
    told = json.loads((boards / "entries/base" / VERIFICATION).read_bytes())
    assert (told["replayed"], told["reran"]) == (6, 1)
    page = (boards / "README.md").read_text("utf-8")
    assert "norm-clip" in page
    assert "Lowered by attacks" not in page
    assert call("check", boards)[0] == 0

    assert call("add", made / "stronger.zip", boards)[0] == 0
    lowered = (boards / "README.md").read_text("utf-8")
    assert "Lowered by attacks beyond the suite" in lowered
    assert "of Eve" in lowered
    (changed,) = (boards / "boards").iterdir()
    assert "pgd:agents=random:1" in changed.read_text("utf-8")
    assert call("check", boards)[0] == 0

    before = snapshot(boards)
    code, out, err = call("build", boards)
    assert (code, out) == (0, "")
    assert err.endswith("0 files changed\n")
    assert snapshot(boards) == before


def test_check_says_what_is_stale_in_json_and_exits_with_4(call, made, boards):
    assert call("add", made / "base.zip", boards, "--no-build")[0] == 0
    code, out, err = call("check", boards)
    assert code == 4
    assert "missing: README.md" in out
    assert f"run: cibench leaderboard build {boards}" in err
    assert call("build", boards)[0] == 0
    page = boards / "README.md"
    page.write_bytes(page.read_bytes().replace(b"Tiny", b"Tidy", 1))
    (boards / "figures" / "old.svg").write_text("<svg/>")
    code, out, _ = call("check", boards, "--json")
    assert code == 4
    told = json.loads(out)
    assert told["stale"] is True
    found = {one["path"]: one["kind"] for one in told["differences"]}
    assert found == {"README.md": "stale", "figures/old.svg": "extra"}
    code, out, _ = call("build", boards)
    assert str(page) in out
    assert call("check", boards, "--json")[:2] == (
        0,
        json.dumps(
            {"folder": str(boards), "stale": False, "differences": []},
            separators=(",", ":"),
        )
        + "\n",
    )


def test_an_entry_that_was_edited_is_not_published(call, made, boards):
    assert call("add", made / "base.zip", boards)[0] == 0
    path = boards / "entries" / "base" / RECORDS
    path.write_bytes(path.read_bytes() + b"\0")
    for verb in ("check", "build"):
        code, _, err = call(verb, boards)
        assert code == 3
        assert "an entry is never edited" in err


def test_the_same_bundle_again_renews_its_badge(call, made, boards):
    assert call("add", made / "base.zip", boards, "--replay", "none")[0] == 0
    kept = snapshot(boards / "entries")
    code, _, err = call("add", made / "base.zip", boards)
    assert code == 0
    assert "badge: re-scored" in err
    now = snapshot(boards / "entries")
    (verification,) = (path for path in now if now[path] != kept[path])
    assert verification.name == VERIFICATION
    assert "re-scored" in (boards / "README.md").read_text("utf-8")


def test_a_name_that_is_taken_is_refused(call, made, boards, tmp_path):
    assert call("add", made / "base.zip", boards, "--no-build")[0] == 0
    opened = Opened(made / "stronger.zip")
    other = opened.save(tmp_path / "x.zip", name="base")
    before = snapshot(boards)
    code, out, err = call("add", other, boards)
    assert (code, out) == (4, "")
    assert "expected one that no entry has, got base" in err
    assert snapshot(boards) == before


def test_records_that_contradict_an_entry_are_refused(call, made, boards, tmp_path):
    """A proof that agrees with itself, and not with that of another entry."""
    assert call("add", made / "base.zip", boards, "--no-build")[0] == 0
    opened = Opened(made / "again.zip")
    cell = opened.only("--none--randomized-ablation--")
    (proof,) = opened.records[cell].certificates
    raised = [1.0 if radius == 0 else radius for radius in proof.radius]
    assert raised != proof.radius
    opened.change(cell, certificates=[msgspec.structs.replace(proof, radius=raised)])
    other = opened.save(tmp_path / "x.zip")
    before = snapshot(boards)
    code, out, err = call("add", other, boards)
    assert (code, out) == (4, "")
    assert "expected the same numbers for randomized-ablation (cibench" in err
    assert snapshot(boards) == before
    assert call("add", made / "again.zip", boards, "--no-build")[0] == 0


def test_a_planted_lie_never_becomes_an_entry(call, made, boards, tmp_path):
    opened = Opened(made / "base.zip")
    cell = opened.only("--flip--norm-clip--")
    attacked = list(opened.records[cell].outcomes.attacked)
    attacked[0] = 1 - attacked[0]
    opened.outcomes(cell, attacked=attacked)
    lie = opened.save(tmp_path / "lie.zip")
    code, out, err = call("add", lie, boards)
    assert (code, out) == (4, "")
    assert "error: lie.zip is refused" in err
    assert not (boards / "entries").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("build", "nowhere"), 3, "leaderboard.toml: expected a readable file"),
        (("check", "nowhere"), 3, "leaderboard.toml: expected a readable file"),
        (("add", "no.zip", "nowhere"), 4, "no.zip"),
        (("add", ".", "nowhere"), 2, "expected a bundle's file"),
        (("add", "no.zip", "nowhere", "--replay", "some"), 2, "expected all, none"),
        (("add",), 2, "Missing argument"),
        (("prune",), 2, "No such command"),
    ],
)
def test_mistakes_are_told(call, arguments, code, words):
    got, out, err = call(*arguments)
    assert (got, out) == (code, "")
    assert words in err


def test_no_verb_of_it_imports_torch_before_it_must(tmp_path):
    (tmp_path / "leaderboard.toml").write_text(SETTINGS)
    (tmp_path / "suite.toml").write_text(SUITE)
    script = (
        "import sys; from cibench import cli;"
        " code = cli.invoke(['leaderboard', 'build', '.']);"
        " sys.exit(code or 5 * ('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert "No board is published yet" in Path(tmp_path / "README.md").read_text()


def test_the_settings_of_the_published_folder_are_read():
    from cibench.leaderboard.folder import FolderSettings, read_settings

    published = Path(__file__).parents[1] / "leaderboard"
    assert isinstance(read_settings(published), FolderSettings)
    assert msgspec.to_builtins(read_settings(published))["suite"] == "standard"
