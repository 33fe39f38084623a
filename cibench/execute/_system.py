"""What only the operating system knows: orphans, descendants, memory, kills for want of it.

Linux gives everything; elsewhere orphans are found by a mark in their environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform.startswith("linux")

#: Environment variable that a zygote and all its descendants carry.
MARK: Final = "CIBENCH_CHILD"

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent dies, where possible."""
    return _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Let this process be killed when its parent process dies."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_first() -> None:
    """Ask the system to kill this process and its descendants first when memory ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _tasks(pid: int) -> Iterator[str]:
    """The direct children of a process, thread by thread."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                yield Path(f"/proc/{pid}/task/{task}/children").read_text("ascii")


def descendants(pid: int) -> list[int]:
    """Pids of all living descendants, dead but unreaped ones included.

    The list of each thread's children costs microseconds; where the system does not keep
    one, every process is looked at.
    """
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        import psutil

        try:
            return [p.pid for p in psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return []
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = [int(c) for line in _tasks(waiting.pop()) for c in line.split()]
        found += children
        waiting += children
    return found


def marked(token: str) -> list[int]:
    """Pids of all other living processes whose environment carries the token."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == token and process.pid != os.getpid():
                found.append(process.pid)
    return found


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those already gone are no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is not a dead one that nobody reaped."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def clear(token: str, seconds: float = 10.0) -> None:
    """Kill every other process that carries the token, until none is left."""
    deadline = time.monotonic() + seconds
    killed: set[int] = set()
    while time.monotonic() < deadline:
        found = marked(token)
        kill(found)
        # One that is ending has no environment any more, so it is not found again.
        killed.update(found)
        if not found and not any(map(lives, killed)):
            return
        time.sleep(0.002)


def resident(pid: int) -> int:
    """Bytes resident in a process and all its descendants, summed; 0 if it is gone."""
    import psutil

    total = 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(each).memory_info().rss
    return total


def reset_peak() -> bool:
    """Let this process's peak of resident memory start anew; False if it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak() -> int | None:
    """Peak of this process's resident memory in bytes since `reset_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


@cache
def cgroup_files(v2: str, v1: str, root: Path = Path("/")) -> tuple[Path, ...]:
    """A file of this process's memory control group and of all above it.

    Args:
        v2: the file's name under version 2 of control groups.
        v1: its name under version 1.
        root: where `proc` and `sys` are.
    """
    try:
        text = (root / "proc/self/cgroup").read_text("utf-8")
    except OSError:
        return ()
    files = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", v2
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", v1
        else:
            continue
        group = top / path.lstrip("/")
        within = [group, *group.parents]
        folders = within[: within.index(top) + 1] if top in within else [top]
        files += [folder / name for folder in folders]
    return tuple(path for path in files if path.exists())


def cgroup_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that control groups grant this process, as many as there are limits."""
    files = cgroup_files("memory.max", "memory.limit_in_bytes", root)
    values = []
    for path in files:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            values.append(int(path.read_text("ascii")))
    return values


def oom_kills(root: Path = Path("/")) -> int:
    """Processes killed for want of memory so far, as far as can be seen from here.

    Only a rise means something: one kill may be counted more than once.
    """
    groups = cgroup_files("memory.events", "memory.oom_control", root)
    total = 0
    for path in (root / "proc/vmstat", *groups):
        with contextlib.suppress(OSError):
            with open(path, "rb", buffering=0) as file:
                text = b"\n" + file.read()
            _, _, rest = text.partition(b"\noom_kill ")
            total += int(rest.split(b"\n", 1)[0] or 0)
    return total
