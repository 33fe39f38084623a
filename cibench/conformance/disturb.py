"""The global generators, which no plugin is to use: set, to see who does."""

from __future__ import annotations

import random

import numpy as np
import torch


def disturb(seed: int) -> None:
    """Set every global generator."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
