"""Tables on a terminal: NO_COLOR, FORCE_COLOR and TERM are honoured.

Progress is tried in test_progress.py.
"""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

SEQUENCE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9\d|38;[\d;]+)m")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("colour")
    words = "run -q -d none -a flip --dataset synthetic --seeds 1 --limit 20 -o out"
    cibench(words, place, CIBENCH_CACHE=str(place / "cache"))
    return place


def surroundings(**given):
    known = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")
    }
    return known | {"TERM": "xterm-256color"} | given


def cibench(words, place, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "cibench", *words.split()], cwd=place,
        env=surroundings(**environment), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def on_terminal(words, place, **environment):
    """What a command writes to a terminal of 160 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 160))
    process = subprocess.Popen(
        [sys.executable, "-m", "cibench", *words.split()], cwd=place,
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=surroundings(**environment),
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux: the last writer is gone
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0, written
    return written.decode()


def test_a_table_on_a_terminal_is_drawn(run):
    text = on_terminal("show out", run)
    assert "┃ defense" in SEQUENCE.sub("", text)
    assert "\x1b[" in text


def test_no_color_leaves_no_colour(run):
    text = on_terminal("show out", run, NO_COLOR="1")
    assert "┃ defense" in SEQUENCE.sub("", text)
    assert not COLOUR.search(text)


def test_a_dumb_terminal_gets_no_sequence(run):
    text = on_terminal("show out", run, TERM="dumb")
    assert "defense" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_markdown_whatever_is_forced(run, environment):
    text = cibench("show out", run, **environment)
    assert text.startswith("### synthetic · flip\n\n| defense")
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "words", ["ls", "info copur", "doctor", "check norm-clip --fast"]
)
def test_listings_have_no_colour_anywhere(run, words):
    assert "\x1b" not in on_terminal(words, run)
