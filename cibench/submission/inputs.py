"""Whether a record's key, inputs, options and id belong to one cell; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .._errors import CibenchError
from ..execute.keys import content_key, key_of, options_text
from ..results.record import AttackPart, CellRecord, Component
from ..spec import Spec


def input_faults(record: CellRecord) -> Iterator[str]:
    """Where what a record says of its cell does not fit together."""
    yield from _id_faults(record)
    for part in record.attack:
        yield from _spec_faults("attack", part.component)
        yield from _threat_faults(part)
    yield from _spec_faults("dataset", record.dataset)
    yield from _spec_faults("defense", record.defense)
    inputs = record.inputs
    if not inputs:
        if record.status == "ok":
            yield "inputs: expected what the key is the hash of, got none"
        return
    for name, value in _expected(record).items():
        if inputs.get(name) != value:
            yield (
                f"inputs: {name}: expected {value[:80]!a} as the rest of the record says,"
                f" got {inputs.get(name, '')[:80]!a}"
            )
    found = cell_key(inputs)
    if found != record.key:
        yield f"key: claims {record.key[:40]!a}, its inputs say {found}"


def cell_key(inputs: Mapping[str, str]) -> str:
    """The content key of a cell from its named inputs, as the harness forms it."""
    seed = inputs.get("seed", "")
    own = {name: value for name, value in inputs.items() if name != "seed"}

    def shared(kind: str, other: str) -> str:
        # An attack's parts are called `attack` or `attack 1`, with suffixes.
        named = {
            name: value
            for name, value in own.items()
            if name.split()[0] != other and name != "samples"
        }
        return content_key(key_of({"": kind, **named}), seed)

    references, fit = shared("references", "defense"), shared("fit", "attack")
    return content_key(references, fit, inputs.get("samples", ""))


def _expected(record: CellRecord) -> dict[str, str]:
    expected = {
        "protocol": str(record.protocol),
        "device": record.device,
        "data": record.fingerprint,
        "embedding": options_text(record.embedding),
        "seed": str(record.seed),
        "samples": "all",
        **_component("dataset", record.dataset),
        **_component("defense", record.defense),
    }
    for name in ("torch", "threads"):
        if name in record.environment:
            expected[name] = record.environment[name]
    several = len(record.attack) > 1
    for at, part in enumerate(record.attack, 1):
        role = f"attack {at}" if several else "attack"
        expected |= _component(role, part.component)
    return expected


def _component(role: str, component: Component) -> dict[str, str]:
    named = {
        role: component.name,
        f"{role} options": options_text(component.options),
        f"{role} source": component.source,
        f"{role} distribution": f"{component.distribution} {component.version}",
    }
    if role == "dataset":
        # What the data set calls itself; its plugin may have another name.
        del named[role]
    return named


def _id_faults(record: CellRecord) -> Iterator[str]:
    attacks = "+".join(part.component.name for part in record.attack)
    names = [record.dataset.name, attacks, record.defense.name, str(record.seed)]
    expected = "--".join([*names, record.key[:8]])
    if record.cell != expected:
        yield f"cell: expected the id {expected[:240]!a} of its names, seed and key"


def _spec_faults(kind: str, component: Component) -> Iterator[str]:
    """Where a spec, by which boards call a plugin, says other things than its options."""
    title = f"{kind} {component.name}"
    try:
        spec = Spec.parse(component.spec)
    except CibenchError as error:
        yield f"{title}: expected a spec, got: {error}"
        return
    if spec.name != component.name:
        yield f"{title}: expected a spec of that name, got {component.spec[:80]!a}"
    for name, text in spec.options:
        if name not in component.options or _text(component.options[name]) != text:
            yield f"{title}: expected the options of its spec, got another {name}"


def _threat_faults(part: AttackPart) -> Iterator[str]:
    """Where an attack's options say another threat model than the record."""
    said = {
        "agents": part.agents,
        "knowledge": part.knowledge,
        "target": part.target,
        "budget": part.budget,
    }
    if part.counts_target and part.target == "any":
        yield f"attack {part.component.name}: counts a target class and names none"
    if part.budget is not None and not part.budget > 0:
        yield f"attack {part.component.name}: expected a budget above 0, got another"
    for name, value in said.items():
        option = part.component.options.get(name, value)
        if option != value and part.agents:
            yield (
                f"attack {part.component.name}: claims {name}={value}, its options say"
                f" {str(option)[:80]!a}"
            )


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)
