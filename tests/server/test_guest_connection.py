"""A client's connection to the SSH server of a guest, over a WebSocket."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import websocket
from stub import TOKEN, StubServer

from kvmcompose.client.errors import ServerError
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.server.people import Role
from kvmcompose.server.tokens import Tokens, expiry


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def opened(server: StubServer, guest: str, token: str) -> websocket.WebSocket:
    return websocket.create_connection(
        f"ws://localhost/api/deployments/demo/guests/{guest}/ssh",
        socket=server.tcp.connect(),
        header={"Authorization": f"Bearer {token}"},
        timeout=10,
        suppress_origin=True,
    )


@pytest.mark.parametrize("tcp", [False, True])
def test_bytes_go_both_ways_until_the_client_ends(server: StubServer, *, tcp: bool, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    given, taken = os.pipe(), os.pipe()
    connecting = threading.Thread(
        target=server.client(tcp=tcp).connect_guest, args=("demo", "web", given[0], taken[1])
    )
    connecting.start()
    writing = threading.Thread(target=lambda: (tmp_path / "x").write_bytes(read(taken[0], len(data))))
    writing.start()
    left = memoryview(data)
    while left:
        left = left[os.write(given[1], left) :]
    writing.join(20)
    assert (tmp_path / "x").read_bytes() == data
    os.close(given[1])
    connecting.join(10)
    assert not connecting.is_alive()


def read(source: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += os.read(source, size - len(found))
    return found


def test_it_ends_with_the_guests_end(server: StubServer) -> None:
    given, taken = os.pipe(), os.pipe()
    server.client().connect_guest("demo", "leaves", given[0], taken[1])
    os.close(taken[1])
    assert os.read(taken[0], 1) == b""


def test_a_guest_that_does_not_answer_is_reported(server: StubServer) -> None:
    with pytest.raises(ServerError, match="nothing answers") as caught:
        server.client().connect_guest("demo", "silent", 0, 1)
    assert caught.value.status == 502


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
def test_only_those_who_may_run_commands_connect(server: StubServer) -> None:
    tokens = Tokens(server.folder / "state")
    other = tokens.create("other", Role.USER, ("bin", 2), expiry("1h"))
    looks = tokens.create("looks", Role.READ_ONLY, ("root", 0), expiry("1h"))
    for token, status in ((other, 403), (looks, 403), ("wrong", 401)):
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            opened(server, "web", token)
        assert caught.value.status_code == status
    opened(server, "web", TOKEN).shutdown()


def test_text_is_refused(server: StubServer) -> None:
    connection = opened(server, "web", TOKEN)
    connection.send("text")
    opcode, data = connection.recv_data()
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 1008)
    connection.shutdown()


def send_for_ever(connection: websocket.WebSocket) -> None:
    while True:
        connection.send_binary(bytes(4096))


def test_a_client_that_leaves_is_noticed_while_its_guest_reads_nothing(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmcompose.server.api.guest_connection.STALL_SECONDS", 3)
    connection = opened(server, "stuck", TOKEN)
    connection.settimeout(1)
    with pytest.raises(websocket.WebSocketTimeoutException):
        send_for_ever(connection)
    assert server.stub.connected == ["stuck"]
    connection.shutdown()
    deadline = time.monotonic() + 10
    while server.stub.connected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.stub.connected == []
