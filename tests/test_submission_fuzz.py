"""Whatever bytes come: a refusal or the same content, no other error, no file."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cibench import cli
from cibench._errors import SubmissionError
from cibench.submission.bundle import read_bundle
from cibench.submission.manifest import MANIFEST, RECORDS
from cibench.submission.verify import verify_bundle
from helpers_submission import run

pytestmark = pytest.mark.xdist_group("submission fuzz")
fuzzed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    run(folder, ("none", "flip:agents=random:1"), ("none",))
    arguments = ["submit", str(folder / "run"), "--author", "Ada"]
    assert cli.invoke([*arguments, "-o", str(folder / "b.zip")]) == 0
    return (folder / "b.zip").read_bytes(), read_bundle(folder / "b.zip")


def survived(folder, content):
    """The bundle, or None where it is refused; nothing else may happen."""
    path = folder / "x.zip"
    path.write_bytes(content)
    try:
        bundle = read_bundle(path)
        verify_bundle(bundle)
    except SubmissionError:
        bundle = None
    assert [p.name for p in folder.iterdir()] == ["x.zip"]
    return bundle


@fuzzed
@given(content=st.binary(max_size=600))
def test_any_bytes(tmp_path, content):
    assert survived(tmp_path, content) is None


@fuzzed
@given(data=st.data())
def test_a_bundle_with_changed_bytes(tmp_path, made, data):
    content, good = made
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    found = survived(tmp_path, bytes(changed))
    if found is not None:
        assert (found.digest, found.records) == (good.digest, good.records)


@fuzzed
@given(data=st.data())
def test_a_bundle_with_pieces_cut_doubled_or_moved(tmp_path, made, data):
    content, good = made
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    at = data.draw(st.integers(0, len(content)))
    piece = content[start:end]
    changed = data.draw(
        st.sampled_from(
            [
                content[:start] + content[end:],
                content[:at] + piece + content[at:],
                piece + content,
                content + piece,
            ]
        )
    )
    found = survived(tmp_path, changed)
    if found is not None:
        assert (found.digest, found.records) == (good.digest, good.records)


NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [MANIFEST, RECORDS, "../x", "witnesses/a.safetensors", "a\\b", "/x"]
    ),
    st.text("./\\ab:~\0\n\u202e", max_size=12).map(
        lambda t: f"witnesses/{t}.safetensors"
    ),
)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzzed
@given(files=st.dictionaries(NAMES, st.binary(max_size=60), max_size=6))
def test_zip_files_of_any_names(tmp_path, files):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            try:
                opened.writestr(name, content)
            except (UnicodeEncodeError, ValueError, IndexError):
                continue
    assert survived(tmp_path, path.read_bytes()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = "format protocol name title author link note created cibench citations files"


@fuzzed
@given(data=st.data())
def test_manifests_of_any_json(tmp_path, made, data):
    content, good = made
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    told = json.loads(files[MANIFEST])
    changes = st.dictionaries(st.sampled_from(FIELDS.split()), JSON, min_size=1)
    whole = data.draw(JSON | changes.map(lambda some: told | some))
    files[MANIFEST] = json.dumps(whole).encode()
    with zipfile.ZipFile(path, "w") as opened:
        for name, each in files.items():
            opened.writestr(name, each)
    found = survived(tmp_path, path.read_bytes())
    if found is not None:
        assert found.records == good.records


@fuzzed
@given(data=st.data())
def test_records_of_any_json(tmp_path, made, data):
    """A value of a record replaced by any JSON, at any depth."""
    from helpers_submission import Opened

    content, _ = made
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    bundle = Opened(path)
    first, *rest = bundle.lines()
    record = json.loads(first)
    place = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(JSON)
    bundle.save(path, lines=[json.dumps(record).encode(), *rest])
    survived(tmp_path, path.read_bytes())


def test_the_good_one_survives(tmp_path, made):
    content, good = made
    found = survived(tmp_path, content)
    assert found is not None
    assert found.digest == good.digest
    assert Path(tmp_path / "x.zip").read_bytes() == content
