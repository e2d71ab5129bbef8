"""Run commands inside a host for the test process, over a socket that passes the caller's files.

Why not nsenter: killed by a time limit it leaves its child inside to the machine's init; where that does
not reap, the zombie keeps the whole namespace from ever ending. Here every command is a child of a
process inside, is killed when its caller goes away, and needs no sudo from an ordinary user.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE_BYTES = 1 << 17


class NoAgent(Exception):  # noqa: N818 - it names what is wrong
    """The host is not running (any more)."""


def listen(path: Path, owner: tuple[int, int]) -> None:
    """Serve commands at ``path`` for ``owner`` in the background, until the process ends."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(path))
    path.chmod(0o600)
    os.chown(path, *owner)
    server.listen(64)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        data, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        try:
            process = _start(json.loads(data), files)
        except OSError as error:
            connection.send(json.dumps({"error": str(error)}).encode())
            return
        finally:
            for file in files:
                os.close(file)
        _follow(connection, process)
        connection.send(json.dumps({"status": process.wait()}).encode())


def _start(request: dict[str, Any], files: list[int]) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = files
    return subprocess.Popen(
        request["argv"],
        cwd=request["cwd"],
        env={**os.environ, **request["env"]},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def _follow(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Forward the caller's signals until the command ends. When the caller ends, the command is ended."""
    ended = os.pidfd_open(process.pid)
    try:
        while True:
            readable, _, _ = select.select([connection.fileno(), ended], [], [])
            if ended in readable:
                return
            data = connection.recv(MESSAGE_BYTES)
            wanted = json.loads(data)["signal"] if data else signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, wanted)
            if not data:
                return
    finally:
        os.close(ended)


class Call:
    """A command that runs inside a host, as seen from outside."""

    def __init__(
        self, path: Path, argv: list[str], files: tuple[int, int, int], *, cwd: str, env: dict[str, str]
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps({"argv": argv, "cwd": cwd, "env": env}).encode()
        try:
            self._socket.connect(str(path))
            socket.send_fds(self._socket, [message], files)
        except (FileNotFoundError, ConnectionError) as error:
            self._socket.close()
            raise NoAgent(f"no test host answers at {path}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"signal": number}).encode())

    def wait(self, timeout: float | None = None) -> int:
        """Return the command's exit status. Raises TimeoutError after ``timeout`` seconds."""
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(MESSAGE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            raise NoAgent("the test host ended while a command ran in it")
        reply = json.loads(data)
        if "error" in reply:
            raise FileNotFoundError(reply["error"])
        return int(reply["status"])
