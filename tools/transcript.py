"""Write docs/transcript.md: what a new user types, from nothing to a row on a board.

Everything is run in an environment made for it, as it stands there, by one shell: the wheel
is installed, a package is begun, edited, installed, checked, run against every shipped
defense and put on a board. The page holds each command, what it printed and how long it
took. The first command that fails ends it, and the page is left as it was.

    make wheel
    python tools/transcript.py dist/*.whl [--page docs/transcript.md]

Packages are taken as pip is configured here, and in the versions of constraints.txt.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "transcript.md"
#: Lines of an output from which the middle is left out.
LONG = 30
_END = "== end of command"

EDIT = '''cat > edit.py <<'END'
from pathlib import Path

path = Path("median-fill/median_fill.py")
text = path.read_text()
old = "clipped = observation.features.clamp(self.low, self.high)"
new = """inside = observation.features.clamp(self.low, self.high)
        outside = inside != observation.features
        clipped = torch.where(outside, (self.low + self.high) / 2, observation.features)"""
assert old in text
path.write_text(text.replace(old, new))
END
python edit.py'''
BOARDS = """mkdir boards
cat > boards/suite.toml <<'END'
title = "One corrupted agent"
description = "Generated data; what an adversary of one agent may do."
seeds = 2
[[scenarios]]
label = "no attack"
attack = "none"
[[scenarios]]
label = "adaptive PGD"
attack = "pgd:agents=random:1"
[[scenarios]]
label = "PGD on the undefended"
attack = "pgd:agents=random:1,knowledge=fusion"
[[scenarios]]
label = "replay"
attack = "replay:agents=random:1"
[[scenarios]]
label = "flip"
attack = "flip:agents=random:1"
[[scenarios]]
label = "silence"
attack = "missing:agents=random:1"
[[protocols]]
name = "ours"
description = "Every defense that comes with cibench."
datasets = ["synthetic"]
[protocols.defenses]
{baselines}
END
cat > boards/leaderboard.toml <<'END'
title = "Boards of our group"
owner = "Ada Lovelace"
suite = "suite.toml"
END"""
BASELINES = (
    "adversarial-training",
    "agent-dropout",
    "block-adversarial-training",
    "copur",
    "copur-refit",
    "copur-smoothed",
    "double-masking",
    "genie",
    "l0-consensus",
    "latent-median",
    "leave-one-out",
    "manifold-projection",
    "none",
    "norm-clip",
    "partition-vote",
    "randomized-ablation",
    "randomized-smoothing",
    "randomized-smoothing-block",
    "vflip",
)

#: What is said before some commands, and the commands.
STEPS: tuple[tuple[str, str], ...] = (
    ("An environment of its own, with cibench:", "python3 -m venv env"),
    ("", ". env/bin/activate"),
    ("", 'pip install -qq "{wheel}[report]"'),
    (
        "A package for the new defense:",
        'cibench new defense median-fill --author "Ada Lovelace" --licence MIT',
    ),
    (
        "The one method is edited; a feature outside the range of training counts for"
        " nothing:",
        EDIT,
    ),
    ("", 'pip install -qq -e "median-fill[test]"'),
    ("It is there, with its distribution's name:", "cibench ls defenses"),
    ("It keeps what every defense promises:", "cibench check median-fill"),
    (
        "A board of one's own: a suite says what is run, and with what it is compared:",
        BOARDS,
    ),
    (
        "The new defense and every shipped baseline against its attacks:",
        "cibench run -q -j auto -c boards/suite.toml -d all -d median-fill --witnesses"
        " -o runs/first",
    ),
    (
        "A bundle for a board, verified as its owner will:",
        'cibench submit runs/first --author "Ada Lovelace" --name ada -o ada.cibench.zip',
    ),
    ("", "cibench verify -q ada.cibench.zip"),
    ("", "cibench leaderboard add -q ada.cibench.zip boards"),
    (
        "And the row:",
        "grep -m 1 median-fill boards/boards/synthetic-random-1.md",
    ),
)


class TranscriptError(Exception):
    """A command ended with another exit status than 0."""


@dataclass(frozen=True)
class Done:
    """A command that was run."""

    said: str
    command: str
    output: str
    seconds: float


def perform(place: Path, wheel: Path) -> list[Done]:
    """Run the steps in an empty folder with one shell.

    Raises:
        TranscriptError: one failed.
    """
    shutil.copy(wheel, place)
    known = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "VIRTUAL_ENV", "CIBENCH"))
    }
    done = []
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile"],
        cwd=place,
        env=known
        | {
            "NO_COLOR": "1",
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "CIBENCH_CACHE": str(place / "cache"),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shell:
        try:
            for said, command in STEPS:
                done.append(_one(shell, said, _filled(command, wheel), place))
                seconds, first = done[-1].seconds, command.splitlines()[0]
                print(f"{seconds:6.1f} s {first}", flush=True)
        finally:
            shell.kill()
    return done


def _filled(command: str, wheel: Path) -> str:
    lines = "\n".join(f'{name} = "{name}"' for name in BASELINES)
    return command.replace("{wheel}", wheel.name).replace("{baselines}", lines)


def _one(shell: subprocess.Popen[str], said: str, command: str, place: Path) -> Done:
    assert shell.stdin is not None
    assert shell.stdout is not None
    started = time.monotonic()
    shell.stdin.write(f'{command}\nstatus=$?; echo; echo "{_END} $status"\n')
    shell.stdin.flush()
    lines: list[str] = []
    for line in shell.stdout:
        if line.startswith(_END):
            break
        lines.append(line)
    else:
        raise TranscriptError(f"the shell ended at {command!r}: {''.join(lines)}")
    output = "".join(lines).removesuffix("\n")
    if line.split()[-1] != "0":
        raise TranscriptError(f"{command!r} ended with {line.split()[-1]}:\n{output}")
    shown = output.replace(f"{place}/", "").strip("\n")
    return Done(said, command, shown, time.monotonic() - started)


def page(done: list[Done]) -> str:
    """The page: each command with its output and time."""
    total = sum(step.seconds for step in done)
    parts = [
        "# Transcript: ten minutes to a board row\n",
        "What a new user types in a fresh environment, and what came. Written by"
        " [tools/transcript.py](../tools/transcript.py), which ran exactly this; times in"
        f" seconds on two cores, {total:.0f} in all, most of it waiting for pip and for"
        " the run. Why each step is there: [a defense of your own](tutorial-defense.md).\n",
    ]
    for step in done:
        if step.said:
            parts.append(f"{step.said}\n")
        lines = step.output.splitlines()
        if len(lines) > LONG:
            gone = len(lines) - LONG + 1
            lines = [*lines[: LONG - 6], f"... {gone} lines ...", *lines[-5:]]
        typed = step.command.replace("\n", "\n> ")
        parts.append(
            "<!-- not-run: tools/transcript.py ran it in an environment of its own -->\n"
            f"````console\n$ {typed}\n"
            + "".join(f"{line}\n" for line in lines)
            + "````\n"
        )
        parts.append(f"*{step.seconds:.1f} s*\n")
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; the exit status is 1 if a command failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            done = perform(Path(scratch).resolve(), options.wheel.resolve())
        except TranscriptError as error:
            print(error, file=sys.stderr)
            return 1
    text = page(done)
    assert not re.search(re.escape(scratch), text)
    options.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
