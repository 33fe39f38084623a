"""Reading zip files of strangers: in memory, within limits, and never to disk.

What a zip file says of itself is not believed: sizes are counted while reading, and names,
kinds and flags of members are refused unless they are those of a bundle.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._errors import SubmissionError
from .names import member_fault

#: Most members of a bundle.
MEMBERS: Final = 100_000
#: Most bytes of a member as it is read; `records.jsonl.xz` is limited when unpacked.
MEMBER_BYTES: Final = 64 * 2**20
#: Most bytes of all members together, unpacked; also of the bundle's file.
TOTAL_BYTES: Final = 4 * 2**30
#: Most bytes of all records together.
RECORDS_BYTES: Final = 2**30
#: Most memory that unpacking records may take besides.
_XZ_MEMORY: Final = 128 * 2**20
#: Most bytes of the directory of the zip file, which is read at once.
_DIRECTORY_BYTES: Final = 32 * 2**20
_CHUNK: Final = 2**18


class Archive:
    """An open zip file whose members have been looked at, but not read.

    Raises:
        SubmissionError: it is no zip file, or not one of a bundle.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = _Guarded(path)
        try:
            with _damage("bundle"):
                self._zip = zipfile.ZipFile(self._opened)
            self._members = _members(self._zip, path.stat().st_size)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> set[str]:
        """Names of all members."""
        return set(self._members)

    def chunks(self, name: str, most: int = MEMBER_BYTES) -> Iterator[bytes]:
        """The content of a member, piece by piece.

        Raises:
            SubmissionError: it is damaged, or longer than `most` bytes.
        """
        count = 0
        with _damage(name), self._zip.open(self._members[name]) as member:
            while piece := member.read(_CHUNK):
                count += len(piece)
                if count > most:
                    raise SubmissionError(
                        f"bundle: {name}: expected at most {most} bytes unpacked, got"
                        " more"
                    )
                yield piece

    def read(self, name: str, most: int = MEMBER_BYTES) -> bytes:
        """The content of a member; see `chunks`."""
        return b"".join(self.chunks(name, most))

    def digest(self, name: str, most: int = MEMBER_BYTES) -> tuple[str, int]:
        """SHA-256 and size of a member; see `chunks`."""
        found, size = hashlib.sha256(), 0
        for piece in self.chunks(name, most):
            found.update(piece)
            size += len(piece)
        return found.hexdigest(), size

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def unpacked_lines(content: bytes, most: int = RECORDS_BYTES) -> Iterator[bytes]:
    """Lines of an xz file.

    Raises:
        SubmissionError: it is none, is damaged, or holds more than `most` bytes.
    """
    count, rest = 0, b""
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    given = content
    while not reader.eof:
        with _damage("records.jsonl.xz"):
            piece = reader.decompress(given, _CHUNK)
        given = b""
        if not piece and reader.needs_input and not reader.eof:
            raise SubmissionError(
                "bundle: records.jsonl.xz: expected a whole xz file, got one cut short"
            )
        count += len(piece)
        if count > most or len(rest) > MEMBER_BYTES:
            raise SubmissionError(
                f"bundle: records.jsonl.xz: expected at most {most} bytes unpacked and"
                f" {MEMBER_BYTES} in a line, got more"
            )
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if reader.unused_data or rest:
        raise SubmissionError(
            "bundle: records.jsonl.xz: expected one xz stream of whole lines, got more"
            " behind it or a line without end"
        )


class _Guarded(io.BufferedReader):
    """A file that gives no more at once than the largest directory of a bundle."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(io.FileIO(path, "rb"))
        except OSError as error:
            raise SubmissionError(
                f"bundle {path.name}: expected a file that can be read, got"
                f" {error.strerror}"
            ) from error
        size = path.stat().st_size
        if size > TOTAL_BYTES:
            self.close()
            raise SubmissionError(
                f"bundle {path.name}: expected at most {TOTAL_BYTES} bytes, got {size}"
            )

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY_BYTES:
            raise SubmissionError(
                f"bundle: expected a directory of at most {_DIRECTORY_BYTES} bytes, got"
                f" {size}"
            )
        return super().read(_DIRECTORY_BYTES if size is None or size < 0 else size)


def _members(opened: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, all of them such as a bundle has.

    Raises:
        SubmissionError: one is not.
    """
    listed = opened.infolist()
    if len(listed) > MEMBERS:
        raise SubmissionError(
            f"bundle: expected at most {MEMBERS} members, got {len(listed)}"
        )
    found: dict[str, zipfile.ZipInfo] = {}
    for info in listed:
        fault = _fault(info)
        if fault:
            raise SubmissionError(f"bundle: {info.orig_filename[:120]!a}: {fault}")
        if info.filename in found:
            raise SubmissionError(
                f"bundle: {info.filename}: expected each name once, got it twice"
            )
        found[info.filename] = info
    packed = sum(info.compress_size for info in listed)
    claimed = sum(info.file_size for info in listed)
    if packed > size:
        raise SubmissionError(
            f"bundle: expected members that do not overlap, got {packed} packed bytes in a"
            f" file of {size}"
        )
    if claimed > TOTAL_BYTES:
        raise SubmissionError(
            f"bundle: expected at most {TOTAL_BYTES} bytes unpacked, got {claimed}"
        )
    return found


def _fault(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "expected a plain file, got a symbolic link"
    if kind not in (0, stat.S_IFREG) or info.external_attr & 0x10:
        return "expected a plain file, got a folder or a special file"
    if info.flag_bits & 0x41:
        return "expected an open member, got an encrypted one"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"expected it stored or deflated, got method {info.compress_type}"
    if info.orig_filename != info.filename:
        return "expected a plain name, got one with other characters"
    return member_fault(info.filename)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turn whatever a parser answers damage with into a refusal."""
    try:
        yield
    except (SubmissionError, GeneratorExit):
        raise
    except zipfile.BadZipFile as error:
        raise SubmissionError(
            f"{name}: expected a whole zip file, got: {error}"
        ) from error
    except lzma.LZMAError as error:
        raise SubmissionError(
            f"{name}: expected a whole xz file, got: {error}"
        ) from error
    except Exception as error:
        raise SubmissionError(
            f"{name}: expected readable content, got {type(error).__name__}: {error}"
        ) from error
