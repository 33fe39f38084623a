"""What a plugin may do to its process, by name."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time

import numpy
import torch

GARBAGE = b'\x00\xff\xfe\x1b[2J\x1b[31m}]{"cell": 1}\n| defense | 100.0 |\n' * 200


def nothing() -> None:
    """Behave."""


def raises() -> None:
    raise ZeroDivisionError("a plugin's own mistake")


def exits() -> None:
    sys.exit(7)


def leaves() -> None:
    os._exit(3)


def interrupts() -> None:
    raise KeyboardInterrupt


def segfaults() -> None:
    ctypes.string_at(0)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def eats() -> None:
    """Allocate, and use, memory without bound."""
    kept = []
    while True:
        kept.append(numpy.ones(2**23))


def eats_at_once() -> None:
    torch.ones(2**55)


def sleeps() -> None:
    """Sleep in C, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.CDLL(None).sleep(3600)


def forks() -> None:
    """Leave a grandchild in a session of its own, which holds nothing of this process."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.closerange(0, 4096)
            time.sleep(3600)
        os._exit(0)


def prints() -> None:
    """Write garbage wherever it can."""
    print("garbage", GARBAGE)
    print("garbage", file=sys.stderr)
    sys.stdout.buffer.write(GARBAGE)
    for number in (1, 2):
        os.write(number, GARBAGE)


def spoils() -> None:
    """Change whatever of the process another cell may depend on."""
    os.chdir("/")
    os.environ.clear()
    os.environ["OMP_NUM_THREADS"] = "7"
    os.umask(0o777)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    numpy.random.seed(1)  # noqa: NPY002
    random.seed(1)
    numpy.seterr(all="raise")
    sys.setrecursionlimit(150)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def dawdles() -> None:
    """Take a while."""
    time.sleep(0.04)


DEEDS = {
    deed.__name__.replace("_", "-"): deed
    for deed in (
        *(nothing, raises, exits, leaves, interrupts, segfaults, is_killed, eats),
        *(eats_at_once, sleeps, forks, prints, spoils, dawdles),
    )
}
