"""The training schedule of the code released with the CoPur paper: plain SGD throughout.

Weights start by Glorot's rule. Rate 1e-3; encoders 200 epochs in batches of 32, the rate
decaying by 0.99 per 10,000 steps; fusion heads 200 and autoencoders 400 epochs in batches
of 256. It stops far from convergence, which is part of what the paper's numbers mean.
Differences:

1. The released code keeps the encoders of the best *test* accuracy; here the lowest
   validation loss decides. Heads and autoencoders keep their last weights.
2. Its fusion model is trained with a loss normalized over the batch, which carries no
   signal; here it is the cross-entropy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

RATE = 1e-3
ENCODER_BATCH, ENCODER_EPOCHS = 32, 200
HEAD_BATCH, HEAD_EPOCHS = 256, 200
AUTOENCODER_BATCH, AUTOENCODER_EPOCHS = 256, 400
#: Width of the autoencoder's code on whose output the fusion model is trained.
CODE_WIDTH = 150
DECAY, DECAY_STEPS = 0.99, 10_000


def released_descent(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    *,
    n: int,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    decayed: bool = False,
    validation_loss: Callable[[], Tensor] | None = None,
    progress: Callable[[str, int, int], None],
    phase: str,
) -> None:
    """Train with SGD for a fixed number of epochs.

    Args:
        loss: maps a batch of sample indices to a scalar.
        decayed: whether the rate decays.
        validation_loss: where given, the weights at which it was lowest are kept.
    """
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    lowest, kept, steps = torch.inf, None, 0
    for epoch in range(epochs):
        module.train()
        order = torch.randperm(n, generator=generator)
        for indices in torch.split(order, batch):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(indices))
            if decayed:
                optimizer.param_groups[0]["lr"] = RATE * DECAY ** (steps / DECAY_STEPS)
            optimizer.step()
            steps += 1
        module.eval()
        if validation_loss is not None:
            with torch.no_grad():
                current = float(validation_loss())
            if current < lowest:
                lowest, kept = current, copy.deepcopy(module.state_dict())
        progress(phase, epoch + 1, epochs)
    if kept is not None:
        module.load_state_dict(kept)
