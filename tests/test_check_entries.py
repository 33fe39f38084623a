"""`tools/check_entries.py`: what a pull request may do to entries of the leaderboard."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cibench import cli
from cibench.submission.manifest import VERIFICATION
from helpers_published import SETTINGS, put, suite_entries
from helpers_submission import run

TOOL = Path(__file__).parents[1] / "tools" / "check_entries.py"

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="tools/ is not installed")


@pytest.fixture
def repository(tmp_path):
    """A repository with one entry on its first commit."""
    (tmp_path / "leaderboard" / "entries").mkdir(parents=True)

    def git(*arguments):
        names = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER")
                 for what in ("NAME", "EMAIL")}  # fmt: skip
        return subprocess.run(
            ["git", "-c", "init.defaultBranch=main", *arguments], cwd=tmp_path,
            check=True, capture_output=True, text=True, env={**os.environ, **names},
        ).stdout.strip()  # fmt: skip

    def commit():
        git("add", "-A")
        git("commit", "-qm", "x", "--allow-empty")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    first, second, *_ = suite_entries(6)
    put(tmp_path / "leaderboard", first)
    base = commit()

    def check(*arguments):
        commit()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            [sys.executable, str(TOOL), base, *arguments], cwd=tmp_path, text=True,
            capture_output=True, env={**os.environ, "PATH": path}, check=False,
        )  # fmt: skip

    return tmp_path / "leaderboard", second, check


def claimed(loaded):
    verification = msgspec.structs.replace(
        loaded.verification, badge="claimed", witnesses=0, replayed=0, reran=0
    )
    return type(loaded)(loaded.manifest, verification, loaded.records, loaded.digest)


def test_pull_requests_without_entries_pass(repository):
    folder, _, check = repository
    (folder / "README.md").write_text("changed")
    done = check()
    assert (done.returncode, done.stdout) == (0, "")


def test_every_added_entry_is_verified(repository):
    """Random records, whose numbers nobody counted: `cibench verify` says so."""
    folder, second, check = repository
    put(folder, claimed(second))
    done = check()
    assert done.returncode == 1
    assert f"entry {second.name}" in done.stdout
    assert "cibench verify refuses it" in done.stderr


def test_badges_are_for_reviewers(repository):
    folder, second, check = repository
    put(folder, second)
    done = check("--reviewed", "false")
    assert done.returncode == 1
    assert "expected the badge claimed, got re-scored" in done.stderr
    assert "expected the badge" not in check("--reviewed", "true").stderr


def test_entries_are_never_edited(repository):
    folder, _, check = repository
    (entry,) = (folder / "entries").iterdir()
    (entry / "records.jsonl.xz").write_bytes(b"other")
    done = check("--reviewed", "true")
    assert done.returncode == 1
    assert "changes of ['records.jsonl.xz']" in done.stderr


def test_withdrawals_are_reviewed_and_said(repository):
    folder, _, check = repository
    (entry,) = (folder / "entries").iterdir()
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    assert "expected a withdrawal" in check("--reviewed", "true").stderr
    (folder / "CORRECTIONS.md").write_text("- withdrawn, and why")
    assert "expected a withdrawal" in check("--reviewed", "false").stderr
    assert check("--reviewed", "true").returncode == 0


def test_a_broken_verification_is_told(repository):
    folder, second, check = repository
    place = put(folder, second)
    (place / VERIFICATION).write_text("[]")
    assert "verification.json: expected a badge" in check().stderr


def test_an_honest_entry_passes(repository, tmp_path_factory):
    folder, _, check = repository
    made = tmp_path_factory.mktemp("made")
    run(made, ("none", "flip:agents=random:1"), ("norm-clip",))
    bundle = str(made / "b.zip")
    arguments = ["submit", str(made / "run"), "--author", "Ada", "--name", "ada"]
    assert cli.invoke([*arguments, "-o", bundle]) == 0
    (folder / "leaderboard.toml").write_text(SETTINGS)
    for other in (folder / "entries").iterdir():
        other.rename(folder / "aside")
    arguments = ["leaderboard", "add", bundle, str(folder), "--no-build"]
    assert cli.invoke([*arguments, "--replay", "none"]) == 0
    (folder / "aside").rename(folder / "entries" / "e0")
    done = check()
    assert done.returncode == 0, done.stderr
    assert "entry ada" in done.stdout
