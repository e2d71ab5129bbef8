"""A connection to the container engine of one host, for callers that must not block.

Short calls go through the Docker SDK, in threads of their own: daemon threads, so that an engine that does
not answer keeps neither the event loop nor the end of the process waiting. Streams go through ``streaming``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import requests
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound

from kvmcompose.core.image_source import qualified
from kvmcompose.effects.threads import Threads
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.providers.containers import rows, streaming
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.streaming import BEGIN_SECONDS, EngineError, EngineStream

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How many short calls run at a time.
AT_ONCE = 8
_threads = Threads(AT_ONCE)
#: How long a call may take, in seconds: one that looks, less than a client waits for its server, which would
#: be blamed; one that changes something; and one that copies the files of a container.
LOOK_SECONDS, CALL_SECONDS, COPY_SECONDS = 40, 90, 900
#: How long an engine that restarts is waited for, in seconds, once it has answered.
_COME_BACK_SECONDS = 15.0
_PAUSE_SECONDS = 0.2
#: The longest message of an engine that is shown, in characters.
_LONGEST = 1000
#: The largest answer that is read, in bytes, and of one that refuses. Ten thousand containers take 20 MiB.
LARGEST_ANSWER, _LARGEST_REFUSAL = 32 << 20, 1 << 16
_CHUNK = 1 << 16
#: Raised for an answer that is none of the API's, by what reads it. RecursionError: a thousand levels deep.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
#: Words in messages of engines, and a hint for each.
_HINTS = (
    ("statfs", "a rootless engine reads volumes as its user: may that user enter the project folder?"),
    ("ermission denied", "may the user use the engine? For Docker: sudo usermod -aG docker USER"),
    ("No such image", "kvm-compose up pulls or loads it"),
    ("no space left", "see what is there: docker system df"),
    ("cgroup", "does the host have the control groups that these limits need?"),
)


class EngineRefusalError(DriverError):
    """The engine has answered, and refuses."""


class _UnreadableError(ValueError):
    """An answer is none that an engine gives."""


class _Client(APIClient):
    """The SDK's client, for engines of other hosts, which may answer without end.

    The SDK reads an answer whole, of any size, decompresses it, and goes where it redirects to.
    """

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request, and read the answer up to a limit. Raises _UnreadableError."""
        options |= {"stream": True, "allow_redirects": False}
        response: requests.Response = super().send(request, **options)
        try:
            content = _content(response)
        finally:
            response.close()
        response._content, response._content_consumed = content, True  # type: ignore[attr-defined] # noqa: SLF001 (as if requests had read it)
        return response


def _content(response: requests.Response) -> bytes:
    """Return what an engine answers; of a refusal, the beginning. Raises _UnreadableError."""
    if response.is_redirect:
        raise _UnreadableError("it redirects to somewhere else")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _UnreadableError("its answer is compressed")
    content = bytearray()
    for piece in response.iter_content(_CHUNK):
        content += piece
        if len(content) > LARGEST_ANSWER:
            raise _UnreadableError(f"its answer is larger than {LARGEST_ANSWER >> 20} MiB")
        if not response.ok and len(content) > _LARGEST_REFUSAL:
            break
    return bytes(content)


class EngineConnection:
    """To the engine behind the first of some unix sockets that answers; from then on, to no other one.

    Another engine of the host has none of the containers, which must not look as if they were gone.
    """

    def __init__(
        self,
        sockets: Sequence[Path],
        where: str = "",
        reach: Callable[[], Awaitable[None]] | None = None,
        come_back: float = _COME_BACK_SECONDS,
        shown: Mapping[Path, str] | None = None,
    ) -> None:
        """``where`` ("on HOST") is the host in messages; ``reach`` raises DriverError where it is away.

        ``shown`` are the paths on that host of sockets that lead there.

        ``come_back`` is how long an engine that has answered is waited for, in seconds.
        """
        self._come_back = come_back
        self._sockets = tuple(sockets)
        self._shown = shown or {}
        self._where = where
        self._reach = reach
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._guard = threading.Lock()
        self._client: APIClient | None = None
        #: How often the connections were closed.
        self._closed = 0
        self._socket: Path | None = None
        self._is_podman: bool | None = None

    async def facts(self) -> EngineFacts:
        """Return facts about the engine. Raises DriverError when none answers."""
        return await self.call(
            "ask the container engine", lambda client: rows.facts_in(client.info(), client.version())
        )

    async def is_podman(self) -> bool:
        """Return whether the engine is Podman, which is asked once. Raises DriverError."""
        if self._is_podman is None:
            self._is_podman = await self.call(
                "ask the engine for its name", lambda client: rows.is_podman(client.version())
            )
        return self._is_podman

    async def completed(self, reference: str) -> str:
        """Return the name of an image that each engine takes for the same one. Raises DriverError."""
        return qualified(reference) if await self.is_podman() else reference

    async def named(self, reference: str) -> str:
        """Return the whole name of an image that is there, or is to be pulled. Raises DriverError.

        What was loaded into Podman or built there, without a registry's name, is of ``localhost``.
        """
        whole = await self.completed(reference)
        if not whole.startswith("docker.io/") or reference.startswith("docker.io/"):
            return whole
        here = f"localhost/{reference}"

        def is_there(client: APIClient) -> bool:
            try:
                client.inspect_image(here)
            except NotFound:
                return False
            return True

        return here if await self.call(f"look for the image {reference}", is_there) else whole

    async def call(self, doing: str, work: Callable[[APIClient], _T], *, seconds: float = LOOK_SECONDS) -> _T:
        """Call ``work`` with the SDK's client, in a thread. It is called again if the connection was lost.

        ``doing`` describes it in messages: "cannot ``doing``". Cancelling abandons the thread. Raises
        DriverError.
        """
        if self._reach is not None:
            await self._reach()
        closed = self._closed
        try:
            async with asyncio.timeout(seconds):
                return await self._in_thread(lambda: self._attempt(doing, work, closed))
        except TimeoutError:
            raise DriverError(
                f"cannot {doing}: the container engine{self._at} has not answered within {seconds:g} s",
                hint="does it hang? docker ps, or podman ps",
            ) from None

    async def for_each(self, ids: Sequence[str], look: Callable[[APIClient, str], _T | None]) -> list[_T]:
        """Ask for containers, some at a time; those that go meanwhile (None) are left out."""
        doing = "look at containers"
        shares = [ids[start::AT_ONCE] for start in range(min(AT_ONCE, len(ids)))]

        def of_share(share: Iterable[str]) -> Callable[[APIClient], list[_T | None]]:
            return lambda client: [look(client, each) for each in share]

        found = await asyncio.gather(*(self.call(doing, of_share(share)) for share in shares))
        return [each for share in found for each in share if each is not None]

    @asynccontextmanager
    async def stream(
        self,
        doing: str,
        method: str,
        path: Sequence[str],
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Pieces | bytes = b"",
        missing: DriverError | None = None,
        begin_seconds: float = BEGIN_SECONDS,
    ) -> AsyncIterator[EngineStream]:
        """Send a request, and yield the stream of its answer; leaving ends it.

        ``path`` are the parts of the URL's; ``begin_seconds`` is how long the engine may take to begin its
        answer. Raises EngineRefusalError, other DriverErrors, ``missing`` for what there is not (404), and
        what ``body`` raises.
        """
        version = await self.call(doing, lambda client: client.api_version)
        target = f"/v{version}/" + "/".join(quote(part, safe="") for part in path)
        if parameters:
            target += f"?{urlencode(parameters)}"
        try:
            async with streaming.opened(
                str(self._socket), method, target, headers=headers, body=body, begin_seconds=begin_seconds
            ) as stream:
                yield stream
        except EngineError as error:
            if missing is not None and error.status == HTTPStatus.NOT_FOUND:
                raise missing from error
            kind = EngineRefusalError if error.status else DriverError
            raise failure(doing, str(error), kind) from error
        except OSError as error:
            raise failure(doing, f"the container engine{self._at} does not answer: {error}") from error

    async def close(self) -> None:
        """Close the connections; they are opened again when they are needed."""
        with self._guard:
            self._closed += 1
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def _at(self) -> str:
        return f" {self._where}" if self._where else ""

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def end(result: _T | None, error: BaseException | None) -> None:
            self._slots.release()
            if answer.done():  # cancelled
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type] # without an error it is a _T

        def run() -> None:
            result, trouble = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 (raised in the waiting task)
                trouble = error
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(end, result, trouble)

        await self._slots.acquire()
        try:
            _threads.begin("container engine", run)
        except BaseException:
            self._slots.release()
            raise
        return await answer

    def _attempt(self, doing: str, work: Callable[[APIClient], _T], closed: int) -> _T:
        deadline = time.monotonic() + self._come_back
        while True:
            client = None
            try:
                client = self._connected(closed)
                return work(client)
            except APIError as error:
                raise failure(doing, str(error.explanation or error)) from error
            except (requests.Timeout, TimeoutError) as error:
                raise failure(doing, f"the container engine{self._at} does not answer in time") from error
            except _MALFORMED as error:
                log.debug("an answer of an engine", exc_info=error)
                why = str(error) if isinstance(error, _UnreadableError) else "its answer cannot be read"
            except (requests.ConnectionError, DockerException, OSError) as error:
                self._drop(client)
                if self._socket is None or time.monotonic() > deadline:
                    raise self._unreachable(doing, error) from error
                time.sleep(_PAUSE_SECONDS)
                continue
            except requests.RequestException as error:
                raise failure(doing, str(error)) from error
            finally:
                if client is not None and client is not self._client:
                    client.close()  # since that was done, it has opened a connection again
            # not from the error: that has the answer, and a server collects garbage when it rests
            raise failure(doing, f"the container engine{self._at} does not speak the API: {why}")

    def _connected(self, closed: int) -> APIClient:
        """Return the client, or one for this call alone if connections were closed since it began.

        A call that was cancelled goes on in its thread, and nobody would close what it opens.
        """
        with self._guard:
            if self._client is not None:
                return self._client
        client, path = self._opened()  # an engine that hangs must not hold up whoever closes
        with self._guard:
            if self._socket in (None, path):
                self._socket = path
                if self._client is None and closed == self._closed:
                    self._client = client
                return client
        client.close()
        return self._connected(closed)

    def _opened(self) -> tuple[APIClient, Path]:
        last: Exception = FileNotFoundError("no container engine is installed")
        for path in (self._socket,) if self._socket is not None else self._sockets:
            if not path.exists():
                continue
            try:
                _probe(path)  # the SDK would leave its socket to the garbage collector
                # the engine's newest version of the API: newer engines lack old ones
                client = _Client(
                    f"unix://{path}", version="auto", timeout=COPY_SECONDS, max_pool_size=AT_ONCE
                )
            except (DockerException, OSError) as error:
                last = error
            else:
                return client, path
        raise last

    def _drop(self, client: APIClient | None) -> None:
        """Close a client, unless another one was opened meanwhile."""
        with self._guard:
            if client is None or client is not self._client:
                return
            self._client = None
        client.close()

    def _unreachable(self, doing: str, error: Exception) -> DriverError:
        sockets = self._sockets if self._socket is None else [self._socket]
        looked = ", ".join(self._shown.get(each, str(each)) for each in sockets)
        text = str(error)
        if "ermission denied" in text:
            return failure(
                doing, f"the container engine{self._at} denies access: permission denied ({looked})"
            )
        return DriverError(
            f"cannot {doing}: no container engine answers{self._at} at {looked}",
            hint="sudo systemctl enable --now docker.socket, or podman.socket",
        )


def _probe(path: Path) -> None:
    """Raise OSError when nothing listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(LOOK_SECONDS)
        connection.connect(str(path))


def failure(doing: str, text: str, kind: type[DriverError] = DriverError) -> DriverError:
    """Return the error for a message of an engine."""
    text = " ".join(text.split())[:_LONGEST]
    hint = next((hint for mark, hint in _HINTS if mark in text), None)
    return kind(f"cannot {doing}: {text}", hint=hint)
