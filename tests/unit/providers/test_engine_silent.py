"""An engine that does not answer, or late, is named before a client gives up on its server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from kvmcompose.client.remote import ANSWER_SECONDS
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.containers import connection
from kvmcompose.providers.containers.connection import AT_ONCE, COPY_SECONDS, EngineConnection, failure
from kvmcompose.providers.containers.driver import HostEngine


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def silent_engine(path: Path) -> Iterator[threading.Event]:
    """Answer nothing but its version, until the event is set."""
    awake = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/version":
                awake.wait()
            body = b'{"ApiVersion": "1.41"}' if self.path == "/version" else b"[]"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "client"

        def log_message(self, *_words: Any) -> None:
            pass

    with _Server(str(path), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield awake
        finally:
            awake.set()
            server.shutdown()
            serving.join()


def test_a_socket_is_named_as_it_is_on_its_host(tmp_path: Path) -> None:
    async def ask() -> None:
        path = tmp_path / "forwarded.sock"
        engine = EngineConnection([path], "on two", shown={path: "/run/docker.sock"})
        with pytest.raises(DriverError, match=r"engine answers on two at /run/docker\.sock$"):
            await engine.call("ask", lambda client: client.version())

    asyncio.run(ask())


def test_a_volume_that_a_users_engine_cannot_read_is_no_lack_of_access_to_the_engine() -> None:
    error = failure("create the container lab-web", "statfs /lab/html: permission denied")
    assert error.hint is not None
    assert "may that user enter the project folder" in error.hint


def test_who_only_looks_hears_of_it_before_the_client_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []

    def at_once(seconds: float | None) -> asyncio.Timeout:
        limits.append(seconds)
        return real(0.2)

    real = asyncio.timeout
    monkeypatch.setattr("kvmcompose.providers.containers.connection.asyncio.timeout", at_once)

    async def look(awake: threading.Event) -> None:
        engine = EngineConnection([path])
        driven = HostEngine(engine, LocalRunner("one"))
        for asked in (driven.facts(), driven.containers.observe("lab")):
            with pytest.raises(DriverError, match="the container engine has not answered within") as error:
                await asked
            assert error.value.hint == "does it hang? docker ps, or podman ps"
        awake.set()
        assert await driven.containers.observe("lab") == {}
        # a commit of many files says nothing until it is done
        assert await engine.call("ask", lambda client: client.timeout) >= COPY_SECONDS
        await driven.close()

    path = tmp_path / "engine.sock"
    with silent_engine(path) as awake:
        asyncio.run(look(awake))
    assert limits
    assert all(each is not None and each < ANSWER_SECONDS for each in limits)


def test_a_hundred_calls_start_few_threads(tmp_path: Path) -> None:
    async def ask() -> None:
        engine = EngineConnection([path])
        threads = [await engine.call("ask", lambda _: threading.current_thread()) for _ in range(100)]
        assert len(set(map(id, threads))) <= 2 * AT_ONCE  # one that has just answered may not be free yet
        assert all(each.daemon for each in threads)
        await engine.close()

    path = tmp_path / "engine.sock"
    with silent_engine(path) as awake:
        awake.set()
        asyncio.run(ask())


def test_what_closes_does_not_wait_for_an_engine_that_is_being_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed = threading.Event(), threading.Event()
    in_time = []

    def probe(_path: Path) -> None:
        begun.set()
        in_time.append(closed.wait(10))

    monkeypatch.setattr(connection, "_probe", probe)

    async def close() -> None:
        engine = EngineConnection([tmp_path / "engine"], come_back=0)
        call = asyncio.create_task(engine.call("ask", lambda client: client.version()))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        await engine.close()
        closed.set()
        again = await engine.call("ask", lambda client: client.api_version)
        assert again == "1.41"
        await engine.close()

    with silent_engine(tmp_path / "engine"):
        asyncio.run(close())
    assert in_time == [True, True]
