"""`cibench doctor`: what this installation has, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import DATA_DIR, default_cache
from ._show import plain


@click.command("doctor", short_help="Say what is installed and what is wrong.")
@DATA_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(data_dir: Path | None, as_json: bool) -> int:
    """Look at versions, threads, devices, extras, the cache, plugins and data sets.

    Every plugin is loaded. The exit code is 3 if something is broken, with what to do, else
    0: what is merely absent is said. Put its output into reports of defects; it names
    no data, and the home folder is `~`.

    \b
    cibench doctor
    cibench doctor --json
    """  # noqa: D301
    from ..health import examine

    found = list(examine(default_cache(), data_dir))
    broken = [one for one in found if one.state == "broken"]
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found))
    else:
        rows = [[one.part, one.what, one.state, one.detail] for one in found]
        plain(rows, ["part", "what", "state", "detail"])
    for one in broken:
        click.echo(f"error: {one.what}: {' '.join(one.detail.split())}", err=True)
    return 3 if broken else 0
