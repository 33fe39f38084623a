"""A local HTTP server whose faults a test chooses."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Host:
    """What the server serves and what it has been asked.

    Args:
        content: the bytes of every path.
        cuts: bytes after which each of the first answers is cut off.
        ranges: whether parts of the file may be asked for.
        tag: value of the `ETag` header, or None for none.
        status: answer of every request.
    """

    def __init__(self, content=b"", *, cuts=(), ranges=True, tag='"v1"', status=200):
        self.content, self.cuts, self.ranges = content, list(cuts), ranges
        self.tag, self.status = tag, status
        self.requests = []
        self.url = ""

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        start = 0
        if self.status != 200:
            handler.send_error(self.status)
            return
        same = handler.headers.get("If-Range", self.tag) == self.tag
        if asked and self.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(self.content):
                handler.send_error(416)
                return
            handler.send_response(206)
            end = len(self.content)
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            handler.send_response(200)
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(self.content)
        handler.wfile.write(self.content[start : start + cut])


@contextmanager
def serving(host):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            host.answer(self)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
