"""A guest's serial console and screen, over a WebSocket."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import websocket
from daemon import soonest
from stub import TOKEN, StubServer

from kvmcompose.core.deployment import NewDeployment
from kvmcompose.server.guest_console import _without
from kvmcompose.server.people import Role
from kvmcompose.server.tokens import Tokens, expiry

_PRINTED = b"booting\r\nlogin: "


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
    """A client of a console or a screen."""

    def __init__(self, server: StubServer, path: str, token: str = TOKEN) -> None:
        self.socket = websocket.create_connection(
            f"ws://localhost/api/deployments/demo/guests/{path}",
            socket=server.tcp.connect(),
            header={"Authorization": f"Bearer {token}"},
            timeout=10,
            suppress_origin=True,
        )
        self.read = b""

    def opened(self) -> dict[str, Any]:
        found = json.loads(self.socket.recv())
        assert isinstance(found, dict)
        return found

    def until(self, found: Callable[[bytes], bool]) -> bytes:
        while not found(self.read):
            data = self.socket.recv()
            assert isinstance(data, bytes)
            self.read += data
        return self.read

    def closure(self) -> tuple[int, str]:
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big"), data[2:].decode()


def test_a_console_shows_what_was_printed_and_takes_what_is_typed(connect: Connect) -> None:
    console = connect("web/console")
    assert console.opened() == {
        "input": True, "history": len(_PRINTED), "reason": None, "hint": None, "taken": False
    }  # fmt: skip
    console.socket.send_binary(b"echo hello\r")
    assert console.until(lambda read: read.endswith(b"# ")) == _PRINTED + b"echo hello\r\nhello\r\n# "


def test_a_console_of_another_user_is_watched_or_taken(
    server: StubServer,
    connect: Connect,
) -> None:
    first = connect("web/console")
    assert first.opened()["input"]
    second = connect("web/console")
    opened = second.opened()
    assert (opened["input"], opened["taken"]) == (False, True)
    assert "another user" in opened["reason"]
    server.stub.printed += b"more"
    assert second.until(lambda read: read.endswith(b"more")) == _PRINTED + b"more"
    second.socket.send_binary(b"x")
    assert second.closure() == (1003, "this console takes no input")
    third = connect("web/console?force=true")
    assert third.opened()["input"]
    code, reason = first.closure()
    assert code == 1000
    assert "another user has taken" in reason


def test_a_guest_that_is_off_shows_what_it_printed_last(connect: Connect) -> None:
    console = connect("off/console")
    opened = console.opened()
    assert (opened["input"], opened["reason"], opened["taken"]) == (False, "off is off", False)
    console.until(lambda read: read == _PRINTED)


def test_one_that_was_started_again_is_shown_from_its_start(server: StubServer, connect: Connect) -> None:
    console = connect("web/console?watch=true")
    assert console.opened()["reason"] is None
    console.until(lambda read: read == _PRINTED)
    server.stub.printed = b"again"
    console.until(lambda read: read == _PRINTED + b"again")


def test_why_it_fails_is_said(connect: Connect) -> None:
    assert connect("lost/console?watch=true").closure() == (1011, "the host is lost")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
def test_read_only_users_watch_and_see_no_screen(server: StubServer, connect: Connect) -> None:
    tokens = Tokens(server.folder / "state")
    looks = tokens.create("looks", Role.READ_ONLY, ("root", 0), expiry("1h"))
    other = tokens.create("other", Role.USER, ("bin", 2), expiry("1h"))
    console = connect("web/console?force=true", looks)
    opened = console.opened()
    assert not opened["input"]
    assert "read-only" in opened["reason"]
    console.until(lambda read: read == _PRINTED)
    console.socket.send_binary(b"reboot\r")
    assert console.closure()[0] == 1003
    for token, path in ((looks, "web/screen"), (other, "web/console"), (other, "web/screen")):
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            connect(path, token)
        assert caught.value.status_code == 403


@pytest.mark.parametrize("query", ["force=yes", "window=1", "window=999999999", "windows=4096"])
def test_wrong_parameters_are_refused(connect: Connect, query: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect(f"web/console?{query}")
    assert caught.value.status_code == 422


def test_no_more_is_sent_than_the_client_has_room_for(connect: Connect) -> None:
    console = connect("web/console?window=4096")
    console.opened()
    console.socket.send_binary(b"flood\r")
    console.until(lambda read: len(read) == 4096)
    console.socket.settimeout(0.3)
    with pytest.raises(websocket.WebSocketTimeoutException):
        console.socket.recv()
    console.socket.settimeout(10)
    console.socket.send("1000")
    console.until(lambda read: len(read) == 5096)
    for wrong in ("999", "5097", "x"):
        other = connect("off/console?window=4096")
        other.opened()
        other.until(lambda read: read == _PRINTED)
        other.socket.send(str(len(_PRINTED)))
        other.socket.send("1" if wrong == "999" else wrong)
        assert other.closure()[0] == 1003


def test_a_flood_does_not_keep_others_waiting(server: StubServer, connect: Connect) -> None:
    console = connect("web/console")
    console.opened()
    console.socket.send_binary(b"flood\r")
    console.until(lambda read: len(read) > 1 << 18)
    assert soonest(server.client().health) < 1


@pytest.mark.parametrize(
    ("history", "since", "new"),
    [
        (b"abc", b"", b""),
        (b"abc", b"xyz", b"xyz"),
        (b"abc", b"bcd", b"d"),
        (b"abc", b"abcabcd", b"abcd"),
        (b"aaa", b"aa", b""),
        (b"", b"a", b"a"),
    ],
)
def test_what_is_in_the_history_is_not_shown_twice(history: bytes, since: bytes, new: bytes) -> None:
    assert _without(history, since) == new


def _has(length: int, read: bytes) -> bool:
    return len(read) >= length


def test_a_screen_speaks_rfb(connect: Connect) -> None:
    screen = connect("web/screen")
    assert screen.until(lambda read: len(read) >= 12) == b"RFB 003.008\n"
    for answer, length in ((b"RFB 003.008\n", 14), (b"\x01", 18), (b"\x01", 42)):
        screen.socket.send_binary(answer)
        screen.until(partial(_has, length))
    assert struct.unpack(">HH", screen.read[18:22]) == (160, 100)


def test_a_guest_without_a_screen_is_refused(server: StubServer, connect: Connect) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect("db/screen")
    assert caught.value.status_code == 409
    answer = server.raw(
        b"GET /api/deployments/demo/guests/db/screen HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 409 ")
    assert b"db has no screen" in answer
