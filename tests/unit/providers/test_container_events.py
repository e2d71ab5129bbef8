"""Events of a container engine, against one that reports what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.containers import events
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.driver import HostEngine
from kvmcompose.providers.containers.interface.containers import Containers, ObservedContainer

#: Under load, a socket is now and then left to the garbage collector; whose it is, is not known yet.
#: It is collected here, so that no later test of the process fails for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)

#: What ends a stream of events.
END = b""


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Reporting:
    """An engine with containers of two projects, by ID, whose events a test sends."""

    def __init__(self) -> None:
        self.states = {"1": "running", "2": "running"}
        self.projects = {"1": "p", "2": "q"}
        self.streams: list[queue.Queue[bytes]] = []
        self.refuses = self.ends_at_once = False
        self.unlisted: set[str] = set()
        self.asked: list[str] = []
        self.filters: dict[str, Any] = {}

    def answer(self, path: str) -> object:
        """What is sent for a path, None for what there is not."""
        self.asked.append(path)
        if path == "/version":
            return {"ApiVersion": "1.41"}
        if path.endswith("/containers/json"):
            return [
                {"Id": each, "Names": [f"/c{each}"], "Labels": self.labels(each)}
                for each in self.states
                if self.projects[each] == "p" and each not in self.unlisted
            ]
        each = path.split("/")[-2]
        if each not in self.states:
            return None
        state = self.states[each]
        return {
            "Id": each,
            "Name": f"/c{each}",
            "Config": {"Labels": self.labels(each)},
            "State": {"Status": state, "Running": state == "running", "Pid": 7},
        }

    def labels(self, each: str) -> dict[str, str]:
        return {"kvm-compose.project": self.projects[each], "kvm-compose.name": f"c{each}"}

    def report(self, each: str, labels: object = None, **more: Any) -> None:
        """Send an event to all who listen."""
        attributes = self.labels(each) if labels is None else labels
        message = {"Type": "container", "Action": "die", "Actor": {"ID": each, "Attributes": attributes}}
        self.send(json.dumps({**message, **more}).encode() + b"\n")

    def send(self, data: bytes) -> None:
        for stream in self.streams:
            stream.put(data)


@contextlib.contextmanager
def serving(path: Path, engine: Reporting) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path.endswith("/events"):
                engine.filters = json.loads(parse_qs(url.query)["filters"][0])
                self.follow()
                return
            found = engine.answer(url.path)
            body = json.dumps(found if found is not None else {"message": "No such container"}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def follow(self) -> None:
            stream: queue.Queue[bytes] = queue.Queue()
            engine.streams.append(stream)
            self.send_response(500 if engine.refuses else 200)
            self.end_headers()
            while not engine.refuses and not engine.ends_at_once and (data := stream.get()):
                self.wfile.write(data)

        def address_string(self) -> str:
            return "client"

        def log_message(self, *_words: Any) -> None:
            pass

    with _Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            engine.send(END)


class Follower:
    """Collects what a project's events are."""

    def __init__(self, containers: Containers, project: str = "p") -> None:
        self.seen: list[tuple[str, str]] = []
        self.error: DriverError | None = None
        self.task = asyncio.create_task(self._follow(containers, project))

    async def _follow(self, containers: Containers, project: str) -> None:
        try:
            async with aclosing(containers.events(project)) as found:
                async for each in found:
                    self.seen.append((each.id, each.state))
        except DriverError as error:
            self.error = error

    async def sees(self, *expected: tuple[str, str]) -> None:
        async with asyncio.timeout(10):
            while self.seen[-len(expected) :] != [*expected]:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(events, "_SETTLED", 0.05)
    yield
    gc.collect()


@pytest.fixture
def engine() -> Reporting:
    return Reporting()


@pytest.fixture
def path(tmp_path: Path, engine: Reporting) -> Iterator[Path]:
    with serving(tmp_path / "engine.sock", engine):
        yield tmp_path / "engine.sock"


def drive(path: Path) -> HostEngine:
    return HostEngine(EngineConnection([path], come_back=1), LocalRunner("one"))


async def settled() -> None:
    await asyncio.sleep(0.4)


def test_each_change_is_looked_up_and_those_of_others_are_not(path: Path, engine: Reporting) -> None:
    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await follower.sees(("1", "running"))
        await settled()
        assert "die" in engine.filters["event"]  # Docker's word
        assert "died" in engine.filters["event"]  # that of Podman before 4.4
        engine.asked.clear()
        engine.states["1"] = "paused"
        engine.report("1")
        await follower.sees(("1", "running"), ("1", "paused"))
        engine.report("1")  # nothing has changed
        engine.report("2")
        engine.states["1"] = "exited"
        engine.report("1", labels={})  # some engines leave out the labels of what ends
        await follower.sees(("1", "paused"), ("1", "exited"))
        del engine.states["1"]
        engine.report("1")
        await follower.sees(("1", "exited"), ("1", "gone"))
        engine.states["3"], engine.projects["3"] = "running", "p"
        engine.report("3")
        await follower.sees(("3", "running"))
        assert {each for each in engine.asked if "/2/" in each or each.endswith("/containers/json")} == set()
        await follower.stop()
        await driven.close()

    asyncio.run(run())


def test_what_happens_while_nothing_is_reported_is_seen_afterwards(path: Path, engine: Reporting) -> None:
    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await follower.sees(("1", "running"))
        await settled()
        engine.states["1"] = "exited"
        engine.send(END)
        await follower.sees(("1", "running"), ("1", "exited"))
        async with asyncio.timeout(10):
            while len(engine.streams) < 2:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
        await settled()
        engine.states["1"] = "running"
        engine.report("1")
        await follower.sees(("1", "exited"), ("1", "running"))
        await follower.stop()
        await driven.close()

    asyncio.run(run())


def test_all_listeners_share_a_stream_which_ends_with_them(path: Path, engine: Reporting) -> None:
    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        followers = [Follower(containers), Follower(containers), Follower(containers, "q")]
        await followers[0].sees(("1", "running"))
        await followers[1].sees(("1", "running"))
        engine.states["1"] = "exited"
        engine.report("1")
        await followers[1].sees(("1", "exited"))
        assert len(engine.streams) == 1
        for each in followers:
            await each.stop()
        again = Follower(containers)
        await again.sees(("1", "exited"))
        await settled()
        assert len(engine.streams) == 2
        await again.stop()
        await driven.close()

    asyncio.run(run())


def test_an_engine_that_refuses_is_named(path: Path, engine: Reporting) -> None:
    engine.refuses = True

    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await asyncio.wait_for(follower.task, 10)
        assert follower.error is not None
        assert "cannot follow the events of containers" in follower.error.message
        await driven.close()

    asyncio.run(run())


def test_streams_that_end_at_once_are_not_opened_all_the_time(path: Path, engine: Reporting) -> None:
    engine.ends_at_once = True

    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await asyncio.sleep(1.5)
        assert 2 <= len(engine.streams) <= 4
        assert follower.seen == [("1", "running")]
        await follower.stop()
        await driven.close()

    asyncio.run(run())


def test_events_that_make_no_sense_are_survived(path: Path, engine: Reporting) -> None:
    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await follower.sees(("1", "running"))
        await settled()
        for number, nonsense in enumerate(
            (
                b"\xff\xfe not JSON\n",
                b"[" * 5000 + b"\n",
                b'{"Actor": 7}\n{"Actor": {"ID": ["1"]}}\n{}\n\n',
                b'{"Actor": {"ID": "1", "Attributes": {"kvm-compose.project": ["p"]}}}\n',
                json.dumps({"Actor": {"ID": "2", "Attributes": {"label": "x" * (1 << 20)}}}).encode() + b"\n",
            )
        ):
            state = ("exited", "running")[number % 2]
            engine.states["1"] = state
            engine.send(nonsense)
            await follower.sees(("1", state))
        engine.asked.clear()
        for identity in ("../../version", "x" * 5000, ""):
            engine.report("1", Actor={"ID": identity, "Attributes": engine.labels("1")})
        async with asyncio.timeout(10):
            while len(set(engine.asked)) < 2:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
        await settled()
        assert {each.partition("/containers/")[2] for each in engine.asked} == {"json", "1/json"}
        engine.states["1"] = "paused"
        engine.report("1", Actor={"ID": "1", "Attributes": None})
        await follower.sees(("1", "paused"))
        assert follower.error is None
        await follower.stop()
        await driven.close()

    asyncio.run(run())


def test_a_listener_that_is_busy_keeps_no_more_than_so_many() -> None:
    listener = events.ContainerListener("p")

    async def run() -> None:
        assert await listener.changed() is None
        for number in range(10):
            listener.tell(str(number), "p")
        assert await listener.changed() == {str(number) for number in range(10)}
        for number in range(events._MOST_WAITING + 1):
            listener.tell(str(number), "p")
        assert not listener._waiting
        assert await listener.changed() is None

    asyncio.run(run())


def test_containers_that_an_engine_reports_and_does_not_list_are_not_remembered(
    path: Path, engine: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MOST_KNOWN", 5)

    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        follower = Follower(containers)
        await follower.sees(("1", "running"))
        await settled()
        engine.unlisted = {f"{number:x}" for number in range(16, 32)}
        for each in engine.unlisted:
            engine.states[each], engine.projects[each] = "running", "p"
            engine.report(each)
        async with asyncio.timeout(10):
            while {each for each, state in follower.seen if state == "gone"} != engine.unlisted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await follower.stop()
        await driven.close()

    asyncio.run(run())


def test_what_is_not_the_projects_is_gone(path: Path, engine: Reporting) -> None:
    """As a container that was renamed by hand: it has the label of its name of before."""

    def named(found: ObservedContainer) -> tuple[str, str]:
        return found.name, found.state

    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        found = containers.events("p")
        assert named(await anext(found)) == ("c1", "running")
        engine.projects["1"] = "q"
        engine.report("1", labels={"kvm-compose.project": "p"})
        assert named(await asyncio.wait_for(anext(found), 10)) == ("c1", "gone")
        await found.aclose()
        await driven.close()

    asyncio.run(run())


def test_an_engine_that_is_away_is_asked_seldom_and_seen_when_it_comes(
    tmp_path: Path, engine: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "late.sock"
    looks: list[str] = []

    async def run() -> None:
        driven = drive(path)
        containers = driven.containers
        observe = containers.observe

        async def counted(project: str) -> object:
            looks.append(project)
            return await observe(project)

        monkeypatch.setattr(containers, "observe", counted)
        follower = Follower(containers)
        await asyncio.sleep(1.5)
        assert len(looks) <= 5
        with serving(path, engine):
            await follower.sees(("1", "running"))
            await follower.stop()
        await driven.close()

    asyncio.run(run())
