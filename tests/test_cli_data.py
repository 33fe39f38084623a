"""`cibench data`: terms first, then files; and what is here is checked."""

import gzip
import io
import json
import sys
import zipfile
from dataclasses import replace

import pytest

import helpers_extrasensory as extrasensory
from cibench import cli
from cibench_plugins.datasets.extrasensory import ExtraSensory
from helpers_server import Host, serving


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in ("CIBENCH_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = cli.invoke(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The official archive with one user's generated file."""
    file = extrasensory.write_user(tmp_path_factory.mktemp("user"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.write(file, file.name)
    return file.name, buffer.getvalue()


@pytest.fixture
def host(archive, monkeypatch):
    """The archive's host, moved here."""
    with serving(Host(archive[1])) as served:
        here = replace(ExtraSensory.downloads[0], url=served.url)
        monkeypatch.setattr(ExtraSensory, "downloads", (here,))
        yield served


def test_ls_names_every_data_set(call, tmp_path):
    code, out, err = call("ls", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"mfeat", "synthetic", "nuswide", "table", "features"} <= set(rows)
    assert rows["mfeat"] == {
        "name": "mfeat", "where": "with cibench", "licence": "CC BY 4.0", "here": "yes"
    }  # fmt: skip
    assert rows["nuswide"]["where"] == "lms.comp.nus.edu.sg (no sha256 known)"
    assert "not stated" in rows["nuswide"]["licence"]
    assert rows["table"]["where"] == "your own files"
    assert rows["extrasensory"]["here"] == "no"
    extrasensory.write_user(tmp_path / "data" / "extrasensory")
    code, out, _ = call("ls", "--data-dir", "data")
    (line,) = (ln for ln in out.splitlines() if ln.startswith("extrasensory"))
    assert line.endswith("yes")


def test_a_broken_plugin_hides_no_other(call, monkeypatch):
    def broken(self, *, data_dir=None):
        raise ValueError("no such thing")

    monkeypatch.setattr(ExtraSensory, "present", broken)
    code, out, _ = call("ls")
    assert code == 0
    assert "cannot be read: no such thing" in out
    assert "mfeat" in out


def test_fetch_shows_the_terms_and_gets_the_files(call, host, archive):
    code, out, err = call("fetch", "extrasensory", "--into", "d", "--yes")
    assert code == 0, err
    assert "CC BY-NC-SA 4.0" in err
    assert "about 215 MB" in err
    assert host.url in err
    assert "1 files in d/extrasensory, sha256" in out
    assert "--dataset extrasensory --data-dir d" in out
    code, out, _ = call("verify", "extrasensory", "--data-dir", "d")
    assert code == 0
    assert "1 files as they were fetched" in out
    assert "phone-accelerometer 26" in out
    assert out.count("SITTING") >= 3
    asked = len(host.requests)
    code, out, err = call("fetch", "extrasensory", "--into", "d", "--yes")
    assert (code, err) == (0, "")
    assert "already in" in out
    assert len(host.requests) == asked


def test_without_a_terminal_nothing_is_accepted(call, host, tmp_path):
    code, out, err = call("fetch", "extrasensory")
    assert (code, out) == (2, "")
    assert "CC BY-NC-SA 4.0" in err
    assert err.splitlines()[-1].startswith("error: data fetch: expected --yes")
    assert host.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_a_terminal_is_asked(call, host, monkeypatch, tmp_path, answer, code):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    got, _, err = call("fetch", "extrasensory")
    assert got == code, err
    assert "Accept these terms" in err
    assert (tmp_path / "data" / "extrasensory").exists() == (code == 0)
    assert bool(host.requests) == (code == 0)


def test_a_host_that_is_gone_is_one_line_and_leaves_nothing(call, host, tmp_path):
    host.status = 404
    code, out, err = call("fetch", "extrasensory", "--yes")
    assert (code, out) == (3, "")
    line = err.splitlines()[-1]
    assert line.startswith("error: ExtraSensory.per_uuid_features_labels.zip: expected")
    assert "got status 404" in line
    assert "extrasensory.ucsd.edu for where" in line
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_data_sets_without_downloads_say_so(call):
    code, _, err = call("fetch", "table", "--yes")
    assert code == 2
    assert "got table, which has none (it reads a table and a mapping" in err
    code, _, err = call("fetch", "mfeet", "--yes")
    assert code == 2
    assert "did you mean 'mfeat'?" in err


def test_verify_finds_what_has_changed(call, host, archive, tmp_path):
    call("fetch", "extrasensory", "--yes")
    file = tmp_path / "data" / "extrasensory" / archive[0]
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + b"\r\n"))
    code, _, err = call("verify", "extrasensory", "--data-dir", "data")
    assert code == 3
    assert f"{archive[0]}: expected sha256" in err


def test_verify_without_a_download_checks_the_contents(call, tmp_path):
    file = extrasensory.write_user(tmp_path / "data")
    code, out, _ = call("verify", "extrasensory", "--data-dir", "data")
    assert code == 0
    assert "not fetched by cibench, no checksum" in out
    assert "test: " in out
    file.write_bytes(file.read_bytes()[:1000])
    code, _, err = call("verify", "extrasensory", "--data-dir", "data")
    assert code == 3
    assert "truncated" in err


def test_verify_takes_options(call):
    code, out, _ = call("verify", "synthetic:agents=3,width=2,rank=2,samples=40")
    assert code == 0
    assert "agents agent1 2, agent2 2, agent3 2" in out
    assert "train: 20 rows (class0 10, class1 10)" in out
    assert call("verify", "synthetic:agents=1")[0] == 2
