"""`cibench check`: try plugins against what their kind promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._errors import CibenchError, OptionError, OutputError, PluginError
from ..registry import KINDS, default_registry
from ._completing import plugins
from ._options import DATA_DIR

if TYPE_CHECKING:
    from ..conformance import Result


@click.command("check", short_help="Try plugins against what their kind promises.")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=plugins)
@click.option("--all", "every", is_flag=True, help="Check every installed plugin.")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    help="Only plugins of this kind.",
)
@click.option("--fast", is_flag=True, help="Leave out checks that fit several times.")
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write results as JUnit XML, for a build server.",
)
@click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also take in the plugins of a Python file; without NAME they are checked.",
)
@DATA_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Name the checks that passed, too.")
def command(
    names: tuple[str, ...],
    every: bool,
    kind: str | None,
    fast: bool,
    junit: Path | None,
    plugin_files: tuple[Path, ...],
    data_dir: Path | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Check the plugins NAME, which may have options, as in copur:solver=paper.

    Each is tried on small generated agents: missing ones, hostile payloads, other batches,
    a second fit, and with other labels and culprits around the same input, which a plugin
    that knows only what it should cannot notice. A failure says what was expected, what
    came, why it matters and how to mend it. Exit status 1 if a check fails.

    \b
    cibench check mydefense
    cibench check --plugin mydefense.py
    cibench check --all --fast --junit checks.xml
    """  # noqa: D301
    from ..conformance.trial import set_data_folder

    own = _files(plugin_files)
    if not (names or every or own):
        raise click.UsageError(
            "expected names of plugins, --all or --plugin FILE, got none; cibench ls"
            " lists what is installed"
        )
    set_data_folder(data_dir)
    chosen = _chosen(names, every, kind, own)
    _one_thread()
    results: list[Result] = []
    for each, spec in chosen:
        found = []
        for result in _checked(each, spec, fast, every):
            found.append(result)
            if not as_json:
                _tell(result, verbose)
        results += found
        if not as_json:
            _sum_up(each, spec, found)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(results))
    if junit is not None:
        _write(junit, results)
    failed = sum(r.status == "failed" for r in results)
    if failed:
        click.echo(f"error: {failed} of {len(results)} checks failed", err=True)
    return 1 if failed else 0


def _one_thread() -> None:
    """Compute as a run does by default; on tensors this small threads get in the way."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _files(paths: tuple[Path, ...]) -> list[tuple[str, str]]:
    """Take in files; the kinds and names of the plugins they bring."""
    if not paths:
        return []
    from ..execute.plugin_file import add_file

    brought = {add_file(path) for path in paths}
    entries = default_registry().entries
    return [(e.kind, e.name) for e in entries if e.distribution in brought]


def _chosen(
    names: tuple[str, ...], every: bool, kind: str | None, own: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Kinds and specs to check.

    Raises:
        UnknownPluginError: no kind has a plugin of the name.
    """
    from .._errors import UnknownPluginError
    from ..spec import Spec, did_you_mean

    registry = default_registry()
    kinds = [kind] if kind else list(KINDS)
    if every:
        return [(k, name) for k in kinds for name in registry.names(k)]
    found = [] if names else [(k, n) for k, n in own if k in kinds]
    for text in names:
        name = Spec.parse(text).name
        of = [k for k in kinds if name in registry.names(k)]
        if not of:
            known = sorted({n for k in kinds for n in registry.names(k)})
            raise UnknownPluginError(
                f"unknown plugin {name!r}{did_you_mean(name, known)}; expected one of"
                f" {', '.join(known)}"
            )
        if "none" in of and len(of) > 1 and ":" in text:
            of = [k for k in of if _takes(k, text)]
        found += [(k, text) for k in of]
    return found


def _takes(kind: str, text: str) -> bool:
    from ..spec import Spec

    try:
        default_registry().configure(kind, Spec.parse(text))
    except CibenchError:
        return False
    return True


def _checked(kind: str, spec: str, fast: bool, lenient: bool) -> Iterator[Result]:
    """Load, configure and check one plugin; what cannot be loaded is a failure.

    Args:
        lenient: skip a plugin that has no use without options.
    """
    from ..conformance import Result, check_plugin
    from ..spec import Spec

    parsed = Spec.parse(spec)
    try:
        plugin: Any = default_registry().configure(kind, parsed)
    except (PluginError, OptionError) as error:
        if isinstance(error, OptionError) and (parsed.options or not lenient):
            raise
        lacking = isinstance(error, OptionError)
        yield Result(
            kind=kind,
            plugin=parsed.name,
            check="loads",
            status="skipped" if lacking else "failed",
            detail=f"it needs options: {error}" if lacking else str(error),
            seconds=0.0,
        )
        return
    yield from check_plugin(plugin, fast=fast)


def _tell(result: Result, verbose: bool) -> None:
    if result.status == "failed":
        click.echo(f"failed  {result.detail}")
    elif result.status == "known failure":
        name = f"{result.kind} {result.plugin}"
        click.echo(f"known   {name}: {result.check}: {result.detail}")
    elif verbose:
        reason = f": {result.detail}" if result.detail else ""
        click.echo(f"{result.status:7} {result.check} ({result.seconds:.1f} s){reason}")


def _sum_up(kind: str, spec: str, found: list[Result]) -> None:
    counts = {
        word: sum(r.status == word for r in found)
        for word in ("passed", "failed", "known failure", "skipped")
    }
    seconds = sum(r.seconds for r in found)
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    click.echo(f"{kind} {spec}: {told or 'nothing to check'} ({seconds:.1f} s)")


def _write(path: Path, results: list[Result]) -> None:
    from ..conformance.junit import junit

    try:
        path.write_text(junit(results), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"--junit {path}: expected a file that can be written, got {error.strerror}"
        ) from error
