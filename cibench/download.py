"""Files a data set needs from elsewhere: fetched, checked, unpacked, checked again later.

pooch checks hashes and moves files into place; it does not resume, so it is given the
transfer of `_transfer`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import msgspec

from ._errors import DataError, EnvironmentFault
from ._transfer import Report, transfer


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file of a data set and the terms it comes on.

    Args:
        url: where it is.
        file: name it is stored under.
        licence: the terms, shown before anything is fetched.
        size: bytes, exact or about; None where unknown.
        sha256: its checksum in hexadecimal; None where none is published.
        unpack: `zip` unpacks the file and keeps its members only; `none` keeps the file.
        elsewhere: what to do when the host no longer serves it.
    """

    url: str
    file: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    unpack: Literal["zip", "none"] = "none"
    elsewhere: str = ""


class Kept(msgspec.Struct, frozen=True):
    """A file that was put into place."""

    name: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Fetched(msgspec.Struct, frozen=True):
    """The sidecar `<file>.fetched.json`: what came and what it was unpacked to."""

    url: str
    sha256: str
    files: tuple[Kept, ...]


def sidecar(download: Download, folder: Path) -> Path:
    """Where the record of a finished download lies."""
    return folder / f"{download.file}.fetched.json"


def fetch(
    download: Download,
    folder: Path,
    *,
    report: Report = lambda done, total: None,
    timeout: float = 20.0,
    attempts: int = 3,
) -> Fetched:
    """Fetch, check and unpack a file; the folder gets all of it or nothing.

    A transfer that is cut off is taken up again, until `attempts` requests in a row bring
    no byte; the next call goes on from there.

    Raises:
        DataError: the host does not serve the file, the checksum is wrong, or the archive
            is damaged, would write outside the folder or does not fit on the disk.
        EnvironmentFault: pooch is not installed.
    """
    pooch = _pooch()
    part = folder / f"{download.file}.part"

    def download_into(url: str, output_file: str, _: Any) -> None:
        try:
            transfer(url, part, report=report, timeout=timeout, attempts=attempts)
        except ValueError as error:  # pooch raises it for a wrong checksum alone
            raise ConnectionError(str(error)) from error
        os.replace(part, output_file)

    with _said(download):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            pooch.get_logger().setLevel("ERROR")
            try:
                came = Path(
                    pooch.retrieve(
                        download.url,
                        download.sha256 and f"sha256:{download.sha256}",
                        fname=download.file,
                        path=scratch,
                        downloader=download_into,
                    )
                )
            except ValueError as error:
                raise DataError(
                    f"{download.file}: expected sha256 {download.sha256}, got another"
                    f" one; nothing was kept. Fetch it again; {download.elsewhere}"
                ) from error
            _check_kind(came, download)
            digest = _sha256(came)
            if download.unpack == "zip":
                inside = Path(scratch) / "unpacked"
                names = _unzip(came, inside)
            else:
                inside, names = came.parent, [came.name]
            kept = tuple(
                Kept(name, (inside / name).stat().st_size, _sha256(inside / name))
                for name in names
            )
            _check_targets(folder, names, download)
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(inside / name, folder / name)
        fetched = Fetched(download.url, digest, kept)
        written = sidecar(download, folder).with_suffix(".json.part")
        written.write_bytes(msgspec.json.format(msgspec.json.encode(fetched)))
        os.replace(written, sidecar(download, folder))
    return fetched


def verify(download: Download, folder: Path) -> Fetched:
    """Compare the files of a download with what was fetched.

    Raises:
        DataError: there is no such record, or a file is absent or has changed.
    """
    record = sidecar(download, folder)
    try:
        fetched = msgspec.json.decode(record.read_bytes(), type=Fetched)
    except FileNotFoundError:
        raise DataError(
            f"{download.file}: expected {record.name} in {folder}, got no such file;"
            " it was not fetched into this folder by `cibench data fetch`"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{record.name}: expected the record of a download, got {error};"
            " fetch the file again"
        ) from error
    if download.sha256 and fetched.sha256 != download.sha256:
        raise DataError(
            f"{download.file}: expected sha256 {download.sha256}, got {fetched.sha256};"
            " fetch it again"
        )
    for kept in fetched.files:
        try:
            found = _sha256(folder / kept.name)
        except OSError as error:
            raise DataError(
                f"{folder / kept.name}: expected a file of {kept.bytes} bytes, got"
                f" {error.strerror}; fetch {download.file} again"
            ) from error
        if found != kept.sha256:
            raise DataError(
                f"{folder / kept.name}: expected sha256 {kept.sha256}, got {found};"
                f" fetch {download.file} again"
            )
    return fetched


@contextmanager
def _said(download: Download) -> Iterator[None]:
    """Turn what the network, the disk and archives raise into one line."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        code = getattr(error, "code", None)
        network = hasattr(error, "reason") or isinstance(
            error, ConnectionError | TimeoutError
        )
        reason = f"status {code}" if code else getattr(error, "reason", error)
        reason = str(reason) or type(error).__name__
        if network:
            message = f"expected {download.url} to be served, got {reason}; it goes on"
            message += f" from where it stopped if asked again; {download.elsewhere}"
        elif isinstance(error, OSError):
            message = f"expected a folder to write to, got {error.strerror or error}"
        else:
            message = f"expected a whole zip file, got {reason}; fetch it again"
        raise DataError(f"{download.file}: {message}") from error


def _check_kind(came: Path, download: Download) -> None:
    """Refuse what a host sends that no longer has the file: nothing, or a page about it.

    Raises:
        DataError: that is what came.
    """
    with came.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    page = start.startswith((b"<!doctype html", b"<html"))
    if page or not came.stat().st_size:
        raise DataError(
            f"{download.file}: expected {download.url} to be served, got"
            f" {'a web page in its place' if page else 'an empty answer'};"
            f" {download.elsewhere}"
        )


def _check_targets(folder: Path, names: list[str], download: Download) -> None:
    """Find out before the first file is put into place that one cannot be.

    Raises:
        DataError: a folder is where a file belongs, or a file where a folder does.
    """
    for name in names:
        target = folder / name
        parents = (folder / p for p in PurePosixPath(name).parents)
        blocking = [p for p in parents if p.exists() and not p.is_dir()]
        if target.is_dir():
            blocking.append(target)
        if blocking:
            raise DataError(
                f"{download.file}: expected to put {name} into {folder}, got"
                f" {blocking[0]} in its way; nothing was replaced"
            )


def _unzip(archive: Path, into: Path) -> list[str]:
    """Unpack every file and return their names; nothing leaves the folder."""
    with zipfile.ZipFile(archive) as members:
        infos = [info for info in members.infolist() if not info.is_dir()]
        for info in infos:
            path, windows = PurePosixPath(info.filename), PureWindowsPath(info.filename)
            outside = path.is_absolute() or windows.anchor or ".." in windows.parts
            if outside or stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(
                    f"{archive.name}: expected members inside the folder, got"
                    f" {info.filename!r}; nothing was unpacked"
                )
        names = [info.filename for info in infos]
        if not names or len(set(names)) < len(names):
            raise zipfile.BadZipFile("no files" if not names else "a file twice")
        size, free = sum(i.file_size for i in infos), shutil.disk_usage(archive).free
        if size > free:
            raise DataError(
                f"{archive.name}: expected room for its {size} bytes, got {free}"
            )
        for info in infos:
            target = into / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Never more than `info.file_size` bytes, whatever was packed.
                with members.open(info) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
            except RuntimeError as error:  # encrypted, or packed in an unknown way
                raise zipfile.BadZipFile(str(error)) from error
    return names


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pooch() -> Any:
    try:
        return importlib.import_module("pooch")
    except ImportError as error:
        raise EnvironmentFault(
            "cibench data fetch: expected the package pooch, got none installed;"
            ' pip install "cibench[data]"'
        ) from error
