"""Finding plugins: entry points, loaded one by one, each guarded, each with provenance.

An entry point of group `cibench` is named `<kind>.<method>` and points at one module.
Listing reads metadata only; a module is imported when its method is asked for.
pluggy's own loader is not used: it stops at the first broken plugin, silently skips a name
already taken and forgets which distribution a plugin came from.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pluggy

from . import hookspecs
from ._errors import ContractError, PluginError, UnknownPluginError
from .plugin_api import DECLARATION, declared_in, misfit
from .spec import Spec, build, did_you_mean

GROUP = "cibench"
#: Entry-point prefix and hook of each plugin kind.
KINDS = {"defense": "defenses", "attack": "attacks", "dataset": "datasets"}


@dataclass(frozen=True)
class Fault:
    """Why a plugin cannot be used.

    Args:
        state: a word for it.
        reason: what is wrong.
        fix: what to do.
    """

    state: str
    reason: str
    fix: str


@dataclass(frozen=True, order=True)
class PluginEntry:
    """One entry point: what it claims to provide and which distribution it is from."""

    kind: str
    name: str
    module: str
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """First line of the module's docstring, read without importing it."""
        return self.look()[0]

    def look(self) -> tuple[str, Fault | None]:
        """Summary and what is wrong, as far as the module's text tells; not imported."""
        if self.kind not in KINDS:
            return "", Fault(
                "broken",
                f"an entry point of unknown kind {self.kind!r}; expected one of"
                f" {', '.join(KINDS.values())}",
                f"correct the entry point in {self.distribution}",
            )
        mend = f"reinstall or uninstall {self.distribution}"
        try:
            source = _find_source(self.module)
            if source is None:
                return "", Fault("broken", f"no module {self.module}", mend)
            if source.suffix != ".py":
                return "", None
            tree = ast.parse(source.read_text(encoding="utf-8"))
        except (ImportError, OSError, SyntaxError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            return "", Fault("broken", f"{self.module} cannot be read: {said}", mend)
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        apart = misfit(declared_in(tree), self.distribution)
        return summary, None if apart is None else Fault("other API", *apart)

    @property
    def title(self) -> str:
        """The plugin and its origin, for messages."""
        return (
            f"{self.kind} {self.name} ({self.module},"
            f" from {self.distribution} {self.version})"
        )


def _find_source(module: str) -> Path | None:
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, list(found.submodule_search_locations))
    return Path(found.origin) if found and found.origin else None


class Registry:
    """The plugins installed beside cibench.

    Nothing is remembered about a failure: asking again tries again.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    @cached_property
    def entries(self) -> tuple[PluginEntry, ...]:
        """Every entry point of the group, sorted; nothing is imported."""
        found = set()
        for point in importlib.metadata.entry_points(group=GROUP):
            prefix, _, name = point.name.partition(".")
            kind = {v: k for k, v in KINDS.items()}.get(prefix, prefix)
            dist = point.dist
            found.add(
                PluginEntry(
                    kind=kind,
                    name=name,
                    module=point.value,
                    distribution=dist.name if dist else "unknown",
                    version=dist.version if dist else "unknown",
                )
            )
        return tuple(sorted(found))

    def names(self, kind: str) -> list[str]:
        """Names provided for a kind, sorted."""
        return sorted({e.name for e in self.entries if e.kind == kind})

    def entry(self, kind: str, name: str) -> PluginEntry:
        """The one entry point that provides a name.

        Raises:
            UnknownPluginError: there is none.
            PluginError: several distributions claim the name.
        """
        claims = [e for e in self.entries if e.kind == kind and e.name == name]
        if not claims:
            known = self.names(kind)
            raise UnknownPluginError(
                f"unknown {kind} {name!r}{did_you_mean(name, known)};"
                f" expected one of {', '.join(known) or 'none installed'}"
                f" (see: cibench ls {KINDS[kind]})"
            )
        if len(claims) > 1:
            origins = " and ".join(f"{c.distribution} {c.version}" for c in claims)
            raise PluginError(
                f"{kind} {name!r} is claimed by {origins}: expected one distribution;"
                f" uninstall one of them"
            )
        return claims[0]

    def load(self, kind: str, name: str) -> type[Any]:
        """Import the module that provides a method and return the method's class.

        Raises:
            UnknownPluginError, PluginError: as `entry`; or the module fails to import,
                misspells a hook, or does not provide the name it claims.
        """
        entry = self.entry(kind, name)
        module = self._module(entry)
        hook = f"cibench_{KINDS[kind]}"
        try:
            provided = {
                str(cls.name): cls
                for implementation in getattr(self._manager.hook, hook).get_hookimpls()
                if implementation.plugin is module
                for cls in implementation.function()
            }
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's code may raise or return anything
            raise PluginError(
                f"{entry.title}: expected {hook}() to return a list of classes, got"
                f" {type(error).__name__}: {error}"
            ) from error
        if name not in provided:
            raise PluginError(
                f"{entry.title}: expected {hook}() to return a class named {name!r},"
                f" got {', '.join(sorted(provided)) or 'no class'}"
            )
        found: type[Any] = provided[name]
        return found

    def fault(self, entry: PluginEntry, *, load: bool = False) -> Fault | None:
        """What keeps an entry point from being used, or None.

        Args:
            load: import its module as well.
        """
        claims = [
            e for e in self.entries if (e.kind, e.name) == (entry.kind, entry.name)
        ]
        if len(claims) > 1:
            others = ", ".join(e.distribution for e in claims if e != entry)
            return Fault(
                "duplicate", f"its name is also claimed by {others}", "uninstall one"
            )
        found = entry.look()[1]
        if found is None and load:
            try:
                self.load(entry.kind, entry.name)
            except PluginError as error:
                return Fault(
                    "broken",
                    str(error),
                    f"reinstall or uninstall {entry.distribution}, or tell its authors",
                )
        return found

    def _module(self, entry: PluginEntry) -> Any:
        # Told before the import, which the other version may well break.
        apart = entry.look()[1]
        if apart is not None and apart.state == "other API":
            raise PluginError(f"{entry.title}: {apart.reason}; {apart.fix}")
        try:
            module = importlib.import_module(entry.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even raise SystemExit
            raise PluginError(
                f"{entry.title} cannot be loaded: {type(error).__name__}: {error};"
                f" reinstall or uninstall {entry.distribution}"
            ) from error
        late = misfit(getattr(module, DECLARATION, None), entry.distribution)
        if late is not None:
            raise PluginError(f"{entry.title}: {late[0]}; {late[1]}")
        if not self._manager.is_registered(module):
            try:
                self._manager.register(module, name=f"{entry.kind}.{entry.name}")
                self._manager.check_pending()
            except pluggy.PluginValidationError as error:
                if self._manager.is_registered(module):
                    self._manager.unregister(module)
                raise PluginError(f"{entry.title}: {error}") from error
        return module

    def configure(self, kind: str, spec: Spec) -> Any:
        """Load and configure the plugin a spec names.

        Raises:
            UnknownPluginError, PluginError, OptionError: see `load` and `build`.
        """
        return build(kind, self.load(kind, spec.name), spec)

    def notify_finished(self, record: Any) -> None:
        """Let every loaded plugin observe a finished cell.

        Raises:
            ContractError: a plugin's observer failed.
        """
        try:
            self._manager.hook.cibench_cell_finished(record=record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ContractError(f"cibench_cell_finished failed: {error}") from error


@cache
def default_registry() -> Registry:
    """The registry of this process."""
    return Registry()
