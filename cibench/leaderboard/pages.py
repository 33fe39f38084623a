"""The generated files of a published folder: written, removed, and compared."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from .._errors import OutputError
from ..results.folder import write_atomically

README: Final = "README.md"
SITE: Final = "site/index.html"
#: Folders in which every file is generated.
GENERATED: Final = ("boards", "figures", "site")
_MOST_PLOTLY: Final = 64 << 20
_PLOTLY: Final = re.compile(
    rb"(<script[^>]*\bid=[\"']plotly(?:-gz)?[\"'][^>]*>)([^<]*)(</script>)"
)
_POLICY: Final = re.compile(rb"sha256-[A-Za-z0-9+/]+=*")
_DRAWN_BY: Final = re.compile(rb"<dc:title>(Matplotlib v[0-9A-Za-z.+-]+)")

Kind = Literal["stale", "missing", "extra", "other plotly"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A generated file that is not what the entries say."""

    path: str
    """Relative to the leaderboard's folder."""
    kind: Kind
    """`other plotly`: only the library inside the page is another version."""
    hint: str = ""


def write_pages(folder: Path, pages: Mapping[str, bytes]) -> list[str]:
    """Write generated files and remove those that no longer belong.

    Returns:
        The paths that changed, relative to the folder, sorted.

    Raises:
        OutputError: a file cannot be written, or a generated folder is a link.
    """
    old = _present(folder)
    changed = [path for path, content in pages.items() if old.get(path) != content]
    for path in changed:
        target = folder / path
        _made(target.parent)
        write_atomically(target, pages[path])
    gone = sorted(set(old) - set(pages) - {README})
    try:
        for path in gone:
            (folder / path).unlink()
        for place in _folders(folder):
            if not any(place.iterdir()):
                place.rmdir()
    except OSError as error:
        raise OutputError(
            f"{folder}: expected to remove {', '.join(gone)}, got {error.strerror}"
        ) from error
    return sorted([*changed, *gone])


def compared(folder: Path, pages: Mapping[str, bytes]) -> list[Difference]:
    """What differs between the files of a folder and those that belong there, sorted.

    Raises:
        OutputError: a file cannot be read, or a generated folder is a link.
    """
    old = _present(folder)
    found = [Difference(path=path, kind="missing") for path in set(pages) - set(old)]
    found += [
        Difference(path=path, kind="extra") for path in set(old) - set(pages) - {README}
    ]
    for path in set(pages) & set(old):
        if old[path] != pages[path]:
            found += _differs(path, old[path], pages[path])
    return sorted(found, key=lambda difference: difference.path)


def _differs(path: str, old: bytes, new: bytes) -> list[Difference]:
    if path == SITE:
        if _without(old, hashes=False) == _without(new, hashes=False):
            # Another zlib packs the same library into other bytes.
            return [] if _library(old) == _library(new) else [_other(path)]
        if _without(old, hashes=True) == _without(new, hashes=True):
            return [_other(path)]
    drawn, now = _DRAWN_BY.search(old), _DRAWN_BY.search(new)
    if drawn and now and drawn[1] != now[1]:
        hint = f"drawn by {drawn[1].decode()}, here is {now[1].decode()}"
        return [Difference(path=path, kind="stale", hint=hint)]
    return [Difference(path=path, kind="stale")]


def _other(path: str) -> Difference:
    return Difference(
        path=path,
        kind="other plotly",
        hint="the same but for the plotly library inside it",
    )


def _without(page: bytes, *, hashes: bool) -> bytes:
    """A page without the library in it and, if so asked, the policy's hashes."""
    bare = _PLOTLY.sub(rb"\1\3", page)
    return _POLICY.sub(b"", bare, count=100) if hashes else bare


def _library(page: bytes) -> bytes:
    found = _PLOTLY.search(page)
    try:
        # Of zlib or gzip, whichever its head says.
        machine = zlib.decompressobj(wbits=47)
        return machine.decompress(b64decode(found[2]), _MOST_PLOTLY) if found else b""
    except (ValueError, zlib.error):
        return b"damaged: " + page


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in GENERATED if (folder / name).is_dir()]


def _present(folder: Path) -> dict[str, bytes]:
    """Every generated file there is, and what stands in the place of one."""
    found = {}
    for place in [folder / name for name in GENERATED]:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise OutputError(
                f"{place}: expected a folder for generated files, got something else"
            )
    try:
        readme = folder / README
        if readme.is_symlink():
            raise OutputError(f"{readme}: expected a file, got a symbolic link")
        if readme.is_file():
            found[README] = readme.read_bytes()
        for place in _folders(folder):
            for path in place.iterdir():
                if path.is_dir() and not path.is_symlink():
                    raise OutputError(
                        f"{path}: expected generated files only, got a folder"
                    )
                name = path.relative_to(folder).as_posix()
                # Of a link only the name counts: it is never what belongs there.
                found[name] = b"" if path.is_symlink() else path.read_bytes()
    except OSError as error:
        raise OutputError(
            f"{folder}: expected readable files, got {error.strerror}"
        ) from error
    return found


def _made(place: Path) -> None:
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{place}: expected a folder that can be written, got {error.strerror}"
        ) from error
