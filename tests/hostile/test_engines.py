"""Container engines of other hosts that mean harm: whatever they answer, it is an error, and no memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest
from memory import MIB, growth_below

from kvmcompose.core.image_build import ImageBuild
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.containers import connection, execution, images
from kvmcompose.providers.containers import containers as container_driver
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.driver import HostEngine
from kvmcompose.providers.containers.images import EngineImages
from kvmcompose.providers.containers.labels import (
    BUILD_LABEL,
    GUEST_LABEL,
    MADE_LABEL,
    NAME_LABEL,
    PROJECT_LABEL,
)
from kvmcompose.providers.containers.streaming import complaint_in

_VERSION = b'{"ApiVersion": "1.41"}'


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Lying:
    """An engine that gives one answer to everything but the question for its version."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes = b""
        #: How often the body is sent.
        self.times = 1
        self.asked: list[str] = []


@contextlib.contextmanager
def lying_engine(path: Path) -> Iterator[Lying]:
    engine = Lying()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            is_version = self.path == "/version"
            engine.asked.append(self.path)
            self.send_response(200 if is_version else engine.status)
            for name, value in engine.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1 if is_version else engine.times):
                    self.wfile.write(_VERSION if is_version else engine.body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def address_string(self) -> str:
            return "client"

        def log_message(self, *_words: Any) -> None:
            pass

    with _Server(str(path), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield engine
        finally:
            server.shutdown()
            serving.join()


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _all(found: AsyncIterator[Any]) -> None:
    async for _ in found:
        pass


def _calls(engine: EngineConnection) -> Iterator[Callable[[], Awaitable[object]]]:
    driven = HostEngine(engine, LocalRunner("one"))
    containers, inside, found = driven.containers, driven.inside, driven.images
    web = ("lab", "lab-web")
    image = f"sha256:{'0' * 64}"

    def ignore(_line: str) -> None:
        pass

    yield driven.facts
    yield lambda: containers.foreign("lab", ["lab-web"])
    yield lambda: containers.observe("lab")
    yield lambda: containers.container(*web)
    yield lambda: containers.create("lab", "g", "lab-web", {"Image": "x"}, "m")
    yield lambda: containers.start(*web)
    yield lambda: containers.stop(*web, 1)
    yield lambda: containers.pause(*web)
    yield lambda: containers.unpause(*web)
    yield lambda: containers.remove(*web)
    yield lambda: found.commit(*web, "kvm-compose-snapshots/lab-web:s")
    yield lambda: inside.run(*web, ["true"], ignore, seconds=0.3)
    yield lambda: _all(inside.logs(*web))
    yield lambda: inside.put(*web, "/", _nothing())
    yield lambda: _all(inside.get(*web, "/x"))
    yield lambda: containers.usage("lab")
    yield driven.measure
    yield lambda: found.image("x")
    yield lambda: found.of_project("lab")
    yield lambda: found.pull("x", ignore)
    yield lambda: found.load(_nothing(), image, ignore)
    yield lambda: _all(found.save(image))
    yield lambda: found.build("lab", ImageBuild("web"), "k", _nothing(), ignore)
    yield lambda: found.remove_image("lab", "x")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for does not come."""
    monkeypatch.setattr(container_driver, "_REMOVAL_SECONDS", 0.05)
    for name in ("_STATUS_SECONDS", "_START_SECONDS", "_REST_SECONDS", "_WATCH_SECONDS"):
        monkeypatch.setattr(execution, name, 0.05)


def _asked(path: Path, change: Callable[[Lying], None]) -> list[tuple[type[BaseException], str]]:
    """Return what each call raises when an engine answers so."""

    async def ask(engine: Lying) -> list[tuple[type[BaseException], str]]:
        change(engine)
        asking = EngineConnection([path], "on two", come_back=0)
        found = []
        for call in _calls(asking):
            try:
                async with asyncio.timeout(60):
                    await call()
            except Exception as error:  # noqa: BLE001 (which it is, is what is tested)
                found.append((type(error), str(error)))
        await asking.close()
        return found

    with lying_engine(path) as engine:
        return asyncio.run(ask(engine))


#: What an engine could answer to any question.
_LABELS = {PROJECT_LABEL: "lab", NAME_LABEL: "lab-web", GUEST_LABEL: "g", MADE_LABEL: "m", BUILD_LABEL: "k"}
_ANSWER: Mapping[str, Any] = {
    "Id": "a" * 64, "ID": "a" * 64, "Name": "/lab-web", "Names": ["/lab-web"], "Image": "sha256:b",
    "State": {
        "Status": "running", "Running": True, "Paused": False, "Pid": 5, "ExitCode": 0,
        "StartedAt": "2026-01-01T00:00:00Z",
        "Health": {"Status": "unhealthy", "Log": [{"ExitCode": 1, "Output": "x"}]},
    },
    "Config": {"Labels": _LABELS, "Tty": False}, "Labels": _LABELS, "RestartCount": 0,
    "RepoTags": ["a:1"], "RepoDigests": [], "Size": 1, "Running": False, "ExitCode": 0, "Pid": 0,
    "SecurityOptions": [], "NCPU": 1, "MemTotal": 1, "MemoryLimit": True, "Components": [{"Name": "Engine"}],
    "memory_stats": {"usage": 1, "stats": {"inactive_file": 1}},
    "cpu_stats": {"cpu_usage": {"total_usage": 1}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 1}]},
    "status": "Loading", "id": "l", "progressDetail": {"current": 1, "total": 2},
}  # fmt: skip
_NONSENSE = ("\x1b[31m", [1], {"a": 1}, -(10**400))


def _lies(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield answers with something else in one place, or nothing."""
    for key, value in answer.items():
        yield {name: each for name, each in answer.items() if name != key}
        yield from ({**answer, key: each} for each in _NONSENSE)
        if isinstance(value, dict) and value is not _LABELS:
            yield from ({**answer, key: each} for each in _lies(value))


_SHAPES = [
    *(b"null", b"true", b"1e999", b'"x"', b"[null]", b"[[]]", b"[1]", b"{}", b"", b"{", b"\xff\xfe"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'{"errorDetail": "x"}', b'{"stream": [1]}'),
    *(json.dumps([each]).encode() for each in (_ANSWER, *_NONSENSE)),
]


@pytest.mark.usefixtures("quick")
def test_an_answer_that_is_none_is_an_error_of_the_engine(tmp_path: Path) -> None:
    """Any other exception would be an internal error, of all hosts: it is no engine that does not answer."""
    lies = [json.dumps(each).encode() for each in _lies(_ANSWER)]
    found = []
    for number, body in enumerate([*_SHAPES, *lies[::8]]):

        def change(engine: Lying, body: bytes = body) -> None:
            engine.body = body

        raised = _asked(tmp_path / f"{number}", change)
        found += [(body[:80], each) for each in raised if not issubclass(each[0], DriverError)]
    assert found == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_fills_no_memory(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LARGEST_ANSWER", 4 * MIB)

    def change(engine: Lying) -> None:
        engine.status, engine.body, engine.times = status, b"[" + b"[]," * (MIB // 3), 128

    gc.disable()  # a server collects garbage when it rests
    try:
        with growth_below(64):
            raised = _asked(tmp_path / "engine", change)
    finally:
        gc.enable()
    assert all(issubclass(kind, DriverError) for kind, _ in raised)
    said = "on two does not speak the API: its answer is larger than 4 MiB"
    assert sum(said in text for _, text in raised) >= (12 if status == 200 else 0)


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (307, {"Location": "http+docker://localhost/elsewhere"}, "redirects to somewhere else"),
        (307, {"Location": "http://127.0.0.1:1/"}, "redirects to somewhere else"),
        (200, {"Content-Encoding": "gzip"}, "its answer is compressed"),
    ],
)
def test_an_engine_sends_nobody_elsewhere(
    tmp_path: Path, status: int, headers: dict[str, str], said: str
) -> None:
    with lying_engine(tmp_path / "engine") as engine:
        engine.status = status

        async def ask() -> None:
            asking = EngineConnection([tmp_path / "engine"], come_back=0)
            await asking.call("ask", lambda client: client.api_version)
            engine.headers = headers
            with pytest.raises(DriverError, match=said):
                await EngineImages(asking, "one").image("x")
            await asking.close()

        asyncio.run(ask())
        assert not [each for each in engine.asked if "elsewhere" in each]


@pytest.mark.parametrize("registry", ["", "docker.io/", "index.docker.io/", "localhost/"])
def test_no_registry_has_what_is_made_here(tmp_path: Path, registry: str) -> None:
    """Else a lab could have an image of its own in the place of one that another project builds later."""
    with lying_engine(tmp_path / "engine") as engine:
        asking = EngineConnection([tmp_path / "engine"], come_back=0)
        reference = f"{registry}kvm-compose-builds/other:{'a' * 32}"
        with pytest.raises(DriverError, match="made by kvm-compose on this host alone"):
            asyncio.run(EngineImages(asking, "one").pull(reference, lambda _: None))
        assert engine.asked == []


class _Recording(LocalRunner):
    """Runs nothing."""

    def __init__(self) -> None:
        super().__init__("one")
        self.asked: list[str] = []

    async def run(self, argv: Sequence[str], **_options: Any) -> Completed:  # type: ignore[override]
        self.asked.append(" ".join(argv[-3:]))
        return Completed(0, b"", b"")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("identity", "pid", "ended"),
    [
        ("a" * 64, 4242, True),
        ("", 4242, False),
        ("a", 4242, False),
        ("a" * 64, 1, False),
        ("a" * 64, "x", False),
    ],
)
def test_no_process_of_the_host_is_ended_for_one_of_a_container(
    tmp_path: Path, identity: str, pid: object, ended: bool
) -> None:
    """Which process it is, and of which container, is what the engine says."""
    runner = _Recording()
    with lying_engine(tmp_path / "engine") as engine:
        answer = {**_ANSWER, "Id": identity, "Pid": pid, "Running": True, "ExitCode": None}
        engine.body = json.dumps(answer).encode()
        driven = HostEngine(EngineConnection([tmp_path / "engine"], come_back=0), runner)

        async def ask() -> None:
            running = asyncio.create_task(driven.inside.run("lab", "lab-web", ["true"], lambda _: None))
            begun = lambda: any(each.endswith("/start") for each in engine.asked)  # noqa: E731
            while not (running.done() or begun()):  # noqa: ASYNC110 (the engine is a thread)
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises((asyncio.CancelledError, DriverError)):
                await running
            await driven.close()

        asyncio.run(ask())
    assert runner.asked == ([f"{pid} {identity} TERM"] if ended else [])


def test_what_an_engine_reports_of_layers_is_not_kept_for_ever() -> None:
    lines = [json.dumps({"status": "x" * 10_000, "id": f"{number}"}) for number in range(5000)]
    most = "9" * 5000
    lines.append(f'{{"status": "x", "progressDetail": {{"current": {most}, "total": {most}}}}}')
    progress = images._Progress("pull the image x", lambda _: None)

    async def pieces() -> AsyncIterator[bytes]:
        for each in lines:
            yield each.encode() + b"\n"

    asyncio.run(progress.follow(pieces()))
    assert len(progress._said) <= 1001
    assert sum(map(len, progress._said.values())) < 500_000


def test_a_refusal_that_is_nested_deep_is_shown_as_it_is() -> None:
    assert complaint_in(b"[" * 50_000).startswith("[[[")
