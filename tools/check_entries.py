"""Verify the leaderboard entries that a pull request adds or changes.

An entry is added whole and never edited; only its `verification.json` may change. Its badge
is `claimed` unless a reviewer says so, who alone may withdraw an entry, with a line in
`CORRECTIONS.md`. That counts and files agree is checked with the pages.

    python tools/check_entries.py BASE [--reviewed true|false]

BASE is the commit the pull request starts from. The exit code is 1 if an entry is refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ENTRIES = Path("leaderboard/entries")
CORRECTIONS = Path("leaderboard/CORRECTIONS.md")


def changes(base: str) -> tuple[dict[str, set[tuple[str, str]]], bool]:
    """By entry `(status, file)` of what differs from a commit; whether corrections do."""
    listed = subprocess.run(
        ["git", "diff", "--name-status", "--no-renames", "-z", f"{base}...HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    found: dict[str, set[tuple[str, str]]] = {}
    corrected = False
    for status, name in zip(listed[::2], listed[1::2], strict=False):
        path = Path(name)
        corrected |= path == CORRECTIONS
        if path.is_relative_to(ENTRIES):
            entry, *rest = path.relative_to(ENTRIES).parts
            found.setdefault(entry, set()).add((status, "/".join(rest)))
    return found, corrected


def problems(
    entry: str, changed: set[tuple[str, str]], *, reviewed: bool, corrected: bool
) -> list[str]:
    """What is wrong with an entry, a sentence each; `cibench verify` says the rest."""
    if not (ENTRIES / entry).exists():
        if reviewed and corrected:
            return []
        return [
            "expected a withdrawal to have the label `reviewed` and a line in"
            f" {CORRECTIONS}, got one without"
        ]
    edited = sorted(
        file
        for status, file in changed
        if status != "A" and not (status == "M" and file == "verification.json")
    )
    if edited:
        return [f"expected entries to be added whole, got changes of {edited}"]
    if reviewed:
        return []
    path = ENTRIES / entry / "verification.json"
    try:
        badge = json.loads(path.read_bytes())["badge"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"verification.json: expected a badge, got {error!r}"]
    if badge != "claimed":
        return [
            f"expected the badge claimed, got {badge}: other badges are given by a"
            " reviewer, with the label `reviewed`"
        ]
    return []


def main() -> int:
    """Check every entry that changed; print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("--reviewed", choices=["true", "false"], default="false")
    options = parser.parse_args()
    failed = False
    reviewed = options.reviewed == "true"
    found_changes, corrected = changes(options.base)
    for entry, changed in sorted(found_changes.items()):
        print(f"entry {entry}", flush=True)
        found = problems(entry, changed, reviewed=reviewed, corrected=corrected)
        if not found and (ENTRIES / entry).exists():
            command = ["cibench", "verify", "--", str(ENTRIES / entry)]
            if subprocess.run(command, check=False).returncode:
                found = ["cibench verify refuses it"]
        for problem in found:
            print(f"error: {entry}: {problem}", file=sys.stderr)
        failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
