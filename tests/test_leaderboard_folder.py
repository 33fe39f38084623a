"""A published folder: what is read, what is generated, and that it is always the same."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from base64 import b64encode

import pytest

from cibench._errors import OutputError, UsageError
from cibench.leaderboard import build as building
from cibench.leaderboard.folder import read_entries, read_entry, read_settings
from cibench.leaderboard.pages import compared, write_pages
from helpers_published import SETTINGS, published, tree

pytest.importorskip("jinja2")
pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = published(tmp_path_factory.mktemp("made") / "boards")
    building.build(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def test_boards_have_pages_figures_and_a_site(made):
    names = set(tree(made))
    assert {"README.md", "site/index.html"} <= names
    boards = {n.removesuffix(".md") for n in names if n.startswith("boards/")}
    assert len(boards) == 3
    for board in (name.removeprefix("boards/") for name in boards):
        assert f"figures/{board}-forest.svg" in names
        assert f"figures/{board}-heatmap.svg" in names
    assert any(name.startswith("figures/curve-") for name in names)
    assert any("certified-agents" in name for name in names)
    text = (made / "README.md").read_text("utf-8")
    assert "of Eve" in text
    for link in names - {"README.md"}:
        pages = [text, *(p.read_text("utf-8") for p in (made / "boards").iterdir())]
        assert any(link in page for page in pages), link


def test_a_leaderboard_without_entries_says_so(tmp_path):
    folder = published(tmp_path / "empty", [])
    building.build(folder)
    assert "No board is published yet" in (folder / "README.md").read_text("utf-8")
    assert building.check(folder) == []


def built_elsewhere(folder, **environment):
    """Build in a process of its own with another environment."""
    code = (
        "import sys; from pathlib import Path; from cibench.leaderboard.build import build;"
        " build(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "0"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "1"},
        {"LC_ALL": "de_DE.UTF-8", "COLUMNS": "40", "PYTHONUTF8": "0"},
    ],
    ids=["C", "Turkish", "German"],
)
def test_pages_are_the_same_bytes_everywhere(made, tmp_path, environment):
    # In another order of creation, with a user's own style of figures.
    folder = published(tmp_path / "other", [])
    names = sorted((made / "entries").iterdir(), reverse=True)
    for path in names:
        shutil.copytree(path, folder / "entries" / path.name)
    style = tmp_path / "matplotlibrc"
    style.write_text("font.size: 20\nlines.linewidth: 9\nsvg.fonttype: none\n")
    built_elsewhere(folder, MATPLOTLIBRC=str(style), **environment)
    assert tree(folder) == tree(made)


def test_deleted_pages_come_back_the_same(made, copy):
    for name in ("README.md", "boards", "figures", "site"):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {d.kind for d in building.check(copy)} == {"missing"}
    changed = building.build(copy)
    assert tree(copy) == tree(made)
    assert sorted(changed) == sorted(tree(made))
    assert building.build(copy) == []


def test_check_names_what_is_stale_missing_or_extra(copy):
    board = sorted((copy / "boards").iterdir())[0]
    board.write_bytes(board.read_bytes().replace(b"1", b"2", 1))
    figure = sorted((copy / "figures").iterdir())[0]
    figure.unlink()
    (copy / "figures" / "old.svg").write_text("<svg/>")
    (copy / "site" / ".index.html.abc").write_text("left over")
    found = {(d.path, d.kind) for d in building.check(copy)}
    assert found == {
        (f"boards/{board.name}", "stale"),
        (f"figures/{figure.name}", "missing"),
        ("figures/old.svg", "extra"),
        ("site/.index.html.abc", "extra"),
    }
    assert not (copy / "figures" / figure.name).exists()
    building.build(copy)
    assert building.check(copy) == []


def test_a_removed_entry_makes_pages_stale(copy):
    shutil.rmtree(copy / "entries" / "stronger")
    assert "README.md" in {d.path for d in building.check(copy)}


def test_a_changed_entry_is_refused(copy):
    path = copy / "entries" / "e1" / "records.jsonl.xz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"expected the hash that bundle.json says"):
        building.check(copy)


def site(library, text="page", policy=True, element="plotly"):
    packed = b64encode(zlib.compress(library, 9)).decode()
    digest = b64encode(hashlib.sha256(library).digest()).decode()
    head = f"script-src 'sha256-{digest}'" if policy else ""
    return f'{head}<p>{text}</p><script id="{element}">{packed}</script>'.encode()


@pytest.mark.parametrize("element", ["plotly", "plotly-gz"])
def test_another_plotly_is_told_apart_from_another_page(tmp_path, element):
    def kinds(old, new):
        write_pages(tmp_path, {"README.md": b"", "site/index.html": old})
        found = compared(tmp_path, {"README.md": b"", "site/index.html": new})
        return [one.kind for one in found]

    old = site(b"library 1", element=element)
    assert kinds(old, old) == []
    assert kinds(old, site(b"library 2", element=element)) == ["other plotly"]
    assert kinds(old, site(b"library 1", "other", element=element)) == ["stale"]
    assert kinds(old, site(b"library 2", "other", element=element)) == ["stale"]
    # Another zlib packs the same library into other bytes.
    again = b64encode(zlib.compress(b"library 1", 0))
    packed = b64encode(zlib.compress(b"library 1", 9))
    assert kinds(old, old.replace(packed, again)) == []
    damaged = old.replace(packed, b"AAAA")
    assert kinds(damaged, old) == ["other plotly"]


def test_figures_of_another_matplotlib_are_told(copy):
    figure = sorted((copy / "figures").iterdir())[0]
    text = figure.read_text("utf-8")
    assert "Matplotlib v" in text
    figure.write_text(text.replace("Matplotlib v", "Matplotlib v0."), "utf-8")
    (found,) = building.check(copy)
    assert found.kind == "stale"
    assert "drawn by Matplotlib v0." in found.hint


def test_only_generated_folders_are_cleaned(copy):
    (copy / "entries" / ".note").write_text("kept")
    (copy / "CONTRIBUTING.md").write_text("kept")
    (copy / "boards" / "gone.md").write_text("not kept")
    assert building.build(copy) == ["boards/gone.md"]
    assert (copy / "entries" / ".note").exists()
    assert (copy / "CONTRIBUTING.md").exists()


@pytest.mark.parametrize("name", ["boards", "figures", "site"])
def test_links_never_lead_out_of_the_folder(copy, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    shutil.rmtree(copy / name)
    (copy / name).symlink_to(outside)
    with pytest.raises(OutputError, match="expected a folder for generated files"):
        building.build(copy)
    assert (outside / "precious").exists()
    (copy / name).unlink()
    building.build(copy)
    (copy / name / "link").symlink_to(outside / "precious")
    assert building.build(copy) == [f"{name}/link"]
    assert (outside / "precious").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "expected a readable file"),
        ("title = ", "expected TOML"),
        ('title = "x"\n', "missing required field `owner`"),
        (SETTINGS + 'colour = "red"\n', "unknown field `colour`"),
        (SETTINGS.replace("https", "javascript"), "matching regex"),
        ('title = 3\nowner = "x"\n', "Expected `str`"),
        ('title = "\udcff"', "expected TOML in UTF-8"),
    ],
)
def test_settings_are_checked(tmp_path, text, words):
    if text is not None:
        path = tmp_path / "leaderboard.toml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match=words):
        read_settings(tmp_path)


def test_an_unknown_suite_is_refused(copy):
    (copy / "leaderboard.toml").write_text(SETTINGS + 'suite = "standart"\n')
    with pytest.raises(UsageError, match="unknown suite 'standart'"):
        building.check(copy)


def edited(entry, **changes):
    path = entry / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_entries_are_checked(made, tmp_path):
    def fresh(name):
        return shutil.copytree(made / "entries" / "e0", tmp_path / name / "e0")

    entry = fresh("name")
    edited(entry, name="other")
    with pytest.raises(OutputError, match="expected the name of its folder"):
        read_entry(entry)
    entry = fresh("protocol")
    edited(entry, protocol=77)
    with pytest.raises(OutputError, match="expected records of protocol 77, got 1"):
        read_entry(entry)
    entry = fresh("json")
    (entry / "bundle.json").write_text("{")
    with pytest.raises(OutputError, match="expected a Manifest"):
        read_entry(entry)
    entry = fresh("unverified")
    (entry / "verification.json").unlink()
    with pytest.raises(OutputError, match=r"verification\.json: expected a readable"):
        read_entry(entry)
    entry = fresh("link")
    (entry / "records.jsonl.xz").unlink()
    (entry / "records.jsonl.xz").symlink_to(made / "entries/e0/records.jsonl.xz")
    with pytest.raises(OutputError, match="expected a file, got a symbolic link"):
        read_entry(entry)
    entry = fresh("xz")
    packed = b"no xz file"
    (entry / "records.jsonl.xz").write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    files = json.loads((entry / "bundle.json").read_bytes())["files"]
    edited(entry, files={**files, "records.jsonl.xz": {"sha256": digest, "size": 10}})
    with pytest.raises(OutputError, match="expected a record of this version"):
        read_entry(entry)


@pytest.mark.parametrize(
    "lie",
    [
        {"replayed": 999_999}, {"reran": 999_999}, {"witnesses": 7}, {"replayed": 0},
        {"badge": "reproduced", "reran": 0}, {"records": 5}, {"replayed": -1},
    ],
)  # fmt: skip
def test_counts_that_do_not_earn_the_badge_are_refused(made, tmp_path, lie):
    entry = shutil.copytree(made / "entries" / "e0", tmp_path / "e0")
    read_entry(entry)
    path = entry / "verification.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **lie}))
    with pytest.raises(OutputError, match=r"verification\.json: expected"):
        read_entry(entry)


def test_an_entry_holds_its_three_files_alone(made, tmp_path):
    entry = shutil.copytree(made / "entries" / "e0", tmp_path / "e0")
    (entry / "evil.pkl").write_bytes(b"")
    with pytest.raises(OutputError, match=r"alone, got 'evil\.pkl' too"):
        read_entry(entry)


def test_what_is_no_entry_is_refused(copy):
    assert [e.name for e in read_entries(copy)] == ["e0", "e1", "e2", "stronger"]
    (copy / "entries" / ".hidden").mkdir()
    assert len(read_entries(copy)) == 4
    stray = copy / "entries" / "README.md"
    stray.write_text("x")
    with pytest.raises(OutputError, match="expected a folder that is an entry"):
        read_entries(copy)
    stray.unlink()
    (copy / "entries" / "A b").mkdir()
    with pytest.raises(OutputError, match="expected an entry's name"):
        read_entries(copy)
