"""The stream of events: each once and in order, from any number, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import requests
import websocket
from daemon import Daemon
from stub import StubServer

from kvmcompose.client.errors import ServerError
from kvmcompose.client.stream import EventStream
from kvmcompose.core.commands import Down, Exec, Up
from kvmcompose.core.deployment import ActionState, Deployment, NewDeployment, Phase, StepState
from kvmcompose.core.deployment_event import (
    ActionEnded,
    ActionStarted,
    CurrentState,
    DeploymentEvent,
    EventsMissed,
    GuestChanged,
    LineAdded,
    MissedReason,
    PhaseChanged,
    StatusReport,
    StepEnded,
    StepStarted,
)
from kvmcompose.core.probe import Probed, ProbeOutcome, Question
from kvmcompose.providers.libvirt.interface.domains import DomainEvent
from kvmcompose.server import action_log, event_tables, guest_watch, listen
from kvmcompose.server.api import event_parts
from kvmcompose.server.database import StoreError
from kvmcompose.server.store import Store

_SECONDS = 20
_decode = msgspec.json.Decoder(DeploymentEvent).decode


@pytest.fixture
def server(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> StubServer:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(guest_watch, "_SOON_SECONDS", 0.05)
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def act(server: StubServer, *argv: str) -> str:
    return server.client().act("demo", Exec(guest="web", argv=argv))


def open_events(server: StubServer, query: str = "") -> websocket.WebSocket:
    return websocket.create_connection(
        f"ws://localhost/api/deployments/demo/events{query}",
        socket=server.address.connect(),
        timeout=10,
        suppress_origin=True,
        skip_utf8_validation=True,
    )


def received(connection: websocket.WebSocket) -> Iterator[DeploymentEvent]:
    while True:
        opcode, data = connection.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            assert int.from_bytes(data[:2], "big") == 1000
            connection.shutdown()
            return
        yield _decode(data)


def until_ended(events: Iterator[DeploymentEvent], uuid: str) -> list[DeploymentEvent]:
    """The events up to the end of an action."""
    found = []
    for event in events:
        found.append(event)
        if isinstance(event, ActionEnded) and event.action.uuid == uuid:
            return found
    raise AssertionError(found[-1])


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_action_is_all_its_events_in_order(server: StubServer) -> None:
    uuid = server.client().act("demo", Up())
    events = list(server.client().events("demo", action=uuid, after=0))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [type(event) for event in events] == [
        ActionStarted, PhaseChanged, StepStarted, LineAdded, StepEnded, PhaseChanged, ActionEnded,
    ]  # fmt: skip
    started, running, begun, line, done, up, ended = events
    assert isinstance(started, ActionStarted)
    assert (started.action.uuid, started.action.state) == (uuid, ActionState.RUNNING)
    assert isinstance(running, PhaseChanged)
    assert isinstance(up, PhaseChanged)
    assert (running.state, up.state) == (Phase.RUNNING, Phase.UP)
    assert isinstance(begun, StepStarted)
    assert isinstance(done, StepEnded)
    assert (begun.id, begun.step.state, done.id, done.step.state) == (1, StepState.RUNNING, 1, StepState.DONE)
    assert (done.step.stage, done.step.guest) == ("stage", "web")
    assert done.step.ended is not None
    assert isinstance(line, LineAdded)
    assert (line.line.sequence, line.line.text) == (1, "done")
    assert isinstance(ended, ActionEnded)
    assert ended.action == server.client().action("demo", uuid)


def test_numbers_go_on_across_actions_and_each_action_has_its_own(server: StubServer) -> None:
    client = server.client()
    first, second = act(server, "say", "3"), act(server, "trickle", "20")
    scoped = [list(client.events("demo", action=uuid, after=0)) for uuid in (first, second)]
    whole = until_ended(client.events("demo", after=0), second)
    assert [event.number for event in whole] == list(range(1, len(whole) + 1))
    numbers = [{event.number for event in events} for events in scoped]
    assert numbers[0] | numbers[1] == {event.number for event in whole}
    assert not numbers[0] & numbers[1]


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("scoped", [False, True])
def test_a_connection_cut_at_any_point_loses_and_doubles_nothing(
    server: StubServer, *, tcp: bool, scoped: bool
) -> None:
    uuid = act(server, "trickle", "700")
    chance = random.Random(f"{tcp}{scoped}")  # noqa: S311 (reproducible)
    seen: list[int] = []
    cuts = 0
    for event in server.client(tcp=tcp).events("demo", action=uuid if scoped else None, after=0):
        if isinstance(event, StatusReport):
            continue
        seen.append(event.number)
        if chance.random() < 0.02:
            cuts += server.cut_connections()
        if isinstance(event, ActionEnded):
            break
    assert seen == list(range(1, seen[-1] + 1))
    assert len(seen) > 700
    assert cuts >= 5


def test_a_server_killed_in_between_loses_and_doubles_nothing(
    daemon: Callable[..., Daemon], project: Path
) -> None:
    """Killed twice, once while an action runs: the one stream goes on, its numbers too."""
    server = daemon("--delay", "0.05")
    client = server.client()
    client.put(NewDeployment("demo", str(project)))
    events: list[DeploymentEvent] = []
    ended = threading.Semaphore(0)

    def read() -> None:
        for event in client.events("demo", after=0):
            events.append(event)
            if isinstance(event, ActionEnded):
                ended.release()
                if event.action.state is ActionState.SUCCEEDED:
                    return

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    first = client.act("demo", Up())
    eventually(lambda: any(isinstance(event, StepEnded) for event in events))
    server.kill()
    server.start()
    assert ended.acquire(timeout=_SECONDS)
    server.kill()
    server.start()
    second = client.act("demo", Up())
    reading.join(_SECONDS)
    assert not reading.is_alive()
    numbers = [event.number for event in events]
    assert numbers == list(range(1, len(numbers) + 1))
    states = [(each.action.uuid, each.action.state) for each in events if isinstance(each, ActionEnded)]
    assert states == [(first, ActionState.INTERRUPTED), (second, ActionState.SUCCEEDED)]
    begun = {(each.action, each.id) for each in events if isinstance(each, StepStarted)}
    assert begun == {(each.action, each.id) for each in events if isinstance(each, StepEnded)}


def test_a_reader_of_a_server_that_stops_reads_on_at_the_next(
    daemon: Callable[..., Daemon], project: Path
) -> None:
    server = daemon()
    client = server.client()
    client.put(NewDeployment("demo", str(project)))
    stream = client.events("demo", after=0)
    client.act("demo", Up())
    assert next(stream).number == 1
    assert server.stop() == 0
    server.start()
    client.act("demo", Down())
    found = []
    for event in stream:
        found.append(event)
        if isinstance(event, PhaseChanged) and event.state is Phase.DOWN:
            break
    assert [event.number for event in found] == list(range(2, len(found) + 2))


def test_slow_readers_take_no_time_of_others_and_no_memory(
    server: StubServer, request: pytest.FixtureRequest
) -> None:
    """Readers that read nothing at all, of 20 MB each; when they read at last, all is there."""
    uuid = act(server, "wait", "long", "2000")
    stuck = [open_events(server, "?after=0") for _ in range(8)]
    for each in stuck:
        request.addfinalizer(each.shutdown)
    before = resident()
    began = time.monotonic()
    server.inside(server.stub.go_on.set)
    events = list(server.client().events("demo", action=uuid, after=0))
    assert time.monotonic() - began < 15
    assert sum(isinstance(event, LineAdded) for event in events) == 2001
    assert resident() - before < 100 << 20
    found = until_ended(received(stuck[0]), uuid)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    assert len(found) == len(events)


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_readers_of_all_kinds_see_the_same(server: StubServer) -> None:
    uuid = act(server, "wait", "trickle", "200")
    seen: list[list[int]] = []

    def read(after: int) -> None:
        events = until_ended(server.client().events("demo", after=after), uuid)
        seen.append([event.number for event in events if event.number > 3])

    threads = [threading.Thread(target=read, args=(after,)) for after in (0, 1, 2, 0, 3)]
    for each in threads:
        each.start()
    server.inside(server.stub.go_on.set)
    for each in threads:
        each.join(30)
    assert len(seen) == 5
    assert all(each == seen[0] for each in seen)
    assert len(seen[0]) > 200


def test_many_readers_are_read_for_once(
    server: StubServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The database is asked, and events are encoded, about as often as for one; readers are woken seldom."""
    readers, lines = 30, 300
    asked: list[int] = []
    framed: list[bytes] = []
    sent: list[int] = []
    events, frame, write = Store.events, event_parts.text_frame, listen._WebSocketProtocol.send

    def count_events(store: Store, name: str, *, after: int, action: str | None = None) -> Any:
        asked.append(after)
        return events(store, name, after=after, action=action)

    def count_frames(document: bytes) -> bytes:
        framed.append(document)
        return frame(document)

    async def count_writes(protocol: Any, message: Any) -> None:
        sent.append(1)
        await write(protocol, message)

    uuid = act(server, "wait", "trickle", str(lines))
    server.stub.guests = {f"g{number}": "running" for number in range(50)}
    # before a connection begins, which keeps the method that it is to send by
    monkeypatch.setattr(listen._WebSocketProtocol, "send", count_writes)
    connections = [open_events(server, "?status=true") for _ in range(readers)]
    for connection in connections:
        request.addfinalizer(connection.shutdown)
    streams = [received(connection) for connection in connections]
    for each in streams:
        while not isinstance(next(each), StatusReport):
            pass
    monkeypatch.setattr(Store, "events", count_events)
    monkeypatch.setattr(event_parts, "text_frame", count_frames)
    sent.clear()
    looks = server.stub.looks
    server.inside(server.stub.go_on.set)
    found = [until_ended(each, uuid) for each in streams]
    looks = server.stub.looks - looks
    for each in found:
        assert sum(isinstance(event, LineAdded) for event in each) == lines + 1
        numbers = [event.number for event in each if not isinstance(event, StatusReport)]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    reports = sum(b'"event":"status"' in document for document in framed)
    assert reports <= 2 * looks + 2
    # on a busy machine some readers lag behind, and what the others have had is encoded again for these
    assert len(framed) - reports <= readers * lines / 4
    assert len(asked) <= lines
    assert len(sent) <= readers * lines / 4


def test_looks_are_rare_while_an_action_runs_and_come_at_its_end(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An action reports itself what it does. What a look takes is taken from it."""
    monkeypatch.setattr(guest_watch, "_SHARE_BESIDE_ACTIONS", 1e-9)
    stream = server.client().events("demo", status=True)
    next(stream)
    eventually(lambda: server.stub.looks >= 3)
    server.client().act("demo", Exec(guest="web", argv=("wait",)))
    eventually(lambda: server.stub.looks >= 6)  # it does not have the testbed
    server.inside(server.stub.go_on.set)
    server.inside(server.stub.go_on.clear)
    server.stub.waits = True
    uuid = server.client().act("demo", Up())
    time.sleep(0.5)
    looks = server.stub.looks
    time.sleep(1)
    assert server.stub.looks == looks
    server.stub.guests = {"web": "running"}
    server.inside(server.stub.go_on.set)
    until_ended(stream, uuid)
    assert any(isinstance(event, GuestChanged) for _, event in zip(range(8), stream, strict=False))


# -- what is asked for


@pytest.mark.parametrize(
    "query",
    [
        "?after=-1",
        "?after=x",
        "?after=",
        "?after=1&after=2",
        "?form=1",
        f"?after={2**63}",
        f"?after={'9' * 25}",
        "?after=1e3",
        "?after=%00",
        "?after=%D9%A1",
        "?status=maybe",
        "?status=true&action=00000000-0000-0000-0000-000000000000",
    ],
)
def test_wrong_parameters_are_422(server: StubServer, query: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        open_events(server, query)
    assert caught.value.status_code == 422
    assert caught.value.resp_headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("uuid", ["00000000-0000-0000-0000-000000000000", "x", "%27--", ""])
def test_an_action_that_is_not_there_is_404(server: StubServer, uuid: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        open_events(server, f"?action={uuid}")
    assert caught.value.status_code == 404
    answer = requests.get(f"{server.tcp}/api/deployments/demo/events", timeout=10)
    assert answer.status_code == 401


@pytest.mark.parametrize("after", [7, 1000, 2**63 - 1])
@pytest.mark.parametrize("scoped", [False, True])
def test_a_number_that_there_never_was_gets_the_current_state(
    server: StubServer, after: int, *, scoped: bool
) -> None:
    uuid = act(server, "wait")
    eventually(lambda: server.inside(lambda: server.store.last_number("demo")) == 2)
    stream = server.client().events("demo", action=uuid if scoped else None, after=after)
    missed, current = next(stream), next(stream)
    assert isinstance(missed, EventsMissed)
    assert (missed.reason, missed.number, missed.up_to) == (MissedReason.AHEAD, 2, 2)
    assert isinstance(current, CurrentState)
    assert [action.uuid for action in current.actions] == [uuid]
    server.inside(server.stub.go_on.set)
    assert [event.number for event in until_ended(stream, uuid)] == [3, 4]


def test_without_a_number_the_current_state_and_what_follows(server: StubServer) -> None:
    act(server, "say", "3")
    uuid = act(server, "wait")
    eventually(lambda: server.inside(lambda: server.store.steps(uuid)))
    stream = server.client().events("demo")
    current = next(stream)
    assert isinstance(current, CurrentState)
    assert current.number == current.as_of == server.inside(lambda: server.store.last_number("demo"))
    assert [(step.action, step.id, step.step.name) for step in current.steps] == [(uuid, 1, "step")]
    assert current.deployment == server.client().deployment("demo")
    server.inside(server.stub.go_on.set)
    found = until_ended(stream, uuid)
    assert [event.number for event in found] == [current.number + each for each in (1, 2)]


# -- what is kept


def test_output_that_is_no_longer_kept_is_missed_and_said_to_be(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("OUTPUT_LINES", 1000), ("_BATCH_LINES", 100)):
        monkeypatch.setattr(action_log, name, value)

    def flood() -> None:
        log = action_log.ActionLog(server.store, uuid)
        for number in range(5000):
            log.say(f"{number}", action_log.Level.OUTPUT)
        log.end()

    uuid = act(server, "wait")
    eventually(lambda: server.inside(lambda: server.store.steps(uuid)))
    server.inside(flood)
    server.inside(server.stub.go_on.set)
    client = server.client()
    for events in (
        list(client.events("demo", action=uuid, after=0)),
        until_ended(client.events("demo", after=0), uuid),
    ):
        missed, current, started, *rest = events
        assert isinstance(missed, EventsMissed)
        assert (missed.reason, missed.number) == (MissedReason.DROPPED, 0)
        assert isinstance(current, CurrentState)
        assert current.number == 0
        assert isinstance(started, ActionStarted)  # what is kept comes all the same
        after = [event.number for event in rest if event.number > missed.up_to]
        assert after == list(range(missed.up_to + 1, after[-1] + 1))
        assert sum(isinstance(event, LineAdded) for event in rest) < 1200
    assert not any(
        isinstance(event, EventsMissed) for event in client.events("demo", action=uuid, after=missed.up_to)
    )


def test_how_much_was_dropped_is_said_before_the_end(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("OUTPUT_LINES", 1000), ("_BATCH_LINES", 100)):
        monkeypatch.setattr(action_log, name, value)
    uuid = act(server, "print", "3000")
    *_, warning, ended = server.client().events("demo", action=uuid, after=0)
    assert isinstance(warning, LineAdded)
    assert warning.line.text.endswith("lines of output were dropped")
    assert isinstance(ended, ActionEnded)


def test_a_full_disk_ends_the_stream_with_the_action(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = act(server, "wait")
    stream = server.client().events("demo", action=uuid, after=0)
    assert [next(stream).number for _ in range(2)] == [1, 2]

    def full(*_given: object, **_more: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(server.store, "end_action", full)
    server.inside(server.stub.go_on.set)
    assert [event.number for event in stream] == [3]


def test_events_of_no_action_are_kept_for_a_while(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tables, "LOOSE_EVENTS", 100)
    monkeypatch.setattr(event_tables, "_LOOSE_BATCH", 10)

    def publish() -> None:
        for number in range(1000):
            server.store.publish_guest("demo", "web", f"state {number}", host="main")

    server.inside(publish)
    stream = server.client().events("demo", after=5)
    missed, current = next(stream), next(stream)
    assert isinstance(missed, EventsMissed)
    assert 850 < missed.up_to <= 900
    assert isinstance(current, CurrentState)
    assert [(each.guest, each.state, each.before) for each in current.guests] == [
        ("web", "state 999", "state 998")
    ]
    assert next(stream).number == missed.up_to + 1


def test_a_deployment_of_the_same_name_goes_on_with_the_numbers(server: StubServer) -> None:
    client = server.client()
    uuid = act(server, "say", "3")
    found = until_ended(client.events("demo", after=0), uuid)
    connection = open_events(server, "?after=0")
    assert next(received(connection)).number == 1
    client.remove("demo")
    assert len(list(received(connection))) == len(found) - 1  # and it is closed
    with pytest.raises(ServerError, match="no such deployment"):
        next(client.events("demo", after=0))
    client.put(NewDeployment("demo", str(server.project("demo"))))
    uuid = act(server, "say", "3")
    missed, _current, *rest = until_ended(client.events("demo", after=3), uuid)
    assert isinstance(missed, EventsMissed)
    assert [event.number for event in rest] == list(range(len(found) + 1, 2 * len(found) + 1))


# -- guests


def test_guests_are_looked_at_only_while_a_client_listens_and_once_for_all(server: StubServer) -> None:
    uuid = act(server, "say", "3")
    list(server.client().events("demo", action=uuid, after=0))
    time.sleep(0.3)
    assert server.stub.looks == 0
    streams = [server.client().events("demo") for _ in range(5)]
    for each in streams:
        assert isinstance(next(each), CurrentState)
    server.stub.guests = {"web": "running", "db": "shut off", "off": "absent"}
    found = [[next(each), next(each)] for each in streams]
    assert all(each == found[0] for each in found)
    first, second = found[0]
    assert isinstance(first, GuestChanged)
    assert (first.guest, first.state, first.before, first.host) == ("web", "running", None, "main")
    assert isinstance(second, GuestChanged)
    assert (second.guest, second.state) == ("db", "shut off")
    looks = server.stub.looks
    time.sleep(1)
    assert 1 <= server.stub.looks - looks <= 7
    server.stub.guests = {"web": "paused", "off": "absent"}
    for each in streams:
        paused, removed = next(each), next(each)
        assert isinstance(paused, GuestChanged)
        assert (paused.guest, paused.state, paused.before) == ("web", "paused", "running")
        assert isinstance(removed, GuestChanged)
        assert (removed.guest, removed.state, removed.before) == ("db", "removed", "shut off")
    for each in streams:
        close(each)
    eventually(lambda: server.inside(lambda: server.activity.followers) == 0)
    looks = server.stub.looks
    time.sleep(0.5)
    assert server.stub.looks <= looks + 1


def close(stream: Iterator[DeploymentEvent]) -> None:
    with contextlib.suppress(AttributeError):
        stream.close()  # type: ignore[attr-defined]


def test_the_end_of_an_action_is_looked_at_at_once(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 60)
    stream = server.client().events("demo")
    next(stream)
    eventually(lambda: server.stub.looks == 1)
    server.stub.guests = {"web": "running"}
    act(server, "say", "1")
    assert any(isinstance(event, GuestChanged) for _, event in zip(range(8), stream, strict=False))


def test_drivers_that_report_changes_are_asked_only_then(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 0.05)
    happened = threading.Event()
    fails = threading.Event()

    async def source(deployment: Deployment) -> AsyncGenerator[DomainEvent]:
        assert deployment.name == "demo"
        while not fails.is_set():
            if happened.is_set():
                happened.clear()
                yield DomainEvent(
                    name="demo-web", guest="web", state="paused", reason="I/O error: no space left"
                )
            await guest_watch.asyncio.sleep(0.01)
        raise ServerError("the host is gone")

    server.inside(lambda: setattr(server.service._watches, "_source", source))
    server.stub.guests = {"web": "running"}
    stream = server.client().events("demo")
    next(stream)
    assert isinstance(next(stream), GuestChanged)
    time.sleep(0.5)
    assert server.stub.looks == 1
    server.stub.guests = {"web": "paused"}
    server.stub.reasons = {"web": "I/O error: no space left"}
    happened.set()
    paused = next(stream)
    assert isinstance(paused, GuestChanged)
    assert (paused.state, paused.reason) == ("paused", "I/O error: no space left")
    time.sleep(0.3)
    assert server.stub.looks == 2
    fails.set()  # then they are looked at, as without it
    server.stub.guests, server.stub.reasons = {"web": "running"}, {}
    again = next(stream)
    assert isinstance(again, GuestChanged)
    assert (again.state, again.reason) == ("running", None)
    eventually(lambda: server.stub.looks > 5)


def test_the_status_comes_by_itself(server: StubServer) -> None:
    server.stub.guests = {"web": "running"}
    stream = server.client().events("demo", status=True)
    assert isinstance(next(stream), CurrentState)
    reports: list[StatusReport] = []
    for event in stream:
        if isinstance(event, StatusReport):
            reports.append(event)
            server.cut_connections()  # the next one comes all the same
        if len(reports) == 3:
            break
    for report in reports:
        assert report.status == server.client().status("demo")
        assert report.number == 1


def test_hosts_that_do_not_answer_are_a_problem_of_the_report(server: StubServer) -> None:
    for name, status, text in (
        ("broken", 502, "libvirt does not answer"),
        ("crashing", 500, "internal error (RuntimeError)"),
    ):
        server.client().put(NewDeployment(name, str(server.project(name))))
        stream = server.client().events(name, status=True)
        for _ in range(2):
            report = next(event for event in stream if isinstance(event, StatusReport))
            assert report.problem is not None
            assert (report.problem.status, report.problem.detail) == (status, text)
            assert report.status is None


# -- what clients know


def test_types_that_a_client_does_not_know_are_passed_over(server: StubServer) -> None:
    stream = EventStream(server.address, "/", {}, query={}, after=None, ca_file=None, revive=None)
    assert stream._decoded(b'{"event":"of-tomorrow","number":7,"what":1}') is None
    assert stream.after == 7
    for wrong in (b"", b"{}", b'{"event":"line","number":8}', b'{"event":"of-tomorrow"}', b"\xff"):
        with pytest.raises(ServerError, match="invalid event"):
            stream._decoded(wrong)
    assert stream.after == 7


def test_the_example_of_the_reference_works(server: StubServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    example = example.replace("/run/kvm-compose/server.sock", str(server.socket)).replace("/lab/", "/demo/")
    printed: list[str] = []
    names: dict[str, object] = {"print": lambda *words: printed.append(str(words))}
    running = threading.Thread(target=exec, args=(example, names))
    running.start()
    eventually(lambda: printed)
    uuid = act(server, "say", "2")
    list(server.client().events("demo", action=uuid, after=0))
    server.client().remove("demo")
    running.join(_SECONDS)
    names["stream"].shutdown()  # type: ignore[attr-defined]
    assert printed == [
        "(0, 'current')", "(1, 'action-started')", "(2, 'step-started')", "(3, 'line')", "(4, 'line')",
        "(5, 'line')", "(6, 'step-ended')", "(7, 'action-ended')",
    ]  # fmt: skip


def test_every_event_is_as_described(server: StubServer) -> None:
    """Against the JSON Schema in the OpenAPI document and in the AsyncAPI document."""
    server.stub.guests = {"web": "running"}
    client = server.client()

    def publish() -> None:
        server.store.publish_resource(uuid, "create", "ovs-bridge", "br0", host="main", guest=None)
        question = Question("web", "internet", "tcp 443")
        server.store.publish_probe(uuid, Probed(question, ProbeOutcome.LOST, "it does not arrive"))

    uuid = client.act("demo", Exec(guest="web", argv=("wait", "fail")))
    eventually(lambda: server.inside(lambda: server.store.steps(uuid)))
    server.inside(publish)
    server.inside(server.stub.go_on.set)
    eventually(lambda: client.action("demo", uuid).ended)
    server.inside(lambda: server.store.set_phase("demo", Phase.UP))
    tags = set()
    openapi = description(server, "/openapi.json")
    asyncapi = description(server, "/asyncapi.json")
    channel = asyncapi["channels"]["events"]
    messages = {
        asyncapi["components"]["messages"][name]["name"]: asyncapi["components"]["messages"][name]
        for name in channel["messages"]
    }
    whole = {"$ref": "#/components/schemas/DeploymentEvent", "components": openapi["components"]}
    server.inside(lambda: server.store.publish_guest("demo", "web", "paused", host="main", reason="I/O"))
    for query, last in (("?after=0", "guest"), ("?after=99", "current"), ("?status=1", "status")):
        connection = open_events(server, query)
        event: dict[str, object] = {}
        while event.get("event") != last:
            event = msgspec.json.decode(connection.recv_data()[1])
            payload = messages[event["event"]]["payload"]["schema"]
            part = jsonschema.Draft7Validator({**payload, "components": asyncapi["components"]})
            for validator in (part, jsonschema.Draft202012Validator(whole)):
                validator.validate(event)
                for key in ("event", "number"):
                    assert not validator.is_valid({**event, key: None})
            tags.add(event["event"])
        connection.shutdown()
    assert tags == messages.keys()


def description(server: StubServer, path: str) -> dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]:
    answer = server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    decoded: dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]
    decoded = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    return decoded


def test_the_list_of_deployments_comes_again_when_it_changes(server: StubServer) -> None:
    client = server.client()
    connection = websocket.create_connection(
        "ws://localhost/api/deployments",
        socket=server.address.connect(),
        timeout=10,
        suppress_origin=True,
        skip_utf8_validation=True,
    )

    def states() -> dict[str, str]:
        return {each["name"]: each["state"] for each in msgspec.json.decode(connection.recv_data()[1])}

    assert states() == {"demo": "down"}
    client.put(NewDeployment("other", str(server.project("other"))))
    assert states() == {"demo": "down", "other": "down"}
    server.inside(lambda: server.store.set_phase("other", Phase.UP))
    assert states() == {"demo": "down", "other": "up"}
    server.inside(lambda: server.store.set_phase("other", Phase.UP))  # nothing changes
    server.inside(lambda: server.store.set_phase("other", Phase.DOWN))
    assert states() == {"demo": "down", "other": "down"}
    client.remove("other")
    assert states() == {"demo": "down"}
    connection.shutdown()
