"""A file server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Served:
    """A file, and how the server fails to serve it. Each request consumes an item of the lists."""

    content: bytes
    ranges: bool = True
    cut: list[int | None] = field(default_factory=list)  # break the connection after so many bytes
    statuses: list[int | None] = field(default_factory=list)
    retry_after: str | None = None
    claimed_length: int | None = None
    wrong_range: bool = False
    send_length: bool = True
    chunk: int = 64 * 1024
    pause: float = 0.0  # seconds after each chunk
    after: Callable[[Served], None] | None = None  # called when a request has been answered


@dataclass
class Web:
    """The server as tests see it."""

    url: str
    files: dict[str, Served]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def put(self, path: str, content: bytes, **how: object) -> str:
        """Serve some content, and return its URL."""
        self.files[path] = Served(content, **how)  # type: ignore[arg-type]
        return f"{self.url}/{path}"

    def asked(self, path: str) -> list[dict[str, str]]:
        """Return the headers of each request for a file."""
        return [headers for asked, headers in self.requests if asked == path]


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.web.requests.append((path, dict(self.headers)))
        served = self.web.files.get(path)
        if served is None:
            self.send_error(404)
            return
        try:
            self._serve(path, served)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if served.after:
            served.after(served)

    def _serve(self, path: str, served: Served) -> None:
        if served.statuses and (status := served.statuses.pop(0)) is not None:
            self.send_response(status)
            if served.retry_after is not None:
                self.send_header("Retry-After", served.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start(served)
        total = len(served.content)
        if start is not None and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = served.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            said = start + 1 if served.wrong_range else start
            self.send_header("Content-Range", f"bytes {said}-{total - 1}/{total}")
        if served.send_length:
            length = len(body) if served.claimed_length is None or start else served.claimed_length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self._send(path, served, body)
        self.close_connection = True

    def _start(self, served: Served) -> int | None:
        """Return the offset to start at, or None for the whole file."""
        wanted = self.headers.get("Range")
        if not (served.ranges and wanted):
            return None
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def _send(self, path: str, served: Served, body: bytes) -> None:
        end = served.cut.pop(0) if served.cut else None
        body = body if end is None else body[:end]
        for offset in range(0, len(body), served.chunk):
            piece = body[offset : offset + served.chunk]
            self.wfile.write(piece)
            self.web.sent[path] = self.web.sent.get(path, 0) + len(piece)
            time.sleep(served.pause)


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """Run a server on a free port of the loopback interface for the duration of the block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.web = Web(f"http://127.0.0.1:{server.server_port}", {})  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler.web  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
