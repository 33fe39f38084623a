"""Fetching, resuming, checking and unpacking, against a server with chosen faults."""

import hashlib
import io
import shutil
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


def encrypted(packed):
    """The archive with its first member marked as encrypted."""
    data = bytearray(packed)
    data[data.find(b"PK\x03\x04") + 6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def doubled(packed):
    """The archive with its member `bb` under the name of `aa`."""
    return packed.replace(b"bb", b"aa")


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (encrypted(zipped({"aa": b"1"})), r"whole zip file, got .*encrypted"),
        (
            doubled(zipped({"aa": b"1", "bb": b"2"})),
            r"whole zip file, got a file twice",
        ),
        (zipped({"aa/": b""}), r"whole zip file, got no files"),
    ],
)
def test_archives_that_cannot_be_unpacked(tmp_path, packed, message):
    with serving(Host(packed)) as host, pytest.raises(DataError, match=message):
        fetch(of(host, unpack="zip", sha256=None), tmp_path)
    assert contents(tmp_path) == {}


def test_an_archive_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        serving(Host(zipped({"a": b"hello"}))) as host,
        pytest.raises(DataError, match=r"expected room for its 5 bytes, got 4"),
    ):
        fetch(of(host, unpack="zip", sha256=None), tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("blocked", ["b/c", "b"])
def test_all_files_are_replaced_or_none(tmp_path, blocked):
    (tmp_path / "a").write_bytes(b"old")
    if blocked == "b":
        (tmp_path / "b").write_bytes(b"a file where a folder belongs")
    else:
        (tmp_path / "b/c").mkdir(parents=True)
    before = contents(tmp_path)
    with (
        serving(Host(zipped({"a": b"new", "b/c": b"new"}))) as host,
        pytest.raises(DataError, match=rf"{blocked} in its way; nothing was replaced"),
    ):
        fetch(of(host, unpack="zip", sha256=None), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\n<!DOCTYPE html><p>We moved.",
            r"got a web page in its place; ask the auth",
        ),
        (b"", r"got an empty answer; ask the authors"),
    ],
)
@pytest.mark.parametrize("unpack", ["none", "zip"])
def test_what_comes_in_place_of_a_file_is_not_kept(tmp_path, content, message, unpack):
    with (
        serving(Host(content)) as host,
        pytest.raises(DataError, match=rf"expected http.* to be served, {message}"),
    ):
        fetch(of(host, unpack=unpack, sha256=None), tmp_path)
    assert contents(tmp_path) == {}


def test_an_address_that_is_none_is_no_wrong_checksum(tmp_path):
    download = Download(url="no address", file="file.bin", licence="CC0")
    with pytest.raises(DataError, match=r"expected no address to be served"):
        fetch(download, tmp_path)
    assert contents(tmp_path) == {}


def test_a_part_that_another_process_wrote_into_is_not_taken(tmp_path):
    """Both append what they get; the file on disk is then longer than the one served."""
    other = []

    def report(done, total):
        if done and not other:
            with (tmp_path / "file.bin.part").open("ab") as file:
                other.append(file.write(b"other"))

    with serving(Host(CONTENT)) as host:
        fetched = fetch(of(host, sha256=None), tmp_path, report=report)
    assert other
    assert contents(tmp_path) == {"file.bin": CONTENT}
    assert fetched.sha256 == SUM


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
