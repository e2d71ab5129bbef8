"""The client with a server of an earlier version."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from kvmcompose.client.address import Address
from kvmcompose.client.remote import RemoteServer


class _Earlier(BaseHTTPRequestHandler):
    """Knows nothing of ``wait``."""

    asked: list[str] = []  # noqa: RUF012 (the class is the fixture)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        unknown = "wait=" in self.path
        body = (
            {"title": "x", "detail": "unknown parameter 'wait'"} if unknown else {"start": 0, "data": "aGk="}
        )
        data = json.dumps(body).encode()
        self.send_response(422 if unknown else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


def test_a_console_is_followed_on_a_server_that_cannot_wait_for_it(short_path: Path) -> None:
    with socketserver.UnixStreamServer(str(short_path / "s"), _Earlier) as earlier:
        thread = threading.Thread(target=earlier.serve_forever)
        thread.start()
        try:
            client = RemoteServer(Address(socket=short_path / "s"))
            assert client.console("lab", "web", 0, wait=2).data == b"hi"
            assert client.console("lab", "web", 2, wait=2).data == b"hi"
        finally:
            earlier.shutdown()
            thread.join()
    assert [("wait=" in each) for each in _Earlier.asked] == [True, False, False]
