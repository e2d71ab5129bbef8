"""Containers of projects in one engine: which there are, and their life."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.instance import GONE, Usage
from kvmcompose.hosts.errors import DriverError


class HalfStartedError(DriverError):
    """An engine was killed while it started a container, and cannot start it any more."""


class ObservedContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A container of a project.

    ``state`` is the engine's term: ``created``, ``running``, ``paused``, ``restarting``, ``removing``,
    ``exited``, ``dead``. ``health``: ``starting``, ``healthy``, ``unhealthy``, "" without a health check.
    ``made`` is what it was made from, as given when it was created. ``exit_code`` is of the last run.
    ``reason`` says why it is not running, where the engine knows: ``out of memory``, ``killed by SIGKILL``,
    ``exit status 1``, or what it could not start. ``started`` is when it last started, in seconds since
    1970. ``pid`` is the process on the host whose network namespace is the container's, 0 while it does not
    run. ``image`` is the ID of its image. ``restarts`` counts those by the engine. ``health_reason`` says
    how the last check of its health failed: ``exit status 1``; "" where it did not, or nothing is known.
    One that an event is about may also be ``GONE``.
    """

    name: str
    id: str
    guest: str
    state: str
    health: str = ""
    made: str = ""
    exit_code: int | None = None
    reason: str | None = None
    health_reason: str = ""
    started: float | None = None
    pid: int = 0
    image: str = ""
    restarts: int = 0


def following(
    known: dict[str, ObservedContainer], found: Mapping[str, ObservedContainer | None]
) -> list[ObservedContainer]:
    """Return those containers that are not as they are known to be, and note them.

    Both are by ID; ``found`` has None for one that is gone.
    """
    changed = []
    for identity, container in found.items():
        before = known.get(identity)
        if container is not None and container != before:
            known[identity] = container
            changed.append(container)
        elif container is None and before is not None:
            del known[identity]
            changed.append(msgspec.structs.replace(before, state=GONE, health="", pid=0))
    return changed


class Containers(Protocol):
    """The containers of projects on one host; their labels name their project."""

    async def foreign(self, project: str, names: Sequence[str]) -> Sequence[str]:
        """Return which of these names are taken by containers that are not the project's."""

    async def observe(self, project: str) -> Mapping[str, ObservedContainer]:
        """Return the project's containers by name, in detail: one more call to the engine for each."""

    async def container(self, project: str, name: str) -> ObservedContainer:
        """Return one of the project's containers. Raises DriverError when it is not there."""

    def events(self, project: str) -> AsyncGenerator[ObservedContainer]:
        """Yield each of the project's containers, and then each that has changed, or is ``GONE``.

        States that last shorter than a look at the host may be left out. When the engine does not answer,
        this waits until it does. Raises DriverError for an engine that reports nothing.
        """

    async def create(
        self, project: str, guest: str, name: str, request: Mapping[str, Any], made: str = ""
    ) -> str:
        """Create a container and return its ID; it is not started.

        ``request`` is the body of ``POST /containers/create`` in the Docker Engine API; it is sent as it is,
        with the labels of the project. A container of the project that has the name and the same ``made`` is
        left as it is. Raises DriverError for any other one that has the name.
        """

    async def start(self, project: str, name: str, identity: str = "") -> ObservedContainer:
        """Start a container, and return it as it is then: it may have ended.

        ``identity`` is its ID, where that is known to be the project's container: it is not looked up.
        Raises DriverError for one that cannot be started, with the engine's reason, and
        HalfStartedError.
        """

    async def stop(self, project: str, name: str, seconds: int) -> None:
        """Send its stop signal, and kill it if it still runs after ``seconds``. Return when it has ended."""

    async def pause(self, project: str, name: str) -> None:
        """Freeze its processes. Raises DriverError for one that does not run."""

    async def unpause(self, project: str, name: str) -> None:
        """Let its processes run on. One that is not paused is left as it is."""

    async def remove(self, project: str, name: str) -> None:
        """Kill and remove a container, with the anonymous volumes that it has."""

    async def usage(self, project: str) -> Mapping[str, Usage]:
        """Return what the project's running containers use, by name; those that end meanwhile are missing.

        It is empty where the engine measures nothing (``EngineFacts.limits``).
        """
