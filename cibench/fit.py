"""Fitting a defense: once, checked, and kept as an artifact that every cell loads.

The fusion center a cell attacks is always one that went through the artifact, so that a
cell that fitted it and a cell that found it stored attack the same.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._errors import ContractError
from .defense import AbstractDefense, FusionCenter
from .embedding import Training
from .oracle import OracleFusionCenter
from .seeds import scoped_generator

_UNDEFENDED = "undefended"


@contextmanager
def guarded(training: Training, name: str) -> Iterator[None]:
    """Restore what a defense learns from, which other cells share, whatever it did.

    Raises:
        ContractError: the defense changed it.
    """
    parts = [training.train.features, training.train.observed, training.train_labels]
    parts += [training.validation.features, training.validation.observed]
    parts += [training.validation_labels, *training.undefended.state_dict().values()]
    before = [part.clone() for part in parts]
    try:
        yield
    finally:
        kept = all(map(torch.equal, parts, before))
        for part, old in zip(parts, before, strict=True):
            part.copy_(old)
    if not kept:
        raise ContractError(
            f"defense {name}: expected training data and the undefended fusion center to"
            " be left unchanged, got modified ones; work on a copy"
        )


def fit_defense(
    defense: AbstractDefense,
    training: Training,
    *,
    seed: int,
    dataset: str,
    seed_scope: str,
) -> FusionCenter:
    """Fit a defense and check what it gives.

    Args:
        seed: the repetition's base seed.
        dataset: canonical spec of the data set, part of the fit's seed.
        seed_scope: canonical spec of the defense, part of the fit's seed.

    Raises:
        ContractError: the defense broke its contract; other errors are its own.
    """
    generator = scoped_generator(seed, part="fit", dataset=dataset, defense=seed_scope)
    fusion_center = defense.fit(training, generator=generator)
    if not isinstance(fusion_center, FusionCenter):
        raise ContractError(
            f"defense {defense.name}: expected a FusionCenter from fit, got"
            f" {type(fusion_center).__name__}"
        )
    fusion_center.eval()
    oracle = isinstance(fusion_center, OracleFusionCenter)
    if oracle != defense.capabilities.needs_corrupted_agents:
        raise ContractError(
            f"defense {defense.name}: expected an OracleFusionCenter from fit exactly if"
            " it declares needs_corrupted_agents, got"
            f" {type(fusion_center).__name__}"
        )
    return fusion_center


def fitted_tensors(
    fit: Callable[[], FusionCenter], training: Training
) -> dict[str, Tensor]:
    """Fit, and what is kept of it: the pickled fusion center and the seconds it took.

    A fusion center that cannot be pickled leaves the reason alone.
    """
    started = time.perf_counter()
    fusion_center = fit()
    seconds = time.perf_counter() - started
    kept = {"seconds": torch.tensor([seconds], dtype=torch.float64)}
    content = io.BytesIO()
    try:
        _Pickler(content, training).dump(fusion_center)
    except Exception as error:  # whatever a stranger's object raises
        reason = f"{type(error).__name__}: {error}"
        return kept | {"unpicklable": _bytes(reason.encode() or b"?")}
    return kept | {"fusion_center": _bytes(content.getvalue())}


def fitted_from(
    tensors: dict[str, Tensor], training: Training, fit: Callable[[], FusionCenter]
) -> tuple[FusionCenter, float]:
    """The fusion center that `fitted_tensors` kept, and how long its fit took.

    Args:
        fit: fits it again where it could not be kept.
    """
    if "unpicklable" in tensors:
        started = time.perf_counter()
        return fit(), time.perf_counter() - started
    content = io.BytesIO(tensors["fusion_center"].numpy().tobytes())
    found = _Unpickler(content, training).load()
    assert isinstance(found, FusionCenter)
    return found.eval(), float(tensors["seconds"])


class _Pickler(pickle.Pickler):
    """Keeps the undefended fusion center by name, for it has an artifact of its own."""

    def __init__(self, file: io.BytesIO, training: Training) -> None:
        super().__init__(file, protocol=5)
        self._undefended = training.undefended

    def persistent_id(self, obj: Any) -> str | None:
        return _UNDEFENDED if obj is self._undefended else None


class _Unpickler(pickle.Unpickler):
    """The inverse; the artifact store is the user's own, as trusted as the code."""

    def __init__(self, file: io.BytesIO, training: Training) -> None:
        super().__init__(file)
        self._undefended = training.undefended

    def persistent_load(self, pid: str) -> Any:
        assert pid == _UNDEFENDED
        return self._undefended


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
