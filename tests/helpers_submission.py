"""Tiny runs to submit, and bundles to tamper with."""

import contextlib
import hashlib
import io
import json
import lzma
import zipfile
from pathlib import Path

import msgspec
import pytest

from cibench import cli
from cibench.results.record import decode
from cibench.submission.manifest import MANIFEST, RECORDS, Manifest

SET = "synthetic:agents=3,rank=2,samples=60,width=3"
RECIPE = "identity:batch=10,epochs=3"


def run(folder, attacks, defenses, *more):
    """A run of every attack on every defense, its cache beside it; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIBENCH_CACHE", str(folder / "cache"))
        arguments = ["run", "--dataset", SET, "--embedding", RECIPE, "-q"]
        arguments += ["--seeds", "1", "--isolation", "none", *more]
        for attack in attacks:
            arguments += ["-a", attack]
        for defense in defenses:
            arguments += ["-d", defense]
        out = folder / "run"
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.invoke([*arguments, "--witnesses", "-o", str(out)])
    assert code == 0
    return out


class Opened:
    """A bundle's parts, to be changed and packed again with hashes that fit."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as opened:
            self.files = {name: opened.read(name) for name in opened.namelist()}
        self.manifest = msgspec.json.decode(self.files.pop(MANIFEST), type=Manifest)
        lines = lzma.decompress(self.files.pop(RECORDS)).splitlines()
        self.records = {record.cell: record for record in map(decode, lines)}

    def only(self, part):
        (cell,) = (cell for cell in self.records if part in cell)
        return cell

    def change(self, cell, **changes):
        self.records[cell] = msgspec.structs.replace(self.records[cell], **changes)

    def metrics(self, cell, **changes):
        metrics = self.records[cell].metrics
        self.change(cell, metrics=msgspec.structs.replace(metrics, **changes))

    def outcomes(self, cell, **changes):
        outcomes = self.records[cell].outcomes
        self.change(cell, outcomes=msgspec.structs.replace(outcomes, **changes))

    def lines(self):
        return [
            msgspec.json.encode(self.records[cell]) for cell in sorted(self.records)
        ]

    def save(self, path, *, lines=None, **changes):
        """Pack it; `changes` are of the manifest."""
        packed = lzma.compress(b"".join(x + b"\n" for x in lines or self.lines()))
        files = {**self.files, RECORDS: packed}
        members = {
            name: {"sha256": hashlib.sha256(x).hexdigest(), "size": len(x)}
            for name, x in files.items()
        }
        told = {**msgspec.to_builtins(self.manifest), "files": members, **changes}
        files[MANIFEST] = json.dumps(told).encode()
        return zipped(path, files)


def zipped(path, files):
    """A zip file of names and contents."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return Path(path)
