"""Records on disk: exact, strict, published as a schema, silent about the machine."""

import getpass
import json
import platform
import re
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cibench import cli
from cibench._errors import OutputError
from cibench.execute.blank import scrub
from cibench.grid import expand
from cibench.registry import default_registry
from cibench.results import SCHEMA_VERSION, RunFolder, json_schema
from cibench.results.record import decode, encode
from cibench.results.table import tables
from helpers import run_cells

SCHEMA = resources.files("cibench.results") / "record.schema.json"
#: Deep inside a record: a key that must be there, and a place where none may be added.
PLACES = (
    (), ("dataset",), ("attack", 0), ("attack", 0, "component"), ("defense",),
    ("metrics",), ("metrics", "clean"), ("outcomes",), ("timings",),
)  # fmt: skip


def computed(**settings):
    cells = expand(
        default_registry(),
        datasets=["synthetic:agents=3,rank=2,samples=40,width=4"],
        attacks=["pgd:agents=worst:1,budget=1,steps=2"],
        defenses=["none", "copur"], seeds=[0], embedding="identity:epochs=2",
    )  # fmt: skip
    return [record for _, record, _ in run_cells(cells, **settings)]


@pytest.fixture(scope="module")
def records():
    found = computed()
    assert [r.status for r in found] == ["ok", "ok"]
    return found


@pytest.fixture
def plain(records):
    return json.loads(encode(records[1]))


def at(record, place):
    for step in place:
        record = record[step]
    return record


def test_a_record_comes_back_exactly(records):
    for record in records:
        assert decode(encode(record)) == record
        assert encode(decode(encode(record))) == encode(record)
        assert encode(record).endswith(b"}\n")


@given(
    number=st.floats(allow_nan=False, allow_infinity=False), bits=st.integers(0, 2**80)
)
def test_numbers_come_back_exactly(records, number, bits):
    record = records[0]
    metrics = msgspec.structs.replace(record.metrics, recovery_error=number)
    outcomes = msgspec.structs.replace(record.outcomes, compromised=[bits])
    record = msgspec.structs.replace(record, metrics=metrics, outcomes=outcomes)
    assert decode(encode(record)) == record


def test_a_record_cannot_be_changed(records):
    with pytest.raises(AttributeError, match="immutable"):
        records[0].seed = 3


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_unknown_fields_are_refused(plain, place):
    at(plain, place)["surplus"] = 1
    with pytest.raises(msgspec.ValidationError, match="unknown field `surplus`"):
        decode(json.dumps(plain).encode())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, json_schema())


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_required_fields_are_required(plain, place):
    part = at(plain, place)
    # Defaults exist only at the top.
    key = "fingerprint" if not place else next(iter(part))
    del part[key]
    with pytest.raises(
        msgspec.ValidationError, match=f"missing required field `{key}`"
    ):
        decode(json.dumps(plain).encode())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, json_schema())


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "status", "fine"),
        ((), "seed", "0"),
        ((), "seed", 0.5),
        ((), "flags", "partial"),
        (("metrics", "clean"), "successes", 0.5),
        (("metrics",), "balanced_clean", "0.5"),
        (("metrics",), "balanced_clean", None),
        (("outcomes",), "recovery_error", [None]),
        (("outcomes",), "counted", [1]),
    ],
)
def test_wrong_types_are_refused(plain, place, key, value):
    at(plain, place)[key] = value
    with pytest.raises(msgspec.ValidationError):
        decode(json.dumps(plain).encode())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, json_schema())


def test_records_follow_the_schema(records):
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    for record in records:
        validator.validate(json.loads(encode(record)))


def test_the_published_schema_is_the_one_of_the_code(capsys):
    """Renew it: `cibench schema > cibench/results/record.schema.json`."""
    assert cli.invoke(["schema"]) == 0
    assert SCHEMA.read_text(encoding="utf-8") == capsys.readouterr().out


def test_the_schema_names_its_version():
    assert json_schema()["title"].endswith(f"version {SCHEMA_VERSION}")
    assert "$schema" in json_schema()


# Folders.


def test_a_folder_gives_back_what_was_written(tmp_path, records):
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create()
    for record in records:
        path = folder.write(record)
        assert path.read_bytes() == encode(record)
    assert folder.read() == sorted(records, key=lambda record: record.cell)
    assert sorted(p.name for p in folder.cells.iterdir()) == sorted(
        f"{r.cell}.json" for r in records
    )


def changed(field, value):
    def change(content):
        return json.dumps({**json.loads(content), field: value}).encode()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"seed"', b'"sede"'),
        lambda content: b"[]",
        lambda content: b"\xff\xfe" + content,
        lambda content: content + b"{}",
        changed("schema_version", SCHEMA_VERSION + 1),
    ],
    ids=["empty", "truncated", "field", "list", "bytes", "trailing", "version"],
)
def test_a_damaged_record_is_named(tmp_path, records, damage):
    folder = RunFolder(tmp_path)
    folder.create()
    path = folder.write(records[0])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OutputError, match=f"record {re.escape(path.name)}: expected a"):
        folder.read()


def test_a_record_that_is_a_folder_is_named(tmp_path, records):
    folder = RunFolder(tmp_path)
    folder.create()
    (folder.cells / "odd.json").mkdir()
    with pytest.raises(OutputError, match=r"odd\.json"):
        folder.read()


def test_writing_where_nothing_can_be_written(tmp_path, records):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another with -o"):
        RunFolder(tmp_path / "file").create()
    with pytest.raises(OutputError, match="expected a folder that can be written"):
        RunFolder(tmp_path / "absent").write(records[0])


def test_an_interrupted_write_leaves_no_half_record(tmp_path, records, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.create()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        folder.write(records[0])
    assert list(folder.cells.iterdir()) == []


# Tables.


def test_tables_do_not_depend_on_the_order_of_records(records):
    more = [
        msgspec.structs.replace(record, seed=seed, key=f"{record.key}{seed}")
        for record in records
        for seed in (10, 2)
    ]
    everything = [*records, *more]
    assert tables(everything) == tables(everything[::-1])
    (table,) = tables(everything)
    assert [row[0] for row in table.rows] == ["copur", "none"]
    assert any("seeds 0, 2, 10" in note for note in table.notes)


def test_other_data_protocol_or_embedding_is_another_table(records):
    record = records[0]
    for change in (
        {"fingerprint": "other"}, {"protocol": 99}, {"embedding": {"block": 7}},
        {"device": "cuda"},
    ):  # fmt: skip
        other = msgspec.structs.replace(record, seed=1, **change)
        assert len(tables([record, other])) == 2


def test_a_failed_seed_leaves_no_mean(records):
    failed = msgspec.structs.replace(
        records[0], seed=1, status="failed", reason="why", metrics=None, outcomes=None
    )
    (table,) = tables([records[0], failed])
    assert table.rows == (("none", "1 of 2 seeds failed", *[""] * 8),)
    assert f"{failed.cell}: failed: why" in table.notes


# Privacy.


def text_values(value, key=""):
    if isinstance(value, dict):
        for name, part in value.items():
            yield from text_values(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from text_values(part, key)
    elif isinstance(value, str):
        yield key, value


def test_a_record_names_no_folder_user_or_host(tmp_path):
    found = computed(data_dir=tmp_path / "secret-data", cache=tmp_path / "secret-cache")
    for record in found:
        content = encode(record).decode()
        for private in ("secret", str(Path.home()), str(Path.cwd()), sys.prefix):
            assert private not in content
        for key, value in text_values(json.loads(content)):
            assert not re.search(r"(^|[\s'\"(=])(/|[A-Za-z]:[/\\])[\w.]", value), (
                key,
                value,
            )
            words = re.split(r"[^\w.-]+", value)
            assert platform.node() not in words
            assert getpass.getuser() not in words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no /srv/someone/data/x.csv here", "no x.csv here"),
        ("'/var/a b.txt'", "'a b.txt'"),
        (
            "[Errno 2] No such file: '/data/u/f.csv.gz'",
            "[Errno 2] No such file: 'f.csv.gz'",
        ),
        ("open C:" + r"\tools\me\f.csv", "open f.csv"),
        ("path=/srv/x/y", "path=y"),
        ('File "/usr/lib/mod.py", line 3', 'File "mod.py", line 3'),
        ("two\n  lines\tand more", "two lines and more"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("agents 7/10 and a/b and 1 / 2", "agents 7/10 and a/b and 1 / 2"),
        ("x" * 600, "x" * 500),
    ],
)
def test_reasons_lose_folders_and_line_breaks(text, expected):
    assert scrub(text) == expected
