"""Strangers that hold connections open, as many as they can."""

from __future__ import annotations

import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from daemon import Daemon, soonest


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="kc") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        made = Daemon(Path(folder) / "state", Path(folder), ("--port", str(port)))
        made.start()
        yield made
        made.kill()


def test_idle_connections_leave_room_and_say_little(daemon: Daemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    port = int(daemon._argv[daemon._argv.index("--port") + 1])
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.5)
        assert soonest(daemon.client().health) < 1
        assert daemon.process is not None
        assert len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) < 300
    assert daemon.said.count("connections refused") == 1
    assert len(daemon.said.splitlines()) < 20
    deadline = time.monotonic() + 5
    while True:  # those that left have made room
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            try:
                if client.recv(100).startswith(b"HTTP/1.1 200"):
                    break
            except ConnectionError:
                pass
        assert time.monotonic() < deadline
