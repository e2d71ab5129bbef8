"""Captures by the API: they come as they are made, and end when nobody listens any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from stub import TOKEN, StubServer

from kvmcompose.client.address import Address
from kvmcompose.client.errors import RefusedByServerError, ServerError, WrongInputError
from kvmcompose.client.packets import Cutter
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.commands import Capture
from kvmcompose.core.deployment import NewDeployment


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def wait_for(condition: Callable[[], bool], seconds: float = 2) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def nothing_runs(server: StubServer) -> bool:
    return server.inside(lambda: not server.stub.captures and server.activity.requests == 0) is True


@pytest.mark.parametrize("tcp", [False, True])
def test_packets_come_whole(server: StubServer, *, tcp: bool) -> None:
    cutter = Cutter()
    with server.client(tcp=tcp).capture("demo", Capture(target="web", count=1000)) as stream:
        data = b"".join(cutter.whole(chunk) for chunk in stream)
    assert cutter.packets == 1000
    assert not stream.stopped or len(data) == 24 + 1000 * (16 + 98)
    wait_for(lambda: nothing_runs(server))


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("target", ["silent", "endless"])
def test_a_client_that_goes_ends_its_capture(server: StubServer, target: str, *, tcp: bool) -> None:
    with server.client(tcp=tcp).capture("demo", Capture(target=target)) as stream:
        assert next(iter(stream))
        assert server.inside(lambda: list(server.stub.captures)) == [target]
    wait_for(lambda: nothing_runs(server))


def test_a_client_that_is_cut_off_ends_its_capture(server: StubServer) -> None:
    with server.client().capture("demo", Capture(target="silent")) as stream:
        assert next(iter(stream))
        assert server.cut_connections() == 1
        with pytest.raises(ServerError, match="aborted the capture"):
            list(stream)
    wait_for(lambda: nothing_runs(server))


def test_who_waits_for_packets_can_be_told_to_stop(server: StubServer) -> None:
    with server.client().capture("demo", Capture(target="silent")) as stream:
        threading.Timer(0.3, stream.stop).start()
        assert len(list(stream)) == 1
        assert stream.stopped


def test_who_does_not_read_makes_the_capture_wait(server: StubServer) -> None:
    with server.client().capture("demo", Capture(target="endless")):
        seen = -1
        while (now := server.inside(lambda: server.stub.packets)) != seen:
            seen = now
            time.sleep(0.3)
        assert seen < 100_000  # what sockets hold, and nothing more
    wait_for(lambda: nothing_runs(server))


def test_one_that_breaks_off_is_seen_to(server: StubServer) -> None:
    cutter = Cutter()
    with server.client().capture("demo", Capture(target="breaks")) as stream:
        chunks = iter(stream)
        received = cutter.whole(next(chunks))
        with pytest.raises(ServerError, match="aborted the capture"):
            received += b"".join(map(cutter.whole, chunks))
    assert (len(received), cutter.packets) == (24, 0)


def test_what_cannot_be_captured_is_said_before_anything_is_sent(server: StubServer) -> None:
    client = server.client()
    with pytest.raises(WrongInputError, match="the filter is wrong") as wrong:
        client.capture("demo", Capture(target="web", filter="wrong"))
    assert (wrong.value.exit_code, wrong.value.hint) == (2, "mend it")
    with pytest.raises(RefusedByServerError, match="not up"):
        client.capture("demo", Capture(target="refused"))
    with pytest.raises(ServerError, match="no such deployment"):
        client.capture("nobody", Capture(target="web"))
    wait_for(lambda: nothing_runs(server))


def test_strangers_get_nothing(server: StubServer) -> None:
    with pytest.raises(RefusedByServerError, match="token"):
        RemoteServer(server.tcp).capture("demo", Capture(target="web"))


def test_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="cannot reach a server"):
        RemoteServer(Address(socket=tmp_path / "s")).capture("demo", Capture(target="web"))


@pytest.mark.parametrize(
    "query",
    [
        "", "target=", "target=-w", "target=a%20b", "target=web%0a", f"target={'a' * 192}",
        "target=web&interface=-i", "target=web&filter=", "target=web&filter=a%00b",
        "target=web&filter=%C3%A4", "target=web&snaplen=0", "target=web&snaplen=262145",
        "target=web&count=0", "target=web&count=2147483648", "target=web&count=x", "target=web&user=root",
    ],
)  # fmt: skip
def test_parameters_are_looked_at(server: StubServer, query: str) -> None:
    answer = requests.get(
        f"{server.tcp}/api/deployments/demo/capture?{query}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=10,
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
