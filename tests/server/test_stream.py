"""The log stream: every line once and in order, from any point, whatever happens to the connection."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest
import websocket
from stub import TOKEN, StubServer

from kvmcompose.client.address import Address
from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.core.commands import Exec
from kvmcompose.core.deployment import ActionState, LogLine, NewDeployment

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def act(server: StubServer, *argv: str) -> str:
    return server.client().act("demo", Exec(guest="web", argv=argv))


def open_stream(server: StubServer, uuid: str, query: str = "", **options: object) -> websocket.WebSocket:
    return websocket.create_connection(
        f"ws://localhost/api/deployments/demo/actions/{uuid}/logs{query}",
        socket=server.address.connect(),
        timeout=10,
        suppress_origin=True,
        skip_utf8_validation=True,
        **options,
    )


@pytest.mark.parametrize("after", [0, 1, 1000, 1001, 1200, 1201, 9999])
@pytest.mark.parametrize("tcp", [False, True])
def test_replays_from_any_point(server: StubServer, after: int, *, tcp: bool) -> None:
    uuid = act(server, "say", "1200")
    client = server.client(tcp=tcp)
    list(client.follow("demo", uuid))
    lines = list(client.follow("demo", uuid, after))
    assert [line.sequence for line in lines] == list(range(after + 1, 1202))


@pytest.mark.parametrize("after", [0, 1199, 1201, 9999])
def test_the_log_as_clients_of_0_1_read_it(server: StubServer, after: int) -> None:
    uuid = act(server, "say", "1200")
    stream = open_stream(server, uuid, f"?after={after}")
    sequences = []
    while (received := stream.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
        sequences.append(msgspec.json.decode(received[1], type=LogLine).sequence)
    assert sequences == list(range(after + 1, 1202))
    assert int.from_bytes(received[1][:2], "big") == 1000
    stream.shutdown()


def test_follows_as_it_comes(server: StubServer) -> None:
    uuid = act(server, "say", "3", "wait", "say", "2")
    lines = server.client().follow("demo", uuid)
    first = [next(lines) for _ in range(4)]
    assert [line.text for line in first] == ["line 0", "line 1", "line 2", "done"]
    server.inside(server.stub.go_on.set)
    assert [line.text for line in lines] == ["line 0", "line 1", "done"]


def test_many_followers_of_one_action_see_the_same(server: StubServer) -> None:
    uuid = act(server, "trickle", "300")
    seen: list[list[int]] = []

    def follow() -> None:
        seen.append([line.sequence for line in server.client().follow("demo", uuid)])

    threads = [threading.Thread(target=follow) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert seen == [list(range(1, 302))] * 8


@pytest.mark.parametrize("tcp", [False, True])
def test_a_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(
    server: StubServer, *, tcp: bool
) -> None:
    uuid = act(server, "trickle", "900")
    seen: list[int] = []
    cuts = 0
    for line in server.client(tcp=tcp).follow("demo", uuid):
        seen.append(line.sequence)
        if line.sequence % 100 == 0:
            cuts += server.cut_connections()
    assert seen == list(range(1, 902))
    assert cuts >= 5
    assert server.client().action("demo", uuid).state is ActionState.SUCCEEDED


def test_a_slow_reader_does_not_slow_the_action_or_others(
    server: StubServer, request: pytest.FixtureRequest
) -> None:
    """A reader that reads nothing at all: its buffers fill, 20 MB of log go on."""
    uuid = act(server, "wait", "long", "2000")
    stuck = open_stream(server, uuid)
    request.addfinalizer(stuck.shutdown)
    began = time.monotonic()
    server.inside(server.stub.go_on.set)
    lines = sum(1 for _ in server.client().follow("demo", uuid))
    assert lines == 2001
    assert time.monotonic() - began < 15
    assert server.client().action("demo", uuid).state is ActionState.SUCCEEDED
    # and when it reads at last, all is there
    sequences = []
    while True:
        opcode, data = stuck.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            assert int.from_bytes(data[:2], "big") == 1000
            break
        sequences.append(msgspec.json.decode(data, type=LogLine).sequence)
    assert sequences == list(range(1, 2002))


def test_messages_are_text_frames_of_one_line(server: StubServer) -> None:
    uuid = act(server, "say", "1")
    stream = open_stream(server, uuid)
    opcode, data = stream.recv_data()
    assert opcode == websocket.ABNF.OPCODE_TEXT
    assert b"\n" not in data
    assert msgspec.json.decode(data)["sequence"] == 1
    stream.shutdown()


def test_who_talks_back_is_shown_the_door(server: StubServer) -> None:
    uuid = act(server, "wait")
    stream = open_stream(server, uuid)
    stream.send("hello")
    while (received := stream.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
        pass
    assert int.from_bytes(received[1][:2], "big") == 1008
    stream.shutdown()


def test_who_leaves_is_forgotten(server: StubServer) -> None:
    uuid = act(server, "wait")
    streams = [open_stream(server, uuid) for _ in range(5)]
    assert server.inside(lambda: server.activity.followers) == 5
    for each in streams:
        each.shutdown()
    deadline = time.monotonic() + 5
    while server.inside(lambda: server.activity.followers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.inside(lambda: server.activity.followers) == 0


@pytest.mark.parametrize(
    "query",
    ["?after=-1", "?after=x", "?after=", "?after=1&after=2", "?form=1", f"?after={2**63}", "?after=1e3"],
)
def test_wrong_parameters_are_422(server: StubServer, query: str) -> None:
    uuid = act(server, "say", "1")
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        open_stream(server, uuid, query)
    assert caught.value.status_code == 422
    assert b"after" in caught.value.resp_body


@pytest.mark.parametrize(
    "path", [f"/api/deployments/demo/actions/{NOBODY}/logs", "/api/deployments/demo", "/nope", "/api/health"]
)
def test_streams_that_are_not_there_are_404(server: StubServer, path: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(
            f"ws://localhost{path}", socket=server.address.connect(), timeout=10, suppress_origin=True
        )
    assert caught.value.status_code == 404
    assert caught.value.resp_headers["content-type"] == "application/problem+json"


def test_a_page_from_elsewhere_gets_no_stream(server: StubServer) -> None:
    uuid = act(server, "say", "1")
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(
            f"ws://localhost/api/deployments/demo/actions/{uuid}/logs",
            socket=server.tcp.connect(),
            header={"Authorization": f"Bearer {TOKEN}"},
            origin="http://evil.example",
            timeout=10,
        )
    assert caught.value.status_code == 403


def test_what_the_client_says_of_these(server: StubServer) -> None:
    client = server.client()
    with pytest.raises(ServerError) as caught:
        list(client.follow("demo", NOBODY))
    assert caught.value.status == 404
    client = server.client(tcp=True)
    client._headers["Authorization"] = "Bearer wrong"
    with pytest.raises(RefusedByServerError) as refused:
        list(client.follow("demo", NOBODY))
    assert (refused.value.status, refused.value.exit_code) == (401, 3)


def test_a_server_that_stays_away_is_given_up(server: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcompose.client.stream.PATIENCE", 0.5)
    uuid = act(server, "say", "1", "wait")
    client = server.client()
    lines = client.follow("demo", uuid)
    next(lines)
    client.address = Address(socket=server.folder / "nobody")
    nobody = client.follow("demo", uuid)
    with pytest.raises(ServerError, match="lost the connection"):
        next(nobody)
    lines.close()
