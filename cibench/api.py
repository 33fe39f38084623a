"""`cibench.run`: the command line's grid from Python, as a data frame."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ._errors import UsageError
from .registry import KINDS, default_registry
from .results import RunFolder
from .results.frame import Results, results
from .spec import canonical

if TYPE_CHECKING:
    from .attack import AbstractAttack
    from .dataset import AbstractDataset
    from .defense import AbstractDefense

    Plugin: TypeAlias = AbstractAttack | AbstractDataset | AbstractDefense

#: A spec, glob or `all`; a configured plugin; or several of them.
Specs: TypeAlias = "str | Plugin | Iterable[str | Plugin]"


def run(
    defense: Specs | None = None,
    attack: Specs | None = None,
    dataset: Specs | None = None,
    *,
    seeds: int | Sequence[int] | str | None = None,
    limit: int | None = None,
    quick: bool = False,
    preset: str | None = None,
    parameters: Mapping[str, Iterable[Any]] | None = None,
    exclude: str | Iterable[str] = (),
    embedding: str | None = None,
    suite: str | None = None,
    config: str | Path | None = None,
    protocol: str | Iterable[str] = (),
    plugin: str | Path | Iterable[str | Path] = (),
    data_dir: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    jobs: int | str | None = None,
    backend: str | None = None,
    backend_options: Mapping[str, str] | None = None,
    timeout: str | None = None,
    memory: str | None = None,
    isolation: str | None = None,
    out: str | Path | None = None,
    rerun: str | Iterable[str] = (),
    witnesses: bool = False,
    cache: bool = True,
    progress: bool | None = None,
) -> Results:
    """Run every selected defense against every selected attack, as `cibench run` does.

    The same cells, in processes of their own, with the same cache, records and numbers.
    What is not given is what the command line takes without the option.

    Args:
        defense: specs such as `copur:tau=2`, globs, `all`, or configured plugins.
        attack: the same; parts of one attack are joined by `+`.
        dataset: the same.
        seeds: a count (3 is 0, 1, 2), a list of seeds, or text as for `--seeds`.
        limit: test samples to use at most; records are then marked partial.
        quick: one seed and few samples, for trying out.
        preset: `quick`, `standard` or `full`.
        parameters: values to try, such as `{"copur.tau": [500, 1000]}`.
        exclude: cells to leave out, such as `copur/pgd`.
        embedding: spec of the embedding recipe.
        suite: a shipped study in place of defense, attack and dataset.
        config: a study's TOML file in their place.
        protocol: of the study; all of them if none is named.
        plugin: Python files to take plugins from.
        data_dir: folder of your own data files.
        device: a torch device.
        threads: of each computation.
        jobs: cells at a time, or `auto`.
        backend: `serial`, `loky`, `dask` or `ray`.
        backend_options: of `dask` and `ray`.
        timeout: most time for a cell, such as `20m`.
        memory: most memory of a cell, such as `4G`.
        isolation: `process`, or `none` to debug a plugin.
        out: folder for the records; a new one below `runs/` if not given.
        rerun: what to compute again: statuses, plugins, `all`.
        witnesses: keep what each attack sent.
        cache: read and keep artifacts.
        progress: show progress on standard error; if not given, on a terminal only.

    Returns:
        A row for each data set, attack and defense. Accuracies are shares in [0, 1], means
        over the seeds, with the sample standard deviation beside them (missing with one
        seed); `low` and `high` are the 95 % interval of `attacked`. `status` is `ok`, or
        how the first cell that has no number ended, `reason` why; then there are no
        numbers: never a mean over what survived. `variant` tells rows apart that differ
        in nothing else, such as the embedding of a study's rows.

    Raises:
        UsageError, EnvironmentFault, EmptySelectionError: something in it is wrong; found
            before anything runs.
        KeyboardInterrupt: it was stopped; finished cells are kept.

    Example:
        cibench.run(defense=["none", "copur"], attack="pgd", dataset="synthetic", seeds=1)
    """
    shown = sys.stderr.isatty() if progress is None else progress
    given = {
        "defenses": _specs(defense),
        "attacks": _specs(attack),
        "datasets": _specs(dataset),
        "seeds": _seeds(seeds),
        "limit": limit,
        "quick": quick or None,
        "preset": preset,
        "parameters": _parameters(parameters),
        "exclude": _texts(exclude),
        "embedding": embedding,
        "suite": suite,
        "config": None if config is None else Path(config),
        "protocols": _texts(protocol),
        "plugin_files": tuple(Path(path) for path in _texts(plugin) or ()) or None,
        "data_dir": None if data_dir is None else Path(data_dir),
        "device": device,
        "threads": threads,
        "jobs": None if jobs is None else str(jobs),
        "backend": backend,
        "backend_options": tuple(f"{k}={v}" for k, v in (backend_options or {}).items())
        or None,
        "timeout": timeout,
        "memory": memory,
        "isolation": isolation,
        "out": None if out is None else Path(out),
        "rerun": _texts(rerun),
        "witnesses": witnesses or None,
        "no_cache": None if cache else True,
        "quiet": None if shown else True,
    }
    typed = {name: value for name, value in given.items() if value is not None}
    folder, cells = _computed(typed)
    return results(folder, cells)


def _computed(typed: Mapping[str, Any]) -> tuple[RunFolder, list[str]]:
    """Compute what the command line would with these options."""
    from .cli._chosen import wanted
    from .cli._run_cells import compute
    from .cli.run import command

    try:
        # The defaults, and what environment variables say.
        with command.make_context("run", []) as context:
            params = dict(context.params)
            for parameter in context.command.params:
                if parameter.name in typed:
                    value = parameter.process_value(context, typed[parameter.name])
                    params[parameter.name] = value
        found = compute(wanted(params, set(typed)))
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    if found.interrupted:
        raise KeyboardInterrupt
    if found.outcome.trouble is not None:
        raise found.outcome.trouble
    return found.folder, found.outcome.ids


def _specs(given: Specs | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    several = not isinstance(given, str) and isinstance(given, Iterable)
    listed: Iterable[Any] = given if several else [given]  # type: ignore[assignment]
    return tuple(one if isinstance(one, str) else _spec(one) for one in listed)


def _spec(plugin: Plugin) -> str:
    """The spec of a configured plugin.

    Raises:
        UsageError: the name belongs to another class, which would be run in its place.
    """
    registry, name = default_registry(), getattr(plugin, "name", "")
    kinds = [kind for kind in KINDS if name in registry.names(kind)]
    if not any(registry.load(kind, name) is type(plugin) for kind in kinds):
        raise UsageError(
            f"run: expected specs, or configured plugins that are installed, got"
            f" {plugin!r}; give its file as plugin=FILE and its spec as text, or see"
            " cibench ls"
        )
    return canonical(plugin, located=True)


def _texts(given: Any) -> tuple[str, ...] | None:
    listed = [given] if isinstance(given, str | Path) else list(given)
    return tuple(str(one) for one in listed) or None


def _seeds(given: int | Sequence[int] | str | None) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int | Integral):  # of NumPy, too
        return str(int(given))
    return "".join(f"{seed}," for seed in given)


def _parameters(given: Mapping[str, Iterable[Any]] | None) -> tuple[str, ...] | None:
    if not given:
        return None
    return tuple(
        f"{name}={','.join(_value(value) for value in values)}"
        for name, values in given.items()
    )


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)
