"""Bundles: the same bytes every time, and every hostile one refused with its reason."""

import hashlib
import json
import lzma
import os
import pickle
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load, save

from cibench import cli
from cibench._errors import SubmissionError
from cibench.results import Proportion, RunFolder
from cibench.submission import archive
from cibench.submission.bundle import read_any, read_bundle, write_bundle
from cibench.submission.manifest import MANIFEST, RECORDS, VERIFICATION
from cibench.submission.names import witness_name
from cibench.submission.verify import verify_bundle
from helpers_submission import Opened, run, zipped

pytestmark = pytest.mark.xdist_group("submission")

PGD = "--pgd--copur--"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two defenses and three attacks, and its bundle."""
    folder = tmp_path_factory.mktemp("made")
    attacks = ("none", "pgd:agents=random:1", "flip:agents=last")
    out = run(folder, attacks, ("none", "copur"))
    code = cli.invoke(
        ["submit", str(out), "--author", "Ada", "-o", str(folder / "b.zip")]
    )
    assert code == 0
    return folder


@pytest.fixture
def bundle(made):
    return Opened(made / "b.zip")


def refused(path, match):
    with pytest.raises(SubmissionError, match=match) as caught:
        verify_bundle(Path(path))
    assert caught.value.exit_code == 4


def test_a_bundle_says_what_the_run_said(made):
    bundle = read_bundle(made / "b.zip")
    assert bundle.records == RunFolder(made / "run").read()
    cells = {record.cell for record in bundle.records}
    assert bundle.witnesses == cells
    for cell in cells:
        assert (
            bundle.witness(cell) == RunFolder(made / "run").witness(cell).read_bytes()
        )
    with zipfile.ZipFile(made / "b.zip") as opened:
        told = opened.read(MANIFEST)
    assert bundle.digest == hashlib.sha256(told).hexdigest()
    assert verify_bundle(made / "b.zip").badge == "claimed"


def test_a_bundle_is_the_same_bytes_every_time(made, tmp_path):
    once = read_bundle(made / "b.zip")
    manifest = msgspec.structs.replace(once.manifest, files={})
    for name, order in (("x", 1), ("y", -1)):
        cells = sorted(once.witnesses)[::order]
        write_bundle(
            tmp_path / name,
            manifest,
            once.records[::order],
            {cell: lambda cell=cell: once.witness(cell) for cell in cells},
        )
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert (tmp_path / "x").read_bytes() == (made / "b.zip").read_bytes()


def test_an_entry_is_read_from_its_folder(made, tmp_path):
    with zipfile.ZipFile(made / "b.zip") as opened:
        for name in (MANIFEST, RECORDS):
            (tmp_path / name).write_bytes(opened.read(name))
    (tmp_path / VERIFICATION).write_text("{}")
    entry, bundle = read_any(tmp_path), read_any(made / "b.zip")
    assert (entry.records, entry.digest) == (bundle.records, bundle.digest)
    assert entry.witnesses == frozenset()
    assert verify_bundle(tmp_path).witnesses == 0
    (tmp_path / RECORDS).unlink()
    os.symlink(made / "b.zip", tmp_path / RECORDS)
    refused(tmp_path, r"expected a file records\.jsonl\.xz")


def test_nothing_of_the_cache_and_no_log_gets_in(made):
    with zipfile.ZipFile(made / "b.zip") as opened:
        names = set(opened.namelist())
    cells = RunFolder(made / "run").names()
    assert names == {MANIFEST, RECORDS, *map(witness_name, cells)}


def test_not_a_zip_file(tmp_path, made):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path, "expected a whole zip file")
    content = (made / "b.zip").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "expected a whole zip file")
    refused(tmp_path / "absent", "No such file")


def test_an_empty_zip_file(tmp_path):
    refused(zipped(tmp_path / "x", {}), r"expected bundle\.json")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../evil.safetensors", "leads out of it"),
        ("witnesses/../../x.safetensors", "leads out of it"),
        ("/etc/passwd", "leads out of it"),
        ("C:/x", "leads out of it"),
        ("witnesses\\..\\x.safetensors", "leads out of it"),
        ("witnesses/a\x1bb.safetensors", r"U\+001B"),
        ("witnesses/a\u202eb.safetensors", r"U\+202E"),
        ("witnesses/a/b.safetensors", "expected a cell's id"),
        ("witnesses/.safetensors", "expected only"),
        ("witnesses/", "expected only|a folder"),
        ("fit.pkl", "nothing that can hold code"),
        ("data.pt", "nothing that can hold code"),
        ("setup.py", "nothing that can hold code"),
        ("README.md", "expected only"),
    ],
)
def test_other_names(bundle, tmp_path, name, match):
    bundle.files[name] = b"x"
    refused(bundle.save(tmp_path / "x"), match)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_a_name_with_a_zero_byte(made, tmp_path):
    name = witness_name("a--b--c--0--12345678")
    path = zipped(tmp_path / "x", {name: b""})
    raw = path.read_bytes().replace(name.encode(), name.encode().replace(b"b", b"\0"))
    path.write_bytes(raw)
    refused(path, "plain name|control|zip file")


def test_links_and_folders(tmp_path):
    for mode, match in (
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFIFO, "special file"),
    ):
        with zipfile.ZipFile(tmp_path / "x", "w") as opened:
            info = zipfile.ZipInfo(MANIFEST)
            info.create_system, info.external_attr = 3, (mode | 0o777) << 16
            opened.writestr(info, "/etc/passwd")
        refused(tmp_path / "x", match)


def test_encrypted_members(tmp_path):
    raw = bytearray(zipped(tmp_path / "x", {MANIFEST: b"{}"}).read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(magic) + at] |= 1
    (tmp_path / "x").write_bytes(raw)
    refused(tmp_path / "x", "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compression(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x", "w", method) as opened:
        opened.writestr(MANIFEST, b"{}")
    refused(tmp_path / "x", "stored or deflated")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as opened:
        opened.writestr(MANIFEST, b"{}")
        opened.writestr(MANIFEST, b"{}")
    refused(tmp_path / "x", "each name once")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MEMBERS", 2)
    names = [witness_name(f"a{n}") for n in range(3)]
    refused(zipped(tmp_path / "x", dict.fromkeys(names, b"")), "at most 2 members")


def test_a_zip_bomb_is_counted_not_believed(tmp_path):
    path = zipped(tmp_path / "x", {MANIFEST: bytes(archive.MEMBER_BYTES + 1)})
    assert path.stat().st_size < 10**6
    refused(path, f"at most {archive.MEMBER_BYTES} bytes")
    # The headers claim a byte; the content has more.
    raw = bytearray(zipped(path, {MANIFEST: bytes(10**6)}).read_bytes())
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(magic) + at, 1)
    path.write_bytes(raw)
    refused(path, "whole zip file|expected a manifest")


def test_all_members_together_are_too_large(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "TOTAL_BYTES", 3_000)
    path = bundle.save(tmp_path / "x")
    refused(path, "at most 3000 bytes")


def test_a_bomb_in_the_records(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "RECORDS_BYTES", 10**6)
    monkeypatch.setattr(archive.unpacked_lines, "__defaults__", (10**6,))
    refused(bundle.save(tmp_path / "x", lines=[b" " * 10**7]), "at most 1000000 bytes")


def test_records_that_are_no_xz_file(bundle, tmp_path):
    def save(packed):
        files = {**bundle.files, RECORDS: packed}
        members = {
            name: {"sha256": hashlib.sha256(x).hexdigest(), "size": len(x)}
            for name, x in files.items()
        }
        told = {**msgspec.to_builtins(bundle.manifest), "files": members}
        return zipped(tmp_path / "x", {**files, MANIFEST: json.dumps(told).encode()})

    whole = lzma.compress(b"".join(line + b"\n" for line in bundle.lines()))
    refused(save(b"not xz"), "whole xz file")
    refused(save(whole[:-30]), "xz")
    refused(save(whole + whole), "one xz stream")
    refused(save(lzma.compress(bundle.lines()[0])), "whole lines")
    huge = {"id": lzma.FILTER_LZMA2, "dict_size": 2**30}
    refused(save(lzma.compress(b"x\n", filters=[huge])), "xz file")


def test_content_that_the_manifest_does_not_list(made, bundle, tmp_path):
    def put(name, content):
        with zipfile.ZipFile(made / "b.zip") as opened:
            files = {n: opened.read(n) for n in opened.namelist()}
        files[name] = content
        return zipped(tmp_path / "x", {n: x for n, x in files.items() if x is not None})

    name = witness_name(bundle.only(PGD))
    refused(put(name, b"other"), r"expected the content that bundle\.json lists")
    refused(put(name, None), "no file, though")
    refused(put(witness_name("other"), b"x"), "does not list")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2}, "format"),
        ({"protocol": 99}, "protocol 1, got 99"),
        ({"extra": 1}, "unknown field"),
        ({"author": ""}, "length"),
        ({"author": " "}, "some text"),
        ({"author": "x" * 201}, "length"),
        ({"author": "a\u202eb"}, r"U\+202E"),
        ({"title": "a\nb"}, r"U\+000A"),
        ({"title": "a\x1b[31m"}, r"U\+001B"),
        ({"link": "javascript:alert(1)"}, "https"),
        ({"name": "../x"}, "a-z0-9"),
        ({"name": "x\n"}, r"U\+000A"),
        ({"created": "2026-13-01"}, "expected a date"),
        ({"citations": {"<script>": "x"}}, "plugin's name"),
        ({"note": "a\u2066b"}, r"U\+2066"),
    ],
)
def test_manifests_not_of_the_schema(bundle, tmp_path, changes, match):
    refused(bundle.save(tmp_path / "x", **changes), match)


def test_records_not_of_the_schema(bundle, tmp_path):
    good = bundle.lines()

    def first(change):
        record = json.loads(good[0])
        change(record)
        return bundle.save(
            tmp_path / "x", lines=[json.dumps(record).encode(), *good[1:]]
        )

    refused(first(lambda r: r.update(extra=1)), "unknown field")
    refused(first(lambda r: r.update(schema_version=3)), "schema")
    refused(first(lambda r: r.pop("seed")), "seed")
    refused(first(lambda r: r["metrics"].update(balanced_clean=float("nan"))), "schema")
    refused(first(lambda r: r["metrics"].update(balanced_clean=float("inf"))), "schema")
    text = good[0].replace(b'"balanced_clean":', b'"balanced_clean":1e999,"x":', 1)
    refused(bundle.save(tmp_path / "x", lines=[text, *good[1:]]), "schema")
    refused(bundle.save(tmp_path / "x", lines=[b"[" * 10**5]), "schema")
    refused(bundle.save(tmp_path / "x", lines=[b"\xff\xfe"]), "schema")
    refused(bundle.save(tmp_path / "x", lines=[b""]), "schema")


def test_shares_that_are_none(bundle, tmp_path):
    cell = bundle.only(PGD)
    bundle.metrics(cell, attacked=Proportion(successes=19, n=18))
    refused(bundle.save(tmp_path / "x"), "0 <= successes <= n, got 19 of 18")
    bundle.metrics(cell, attacked=Proportion(successes=-1, n=18))
    refused(bundle.save(tmp_path / "x"), "got -1 of 18")


def test_cells_twice(bundle, tmp_path):
    lines = bundle.lines()
    refused(bundle.save(tmp_path / "x", lines=[*lines, lines[0]]), "each cell once")
    cell = bundle.only(PGD)
    bundle.records["other"] = msgspec.structs.replace(
        bundle.records[cell], cell="other"
    )
    refused(bundle.save(tmp_path / "x"), "one record for each data set")


def test_records_of_another_protocol_partial_or_hostile(bundle, tmp_path):
    cell = bundle.only(PGD)
    record = bundle.records[cell]
    for changes, match in (
        ({"protocol": 2}, "protocol 1 as all the bundle, got 2"),
        ({"flags": ["partial"]}, "all test samples"),
        ({"inputs": {**record.inputs, "samples": "10"}}, "all test samples"),
        ({"cell": "../x"}, "cell's id"),
        ({"agents": ["a\u202eb", "b", "c"]}, r"U\+202E"),
        ({"created": "yesterday"}, "date and time"),
        ({"attack": []}, "expected an attack"),
        ({"fitted": {"x": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "nested"),
    ):
        bundle.records[cell] = msgspec.structs.replace(record, **changes)
        refused(bundle.save(tmp_path / "x"), match)
    named = msgspec.structs.replace(record.defense, name="<script>")
    bundle.records[cell] = msgspec.structs.replace(record, defense=named)
    refused(bundle.save(tmp_path / "x"), "plugin's name")


def test_a_witness_without_a_record(bundle, tmp_path):
    del bundle.records[bundle.only(PGD)]
    refused(bundle.save(tmp_path / "x"), "expected a record of its cell")


def witness(bundle, cell, change):
    """Replace a witness by a changed one."""
    tensors = load(bundle.files[witness_name(cell)])
    change(tensors)
    bundle.files[witness_name(cell)] = save(tensors)


def test_a_pickle_in_disguise(bundle, tmp_path):
    cell = bundle.only(PGD)
    torch.save({"x": 1}, tmp_path / "t")
    for content, match in (
        (pickle.dumps([1]), "got a pickle"),
        ((tmp_path / "t").read_bytes(), "such as torch"),
        (b"", "safetensors"),
        (b"\xff" * 100, "safetensors"),
        ((8).to_bytes(8, "little") + b"{}      ", "got others"),
    ):
        bundle.files[witness_name(cell)] = content
        refused(bundle.save(tmp_path / "x"), match)


def test_a_witness_that_touches_honest_blocks(bundle, tmp_path):
    cell = bundle.only("--flip--copur")
    witness(bundle, cell, lambda t: t["features"][3].fill_(1.0))
    refused(bundle.save(tmp_path / "x"), "zeros in the blocks of honest agents")
    # The last agent attacks alone here: other witnesses tell where its block begins.
    bundle = Opened(tmp_path / "x")
    witness(bundle, cell, lambda t: t["features"].mul_(0.0)[:, 5].fill_(1.0))
    refused(bundle.save(tmp_path / "x"), "zeros in the blocks of honest agents")


def test_witnesses_of_other_shapes_and_agents(bundle, tmp_path):
    cell = bundle.only(PGD)
    for change, match in (
        (lambda t: t.pop("observed"), "got others"),
        (lambda t: t.update(observed=t["observed"][:-1]), "expected observed of shape"),
        (lambda t: t.update(features=t["features"].double()), "float32"),
        (lambda t: t["compromised"].fill_(True), "compromised agents of its record"),
    ):
        other = Opened(bundle_file(bundle, tmp_path))
        witness(other, cell, change)
        refused(other.save(tmp_path / "x"), match)


def bundle_file(bundle, folder):
    return bundle.save(folder / "good")


def test_witnesses_of_persons_are_refused(bundle, tmp_path):
    for cell in bundle.records:
        bundle.change(cell, personal=True)
    refused(bundle.save(tmp_path / "x"), "not for publication")


def test_submitting_leaves_out_what_is_of_persons(made, tmp_path, capsys):
    shutil.copytree(made / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for record in folder.read():
        folder.write(msgspec.structs.replace(record, personal=True))
    out = tmp_path / "p.zip"
    assert (
        cli.invoke(["submit", str(tmp_path / "run"), "--author", "A", "-o", str(out)])
        == 0
    )
    told = capsys.readouterr()
    assert "their witnesses are left out" in told.err
    assert told.out == f"{out}\n"
    assert read_bundle(out).witnesses == frozenset()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"flags": ["partial"]}, "all test samples"),
        ({"protocol": 2}, "expected protocol 1"),
        ({"notes": ["read from /var/lib/ada/x.csv"]}, "no path of a machine"),
        ({"fitted": {"from": "C:" + chr(92) + "ada"}}, "no path of a machine"),
    ],
)
def test_submitting_refuses(made, tmp_path, capsys, changes, match):
    shutil.copytree(made / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    record = folder.read()[0]
    folder.write(msgspec.structs.replace(record, **changes))
    out = tmp_path / "p.zip"
    arguments = ["submit", str(tmp_path / "run"), "--author", "A", "-o", str(out)]
    assert cli.invoke(arguments) == 4
    assert match in capsys.readouterr().err
    assert not out.exists()


def test_failed_cells_are_submitted_as_they_are(made, tmp_path, capsys):
    shutil.copytree(made / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    record = folder.read()[0]
    failed = msgspec.structs.replace(
        record, status="timeout", reason="1h", metrics=None, outcomes=None,
        timings=None, certificates=[], flags=[],
    )  # fmt: skip
    folder.write(failed)
    out = tmp_path / "p.zip"
    arguments = ["submit", str(tmp_path / "run"), "--author", "A", "-o", str(out)]
    assert cli.invoke([*arguments, "--pr-text"]) == 0
    told = capsys.readouterr()
    assert str(out) in told.err
    assert "incomplete" in told.out
    bundle = read_bundle(out)
    assert failed in bundle.records
    assert failed.cell not in bundle.witnesses


def test_submitting_some_defenses(made, tmp_path, capsys):
    out = tmp_path / "p.zip"
    arguments = ["submit", str(made / "run"), "--author", "A|<b>", "-o", str(out)]
    assert cli.invoke([*arguments, "-d", "cop*", "--no-witnesses"]) == 0
    told = capsys.readouterr()
    assert "<b>" not in told.err
    bundle = read_bundle(out)
    assert {record.defense.name for record in bundle.records} == {"copur"}
    assert bundle.witnesses == frozenset()
    assert cli.invoke([*arguments, "-d", "absent"]) == 5
    assert cli.invoke([*arguments, "--name", "A B"]) == 2
