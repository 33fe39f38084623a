"""An HTTP transfer that goes on where it stopped."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

#: Called with (bytes here, bytes in all or None) as a transfer goes on.
Report = Callable[[int, int | None], None]

_PIECE = 1 << 18


def transfer(
    url: str, part: Path, *, report: Report, timeout: float, attempts: int
) -> None:
    """Transfer a URL into `part`, going on from the bytes it already holds.

    `<part>.tag` keeps what the host calls this version of the file. Bytes are joined only
    if the host confirms that version; otherwise the transfer starts again.

    Args:
        timeout: seconds without an answer or a byte.
        attempts: requests in a row without a new byte after which it gives up.

    Raises:
        OSError: the host cannot be reached, does not serve the file, or keeps cutting the
            connection; what has arrived stays in `part`.
    """
    tag = part.with_name(f"{part.name}.tag")
    idle = 0
    while True:
        before = _size(part)
        try:
            if _request(url, part, tag, report, timeout):
                tag.unlink(missing_ok=True)
                return
            problem: OSError = ConnectionError("the connection was cut off")
        except (ConnectionError, TimeoutError) as error:
            problem = error
        idle = idle + 1 if _size(part) <= before else 0
        if idle >= attempts:
            raise problem
        if idle:
            time.sleep(0.1 * 2**idle)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _request(url: str, part: Path, tag: Path, report: Report, timeout: float) -> bool:
    """One request; whether the file is complete."""
    held = _size(part) if tag.exists() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "cibench"}
    if held:
        # If-Range: a host whose file has changed sends all of it, not the rest of another.
        headers |= {"Range": f"bytes={held}-", "If-Range": tag.read_text("utf-8")}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _receive(response, held, part, tag, report)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and held:
            # What is held is no beginning of the file: start again.
            tag.unlink()
            return False
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError | TimeoutError):
            raise error.reason from error
        raise
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__} {error}".strip()) from error


def _receive(
    response: http.client.HTTPResponse,
    held: int,
    part: Path,
    tag: Path,
    report: Report,
) -> bool:
    resumed = response.status == 206
    tag.unlink(missing_ok=True)
    start = response.headers.get("Content-Range", "").removeprefix("bytes ")
    if resumed and not start.startswith(f"{held}-"):
        return False
    if not resumed:
        held = 0
    version = response.headers.get("ETag", "")
    if not version or version.startswith("W/"):
        version = response.headers.get("Last-Modified", "")
    length = response.headers.get("Content-Length")
    total = held + int(length) if length else None
    with part.open("ab" if resumed else "wb") as file:
        if version:
            tag.write_text(version, "utf-8")
        report(held, total)
        while piece := response.read(_PIECE):
            file.write(piece)
            held += len(piece)
            report(held, total)
    # The size on disk is another where two processes wrote into the same part.
    return total is None or held == total == _size(part)
