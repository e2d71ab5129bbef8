"""Requests by other users of this machine: processes with another UID, without an account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

# both, as some processes import nothing else of the tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from daemon import Daemon

ALICE, BOB, CAROL = 61001, 61002, 61003
#: The group that may use the socket; the tests' servers are given it by a chown of the socket.
MEMBERS = 61000

_ASK = """
import http.client, json, os, socket, sys
uid, group, path, method, target, body, headers, websocket = json.loads(sys.stdin.read())
os.setgroups([group])
os.setgid(uid)
os.setuid(uid)
connection = http.client.HTTPConnection("localhost", timeout=20)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(20)
connection.sock.connect(path)
if body is not None:
    headers["Content-Type"] = "application/json"
if websocket:
    headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
connection.request(method, target, None if body is None else json.dumps(body), headers)
answer = connection.getresponse()
streams = answer.status == 101 or "pcap" in (answer.getheader("content-type") or "")
text = "" if streams else answer.read().decode()
print(json.dumps([answer.status, text]))
"""


class Answer(NamedTuple):
    """A response."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(
    socket: Path,
    uid: int,
    method: str,
    target: str,
    *,
    body: object = None,
    headers: dict[str, str] | None = None,
    websocket: bool = False,
) -> Answer:
    """Send a request on a Unix socket, by a process of that user and with the group of the socket."""
    asked = json.dumps([uid, MEMBERS, str(socket), method, f"/api{target}", body, headers or {}, websocket])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ASK], input=asked, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, text = json.loads(done.stdout)
    return Answer(status, text)


def give(folder: Path, uid: int) -> None:
    """Make a user the owner of a folder and everything in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def new(name: str, folder: Path) -> dict[str, str]:
    return {"name": name, "project_location": str(folder)}


class Shared:
    """A root server with a socket for some users, and their folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "run").mkdir()
        self.socket = root / "run" / "s"
        self.daemon = Daemon(root / "state", root, ("--socket", str(self.socket)))

    def start(self) -> None:
        self.daemon.start()
        os.chown(self.socket, -1, MEMBERS)  # as --socket-group does for a group that has a name
        self.socket.chmod(0o660)

    def project(self, name: str, uid: int) -> Path:
        folder = self.root / name
        folder.mkdir(mode=0o700)
        (folder / "state.json").write_text("{}")
        give(folder, uid)
        return folder
