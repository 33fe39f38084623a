"""Settings of Python and of numerical libraries after a plugin changed them."""

import gc
import random
import sys

import numpy as np
import pytest
import torch

from cibench.execute.put_back import put_back

#: How to change a setting, and how to ask for it.
SETTINGS = {
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        torch.get_default_dtype,
    ),
    "device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "threads": (
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        torch.get_num_threads,
    ),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "anomalies": (
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.is_anomaly_enabled,
    ),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    ),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "subnormal": (
        lambda: torch.set_flush_denormal(True),
        lambda: (torch.tensor([1e-310], dtype=torch.float64) * 0.5).item() > 0,
    ),
    "errors": (lambda: np.seterr(all="raise"), np.geterr),
    "recursion": (
        lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 7),
        sys.getrecursionlimit,
    ),
    "collector": (gc.disable, gc.isenabled),
    "torch's generator": (
        lambda: torch.rand(3),
        lambda: torch.get_rng_state().tolist(),
    ),
    "numpy's generator": (
        lambda: np.random.rand(3),  # noqa: NPY002
        lambda: np.random.get_state()[2],  # noqa: NPY002
    ),
    "Python's generator": (random.random, random.getstate),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_put_back(setting):
    change, ask = SETTINGS[setting]
    before = ask()
    with put_back():
        change()
        assert ask() != before
    assert ask() == before


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_it_is_put_back_after_an_exception(error):
    def spoils():
        with put_back():
            torch.set_default_dtype(torch.float64)
            raise error

    with pytest.raises(error):
        spoils()
    assert torch.get_default_dtype() == torch.float32
