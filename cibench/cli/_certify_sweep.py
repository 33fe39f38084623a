"""What `certify --sweep` does: certify each value of an option, print, draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import EmptySelectionError, PluginError, UsageError
from .._selection import expand_names
from ..registry import default_registry
from ..spec import Spec, did_you_mean, option_types
from ._certify_cells import certified_rows, exit_code, grid, say
from ._certify_given import check_target
from ._certify_tables import ends, percent, print_json

if TYPE_CHECKING:
    from ..certification.sweep import Point, Sweep
    from ..results.table import Table

#: What the code width of a purifier is called, and its values where none are given.
RANK, WIDTH, RANKS = "rank", "width", "2,4,8,16,32"
#: Columns of any defense, and those of one with a manifold.
_ALL = ("corrupted", "clean %", "certified %")
_OWN = (
    *("rank", "delta", "delta 90 %", "c at least", "c at most", "gamma", "Delta"),
    *("Delta 90 %", "delta limit", "deployed %"),
)


def certify_sweep(
    params: Mapping[str, Any], corrupted: Sequence[int], seeds: Sequence[int]
) -> int:
    """Certify a grid for each value of an option and print it; return the exit code.

    Raises:
        UsageError, EmptySelectionError, EnvironmentFault: something in it is wrong; found
            before anything is trained.
    """
    figure: Path | None = params["figure"]
    if figure is not None:
        from ..report.style import empty_figure

        empty_figure(1, 1)  # whether there is matplotlib at all
        check_target("--figure", figure, (".svg", ".png"))
    label, option, values, defenses = _varied(params["sweep"], params["defenses"])
    texts = [f"defense:{name}.{option}={values}" for name in _names(defenses)]
    cells = grid({**params, "defenses": defenses}, seeds, texts)
    rows = list(certified_rows(params, cells, corrupted, taken_apart=True))
    from ..certification.sweep import sweeps

    found = sweeps(rows, option, corrupted, label)
    if figure is not None:
        _draw(found, figure)
        if not params["quiet"]:
            say(f"figure in {figure}")
    if params["as_json"]:
        print_json(rows, best=[best for each in found for best in _best(each)])
    else:
        from ._show import print_table

        for each in found:
            print_table(_table(each))
    return exit_code([row for row in rows if not row.misfit])


def _varied(text: str, defenses: Sequence[str]) -> tuple[str, str, str, list[str]]:
    """What the option is called, its name, its values, and the defenses that have it.

    Raises:
        UsageError: there are no values, or a defense has no such option.
        EmptySelectionError: no defense has it.
    """
    label, equals, values = (part.strip() for part in text.partition("="))
    option = label
    if label == RANK:
        option, values = WIDTH, values or RANKS
    if not values or not option or (equals and not values):
        raise UsageError(
            f"--sweep: expected rank, or an option with values such as tau=1,2, got"
            f" {text!r}"
        )
    registry = default_registry()
    kept = []
    for given, typed in expand_names(registry, "defense", defenses):
        spec = Spec.parse(given)
        try:
            known = option_types(registry.load("defense", spec.name))
        except PluginError:
            if typed:
                raise
            continue
        if typed and option in dict(spec.options):
            raise UsageError(
                f"--sweep {text}: expected a defense without {option}, which the sweep"
                f" sets, got {given}"
            )
        if option in known:
            kept.append(given)
        elif typed:
            raise UsageError(
                f"--sweep {text}: expected an option of {spec.name}, which has"
                f" {', '.join(sorted(known)) or 'none'}, got {option!r}"
                f"{did_you_mean(option, list(known))}"
            )
    if not kept:
        raise EmptySelectionError(
            f"--sweep {text}: expected a defense with the option {option}, got none"
        )
    return label, option, values, kept


def _names(defenses: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(Spec.parse(text).name for text in defenses))


def _draw(found: Sequence[Sweep], path: Path) -> None:
    from ..certification.figure import drawn
    from ..report.style import rendered
    from ..results.folder import write_atomically

    write_atomically(path, rendered(drawn(found), path.suffix[1:]))


def _table(found: Sweep) -> Table:
    from ..results.table import Table

    seeds = len(found.seeds)
    notes = [f"mean over {seeds} seeds"] if seeds > 1 else []
    apart = any(point.recovery for point in found.points)
    own = tuple(name for name in _OWN if apart and name != found.option)
    if apart:
        notes.append(
            "delta: sum of block norms from clean embedding to manifold, median over test"
            " samples; Delta: how far the purified point may be from that of the clean"
            " embedding; in the units of the embedding"
        )
        if any(point.recovery and point.recovery.limit for point in found.points):
            notes.append(
                "delta limit: of a fresh clean sample, split conformal on validation data;"
                " deployed: decided rightly and certified by that limit, where no sample's"
                " own delta is known"
            )
        if not any(point.certified for point in found.points):
            notes.append("Delta holds for a fit that is exact, or within its gap")
    notes += [_best_line(found, number) for number in found.numbers]
    return Table(
        title=f"{found.dataset} · {found.defense}: by {found.option}",
        columns=(found.option, *_ALL, *own, "why nothing"),
        rows=tuple(_cells(point, own) for point in found.points),
        notes=tuple(notes),
    )


def _best_line(found: Sweep, number: int) -> str:
    best = found.best(number)
    if best is None:
        return f"{number} corrupted: nothing is certified at any {found.option}"
    return (
        f"{number} corrupted: best {found.option} {_text(best.value)}:"
        f" {percent(best.certified or 0.0)} % certified,"
        f" {percent(best.clean or 0.0)} % clean"
    )


def _best(found: Sweep) -> list[dict[str, Any]]:
    told = []
    for number in found.numbers:
        best = found.best(number)
        told.append(
            {
                "dataset": found.dataset,
                "defense": found.defense,
                "option": found.option,
                "agents": number,
                "value": None if best is None else best.value,
                "certified": 0.0 if best is None else best.certified,
                "clean": None if best is None else best.clean,
            }
        )
    return told


def _cells(point: Point, own: Sequence[str]) -> tuple[str, ...]:
    """A row, with columns of its own for a purifier."""
    apart = point.recovery
    numbers = dict.fromkeys(own, "")
    if apart is not None:
        texts = [
            str(apart.rank),
            *(_short(value) for value in apart.residual),
            *ends(apart.leverage),
            _short(apart.rate),
            *(_short(value) for value in apart.distance),
            "" if apart.limit is None else _short(apart.limit),
            "" if apart.deployed is None else percent(apart.deployed),
        ]
        told = dict(zip(_OWN, texts, strict=True))
        numbers = {name: told[name] for name in own}
    shares = [
        "" if share is None else percent(share)
        for share in (point.clean, point.certified)
    ]
    reason = "; ".join(filter(None, (point.reason, apart.reason if apart else "")))
    return (
        _text(point.value),
        str(point.corrupted),
        *shares,
        *numbers.values(),
        reason,
    )


def _short(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:.3g}"


def _text(value: object) -> str:
    return "none" if value is None else str(value)
