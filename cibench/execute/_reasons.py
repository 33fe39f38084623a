"""A worker's end in words."""

from __future__ import annotations

import os
import signal
from typing import Literal

from . import _wire


def ending(
    status: int, *, memory_ended: bool
) -> tuple[Literal["killed", "exited", "out-of-memory"], str]:
    """Outcome and reason of a worker that ended without an answer and unasked.

    Args:
        status: its wait status.
        memory_ended: whether the system killed some process for want of memory meanwhile.
    """
    code = os.waitstatus_to_exitcode(status)
    if code == _wire.LOST:
        return "killed", CUT_OFF
    if code >= 0:
        return "exited", f"the process ended itself with exit code {code}"
    if -code == signal.SIGKILL and memory_ended:
        return "out-of-memory", "the system ran out of memory"
    name = (signal.strsignal(-code) or "unknown").lower()
    reason = f"{name} (signal {-code})"
    if -code in (signal.SIGKILL, signal.SIGTERM):
        reason += ", not sent by the harness"
    return "killed", reason


CUT_OFF = "the process closed its connection to the harness"
SPOILT = "the process wrote to its connection to the harness"
ORPHANED = "the process that starts workers died during the call"
