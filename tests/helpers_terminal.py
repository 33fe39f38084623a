"""A program on a pseudo-terminal, and what a person would see on it."""

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time

_TOKEN = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


class Screen:
    """The little of a terminal that progress needs; lines are never wrapped."""

    def __init__(self):
        self.lines, self.row, self.column = [""], 0, 0

    def feed(self, text):
        for token in _TOKEN.finditer(text):
            private, number, kind = token.groups()
            if kind is None:
                self._text(token.group())
            elif private or kind == "m":
                continue
            elif kind == "A":
                self.row = max(0, self.row - int(number or 1))
            elif kind == "K":
                assert number == "2"
                self.lines[self.row] = ""
            else:
                raise AssertionError(f"unknown sequence {token.group()!r}")

    def _text(self, text):
        if text == "\r":
            self.column = 0
        elif text == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        else:
            line = self.lines[self.row].ljust(self.column)
            end = self.column + len(text)
            self.lines[self.row] = line[: self.column] + text + line[end:]
            self.column = end

    @property
    def shown(self):
        return [line.rstrip() for line in self.lines if line.strip()]


class OnTerminal:
    """A Python script with standard error on a terminal; a context manager."""

    def __init__(self, script, *arguments, columns=80, lines=24, **environment):
        self.ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (lines, columns))
        known = {
            k: v
            for k, v in os.environ.items()
            if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, text=True,
            env={**known, "TERM": "xterm-256color", **environment},
        )  # fmt: skip
        os.close(theirs)
        self.raw = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.hang_up()

    def hang_up(self):
        """Close the terminal."""
        if self.ours is not None:
            os.close(self.ours)
            self.ours = None

    @property
    def text(self):
        return self.raw.decode(errors="replace")

    @property
    def screen(self):
        screen = Screen()
        screen.feed(self.text)
        return screen.shown

    def read(self, seconds):
        """Read what comes within so long; whether there may be more."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return True
        with contextlib.suppress(OSError):  # the other side was closed
            chunk = os.read(self.ours, 65536)
            self.raw += chunk
            return bool(chunk)
        return False

    def until(self, condition):
        """Read until a condition of the screen holds; the screen then."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            more = self.read(0.1)
            if condition(self.screen):
                return self.screen
            assert more, f"ended with {self.screen}"
        raise AssertionError(f"still {self.screen}")

    def step(self):
        """Let the script go on from where it waits for a line."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        """Wait for the end; the screen then."""
        deadline = time.monotonic() + 60
        while self.read(0.1):
            assert time.monotonic() < deadline
        assert self.process.wait(60) == 0
        return self.screen
