"""The input of commands over a WebSocket: who may send it, how much at once, and how it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
import websocket
from stub import TOKEN, StubServer

from kvmcompose.client.errors import ServerError
from kvmcompose.core.commands import INPUT_WINDOW, Exec
from kvmcompose.core.deployment import ActionState, NewDeployment
from kvmcompose.server import action_input
from kvmcompose.server.people import Role
from kvmcompose.server.tokens import Tokens, expiry


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def act(server: StubServer, *argv: str, stdin: bool = True) -> str:
    return server.client().act("demo", Exec(guest="web", argv=argv or ("read",), stdin=stdin))


def opened(server: StubServer, uuid: str, token: str | None = None) -> websocket.WebSocket:
    connection = (server.address if token is None else server.tcp).connect()
    try:
        return websocket.create_connection(
            f"ws://localhost/api/deployments/demo/actions/{uuid}/input",
            socket=connection,
            header={"Authorization": f"Bearer {token}"} if token else {},
            timeout=10,
            suppress_origin=True,
        )
    except websocket.WebSocketException:
        connection.close()
        raise


def refused(server: StubServer, uuid: str, token: str | None = None) -> int:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        opened(server, uuid, token)
    return caught.value.status_code


def until(held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(server: StubServer, uuid: str) -> ActionState:
    until(lambda: server.client().action("demo", uuid).ended is not None)
    return server.client().action("demo", uuid).state


def closing(connection: websocket.WebSocket) -> int:
    """The code that the server closes with."""
    while True:
        opcode, data = connection.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            connection.shutdown()
            return int.from_bytes(data[:2], "big")


@pytest.mark.parametrize("tcp", [False, True])
def test_a_client_sends_a_file_to_its_end(server: StubServer, *, tcp: bool) -> None:
    data = bytes(range(256)) * 8000
    reading, writing = os.pipe()
    uuid = act(server)
    failures: list[ServerError] = []
    server.client(tcp=tcp).send_input("demo", uuid, reading, failures.append)
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)
    assert ended(server, uuid) is ActionState.SUCCEEDED
    assert server.stub.input == data
    assert failures == []
    os.close(reading)


def test_no_more_is_on_the_way_than_the_window(server: StubServer) -> None:
    """The command takes nothing: the client waits, and goes on when it does."""
    uuid = act(server, "slow")
    reading, writing = os.pipe()
    server.client().send_input("demo", uuid, reading, print)
    data = b"x" * (4 * INPUT_WINDOW)

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    server.inside(server.stub.go_on.set)
    assert ended(server, uuid) is ActionState.SUCCEEDED
    assert server.stub.input == data
    thread.join()
    os.close(reading)


def test_a_client_that_sends_more_is_shown_the_door(server: StubServer) -> None:
    uuid = act(server, "slow")
    connection = opened(server, uuid)
    for _ in range(INPUT_WINDOW // 4096 + 1):
        connection.send_binary(b"x" * 4096)
    assert closing(connection) == 1008
    server.inside(server.stub.go_on.set)
    assert ended(server, uuid) is ActionState.FAILED


@pytest.mark.parametrize("message", ["text", b"x" * 4097])
def test_what_is_no_input_ends_the_command(server: StubServer, message: str | bytes) -> None:
    uuid = act(server)
    connection = opened(server, uuid)
    connection.send(message, websocket.ABNF.OPCODE_TEXT if isinstance(message, str) else 2)
    assert ended(server, uuid) is ActionState.FAILED
    connection.shutdown()


@pytest.mark.parametrize("code", [None, 1001, 1011])
def test_only_a_normal_closure_is_the_end_of_the_input(server: StubServer, code: int | None) -> None:
    uuid = act(server)
    connection = opened(server, uuid)
    connection.send_binary(b"half")
    if code is not None:
        connection.send(code.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)
    else:
        connection.shutdown()
    assert ended(server, uuid) is ActionState.FAILED
    connection.shutdown()
    assert "broke off" in "\n".join(line.text for line in server.client().lines("demo", uuid))


def test_a_command_whose_input_does_not_come_ends(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_input, "_CONNECT_SECONDS", 0.2)
    assert ended(server, act(server)) is ActionState.FAILED


def test_one_client_sends_and_only_to_commands_that_read(server: StubServer) -> None:
    uuid = act(server)
    first = opened(server, uuid)
    assert refused(server, uuid) == 409
    first.send(b"\x03\xe8", websocket.ABNF.OPCODE_CLOSE)
    assert ended(server, uuid) is ActionState.SUCCEEDED
    assert refused(server, uuid) == 409
    assert refused(server, act(server, "wait", stdin=False)) == 409
    assert refused(server, "00000000-0000-0000-0000-000000000000") == 404
    first.shutdown()


def test_the_command_that_ends_ends_the_connection(server: StubServer) -> None:
    uuid = act(server)
    connection = opened(server, uuid)
    server.client().cancel("demo", uuid)
    assert closing(connection) == 1000
    assert ended(server, uuid) is ActionState.CANCELLED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
def test_only_the_owner_and_administrators_send_input(server: StubServer) -> None:
    tokens = Tokens(server.folder / "state")
    other = tokens.create("other", Role.USER, ("bin", 2), expiry("1h"))
    looks = tokens.create("looks", Role.READ_ONLY, ("root", 0), expiry("1h"))
    uuid = act(server)
    assert refused(server, uuid, other) == 403
    assert refused(server, uuid, looks) == 403
    assert refused(server, uuid, "wrong") == 401
    connection = opened(server, uuid, TOKEN)
    connection.send(b"\x03\xe8", websocket.ABNF.OPCODE_CLOSE)
    assert ended(server, uuid) is ActionState.SUCCEEDED
    connection.shutdown()
