"""The transcript in the documentation is one of the commands that the tool runs now."""

import re
from pathlib import Path

import pytest

from cibench.registry import default_registry
from helpers_tools import load_tool

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "transcript.md"


transcript, readme = load_tool("transcript"), load_tool("run_readme")


def test_the_page_holds_the_commands_of_the_tool():
    wheel = Path(re.search(r"cibench-[\w.-]+\.whl", PAGE.read_text())[0])
    expected = [transcript._filled(command, wheel) for _, command in transcript.STEPS]
    text = re.sub(r"<!-- not-run: .*? -->", "", PAGE.read_text(encoding="utf-8"))
    blocks = re.findall(r"^````console\n(.*?)^````$", text, re.MULTILINE | re.DOTALL)
    typed = []
    for block in blocks:
        first, *rest = block.splitlines()
        more = [line[2:] for line in rest if line.startswith("> ") or line == ">"]
        typed.append("\n".join([first.removeprefix("$ "), *more]))
    assert typed == expected


def test_every_command_is_marked_as_run_elsewhere():
    found = readme.extract(PAGE.read_text(encoding="utf-8"), "transcript.md")
    assert found
    assert all("tools/transcript.py" in command.not_run for command in found)


def test_it_took_less_than_ten_minutes_and_ends_with_a_ranked_row():
    text = PAGE.read_text(encoding="utf-8")
    seconds = [float(found) for found in re.findall(r"^\*([\d.]+) s\*$", text, re.M)]
    assert len(seconds) == len(transcript.STEPS)
    assert sum(seconds) < 600
    row = text.rpartition("````console\n")[2].splitlines()[1]
    assert re.match(r"\| \d+(-\d+)? \| median-fill \|", row)
    assert "median-fill 0.1.0" in row


def test_no_place_of_the_machine_is_on_the_page():
    assert not re.search(r"file://|/tmp|/home|/root", PAGE.read_text(encoding="utf-8"))


def test_the_suite_names_every_shipped_defense():
    entries = default_registry().entries
    shipped = [
        e.name for e in entries if (e.kind, e.distribution) == ("defense", "cibench")
    ]
    assert sorted(shipped) == list(transcript.BASELINES)


STEPS = (
    ("", "echo one"),
    ("", "cat > f <<'END'\n$HOME\nEND\ncat f"),
    ("", "exit_with 3"),
)


def test_a_command_that_fails_ends_it(monkeypatch, tmp_path):
    wheel = tmp_path / "x.whl"
    wheel.touch()
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(transcript, "STEPS", STEPS[:2])
    done = transcript.perform(place, wheel)
    assert [step.output for step in done] == ["one", "$HOME"]
    monkeypatch.setattr(transcript, "STEPS", STEPS)
    with pytest.raises(
        transcript.TranscriptError, match="'exit_with 3' ended with 127"
    ):
        transcript.perform(place, wheel)
