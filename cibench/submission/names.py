"""Which names and texts a submission may have."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from .manifest import MANIFEST, RECORDS, WITNESSES

_SUFFIX: Final = ".safetensors"
_CELL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,239}")
_PLUGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,79}")
#: Other, format (direction marks among them), surrogate, private, unassigned; line ends.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: What may hold code when it is loaded.
_CODE: Final = (
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".npy",
    ".npz",
    ".py",
)


def cell_fault(cell: str) -> str:
    """Why a text is no id of a cell; empty if it is one."""
    if _CELL.fullmatch(cell):
        return ""
    return (
        "expected a cell's id of at most 240 letters, digits and _.+- that starts with"
        f" none of .+-, got {cell[:80]!a}"
    )


def plugin_fault(name: str) -> str:
    """Why a text is no name of a plugin; empty if it is one."""
    if _PLUGIN.fullmatch(name):
        return ""
    return (
        "expected a plugin's name of at most 80 letters, digits and ._- that starts with"
        f" a letter, got {name[:80]!a}"
    )


def text_fault(text: str, *, most: int = 10_000, lines: bool = False) -> str:
    """Why a text may not be shown; empty if it may.

    Args:
        most: characters.
        lines: whether it may have line ends.
    """
    if len(text) > most:
        return f"expected at most {most} characters, got {len(text)}"
    for character in text:
        if lines and character == "\n":
            continue
        if unicodedata.category(character) in _UNSEEN:
            return (
                "expected no control characters and no marks of direction, got"
                f" U+{ord(character):04X}"
            )
    return ""


def witness_name(cell: str) -> str:
    """Name of the member that is the witness of a cell."""
    return f"{WITNESSES}{cell}{_SUFFIX}"


def witness_cell(name: str) -> str:
    """The cell whose witness a member is; empty if it is none."""
    if name.startswith(WITNESSES) and name.endswith(_SUFFIX):
        return name[len(WITNESSES) : -len(_SUFFIX)]
    return ""


def member_fault(name: str) -> str:
    """Why a bundle may not have a member of this name; empty if it may."""
    if name in (MANIFEST, RECORDS):
        return ""
    if text_fault(name):
        return text_fault(name)
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or "\\" in name or name.startswith("/") or ":" in name:
        return "expected a name below the bundle, got one that leads out of it"
    if name.lower().endswith(_CODE):
        return (
            "expected nothing that can hold code, got a file such as pickle or Python"
            " writes; witnesses are safetensors files"
        )
    cell = witness_cell(name)
    if cell:
        return cell_fault(cell)
    return (
        f"expected only {MANIFEST}, {RECORDS} and {WITNESSES}<cell>{_SUFFIX}, got another"
        " file"
    )
