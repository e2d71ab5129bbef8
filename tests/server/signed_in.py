"""A browser, as far as a server sees it: its cookie, the key of the page, and what it sends with requests."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPMessage
from typing import Any, NamedTuple

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Browser:
    """One browser, on the page of the server on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.cookie: str | None = None
        self.key: str | None = None

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> Answer:
        """Send a request of the page; ``headers`` replace what the browser sends, None leaves one out."""
        sent: dict[str, str | None] = {
            "Host": self.host,
            "Origin": f"http://{self.host}" if method not in ("GET", "HEAD") else None,
            "Sec-Fetch-Site": "same-origin",
            "Cookie": self.cookie,
            "X-Kvm-Compose-Key": self.key,
            "Content-Type": None if body is None else "application/json",
        }
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection(self.host, timeout=20)
        try:
            data = None if body is None else json.dumps(body)
            given = {name: value for name, value in sent.items() if value is not None}
            connection.request(method, path, data, given)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def sign_in(self, **secret: str) -> Answer:
        """Sign in with ``code`` or ``token``, and keep what the answer has."""
        answer = self.ask("POST", "/api/session", secret)
        if answer.status == 201:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
            self.key = answer.json["key"]
        return answer

    def open_stream(self, path: str, **headers: str | None) -> tuple[bytes, socket.socket]:
        """Open a WebSocket; return the head of the answer, and the connection."""
        sent: dict[str, str | None] = {
            "Host": self.host,
            "Origin": f"http://{self.host}",
            "Cookie": self.cookie,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": _KEY,
            "Sec-WebSocket-Protocol": f"kvm-compose, key.{self.key}",
        }
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
        name, _, port = self.host.partition(":")
        connection = socket.create_connection((name, int(port)), 20)
        connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head and (part := connection.recv(1)):
            head += part
        return head, connection

    def stream_status(self, path: str, **headers: str | None) -> int:
        """Open a WebSocket and close it; return the status."""
        head, connection = self.open_stream(path, **headers)
        connection.close()
        return int(head[9:12])


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the end of a connection."""
    with connection:
        found = b""
        while part := connection.recv(65536):
            found += part
            if b"\x03\xf0" in found:  # 1008, policy violation: the client closes now
                break
        return found
