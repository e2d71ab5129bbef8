"""A shell in a container, over a WebSocket."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import websocket
from stub import TOKEN, StubServer

from kvmcompose.client.guest_shell import LineStart
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.server.api import service
from kvmcompose.server.people import Role
from kvmcompose.server.tokens import Tokens, expiry


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


Connect = Callable[..., "Client"]


@pytest.fixture
def connect(server: StubServer) -> Iterator[Connect]:
    with ExitStack() as closing:

        def connect(path: str, token: str = TOKEN) -> Client:
            client = Client(server, path, token)
            closing.callback(client.socket.shutdown)
            return client

        yield connect


class Client:
    """A client of a shell."""

    def __init__(self, server: StubServer, path: str, token: str) -> None:
        self.socket = websocket.create_connection(
            f"ws://localhost/api/deployments/demo/guests/{path}",
            socket=server.tcp.connect(),
            header={"Authorization": f"Bearer {token}"},
            timeout=10,
            suppress_origin=True,
        )
        self.printed = b""

    def types(self, line: str) -> None:
        self.socket.send_binary(f"{line}\r".encode())

    def until(self, found: Callable[[bytes], bool]) -> None:
        while not found(self.printed):
            data = self.socket.recv()
            assert isinstance(data, bytes)
            self.printed += data

    def end(self) -> tuple[object, int]:
        """Return the last text message, and the code of the closure."""
        said: object = None
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_TEXT:
                said = json.loads(data)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return said, int.from_bytes(data[:2], "big")


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shell_has_a_size_that_changes_and_an_exit_status(server: StubServer, connect: Connect) -> None:
    shell = connect("web/shell?columns=100&rows=30")
    shell.types("stty size")
    shell.until(lambda printed: printed == b"# stty size\r\n30 100\r\n# ")
    shell.socket.send('{"columns": 61, "rows": 17}')
    shell.types("stty size")
    shell.until(lambda printed: b"17 61\r\n" in printed)
    shell.types("exit 3")
    assert shell.end() == ({"exit_status": 3}, 1000)
    until(lambda: server.stub.connected == [])


def test_a_shell_ends_with_its_client(server: StubServer, connect: Connect) -> None:
    shell = connect("web/shell")
    shell.until(lambda printed: printed == b"# ")
    assert server.stub.connected == ["web"]
    shell.socket.shutdown()
    until(lambda: server.stub.connected == [])


def test_the_shell_of_a_container_that_was_removed_has_no_status(connect: Connect) -> None:
    shell = connect("removed/shell")
    shell.types("exit")
    assert shell.end() == ({"exit_status": None}, 1000)


@pytest.mark.parametrize("message", ['{"columns": 0, "rows": 1}', '{"rows": 2000}', "{", "x", "99"])
def test_wrong_messages_end_it(connect: Connect, message: str) -> None:
    shell = connect("web/shell")
    shell.until(lambda printed: printed == b"# ")
    shell.socket.send(message)
    assert shell.end()[1] == 1003


@pytest.mark.parametrize("query", ["columns=0", "rows=1001", "columns=x", "window=1", "height=3"])
def test_wrong_parameters_are_refused(connect: Connect, query: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect(f"web/shell?{query}")
    assert caught.value.status_code == 422


def test_no_more_is_sent_than_the_client_has_room_for(connect: Connect) -> None:
    shell = connect("web/shell?window=4096")
    shell.types("flood")
    shell.until(lambda printed: len(printed) == 4096)
    shell.socket.settimeout(0.3)
    with pytest.raises(websocket.WebSocketTimeoutException):
        shell.socket.recv()
    shell.socket.settimeout(10)
    shell.socket.send("1000")
    shell.until(lambda printed: len(printed) == 5096)


def test_there_is_a_limit_for_each_guest(
    connect: Connect, server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_SHELLS", 1)
    first = connect("web/shell")
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect("web/shell")
    assert caught.value.status_code == 409
    connect("db/shell")
    first.socket.shutdown()
    until(lambda: server.stub.connected == ["db"])
    connect("web/shell")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
def test_only_those_who_may_run_commands_get_one(server: StubServer, connect: Connect) -> None:
    tokens = Tokens(server.folder / "state")
    made = {
        name: tokens.create(name, role, user, expiry("1h"))
        for name, role, user in (
            ("own", Role.USER, ("root", 0)),
            ("looks", Role.READ_ONLY, ("root", 0)),
            ("other", Role.USER, ("bin", 2)),
        )
    }
    for name in ("looks", "other"):
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            connect("web/shell", made[name])
        assert caught.value.status_code == 403
    connect("web/shell", made["own"])


def test_without_a_websocket_it_is_said_why_there_is_none(server: StubServer) -> None:
    for guest, status in (("web", b"426"), ("off", b"409")):
        answer = server.raw(
            f"GET /api/deployments/demo/guests/{guest}/shell HTTP/1.1\r\n"
            "Host: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 " + status), answer


def test_the_way_out_is_at_the_start_of_a_line() -> None:
    way = LineStart()
    assert way.after(b"echo ~.\r") == (b"echo ~.\r", False)
    assert way.after(b"~") == (b"", False)
    assert way.after(b"a\r~") == (b"~a\r", False)
    assert way.after(b".x") == (b"", True)
