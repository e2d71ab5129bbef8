"""What the engine of one host reports of containers: one stream of events for all projects that listen.

An event says *that* something has happened to a container, by its ID; how it is now is looked up. So nothing
is lost when events are, for example while the engine restarts: everything is looked at once more.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Lines
from kvmcompose.providers.containers.connection import EngineConnection, EngineRefusalError
from kvmcompose.providers.containers.interface.containers import ObservedContainer, following
from kvmcompose.providers.containers.labels import PROJECT_LABEL

#: Returns containers by ID as they are now, None for those that are gone: those with these IDs, or all of a
#: project (None) and all that are known.
Look = Callable[[frozenset[str] | None, Iterable[str]], Awaitable[Mapping[str, ObservedContainer | None]]]

log = logging.getLogger(__name__)

#: What may change a container, in the words of Docker and of Podman before 4.4. Others, such as the ``exec``
#: of each check of health, are left out. Labels are compared here: Podman's filter knows no label without its
#: value, and the stream is one for all projects.
_FILTERS = {
    "type": ["container"],
    "event": [
        *("create", "start", "die", "died", "pause", "unpause", "health_status", "rename"),
        *("destroy", "remove"),
    ],
}
#: How long to wait before the stream is opened again, in seconds: doubled each time, and the first again
#: after one that has lasted so long.
_FIRST_PAUSE, _LONGEST_PAUSE, _LASTING = 0.2, 30.0, 5.0
#: An engine confirms a stream shortly before it begins to report: then everything is looked at again.
_SETTLED = 1.0
#: How long after a look that failed the next one follows, and after one that did not, in seconds.
_LOOK_AGAIN, _BETWEEN_LOOKS = 5.0, 0.1
_ID = re.compile("[0-9a-f]{1,64}")
#: How many containers are remembered for a listener that is busy; if there are more, it looks at all.
_MOST_WAITING = 1000
#: If more containers of a project than this are known, all are looked at: it is twice the largest testbed.
_MOST_KNOWN = 20_000


class _EventActor(msgspec.Struct, rename={"id": "ID", "attributes": "Attributes"}):
    id: str = ""
    attributes: Mapping[str, Any] | None = None


class _EventMessage(msgspec.Struct, rename={"actor": "Actor"}):
    """See ``EventMessage`` in the Docker Engine API."""

    actor: _EventActor


class ContainerListener:
    """What has happened to the containers of one project since it was last asked.

    ``known`` are the IDs of those that the listener knows: some engines report their end without labels.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self.known: frozenset[str] = frozenset()
        self._waiting: set[str] = set()
        self._everything = True
        self._refusal: DriverError | None = None
        self._news = asyncio.Event()
        self._news.set()

    async def changed(self) -> frozenset[str] | None:
        """Return the IDs of containers that may have changed, as soon as there are any; None: all may have.

        Raises DriverError where the engine refuses to report anything.
        """
        await self._news.wait()
        self._news.clear()
        if self._refusal is not None:
            raise self._refusal
        waiting, self._waiting = frozenset(self._waiting), set()
        everything, self._everything = self._everything, False
        return None if everything else waiting

    def tell(self, container: str, project: object) -> None:
        """Report something about a container, which has this label, or none."""
        if project != self.project and container not in self.known:
            return
        self._waiting.add(container)
        if len(self._waiting) > _MOST_WAITING:
            self.tell_all()
        self._news.set()

    def tell_all(self) -> None:
        """Report that anything may have happened."""
        self._waiting, self._everything = set(), True
        self._news.set()

    def refuse(self, error: DriverError) -> None:
        """Report that nothing will be reported."""
        self._refusal = error
        self._news.set()


class EngineEvents:
    """The events of one engine. The stream is opened while somebody listens; ``is_open`` says whether it is.

    When it has been opened, all is to be looked at again.
    """

    def __init__(self, engine: EngineConnection) -> None:
        self.is_open = False
        self._engine = engine
        self._listeners: set[ContainerListener] = set()
        self._following: asyncio.Task[None] | None = None

    async def changes(self, project: str, look: Look) -> AsyncGenerator[ObservedContainer]:
        """Yield the containers of a project, and then those that have changed. Raises DriverError."""
        known: dict[str, ObservedContainer] = {}
        with self.listen(project) as listener:
            while True:
                ids = await listener.changed()
                try:
                    found = await look(ids, known)
                except DriverError as error:
                    if self.is_open:  # a stream that is opened again has everything looked at
                        log.info("%s; looking again in %g s", error.message, _LOOK_AGAIN)
                        await asyncio.sleep(_LOOK_AGAIN)
                        listener.tell_all()
                    continue
                changed = following(known, found)
                if ids is not None and len(known) > _MOST_KNOWN:  # it reports what it does not list
                    listener.tell_all()
                listener.known = frozenset(known)
                for each in changed:
                    yield each
                # a container that ends as soon as it starts is not looked at each time
                await asyncio.sleep(_BETWEEN_LOOKS)

    @contextmanager
    def listen(self, project: str) -> Iterator[ContainerListener]:
        """Yield what reports about a project; at first, everything is to be looked at."""
        listener = ContainerListener(project)
        self._listeners.add(listener)
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow(), name="container events")
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._following is not None:
                self._following.cancel()
                self._following = None

    async def _follow(self) -> None:
        """Read the stream, and open it again whenever it ends."""
        pause, said = _FIRST_PAUSE, ""
        while True:
            began = time.monotonic()
            try:
                async with self._opened() as reports:
                    async for container, project in reports:
                        self._tell(container, project)
                why = "the stream has ended"
            except EngineRefusalError as error:
                for each in self._listeners:
                    each.refuse(error)
                return
            except DriverError as error:
                why = error.message
            except Exception as error:  # whoever listens would wait for ever
                log.exception("events of containers")
                why = type(error).__name__
            if time.monotonic() - began >= _LASTING:
                pause = _FIRST_PAUSE
            if why != said:  # a host may be away for weeks
                log.info("events of containers: %s; trying again", why)
                said = why
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[AsyncGenerator[tuple[str, object]]]:
        parameters = {"filters": msgspec.json.encode(_FILTERS).decode()}
        doing = "follow the events of containers"
        async with self._engine.stream(doing, "GET", ("events",), parameters=parameters) as stream:
            self.is_open = True
            self._tell_all()
            again = asyncio.get_running_loop().call_later(_SETTLED, self._tell_all)
            try:
                async with aclosing(stream.read()) as pieces, aclosing(_messages(pieces)) as reports:
                    yield reports
            finally:
                self.is_open = False
                again.cancel()

    def _tell(self, container: str, project: object) -> None:
        if not container:
            self._tell_all()
        for each in self._listeners:
            each.tell(container, project)

    def _tell_all(self) -> None:
        for each in self._listeners:
            each.tell_all()


async def _messages(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[tuple[str, object]]:
    """Yield the IDs of containers with the label of their project; "" for what cannot be read.

    Messages have a line each. What is longer than a line may be (labels of others are as long as they like)
    comes in parts, none of which can be read.
    """
    waiting: list[str] = []
    lines = Lines(waiting.append)
    async for piece in pieces:
        lines.feed(piece)
        for each in _read(waiting):
            yield each
        waiting.clear()


def _read(lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    for line in filter(str.strip, lines):
        try:
            actor = msgspec.json.decode(line, type=_EventMessage).actor
        except (msgspec.DecodeError, RecursionError):
            yield "", None
        else:
            known = _ID.fullmatch(actor.id) is not None  # it becomes a part of a URL
            yield actor.id if known else "", (actor.attributes or {}).get(PROJECT_LABEL)
