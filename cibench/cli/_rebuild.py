"""From a record back to its cell: plugins and options, recipe, threads, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._errors import CibenchError, PluginError, UnknownPluginError, UsageError
from ..grid import Cell, Plugin
from ..registry import default_registry
from ..results import CellRecord, Component, RunFolder
from ..spec import Spec, canonical, option_types, resolved


def rebuilt(record: CellRecord, folder: RunFolder, dataset: str | None) -> Cell:
    """The cell of a record.

    Args:
        folder: of its run, which says where files are if they were given by options.
        dataset: spec that says so instead.

    Raises:
        UnknownPluginError, PluginError, OptionError: a plugin is not what it was.
        UsageError: `dataset` is another data set.
    """
    where = _given(record, dataset) if dataset else _known(record, folder)
    return Cell(
        _plugin("dataset", record.dataset, where),
        tuple(_plugin("attack", part.component) for part in record.attack),
        _plugin("defense", record.defense),
        record.seed,
        recipe_spec(record.embedding) if record.embedding else None,
    )


def recipe_spec(options: Mapping[str, Any]) -> str:
    """The shortest spec of the embedding recipe with these resolved options.

    Raises:
        UsageError, OptionError: this version knows no such recipe.
    """
    from ..embedding import RECIPES, recipe_of

    specs = []
    for name, recipe in RECIPES.items():
        known = resolved(recipe)
        given = {k: v for k, v in options.items() if k not in known or v != known[k]}
        specs.append(Spec(name, tuple((k, text(v)) for k, v in given.items())))
    shortest = str(min(specs, key=lambda spec: (len(spec.options), spec.name)))
    recipe_of(shortest)
    return shortest


def threads_of(record: CellRecord) -> int:
    """Threads of the computation; 1 where the record has none."""
    found = record.inputs.get("threads") or record.environment.get("threads", "")
    return int(found) if found.isdecimal() and int(found) else 1


def samples_of(record: CellRecord) -> int | None:
    """Test samples used at most; None for all."""
    found = record.inputs.get("samples", "")
    return int(found) if found.isdecimal() else None


def lacking_location(cell: Cell) -> str:
    """What to give where the record's data cannot be found: options it leaves out."""
    known = _locations(cell.dataset.configured)
    absent = [name for name, value in known.items() if value is None]
    if not absent:
        return "records leave out where files are: give --data-dir DIR"
    options = ",".join(f"{name}=..." for name in absent)
    return (
        "records leave out where files are: give --data-dir DIR or --dataset"
        f" {cell.dataset.entry.name}:{options}"
    )


def text(value: Any) -> str:
    """An option's value as specs have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _plugin(
    kind: str, component: Component, where: tuple[tuple[str, str], ...] = ()
) -> Plugin:
    registry = default_registry()
    options = tuple((k, text(v)) for k, v in component.options.items())
    title = f"{kind} {component.name} ({component.distribution} {component.version})"
    try:
        entry = registry.entry(kind, component.name)
        # All options as they were, for defaults may have changed since.
        configured = registry.configure(kind, Spec(component.name, options + where))
    except UnknownPluginError as error:
        raise UnknownPluginError(
            f"the record's {title} is not installed: {error}; install it, or give its file"
            " with --plugin"
        ) from error
    except PluginError as error:
        if component.source:
            raise
        # It could not be loaded for the record either.
        return Plugin(entry, None, given=Spec(component.name), error=str(error))
    shortest = Spec.parse(canonical(configured))
    given = Spec(shortest.name, shortest.options + where)
    return Plugin(entry, configured, given=given)


def _given(record: CellRecord, spec: str) -> tuple[tuple[str, str], ...]:
    """The locations that the user's spec of the data set has.

    Raises:
        UsageError: it is another data set than the record's.
    """
    configured = default_registry().configure("dataset", Spec.parse(spec))
    if _identity(configured) != (record.dataset.name, record.dataset.options):
        raise UsageError(
            f"--dataset {spec}: expected {record.dataset.spec}, the record's data set,"
            f" with options that say where its files are, got {canonical(configured)}"
        )
    return _located(configured)


def _known(record: CellRecord, folder: RunFolder) -> tuple[tuple[str, str], ...]:
    """The locations of the data set that the run was started with, if it says."""
    for spec in _specs(folder):
        if spec.name != record.dataset.name:
            continue
        try:
            configured = default_registry().configure("dataset", spec)
        except CibenchError:
            continue
        if _identity(configured) == (record.dataset.name, record.dataset.options):
            return _located(configured)
    return ()


def _specs(folder: RunFolder) -> Iterator[Spec]:
    """Data sets as they were given to the run, the last first."""
    from ._manifest import read_manifest
    from ._run_study import stored_study

    texts: list[str] = []
    if (folder.path / "run.json").exists():
        for one in reversed(read_manifest(folder).invocations):
            texts += one.options.get("datasets", [])
    study = stored_study(folder.path)
    if study is not None:
        texts += [spec for protocol in study.protocols for spec in protocol.datasets]
    for each in texts:
        try:
            yield Spec.parse(each)
        except UsageError:  # a glob
            continue


def _identity(configured: Any) -> tuple[str, dict[str, Any]]:
    return configured.name, resolved(configured)


def _located(configured: Any) -> tuple[tuple[str, str], ...]:
    """Locations that were given; relative ones are below the present folder."""
    known = _locations(configured)
    return tuple((name, text(v)) for name, v in known.items() if v is not None)


def _locations(configured: Any) -> dict[str, Any]:
    if configured is None:
        return {}
    told = resolved(configured)
    return {
        name: getattr(configured, name)
        for name in option_types(type(configured))
        if name not in told
    }
