"""Runs `cibench` in forked copies of this process, which have its imports already.

Standard input has one JSON array a line: the path of a log and the command's words starts
a command, and its pid is the answer; a pid waits for that command, and its exit code is
the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

#: What a run imports in any case.
MODULES = (
    "torch",
    "joblib",
    "cibench.cli",
    "cibench.cli.run",
    "cibench.cli._run_cells",
    "cibench.cli._show",
    "cibench.results.table",
    "cibench_faults.defense",
    "cibench_plugins.attacks.flip",
    "cibench_plugins.datasets.synthetic",
)


def main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    from cibench.cli import invoke

    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        log, *words = json.loads(line)
        if not words:
            _, status = os.waitpid(log, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _redirect(log)
            sys.exit(invoke(words))
        print(pid, flush=True)


def _redirect(log: str) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)


if __name__ == "__main__":
    main()
