"""Bounds for a decoder of one's own, read from a file: no data set, no defense."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._errors import DataError, UsageError
from ..certify import identifiability, leverage, recovery_rate
from ..layout import AgentLayout

#: Kinds of files that are read.
KINDS = (".npy", ".npz", ".csv", ".safetensors")
_COMPLEX = "complex numbers"


@dataclass(frozen=True, eq=False)
class DecoderBounds:
    """What is proved of a decoder against a number of corrupted and missing agents.

    Args:
        leverage: lower and upper bound of the leverage constant c.
        rate: lower and upper bound of the recovery rate gamma; 0 where it is not above 0.
        worst: names of the corrupted agents that reach the upper bound of c.
        absent: names of the agents missing then.
        direction: `(code,)` code that shows it.
        reason: why gamma is 0; empty if it is not.
        sets: pairs of corrupted and missing sets over which this is the least.
        seconds: that it took.
    """

    corrupted: int
    missing: int
    leverage: tuple[float, float]
    rate: tuple[float, float]
    worst: tuple[str, ...]
    absent: tuple[str, ...]
    direction: Tensor | None
    reason: str
    sets: int
    seconds: float


def decoder_bounds(
    weight: Tensor, layout: AgentLayout, corrupted: Sequence[int], missing: int = 0
) -> Iterator[DecoderBounds]:
    """Bound the leverage constant and the recovery rate for each number.

    Args:
        weight: `(width, code)` linear part of an affine decoder.
        layout: the agents' blocks.
        corrupted: numbers of corrupted agents.
        missing: number of missing agents.

    Raises:
        UsageError: W does not fit the layout, or a number leaves nobody honest.
    """
    for number in corrupted:
        started = time.perf_counter()
        constant = leverage(weight, layout, number, missing)
        rate, reason = (0.0, 0.0), constant.reason or ""
        if not reason:
            found = recovery_rate(weight, layout, number, missing)
            rate, reason = (found.lower, found.upper), found.reason or ""
        yield DecoderBounds(
            corrupted=number,
            missing=missing,
            leverage=(constant.lower, constant.upper),
            rate=rate,
            worst=constant.corrupted,
            absent=constant.missing,
            direction=constant.direction,
            reason=reason,
            sets=constant.sets,
            seconds=time.perf_counter() - started,
        )


def ceiling(weight: Tensor, layout: AgentLayout, missing: int = 0) -> int:
    """Most corrupted agents that any method on this manifold could see through.

    Args:
        weight, layout: as in `decoder_bounds`.
        missing: agents that are not heard: the worst set of so many.
    """
    found = []
    for absent in itertools.combinations(range(layout.agents), missing):
        heard = torch.ones(layout.agents, dtype=torch.bool)
        heard[list(absent)] = False
        found.append(identifiability(weight, layout, heard).corrupted)
    return min(found)


def check_numbers(layout: AgentLayout, corrupted: Sequence[int], missing: int) -> None:
    """Refuse numbers that leave nobody heard or nobody honest, before any work.

    Raises:
        UsageError: one is too large.
    """
    if missing >= layout.agents:
        raise UsageError(
            f"--missing: expected fewer than the {layout.agents} agents of --widths, got"
            f" {missing}"
        )
    heard = layout.agents - missing
    if max(corrupted) >= heard:
        raise UsageError(
            f"--corrupted: expected fewer than the {heard} agents heard, got"
            f" {max(corrupted)}"
        )


def layout_of(widths: str) -> AgentLayout:
    """Agents `agent1`, `agent2`, ... of given widths.

    Example:
        >>> layout_of("3/2").names
        ('agent1', 'agent2')

    Raises:
        UsageError: not numbers joined by slashes.
    """
    parts = [part.strip() for part in widths.split("/")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--widths: expected a width for each agent, such as 32/32/16, got {widths!r}"
        )
    names = tuple(f"agent{number}" for number in range(1, len(parts) + 1))
    return AgentLayout(names, tuple(map(int, parts)))


def read_matrix(path: Path, key: str | None = None) -> Tensor:
    """`(rows, columns)` float64 matrix of a file.

    Args:
        path: a file of one of `KINDS`.
        key: name of the matrix in an .npz or .safetensors file; None for the only one.

    Raises:
        UsageError: another kind of file, or several matrices and no key.
        DataError: the file cannot be read, or holds no matrix of finite numbers.
    """
    if path.suffix not in KINDS:
        raise UsageError(
            f"--matrix {path}: expected a file that ends in {', '.join(KINDS)}"
        )
    try:
        found = _arrays(path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if "pickle" in reason:  # NumPy's advice is to run whatever the file holds
            reason = "something that is no array"
        raise DataError(f"{path}: expected a matrix to read, got {reason}") from error
    matrices = {name: array for name, array in found.items() if array.ndim == 2}
    listed = ", ".join(f"{name} {tuple(a.shape)}" for name, a in found.items())
    if key is not None:
        if key not in matrices:
            raise UsageError(
                f"--key {key}: expected the name of a matrix in {path}, which has"
                f" {listed or 'nothing'}"
            )
        matrices = {key: matrices[key]}
    if len(matrices) != 1:
        wanted = "one of them with --key" if matrices else "a matrix"
        raise UsageError(f"--matrix {path}: expected {wanted}, got {listed or 'none'}")
    (matrix,) = matrices.values()
    if not bool(torch.isfinite(matrix).all()):
        raise DataError(f"{path}: expected finite numbers, got others")
    return matrix


def _arrays(path: Path) -> dict[str, Tensor]:
    """Every array of a file by name; `""` where it has none."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded = load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        if any(t.is_complex() for t in loaded.values()):
            raise ValueError(_COMPLEX)
        # NumPy has no bfloat16.
        return {name: t.double() for name, t in loaded.items()}
    if path.suffix == ".csv":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without rows
            table = np.loadtxt(path, delimiter=",", ndmin=2)
        if not table.size:
            raise ValueError("no rows")
        return {"": torch.from_numpy(table)}
    loaded = np.load(path, allow_pickle=False)
    named = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    return {name: _real(array) for name, array in named.items()}


def _real(array: NDArray[Any]) -> Tensor:
    """An array in float64.

    Raises:
        ValueError: it holds complex numbers.
    """
    if np.iscomplexobj(array):
        raise ValueError(_COMPLEX)
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def keep_direction(direction: Tensor, path: Path) -> None:
    """Write a code as .npy.

    Raises:
        OutputError: it cannot be written.
    """
    import io

    from ..results.folder import write_atomically

    content = io.BytesIO()
    np.save(content, direction.cpu().numpy())
    write_atomically(path, content.getvalue())
