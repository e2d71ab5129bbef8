"""Files of guests through the API: streamed both ways, in bounded memory, and ended with either side."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest
import requests
from stub import TOKEN, StubServer

from kvmcompose.client.errors import RefusedByServerError, ServerError, WrongInputError
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.byte_stream import BegunStream

MIB = 1 << 20


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def wait_until_idle(server: StubServer) -> None:
    def idle() -> bool:
        return server.inside(lambda: not server.stub.captures and server.activity.requests == 0) is True

    _wait_for(idle)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("tcp", [False, True])
def test_what_was_sent_comes_back(server: StubServer, *, tcp: bool) -> None:
    client, data = server.client(tcp=tcp), bytes(range(256)) * 4096
    client.put_files("demo", "web", "/some folder/ä?&", (data[at : at + 9999] for at in range(0, MIB, 9999)))
    with client.get_files("demo", "web", "/some folder/ä?&") as stream:
        assert b"".join(stream) == data
    wait_until_idle(server)


@pytest.mark.parametrize("tcp", [False, True])
def test_more_than_any_other_request_may_have_passes_in_small_pieces(
    server: StubServer, *, tcp: bool
) -> None:
    server.client(tcp=tcp).put_files("demo", "counts", "/", itertools.repeat(bytes(MIB), 80))
    assert server.inside(lambda: server.stub.packets) == 80 * MIB
    assert server.inside(lambda: server.stub.largest) <= MIB
    wait_until_idle(server)


def test_a_copy_that_takes_long_is_not_ended_while_it_goes_on(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmcompose.server.limits.BODY_SECONDS", 0.5)

    def slowly() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.1)
            yield b"x"

    server.client().put_files("demo", "web", "/", slowly())
    assert server.inside(lambda: server.stub.files["/"]) == b"x" * 8

    def never() -> Iterator[bytes]:
        yield b"x"
        time.sleep(1.5)
        yield b"x"

    with pytest.raises(ServerError, match="did not arrive within") as late:
        server.client().put_files("demo", "web", "/", never())
    assert late.value.status == 408
    wait_until_idle(server)


def test_what_breaks_off_is_seen_on_the_other_side(server: StubServer) -> None:
    client = server.client()
    with (
        client.get_files("demo", "breaks", "/x") as stream,
        pytest.raises(ServerError, match="aborted the copy"),
    ):
        list(stream)

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KvmComposeError("f has become shorter")

    with pytest.raises(KvmComposeError, match="shorter"):
        client.put_files("demo", "web", "/", broken())
    with client.get_files("demo", "endless", "/x") as stream:
        next(iter(stream))
    wait_until_idle(server)


def test_what_is_refused_is_said_before_anything_is_sent(server: StubServer) -> None:
    client = server.client()
    for call in (
        lambda: client.get_files("demo", "web", "/missing"),
        lambda: client.get_files("nobody", "web", "/"),
        lambda: client.put_files("nobody", "web", "/", [b"x"]),
    ):
        with pytest.raises(ServerError) as missing:
            call()
        assert missing.value.status == 404
    with pytest.raises(RefusedByServerError, match="refused is not up"):
        client.put_files("demo", "refused", "/", itertools.repeat(bytes(MIB), 64))
    for path in ("", "a\nb", "a\0b", "a\udcff"):
        with pytest.raises(WrongInputError):
            client.get_files("demo", "web", path)
    with pytest.raises(RefusedByServerError, match="token"):
        RemoteServer(server.tcp).put_files("demo", "web", "/", [b"x"])
    answer = requests.put(
        f"{server.tcp}/api/deployments/demo/guests/web/files?path=/",
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/zip"},
        data=b"x",
        timeout=10,
    )
    assert (answer.status_code, json.loads(answer.content)["detail"]) == (
        415,
        "the body must be a tar archive (application/x-tar)",
    )
    wait_until_idle(server)


def test_a_server_that_stops_ends_copies(server: StubServer) -> None:
    client = server.client()

    def until_stopped() -> Iterator[bytes]:
        yield b"x"
        server.inside(server.service.stop)
        for _ in range(100):
            time.sleep(0.05)
            yield b"x"

    with pytest.raises(ServerError):
        client.put_files("demo", "web", "/", until_stopped())
    wait_until_idle(server)


def test_a_stream_that_never_waits_lets_others_run() -> None:
    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(1000):
            yield b"x"

    async def read() -> int:
        stopped, taken = asyncio.Event(), 0
        asyncio.get_running_loop().call_soon(stopped.set)
        async for _ in BegunStream(b"x", endless()):
            taken += 1
            if stopped.is_set():
                break
        return taken

    assert asyncio.run(read()) < 10
