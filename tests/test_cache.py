"""Stored records, why a cell is not stored, and keeping the cache small."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench._errors import OutputError, UsageError
from cibench.cli.cache import command
from cibench.execute.explain import explain
from cibench.execute.recorded import RecordCache, slot_of
from cibench.execute.store import ArtifactStore
from cibench.execute.upkeep import Rules, check_cache, condemned, remove, survey
from cibench.grid import harness_hash
from cibench.results import CellRecord, Component
from cibench.results.record import encode

SLOT = slot_of("toy", "flip", "copur", 0)
DAY = 86_400


def component(name):
    return Component(
        name=name, spec=name, options={}, distribution="d", version="1", source="0"
    )


def record_of(key="k1", *, created="2030-01-01T00:00:00+00:00", **inputs):
    return CellRecord(
        protocol=1, cell=f"cell-{key}", key=key, status="ok", dataset=component("toy"),
        fingerprint="f", agents=["a"], classes=["0", "1"], embedding={"joint": 1.5},
        attack=[], defense=component("copur"), seed=0, environment={}, device="cpu",
        created=created, inputs=inputs,
    )  # fmt: skip


def stored_in(cache, *records, slot=SLOT):
    for record in records:
        cache.put(slot, record.key, encode(record))
    return cache


def file_of(cache, key="k1"):
    return cache.folder / SLOT[:2] / f"{SLOT}-{key}.json"


def fails_with(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fail


# Records.


def test_a_record_comes_back_byte_by_byte(tmp_path):
    cache = RecordCache(tmp_path / "deep" / "records")
    content = encode(record_of(harness="1a2b"))
    assert cache.get(SLOT, "k1") is None
    assert not cache.has(SLOT, "k1")
    cache.put(SLOT, "k1", content)
    assert cache.get(SLOT, "k1") == content
    assert cache.has(SLOT, "k1")
    assert not cache.has(SLOT, "k2")
    assert json.loads(file_of(cache).read_text())["record"]["key"] == "k1"


def test_a_slot_depends_on_each_part():
    parts = [
        ("a", "b", "c", 0),
        ("ab", "", "c", 0),
        ("a", "c", "b", 0),
        ("a", "b", "c", 1),
    ]
    assert len({slot_of(*part) for part in parts}) == 4
    # Cached records are found by this value.
    assert slot_of("toy", "flip", "copur", 0) == "a38f5853a30fabde"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_or_missing_byte_changes_a_record(tmp_path_factory, data):
    content = encode(record_of(harness="1a2b"))
    cache = RecordCache(tmp_path_factory.mktemp("records"))
    cache.put(SLOT, "k1", content)
    stored = bytearray(file_of(cache).read_bytes())
    position = data.draw(st.integers(0, len(stored) - 1))
    if data.draw(st.booleans()):
        stored[position] ^= data.draw(st.integers(1, 255))
    else:
        del stored[position:]
    file_of(cache).write_bytes(stored)
    with pytest.warns(UserWarning, match="is damaged; it was set aside"):
        assert cache.get(SLOT, "k1") is None
    assert not cache.has(SLOT, "k1")
    assert file_of(cache).with_suffix(".damaged").exists()
    cache.put(SLOT, "k1", content)
    assert cache.get(SLOT, "k1") == content


def test_a_record_of_another_schema_is_no_hit_and_no_damage(tmp_path):
    cache = RecordCache(tmp_path)
    cache.put(SLOT, "k1", b'{"schema_version": 999}\n')
    assert cache.get(SLOT, "k1") is None
    assert cache.others(SLOT) == []
    assert file_of(cache).exists()


def test_the_records_of_a_slot_come_newest_first(tmp_path):
    cache = RecordCache(tmp_path)
    times = {"k1": "2030-01-02", "k2": "2030-01-03", "k3": "2030-01-01"}
    stored_in(cache, *(record_of(key, created=when) for key, when in times.items()))
    stored_in(cache, record_of("k4"), slot=slot_of("toy", "flip", "copur", 1))
    file_of(cache, "k5").write_bytes(b"{")
    assert [record.key for record in cache.others(SLOT)] == ["k2", "k1", "k3"]
    assert cache.others("0" * 16) == []


def test_what_another_process_stores_is_seen_after_a_refresh(tmp_path):
    mine, other = RecordCache(tmp_path), RecordCache(tmp_path)
    assert not mine.has(SLOT, "k1")
    stored_in(other, record_of())
    assert not mine.has(SLOT, "k1")
    assert mine.get(SLOT, "k1") is not None
    mine.refresh()
    assert mine.has(SLOT, "k1")
    file_of(other).unlink()
    assert mine.get(SLOT, "k1") is None
    assert not mine.has(SLOT, "k1")


def test_ten_thousand_records_are_found_by_listing_folders_once(tmp_path, monkeypatch):
    cells = [
        (slot_of("toy", "flip", "copur", seed), f"key{seed}") for seed in range(10000)
    ]
    for slot, key in cells:
        folder = tmp_path / slot[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{slot}-{key}.json").touch()
    cache, listed, scandir = RecordCache(tmp_path), [], os.scandir

    def counting(path):
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    monkeypatch.setattr(os, "stat", fails_with(errno.EIO))
    found = [cache.has(slot, key) for slot, key in cells]
    missing = [cache.has(slot, f"{key}0") for slot, key in cells]
    monkeypatch.undo()
    assert all(found)
    assert not any(missing)
    assert len(listed) == 257  # the folder and its 256 subfolders


@pytest.mark.parametrize("call", ["os.replace", "os.fdopen"])
def test_a_full_disk_loses_no_record_that_was_there(tmp_path, monkeypatch, call):
    cache = stored_in(RecordCache(tmp_path), record_of("k1"))
    monkeypatch.setattr(call, fails_with(errno.ENOSPC))
    with pytest.warns(UserWarning, match=r"store record .*, got No space left on dev"):
        stored_in(cache, record_of("k2"))
    stored_in(cache, record_of("k3"))  # said once; warnings are errors here
    assert [cache.has(SLOT, key) for key in ("k1", "k2", "k3")] == [True, False, False]
    monkeypatch.undo()
    assert [record.key for record in cache.others(SLOT)] == ["k1"]
    assert [path.name for path in tmp_path.rglob(".*")] == []


# Why a cell is not stored.


def explained(tmp_path, *records, key="now", **inputs):
    cache = stored_in(RecordCache(tmp_path), *records)
    return explain(
        SLOT, key, {n.replace("_", " "): v for n, v in inputs.items()}, cache
    )


def test_nothing_stored_is_a_miss(tmp_path):
    found = explained(tmp_path, seed="0")
    assert (found.hit, found.nearest, found.differs) == (False, None, [])
    assert found.words() == "miss: no record is stored for this cell"


def test_a_stored_record_is_a_hit(tmp_path):
    found = explained(tmp_path, record_of("now", seed="0"), record_of("k2"), key="now")
    assert found.hit
    assert found.nearest.key == "now"
    assert found.words() == "hit: record of 2030-01-01T00:00:00Z"


def test_the_nearest_record_is_the_one_with_fewest_differences(tmp_path):
    found = explained(
        tmp_path,
        record_of("far", created="2030-01-09", seed="1", torch="1", device="cpu"),
        record_of("older", created="2030-01-01", seed="0", torch="1", device="cpu"),
        record_of("newer", created="2030-01-02", seed="0", torch="1", device="cpu"),
        seed="0", torch="2", device="cpu",
    )  # fmt: skip
    assert found.nearest.key == "newer"
    assert found.differs == [("torch", "1", "2")]
    assert found.words() == (
        "miss: 1 of 3 inputs differs from the record of 2030-01-02: torch 1 -> 2"
    )


def test_a_change_of_code_names_the_package(tmp_path):
    same = {"defense module": "cibench_plugins.defenses.copur"}
    found = explained(
        tmp_path,
        record_of(**same, **{"defense source": "1a2b", "harness": "aa"}),
        **same, **{"defense source": "3c4d", "harness": "bb"},
    )  # fmt: skip
    assert found.words() == (
        "miss: 2 of 3 inputs differ from the record of 2030-01-01T00:00:00Z:"
        " defense source 1a2b -> 3c4d (the code of cibench_plugins changed);"
        " harness aa -> bb (the code of cibench changed)"
    )


def test_of_long_options_only_those_that_differ_are_shown(tmp_path):
    options = {f"option{i}": i for i in range(20)}
    now = {**options, "option3": 4.5, "new": "x" * 100}
    found = explained(
        tmp_path,
        record_of(**{"defense options": json.dumps({**options, "old": None})}),
        defense_options=json.dumps(now),
    )
    assert found.words().partition("Z: ")[2] == (
        'defense options new (absent) -> "' + "x" * 56 + "...,"
        " old null -> (absent), option3 3 -> 4.5"
    )


def test_inputs_that_only_one_side_has_differ(tmp_path):
    found = explained(
        tmp_path, record_of(gone="a" * 40, samples="[1]"), new="1", samples="1"
    )
    assert found.differs == [
        ("new", "", "1"),
        ("samples", "[1]", "1"),
        ("gone", "a" * 40, ""),
    ]
    assert found.words().partition("Z: ")[2] == (
        "new (absent) -> 1; samples [1] -> 1; gone aaaaaaaaaaaa -> (absent)"
    )


# Keeping the cache small.


@pytest.fixture
def cache(tmp_path):
    """A cache with one file of each sort: kind, days since its use."""
    folder = tmp_path / "cache"
    artifacts = ArtifactStore(folder / "artifacts")
    records = RecordCache(folder / "records")
    now = {"harness": harness_hash()}
    put(artifacts, "emb-now", "embedding", now, days=1)
    put(artifacts, "emb-old", "embedding", {"harness": "other"}, days=5)
    put(artifacts, "fit-old", "fit", {"embedding key": "emb-old"}, days=40)
    put(artifacts, "fit-now", "fit", {"embedding key": "emb-now"}, days=10)
    put(artifacts, "unknown", "", {}, days=20)
    stored_in(records, record_of("r-now", **now), record_of("r-old", harness="other"))
    aged(file_of(records, "r-now"), 2)
    aged(file_of(records, "r-old"), 3)
    flat = folder / "artifacts" / "flat.safetensors"  # where nothing looks for it
    flat.write_bytes(b"x" * 50)
    aged(flat, 4)
    artifacts.path("fit-bad").parent.mkdir(exist_ok=True)
    bad = artifacts.path("fit-bad").with_suffix(".damaged")
    bad.write_bytes(artifacts.path("fit-now").read_bytes()[:-1])
    (folder / "history").mkdir()
    (folder / "history" / "durations.json").write_text("{}")
    aged(folder / "history" / "durations.json", 99)
    (folder / "artifacts" / "notes.txt").write_text("mine")
    return folder


def put(store, key, kind, inputs, *, days):
    store.put(key, {"w": torch.zeros(8)}, kind=kind, inputs=inputs)
    aged(store.path(key), days)


def aged(path, days):
    used = time.time() - days * DAY
    os.utime(path, (used, used))


def names(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


def gone(folder, rules):
    """Names of what is removed by the rules, in order."""
    before = names(folder)
    removed, errors = remove(condemned(survey(folder, contents=True), rules))
    assert errors == []
    found = [file.path.name for _, file in removed]
    assert before - names(folder) == set(found)
    return found


def invoked(*arguments):
    command.main(list(map(str, arguments)), standalone_mode=False)


def test_a_survey_names_kinds_and_uses(cache):
    found = {file.path.stem: file for file in survey(cache)}
    kinds = {name: file.kind for name, file in found.items()}
    assert kinds == {
        "emb-now": "embedding", "emb-old": "embedding", "fit-old": "fit", "fit-now": "fit",
        "fit-bad": "fit", "unknown": "other", "flat": "other", "durations": "history",
        f"{SLOT}-r-now": "record", f"{SLOT}-r-old": "record",
    }  # fmt: skip
    assert {name for name, file in found.items() if file.damaged} == {"fit-bad"}
    assert {name for name, file in found.items() if not file.reachable} >= {"flat"}
    assert found["fit-old"].harness == "other"
    assert found["fit-now"].harness == harness_hash()
    for file in found.values():
        assert file.size == file.path.stat().st_size


def test_what_was_not_used_for_long_goes(cache):
    found = gone(cache, Rules(older_than=9 * DAY))
    assert found == [
        f"{name}.safetensors" for name in ("fit-old", "unknown", "fit-now")
    ]


def test_what_another_harness_made_goes(cache):
    assert set(gone(cache, Rules(stale=harness_hash()))) == {
        "emb-old.safetensors", "fit-old.safetensors", "flat.safetensors",
        f"{SLOT}-r-old.json",
    }  # fmt: skip


def test_damaged_files_go(cache):
    assert gone(cache, Rules(damaged=True)) == ["fit-bad.damaged"]


@pytest.mark.parametrize("keep", range(0, 11, 2))
def test_the_rest_fits_and_the_least_recently_used_went_first(cache, keep):
    files = sorted(survey(cache), key=lambda f: (f.damaged, -f.used))
    history = [file for file in files if file.kind == "history"]
    kept = history + [f for f in files if f.kind != "history"][:keep]
    limit = sum(file.size for file in kept)
    gone(cache, Rules(max_size=limit))
    left = survey(cache)
    assert {file.path for file in left} == {file.path for file in kept}
    assert gone(cache, Rules(max_size=limit)) == []


def test_remains_of_dead_writers_and_free_locks_go(cache):
    store = ArtifactStore(cache / "artifacts")
    folder = store.path("emb-now").parent
    fresh, dead = (
        folder / f".emb-now.safetensors.{n}" for n in ("abcdefgh", "a_cd3fgh")
    )
    for path in (fresh, dead, folder / ".keep"):
        path.write_bytes(b"half")
    aged(dead, 1.1)
    aged(folder / ".keep", 50)
    with store.lock("emb-old"):
        pass
    held = store.path("emb-now").with_suffix(".lock")
    with FileLock(held):
        assert set(gone(cache, Rules(older_than=1000 * DAY))) == {
            dead.name, "emb-old.lock",
        }  # fmt: skip
        assert held.exists()
    assert fresh.exists()
    assert gone(cache, Rules(older_than=1000 * DAY)) == [held.name]


def test_what_is_used_or_replaced_meanwhile_stays(cache):
    chosen = condemned(survey(cache), Rules(older_than=9 * DAY))
    store = ArtifactStore(cache / "artifacts")
    assert store.get("fit-old") is not None  # which notes the use
    store.path("unknown").unlink()
    removed, errors = remove(chosen)
    assert [file.path.stem for _, file in removed] == ["fit-now"]
    assert errors == []
    assert store.has("fit-old")


def test_links_are_not_followed(cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious.safetensors"
    precious.write_bytes(b"x" * 1000)
    (cache / "artifacts" / "aa").symlink_to(outside)
    (cache / "artifacts" / "em" / "emlink.safetensors").symlink_to(precious)
    (cache / "records" / "bb").symlink_to(outside)
    gone(cache, Rules(max_size=1))
    assert precious.exists()
    assert (cache / "artifacts" / "aa").is_symlink()
    assert (cache / "artifacts" / "notes.txt").exists()
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "artifacts").symlink_to(outside)
    with pytest.raises(UsageError, match="expected a cache"):
        check_cache(linked)
    assert survey(linked) == []


READER = """
import sys, torch
from pathlib import Path
from cibench.execute.store import ArtifactStore

store = ArtifactStore(Path(sys.argv[1]) / "artifacts")
want = torch.arange(50_000.0)
computed = 0
for round in range(int(sys.argv[2])):
    for key in map(str, range(8)):
        found = store.get(key)
        if found is None:
            computed += 1
            store.put(key, {"w": want}, kind="fit")
        else:
            assert torch.equal(found["w"], want)
    print(round, flush=True)
print("computed", computed)
"""


def test_a_reader_goes_on_while_files_are_removed(tmp_path):
    (tmp_path / "artifacts").mkdir()
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", READER, tmp_path, "60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        removed = 0
        for line in reader.stdout:  # as long as it reads
            if line.startswith("computed"):
                break
            rules = Rules(max_size=300_000)
            removed += len(remove(condemned(survey(tmp_path), rules))[0])
        _, error = reader.communicate(timeout=120)
    assert reader.returncode == 0, error
    assert int(line.split()[1]) > 8  # files did go while it read
    assert removed > 0
    assert all(file.kind == "fit" for file in survey(tmp_path))


RECORDER = """
import sys
from pathlib import Path
from cibench.execute.recorded import RecordCache

cache, content = RecordCache(Path(sys.argv[1])), sys.stdin.buffer.read()
for number in range(200):
    slot, key = f"{number % 7:016x}", f"key{number % 20}"
    found = cache.get(slot, key)
    assert found in (None, content), found
    cache.put(slot, key, content)
    cache.refresh()
    assert cache.has(slot, key)
    assert {r.key for r in cache.others(slot)} == {"k1"}
"""


def test_two_processes_share_the_records(tmp_path):
    content = encode(record_of("k1"))
    command = [sys.executable, "-W", "error", "-c", RECORDER, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for writer in writers:
        writer.stdin.write(content)
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        _, error = writer.communicate(timeout=120)
        assert writer.returncode == 0, error.decode()
    assert len([n for n in names(tmp_path) if n.endswith(".json")]) == 140
    assert all(n.endswith(".json") for n in names(tmp_path))


# The command line.


def test_the_listing_adds_up(cache, capsys):
    invoked("ls", "--cache", cache, "--json", "--long")
    found = json.loads(capsys.readouterr().out)
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert found["folder"] == str(cache)
    assert {kind: row["files"] for kind, row in kinds.items()} == {
        "embedding": 2, "fit": 3, "history": 1, "other": 2, "record": 2,
    }  # fmt: skip
    assert kinds["fit"]["damaged"] == 1
    fits = [row for row in found["files"] if row["kind"] == "fit"]
    assert kinds["fit"]["bytes"] == sum(row["bytes"] for row in fits)
    assert kinds["fit"]["oldest_use"] == min(row["used"] for row in fits)
    uses = [row["used"] for row in found["files"]]
    assert uses == sorted(uses, reverse=True)


def test_the_listing_for_people(cache, capsys, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(cache))
    invoked("ls")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{cache}: 10 files, ")
    assert lines[1].split() == [
        "kind", "files", "size", "damaged", "oldest", "use", "newest", "use"
    ]  # fmt: skip
    assert len(lines) == 2 + 5
    invoked("ls", "--long")
    assert len(capsys.readouterr().out.splitlines()) == 2 + 10
    invoked("ls", "--cache", cache / "absent")
    assert capsys.readouterr().out == f"{cache / 'absent'}: 0 files, 0 bytes\n"
    assert not (cache / "absent").exists()


def test_a_dry_run_says_what_then_goes(cache, capsys):
    before = names(cache)
    options = (
        "gc",
        "--cache",
        cache,
        "--older-than",
        "9d",
        "--stale",
        "--damaged",
        "--json",
    )
    invoked(*options, "--dry-run")
    planned = json.loads(capsys.readouterr().out)
    assert names(cache) == before
    invoked(*options)
    done = json.loads(capsys.readouterr().out)
    assert planned == {**done, "dry_run": True}
    assert done["files"] == len(before - names(cache)) == 7
    assert done["bytes"] == sum(row["bytes"] for row in done["removed"])
    assert {row["reason"] for row in done["removed"]} == {"old", "stale", "damaged"}
    assert done["left_files"] == len(survey(cache))
    assert done["left_bytes"] == sum(file.size for file in survey(cache))


def test_a_collection_for_people(cache, capsys):
    invoked("gc", "--cache", cache, "--damaged", "--dry-run")
    assert "would remove 1 file, " in capsys.readouterr().out
    invoked("gc", "--cache", cache, "--damaged")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [
        ["reason", "kind", "files"], ["damaged", "fit", "1"],
    ]  # fmt: skip
    assert lines[2].startswith(f"{cache}: removed 1 file, ")
    assert "; left 9 files, " in lines[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"expected what to remove, got nothing; give --older-than 30d"),
        (["--dry-run"], r"expected what to remove, got nothing"),
        (["--older-than", "soon"], r"--older-than: expected a duration"),
        (["--max-size", "big"], r"--max-size: expected a size"),
        (["--max-size", "none"], r"--max-size: expected a limit, got 'none'"),
    ],
    ids=str,
)
def test_bad_options_remove_nothing(cache, options, message):
    before = names(cache)
    with pytest.raises(UsageError, match=message):
        invoked("gc", "--cache", cache, *options)
    assert names(cache) == before


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "aa").mkdir()
    (tmp_path / "aa" / "mine.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="expected a cache, which has folders"):
            invoked("gc", "--cache", folder, "--max-size", "1")
    assert names(tmp_path) == {"mine.json"}


def test_files_that_cannot_be_removed_are_an_error(cache, monkeypatch, capsys):
    monkeypatch.setattr(Path, "unlink", fails_with(errno.EROFS))
    with pytest.raises(
        OutputError, match=r"got 1 that cannot, .*Read-only file system"
    ):
        invoked("gc", "--cache", cache, "--damaged")
    assert "removed 0 files" in capsys.readouterr().out


def test_listing_a_cache_needs_no_torch(cache):
    script = (
        "import sys; from cibench.cli.cache import command;"
        f" command.main(['ls', '--cache', {str(cache)!r}], standalone_mode=False);"
        " command.main(['gc', '--stale', '--dry-run', '--cache',"
        f" {str(cache)!r}], standalone_mode=False);"
        " import cibench.execute.explain;"
        " assert {'torch', 'numpy', 'psutil', 'rich'}.isdisjoint(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
