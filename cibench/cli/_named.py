"""Whether plugins of a submission are what their names say, where they are installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .._errors import CibenchError, SubmissionError
from ..registry import default_registry
from ..results import CellRecord, Component
from ..spec import Spec, canonical, option_types, resolved

if TYPE_CHECKING:
    from ._verified import Verified

#: The distribution that boards take suites and references from.
_OWN = "cibench"


def check_names(records: Sequence[CellRecord], found: Verified) -> None:
    """Refuse specs that leave out what was configured, and plugins that do not exist.

    Boards call a method by its spec, which names the options that are not defaults; keys
    and cells that run again are made from all options. Of plugins that are not installed
    nothing can be said, which is noted.

    Raises:
        SubmissionError: with a sentence for each that is not what its name says.
    """
    faults = []
    oracles: dict[tuple[str, str], bool] = {}
    for kind, component in _components(records):
        try:
            configured = _installed(kind, component)
        except SubmissionError as error:
            faults.append(str(error))
            continue
        except CibenchError as error:
            found.note(f"cannot be checked: {error}")
            continue
        if configured is None:
            found.note(
                f"{kind} {component.name} of {component.distribution} is not installed:"
                " whether its spec is its own was not checked"
            )
            continue
        faults += _spec_faults(kind, component, configured)
        if kind == "defense":
            key = component.spec, component.distribution
            oracles[key] = configured.capabilities.needs_corrupted_agents
    faults += _oracle_faults(records, oracles)
    if faults:
        raise SubmissionError(faults[0], faults)


def _components(records: Sequence[CellRecord]) -> Iterator[tuple[str, Component]]:
    """Each configured plugin once; of cells that failed before, what they name."""
    seen = set()
    for record in records:
        parts = [("attack", part.component) for part in record.attack]
        every = [("dataset", record.dataset), *parts, ("defense", record.defense)]
        for kind, one in every:
            key = kind, one.spec, one.distribution, repr(sorted(one.options.items()))
            if key not in seen and one.source:
                seen.add(key)
                yield kind, one


def _installed(kind: str, component: Component) -> Any:
    """The plugin with the record's options; None where it is not installed.

    Raises:
        SubmissionError: cibench has no such plugin, or an option is a place of files.
        CibenchError: it takes other options here.
    """
    registry = default_registry()
    names = registry.names(kind)
    if component.name not in names:
        if component.distribution == _OWN:
            raise SubmissionError(
                f"{kind} {component.name[:40]!a}: expected one of cibench, which it claims"
                " to be, got none of that name"
            )
        return None
    entry = registry.entry(kind, component.name)
    if entry.distribution != component.distribution:
        if component.distribution == _OWN:
            raise SubmissionError(
                f"{kind} {component.name}: claims to be of cibench, is of"
                f" {entry.distribution}"
            )
        return None
    cls = registry.load(kind, component.name)
    unknown = set(component.options) - set(option_types(cls))
    if unknown:
        raise SubmissionError(
            f"{kind} {component.name}: expected its options, got {min(unknown)[:40]!a}"
        )
    from ._rebuild import text

    options = tuple((name, text(v)) for name, v in component.options.items())
    configured = registry.configure(kind, Spec(component.name, options))
    places = set(component.options) - set(resolved(configured))
    if places:
        raise SubmissionError(
            f"{kind} {component.name}: expected no option that says where files are, got"
            f" {min(places)!a}"
        )
    return configured


def _spec_faults(kind: str, component: Component, configured: Any) -> Iterator[str]:
    expected = canonical(configured)
    if component.spec != expected:
        yield (
            f"{kind} {component.name}: expected the spec of its options, {expected!a}, got"
            f" {component.spec[:200]!a}"
        )


def _oracle_faults(
    records: Sequence[CellRecord], oracles: dict[tuple[str, str], bool]
) -> Iterator[str]:
    for record in records:
        key = record.defense.spec, record.defense.distribution
        if record.status != "ok" or key not in oracles:
            continue
        if oracles[key] != ("oracle-information" in record.flags):
            told = "is told" if oracles[key] else "is not told"
            yield (
                f"{record.cell}: flags: {record.defense.name} {told} which agents are"
                " compromised, its flags say otherwise"
            )
