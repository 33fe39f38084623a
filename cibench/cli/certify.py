"""`cibench certify`: how many corrupted or silent agents are provably harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._options import (
    DATA_DIR,
    DATASETS,
    DEVICE,
    EMBEDDING,
    PARAMETERS,
    PLUGIN_FILES,
    THREADS,
    defenses,
    typed_names,
)

#: Options of a matrix, and those of a data set and a defense.
_MATRIX = frozenset(("matrix", "widths", "key", "direction"))
_SHARED = frozenset(("corrupted", "missing", "as_json", "device", "threads", "quiet"))


@click.command(
    "certify", short_help="Say how many corrupted agents are provably harmless."
)
@defenses("copur:gap=0.001")
@DATASETS
@PARAMETERS
@click.option(
    "--corrupted",
    metavar="N|LIST",
    help="Corrupted agents to certify against: a number, or several such as 1,2 or 1-3."
    "  [default: 1, 2, ... until nothing stands; 1 with --sweep or --matrix]",
)
@click.option(
    "--missing",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Also find out which decisions stand without up to N agents, by trying all sets;"
    " with --matrix, how many agents are missing.",
)
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    metavar="N|LIST",
    help="Repetitions with their own training: a count, or seeds such as 0,4,7.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Certify N test samples at most.",
)
@click.option(
    "--sweep",
    metavar="OPTION[=V1,V2]",
    help="Vary an option of each defense and name its best value; rank is the code width"
    " of a purifier, 2,4,8,16,32 where no values are given.",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the sweep into a file that ends in .svg or .png.",
)
@click.option(
    "--matrix",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Bound the leverage constant and the recovery rate of a decoder of your own, from"
    " .npy, .npz, .csv or .safetensors; no data set, no defense.",
)
@click.option(
    "--widths",
    metavar="W1/W2/...",
    help="Rows of the matrix that belong to each agent, such as 32/32/16.",
)
@click.option("--key", metavar="NAME", help="The matrix of a file that has several.")
@click.option(
    "--direction",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the code that shows the upper bound, of the largest number, as .npy.",
)
@EMBEDDING
@PLUGIN_FILES
@DEVICE
@THREADS
@DATA_DIR
@click.option("--no-cache", is_flag=True, help="Neither read nor keep artifacts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Report phases.")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> int:
    """Certify the clean decisions of every selected defense.

    Certified accuracy is the share of test samples that are decided rightly and proved to
    stand, whatever that many agents send or withhold. It is a lower bound on the accuracy
    under any attack. A defense that certifies nothing is a row with the reason.

    Cells are computed one after another in this process. What cannot be certified is said
    before the work starts, where that is known.

    \b
    cibench certify -d randomized-ablation -d partition-vote
    cibench certify --sweep rank --figure rank.svg
    cibench certify --matrix W.npy --widths 32/32/32/32 --corrupted 1
    """  # noqa: D301
    typed = typed_names(ctx)
    if params["matrix"] is not None:
        _refuse(ctx, typed - _MATRIX - _SHARED, "--matrix", "it alone")
        from ._certify_matrix import certify_matrix

        return certify_matrix(params)
    _refuse(ctx, typed & _MATRIX, "", "--matrix with it")
    if params["sweep"] is None:
        _refuse(ctx, typed & {"figure"}, "", "--sweep with it")
    from ._certify_cells import certify_cells

    return certify_cells(params)


def _refuse(ctx: click.Context, names: set[str], flag: str, expected: str) -> None:
    """Refuse options that do not go together.

    Raises:
        click.UsageError: there are some.
    """
    if not names:
        return
    flags = {p.name: p.opts[-1] for p in ctx.command.params}
    given = ", ".join(sorted(flags[name] for name in names))
    raise click.UsageError(
        f"{flag}: expected {expected}, got {given} too"
        if flag
        else f"{given}: expected {expected}"
    )
