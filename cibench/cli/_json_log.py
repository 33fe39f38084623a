"""Progress as JSON, one object a line, for programs that watch a run."""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .._errors import OutputError

if TYPE_CHECKING:
    from ..execute.channel import Event
    from ..execute.finished import Finished


class JsonLog:
    """Appends a line for every event and hands it on at once.

    Args:
        path: file to append to; `-` is standard error.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._broken = False
        if path == Path("-"):
            return
        try:
            # Without a buffer: what a full disk did not take is not tried again.
            self._file = io.FileIO(path, "ab")
        except OSError as error:
            raise OutputError(
                f"--json-log {path}: expected a file that can be written to, got"
                f" {error.strerror}; give another, or - for standard error"
            ) from error

    def stage(self, name: str, tasks: int) -> None:
        """See `Shown`."""
        self._write("stage", stage=name, tasks=tasks)

    def event(self, event: Event) -> None:
        """See `Shown`."""
        if event.started:
            self._write("started", title=event.title, stage=event.stage)
        else:
            fields = msgspec.structs.asdict(event)
            del fields["started"]
            self._write("phase", **fields)

    def prepared(self, title: str, seconds: float, reason: str) -> None:
        """See `Shown`."""
        self._write("prepared", title=title, seconds=seconds, reason=reason)

    def finished(self, done: Finished) -> None:
        """See `Shown`."""
        self._write("finished", **asdict(done))

    def _write(self, event: str, **fields: Any) -> None:
        if self._broken:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        # ASCII, which any terminal takes, and paths that are no valid text as well.
        line = json.dumps({"time": now, "event": event, **fields}).encode() + b"\n"
        try:
            if self._file is None:
                click.echo(line, err=True, nl=False)
            else:
                self._file.write(line)
        except OSError as error:
            self._broken = True
            if self._file is not None:
                click.echo(
                    f"warning: --json-log {self._path} ends here: {error.strerror}",
                    err=True,
                )

    def close(self) -> None:
        """See `Display`."""
        if self._file is not None:
            self._file.close()
