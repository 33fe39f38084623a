"""What a plugin may change in Python and its numerical libraries, put back afterwards.

Without it the next cell of the same process would compute with another's settings.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def put_back() -> Iterator[None]:
    """Leave the settings and the global generators as they were.

    Whether subnormal numbers are flushed cannot be asked: afterwards they are not.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    anomalies = torch.is_anomaly_enabled()
    deterministic = _deterministic()
    precision = torch.get_float32_matmul_precision()
    errors, recursion, collected = np.geterr(), sys.getrecursionlimit(), gc.isenabled()
    try:
        with kept_generators():
            yield
    finally:
        sys.setrecursionlimit(recursion)
        (gc.enable if collected else gc.disable)()
        np.seterr(**errors)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.autograd.set_detect_anomaly(anomalies)
        if _deterministic() != deterministic:  # setting it takes milliseconds
            torch.use_deterministic_algorithms(
                deterministic[0], warn_only=deterministic[1]
            )
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(False)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
