"""Writing a package for a new plugin; nothing is fetched and nothing overwritten."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from string import Template

from .._errors import OutputError, UsageError
from .._version import PLUGIN_API, VERSION
from ..registry import KINDS, default_registry

LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause")
#: Modules, and what they are to others.
_TAKEN = {
    "all": "`all` selects every plugin",
    "conftest": "pytest would take its module for settings",
    "setup": "pip would run its module to build the package",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._-][A-Za-z0-9]+)*")
_WHAT = {
    "defense": "The defense itself is the method `decide` in `$module.py`.",
    "attack": "The attack itself is the method `run` in `$module.py`.",
    "dataset": "The data are made in the method `load` in `$module.py`.",
}
_EXAMPLE = {
    "defense": "cibench run -d none -d $name -a pgd",
    "attack": "cibench run -d none -d copur -a $name",
    "dataset": "cibench run --dataset $name -d none -d copur -a pgd",
}
_SUITE = {
    "defense": "cibench run --suite standard -d $name --witnesses -o runs/$name",
    "attack": "cibench run --dataset mfeat -d all -a $name --witnesses -o runs/$name",
    "dataset": "cibench run --dataset $name -d all -a pgd --witnesses -o runs/$name",
}


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """A package to write.

    Args:
        kind: defense, attack or dataset.
        name: of the plugin and of its distribution.
        licence: one of `LICENCES`.
        author: whom the licence names.

    Raises:
        UsageError: the name cannot be one of a package, or is taken.
    """

    kind: str
    name: str
    licence: str = "Apache-2.0"
    author: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not self.name.isascii():
            raise UsageError(
                "NAME: expected letters and digits, parts joined by -, _ or ., beginning"
                f" with a letter, such as my-defense; got {self.name!r}"
            )
        if any(c in self.author for c in '\n\r"\\'):
            raise UsageError(
                "--author: expected a line without quotes or backslashes, got"
                f" {self.author!r}"
            )
        self._check_free()

    def _check_free(self) -> None:
        registry = default_registry()
        for entry in registry.entries:
            if (entry.kind, entry.name) == (self.kind, self.name):
                raise UsageError(
                    f"NAME: expected a name of its own, got {self.name!r},"
                    f" {self._article} {self.kind} of {entry.distribution}"
                    f" {entry.version}"
                )
        if self.module in _TAKEN:
            raise UsageError(
                f"NAME: expected another one than {self.name!r}: {_TAKEN[self.module]}"
            )
        # The module is all lower case, the class begins with a capital: `False`.
        own = keyword.iskeyword(self.module) or keyword.iskeyword(
            self.module.capitalize()
        )
        if own or self.module in sys.stdlib_module_names:
            raise UsageError(
                f"NAME: expected one that Python does not use itself, got {self.name!r}"
            )
        if importlib.util.find_spec(self.module) is not None:
            raise UsageError(
                f"NAME: expected one that no installed package has, got {self.name!r}:"
                f" a module {self.module} is here already"
            )

    @property
    def module(self) -> str:
        """Name of the module: `my-defense` becomes `my_defense`."""
        return re.sub(r"[._-]", "_", self.name).lower()

    @property
    def _article(self) -> str:
        return "an" if self.kind == "attack" else "a"

    @property
    def words(self) -> dict[str, str]:
        """What stands in the templates."""
        cls = "".join(p[:1].upper() + p[1:] for p in re.split(r"[._-]", self.name))
        author = self.author or f"The authors of {self.name}"
        base = {
            "name": self.name,
            "kind": self.kind,
            "Article": self._article.capitalize(),
            "kinds": KINDS[self.kind],
            "module": self.module,
            "cls": cls,
            "title": cls,
            "licence": self.licence,
            "author": author,
            "toml_author": author,
            "year": str(date.today().year),
            "version": VERSION,
            "api": PLUGIN_API,
        }
        more = {"edit": _WHAT, "example": _EXAMPLE, "suite": _SUITE}
        return base | {
            key: Template(texts[self.kind]).substitute(base)
            for key, texts in more.items()
        }

    def files(self) -> dict[str, str]:
        """Text of every file by its path in the package."""
        templates = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            ".gitignore": "gitignore",
            f"{self.module}.py": f"{self.kind}.py",
            f"tests/test_{self.module}.py": "test.py",
            ".github/workflows/check.yml": "workflow.yml",
        }
        home = resources.files(__package__)
        found = {
            path: home / "templates" / f"{name}.txt" for path, name in templates.items()
        }
        found["LICENSE"] = home / "licences" / f"{self.licence}.txt"
        return {
            path: Template(file.read_text(encoding="utf-8")).safe_substitute(self.words)
            for path, file in found.items()
        }

    def write(self, parent: Path) -> Path:
        """Write the package into a new folder of its name.

        Raises:
            UsageError: the folder is there and not empty.
            OutputError: it cannot be written.
        """
        folder = parent / self.name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{folder}: expected a new or an empty folder, got one with content;"
                " choose another NAME or --into"
            )
        try:
            for path, text in self.files().items():
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{folder}: expected a folder that can be written, got {error.strerror}"
            ) from error
        return folder
