"""Hashes of sources: what a record and a cache key know of the code behind a number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def source_hash(module: str) -> str:
    """Hash of the source of the plugin's package, or of its module if it has no package.

    An editable install changes without changing its version.
    """
    import importlib

    top = importlib.import_module(module.partition(".")[0])
    if top.__file__ is None:  # a namespace package, which several distributions share
        top = importlib.import_module(module)
    assert top.__file__ is not None
    path = Path(top.__file__)
    packaged = hasattr(top, "__path__")
    return _hash_files(
        sorted(path.parent.rglob("*.py")) if packaged else _siblings(module, path)
    )


def _siblings(module: str, path: Path) -> list[Path]:
    """A module without a package, and the others its distribution brings beside it."""
    import importlib.metadata

    names = {module}
    for distribution in importlib.metadata.packages_distributions().get(module, []):
        listed = importlib.metadata.distribution(distribution).read_text(
            "top_level.txt"
        )
        names |= set((listed or "").split())
    found = {path.parent / f"{name}.py" for name in names if name.isidentifier()}
    return sorted({path, *(each for each in found if each.is_file())})


#: Parts of the harness that come before or after the numbers.
_NO_NUMBERS = (
    "certification", "cli", "leaderboard", "report", "suites", "study.py",
    "bootstrap.py", "_study_override.py", "_selection.py", "parameters.py", "exclusion.py",
)  # fmt: skip


#: Of the engine, the files that compute; the others say where and when.
_COMPUTING = ("runner.py", "loader.py", "describe.py")


@cache
def harness_hash() -> str:
    """Hash of the harness' own sources that can change a number."""
    root = Path(__file__).parent
    return _hash_files([p for p in _sources() if _counts(p.relative_to(root).parts)])


@cache
def package_hash() -> str:
    """Hash of all sources of the harness: what processes of one run must share."""
    return _hash_files(_sources())


def _sources() -> list[Path]:
    return sorted(Path(__file__).parent.rglob("*.py"))


def _counts(parts: tuple[str, ...]) -> bool:
    """Whether a file, by its path in the package, can change a number."""
    if parts[0] == "execute":
        return parts[1:] in [(name,) for name in _COMPUTING]
    if parts[0] == "results":
        return parts[1:] == ("record.py",)
    return parts[0] not in _NO_NUMBERS


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
