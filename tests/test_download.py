"""Fetching, resuming, checking and unpacking, against a server with chosen faults."""

import hashlib
import io
import socket
import stat
import sys
import time
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cibench import DataError
from cibench._errors import EnvironmentFault
from cibench.download import Download, fetch, sidecar, verify
from helpers_server import Host, serving

CONTENT = bytes(range(256)) * 40
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def of(host, **options):
    given = {"sha256": SUM, "licence": "CC0", "elsewhere": "ask the authors"}
    return Download(url=host.url, file="file.bin", **given | options)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def contents(folder):
    """Every file of a folder but records of downloads."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".fetched.json")
    }


def test_a_file_is_fetched_checked_and_recorded(tmp_path):
    seen = []
    with serving(Host(CONTENT)) as host:
        fetched = fetch(of(host), tmp_path / "a", report=lambda *s: seen.append(s))
    assert contents(tmp_path / "a") == {"file.bin": CONTENT}
    assert fetched.sha256 == SUM
    assert [(k.name, k.bytes, k.sha256) for k in fetched.files] == [
        ("file.bin", len(CONTENT), SUM)
    ]
    assert verify(of(host), tmp_path / "a") == fetched
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.lists(st.integers(1, 4000), max_size=5), ranges=st.booleans())
def test_any_cuts_give_the_same_bytes(tmp_path_factory, cuts, ranges):
    folder = tmp_path_factory.mktemp("cuts")
    with serving(Host(CONTENT, cuts=cuts, ranges=ranges)) as host:
        fetch(of(host), folder, attempts=9)
    assert contents(folder) == {"file.bin": CONTENT}
    # Without ranges each request starts again.
    resumed = [asked for asked in host.requests if asked]
    assert len(host.requests) == len(resumed) + 1


def test_a_cut_transfer_goes_on_where_it_stopped(tmp_path):
    with serving(Host(CONTENT, cuts=[1000, 300])) as host:
        fetch(of(host), tmp_path)
    assert host.requests == [None, "bytes=1000-", "bytes=1300-"]


def test_the_next_call_goes_on_where_the_last_one_stopped(tmp_path):
    with serving(Host(CONTENT, cuts=[1000, 0, 0, 0])) as host:
        with pytest.raises(DataError, match=r"got .*cut off.*goes on from where"):
            fetch(of(host), tmp_path)
        assert set(contents(tmp_path)) == {"file.bin.part", "file.bin.part.tag"}
        host.requests.clear()
        fetch(of(host), tmp_path)
    assert host.requests == ["bytes=1000-"]
    assert contents(tmp_path) == {"file.bin": CONTENT}


def test_bytes_of_two_versions_are_never_joined(tmp_path):
    with serving(Host(CONTENT[::-1], cuts=[1000, 0, 0, 0], tag='"v0"')) as host:
        with pytest.raises(DataError):
            fetch(of(host, sha256=None), tmp_path)
        host.content, host.tag = CONTENT, '"v1"'
        assert fetch(of(host, sha256=None), tmp_path).sha256 == SUM


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_version_a_transfer_starts_again(tmp_path, tag):
    with serving(Host(CONTENT, cuts=[1000], tag=tag)) as host:
        fetch(of(host), tmp_path)
    assert host.requests == [None, None]
    assert contents(tmp_path) == {"file.bin": CONTENT}


def test_a_part_that_is_too_long_is_thrown_away(tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT * 2)
    (tmp_path / "file.bin.part.tag").write_text('"v1"')
    with serving(Host(CONTENT)) as host:
        fetch(of(host), tmp_path)
    assert host.requests == [f"bytes={2 * len(CONTENT)}-", None]
    assert contents(tmp_path) == {"file.bin": CONTENT}


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with serving(Host(b"tampered")) as host:
        message = rf"file.bin: expected sha256 {SUM}, got another.*ask the authors"
        with pytest.raises(DataError, match=message):
            fetch(of(host), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_wrong_checksum_leaves_what_was_there(tmp_path):
    with serving(Host(CONTENT)) as host:
        fetched = fetch(of(host), tmp_path)
        host.content = b"tampered"
        with pytest.raises(DataError, match="expected sha256"):
            fetch(of(host), tmp_path)
    assert verify(of(host), tmp_path) == fetched


@pytest.mark.parametrize("status", [404, 410, 500, 403])
def test_a_host_that_refuses_is_one_line(tmp_path, status):
    with serving(Host(status=status)) as host:
        message = rf"expected {host.url} to be served, got status {status}.*ask the"
        with pytest.raises(DataError, match=message) as raised:
            fetch(of(host), tmp_path)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 3
    assert contents(tmp_path) == {}


def test_a_host_that_is_gone(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
    download = Download(url=url, file="x", licence="", elsewhere="look elsewhere")
    with pytest.raises(DataError, match=r"refused.*look elsewhere"):
        fetch(download, tmp_path)
    unknown = Download(url="http://host.invalid/x", file="x", licence="")
    with pytest.raises(DataError, match=r"x: expected http://host.invalid/x to be"):
        fetch(unknown, tmp_path)


def test_a_host_that_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        download = Download(url=url, file="x", licence="")
        with pytest.raises(DataError, match=r"to be served, got .*timed out"):
            fetch(download, tmp_path, timeout=0.05)


def test_an_archive_is_unpacked_and_not_kept(tmp_path):
    members = {"a.csv": b"1,2", "sub/b.csv": b"3"}
    packed = zipped({**members, "empty/": b""})
    with serving(Host(packed)) as host:
        download = of(host, unpack="zip", sha256=None)
        fetched = fetch(download, tmp_path)
    assert contents(tmp_path) == members
    assert fetched.sha256 == hashlib.sha256(packed).hexdigest()
    assert sorted(k.name for k in fetched.files) == sorted(members)
    assert verify(download, tmp_path) == fetched


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "C:/x", "..\\x", "\\x", "a/../x"]
)
def test_no_archive_writes_outside_its_folder(tmp_path, name):
    with (
        serving(Host(zipped({"good": b"1", name: b"2"}))) as host,
        pytest.raises(DataError, match=r"members inside the folder, got .*unpacked"),
    ):
        fetch(of(host, unpack="zip", sha256=None), tmp_path / "in")
    assert contents(tmp_path) == {}


def test_links_are_not_unpacked(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc")
    with (
        serving(Host(buffer.getvalue())) as host,
        pytest.raises(DataError, match="got 'link'"),
    ):
        fetch(of(host, unpack="zip", sha256=None), tmp_path)
    assert contents(tmp_path) == {}


def test_a_damaged_archive_leaves_nothing(tmp_path):
    packed = bytearray(zipped({"a": b"hello" * 50, "b": b"2"}))
    for damaged in (b"no archive", bytes(packed[:60] + b"J" + packed[61:])):
        with (
            serving(Host(damaged)) as host,
            pytest.raises(DataError, match=r"file.bin: expected a whole zip file"),
        ):
            fetch(of(host, unpack="zip", sha256=None), tmp_path)
        assert contents(tmp_path) == {}


def test_changes_after_the_download_are_found(tmp_path):
    with serving(Host(zipped({"a.csv": b"1,2", "b.csv": b"3"}))) as host:
        download = of(host, unpack="zip", sha256=None)
        fetch(download, tmp_path)
    (tmp_path / "a.csv").write_bytes(b"1,3")
    with pytest.raises(DataError, match=r"a.csv: expected sha256 \w{64}, got \w{64};"):
        verify(download, tmp_path)
    (tmp_path / "a.csv").unlink()
    with pytest.raises(DataError, match=r"a.csv: expected a file of 3 bytes, got No"):
        verify(download, tmp_path)
    record = sidecar(download, tmp_path)
    record.write_bytes(record.read_bytes()[:40])
    with pytest.raises(DataError, match=r"fetched.json: expected the record"):
        verify(download, tmp_path)
    record.unlink()
    with pytest.raises(DataError, match=r"it was not fetched into this folder"):
        verify(download, tmp_path)


def test_a_record_of_another_checksum_does_not_count(tmp_path):
    with serving(Host(CONTENT)) as host:
        fetch(of(host, sha256=None), tmp_path)
    with pytest.raises(DataError, match=rf"expected sha256 {'0' * 64}, got {SUM}"):
        verify(of(host, sha256="0" * 64), tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        serving(Host(CONTENT)) as host,
        pytest.raises(DataError, match="expected a folder to write to, got"),
    ):
        fetch(of(host), tmp_path / "file" / "below")


def test_pooch_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(EnvironmentFault, match=r'pip install "cibench\[data\]"'):
        fetch(Download(url="http://x.invalid", file="x", licence=""), tmp_path)
    assert list(tmp_path.iterdir()) == []
