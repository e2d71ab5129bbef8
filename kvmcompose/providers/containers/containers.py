"""Containers of projects in one engine: Docker Engine API, v1.41, as Docker and Podman's service speak it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound

from kvmcompose.core.instance import Usage
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers import measuring, rows
from kvmcompose.providers.containers.connection import CALL_SECONDS, EngineConnection
from kvmcompose.providers.containers.events import EngineEvents
from kvmcompose.providers.containers.interface.containers import HalfStartedError, ObservedContainer
from kvmcompose.providers.containers.labels import GUEST_LABEL, MADE_LABEL, NAME_LABEL, PROJECT_LABEL
from kvmcompose.providers.containers.ownership import ContainerOwnership

#: Statuses of HTTP: it is so already; another request is at it, or the state forbids it.
_NOT_MODIFIED, _CONFLICT = 304, 409
#: What an engine says of a container whose process it has made and does not know of: it was killed between.
_UNKNOWN_PROCESSES = "already exists"
#: How long a removal by someone else may take, in seconds, and how often to look.
_REMOVAL_SECONDS, _LOOK_SECONDS = 30.0, 0.1


class EngineContainers:
    """See ``Containers``. ``host`` is the name of the engine's host, for messages."""

    def __init__(self, engine: EngineConnection, host: str) -> None:
        self._engine = engine
        self._ownership = ContainerOwnership(engine, host)
        self._events = EngineEvents(engine)

    async def foreign(self, project: str, names: Sequence[str]) -> Sequence[str]:
        wanted = set(names)

        def foreign(client: APIClient) -> list[str]:
            return sorted(
                name
                for row in client.containers(all=True)
                if (name := rows.name_in(row)) in wanted and not rows.is_of(project, name, row.get("Labels"))
            )

        return await self._engine.call("list containers", foreign)

    async def observe(self, project: str) -> Mapping[str, ObservedContainer]:
        listed = await self._list(project)
        found = await self._engine.for_each(list(listed), _observed)
        return {each.name: each for each, _ in found}

    def events(self, project: str) -> AsyncGenerator[ObservedContainer]:
        return self._events.changes(project, lambda ids, known: self._now(project, ids, known))

    async def _now(
        self, project: str, ids: Iterable[str] | None, known: Iterable[str]
    ) -> dict[str, ObservedContainer | None]:
        """Return containers by ID as they are now; None for those that are gone, or not the project's.

        Without ``ids``, all of the project, and those ``known``.
        """
        if ids is None:
            there = {each.id: each for each in (await self.observe(project)).values()}
            return {**dict.fromkeys(known), **there}
        found = await self._engine.for_each([*ids], _observed)
        ours = {each.id: each for each, labels in found if rows.is_of(project, each.name, labels)}
        return {each: ours.get(each) for each in ids}

    async def container(self, project: str, name: str) -> ObservedContainer:
        doing = f"look at the container {name}"
        return await self._ownership.look(project, name, doing, rows.observed_in)

    async def create(
        self, project: str, guest: str, name: str, request: Mapping[str, Any], made: str = ""
    ) -> str:
        labels = {PROJECT_LABEL: project, NAME_LABEL: name, GUEST_LABEL: guest, MADE_LABEL: made}
        body = {**request, "Labels": {**(request.get("Labels") or {}), **labels}}
        if "Image" in request:
            body["Image"] = await self._engine.named(request["Image"])
        doing = f"create the container {name}"

        def create(client: APIClient) -> str:
            try:
                return str(client.create_container_from_config(body, name)["Id"])
            except APIError:  # Docker's 409 for a name in use is Podman's 500
                with contextlib.suppress(NotFound):
                    found = client.inspect_container(name)
                    self._ownership.check(project, name, found, doing)
                    if (found["Config"].get("Labels") or {}).get(MADE_LABEL) != made:
                        raise DriverError(
                            f"cannot {doing}: there is one, made from something else", hint="remove it before"
                        ) from None
                    return str(found["Id"])
                raise

        return await self._engine.call(doing, create, seconds=CALL_SECONDS)

    async def start(self, project: str, name: str, identity: str = "") -> ObservedContainer:
        doing = f"start the container {name}"

        def start(client: APIClient) -> ObservedContainer:
            which = identity
            if not which:
                found = client.inspect_container(name)
                self._ownership.check(project, name, found, doing)
                which = found["Id"]
            try:
                client.start(which)
            except APIError as error:
                if _UNKNOWN_PROCESSES in str(error.explanation):
                    raise HalfStartedError(
                        f"cannot {doing}: the engine was killed while it started it"
                    ) from error
                if error.status_code != _NOT_MODIFIED:
                    raise
            found = client.inspect_container(which)
            self._ownership.check(project, name, found, doing)
            return rows.observed_in(found)

        return await self._engine.call(doing, start, seconds=CALL_SECONDS)

    async def stop(self, project: str, name: str, seconds: int) -> None:
        def stop(client: APIClient, row: Mapping[str, Any]) -> None:
            if row["State"].get("Paused"):  # Podman does not stop a paused one
                client.unpause(row["Id"])
            client.stop(row["Id"], timeout=seconds)

        await self._act(project, name, "stop", stop, seconds=seconds)

    async def pause(self, project: str, name: str) -> None:
        def pause(client: APIClient, row: Mapping[str, Any]) -> None:
            if not row["State"].get("Paused"):
                client.pause(row["Id"])

        await self._act(project, name, "pause", pause)

    async def unpause(self, project: str, name: str) -> None:
        def unpause(client: APIClient, row: Mapping[str, Any]) -> None:
            if row["State"].get("Paused"):
                client.unpause(row["Id"])

        await self._act(project, name, "resume", unpause)

    async def remove(self, project: str, name: str) -> None:
        doing = f"remove the container {name}"

        def remove(client: APIClient) -> bool:
            try:
                found = client.inspect_container(name)
            except NotFound:
                return True
            self._ownership.check(project, name, found, doing)
            try:
                client.remove_container(found["Id"], v=True, force=True)
            except NotFound:
                return True
            except APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                return False  # it is being removed
            return True

        loop = asyncio.get_running_loop()
        deadline = loop.time() + _REMOVAL_SECONDS
        while not await self._engine.call(doing, remove, seconds=CALL_SECONDS):
            if loop.time() > deadline:
                raise DriverError(f"cannot {doing}: the engine has not finished an earlier removal")
            await asyncio.sleep(_LOOK_SECONDS)

    async def usage(self, project: str) -> Mapping[str, Usage]:
        if not (await self._engine.facts()).limits:
            return {}
        running = {each: name for each, (name, runs) in (await self._list(project)).items() if runs}
        found = await self._engine.for_each(list(running), measuring.used)
        return {running[each]: usage for each, usage in found}

    async def _list(self, project: str) -> Mapping[str, tuple[str, bool]]:
        """Return the names of the project's containers by their IDs, and whether they run."""
        filters = {"label": [f"{PROJECT_LABEL}={project}"]}

        def listed(client: APIClient) -> dict[str, tuple[str, bool]]:
            return {
                str(row["Id"]): (rows.name_in(row), _runs(row))
                for row in client.containers(all=True, filters=filters)
                if rows.is_of(project, rows.name_in(row), row.get("Labels"))
            }

        return await self._engine.call("list containers", listed)

    async def _act(
        self,
        project: str,
        name: str,
        verb: str,
        act: Callable[[APIClient, Mapping[str, Any]], object],
        *,
        seconds: float = 0,
    ) -> None:
        """Do something to a container of the project, by its ID: its name may be another one's next."""
        doing = f"{verb} the container {name}"

        def work(client: APIClient) -> None:
            found = client.inspect_container(name)
            self._ownership.check(project, name, found, doing)
            try:
                act(client, found)
            except APIError as error:
                if error.status_code != _NOT_MODIFIED:
                    raise

        await self._engine.call(doing, work, seconds=seconds + CALL_SECONDS)


def _observed(client: APIClient, container: str) -> tuple[ObservedContainer, Mapping[str, Any] | None] | None:
    """Return a container with its labels; None for one that is gone."""
    try:
        row = client.inspect_container(container)
    except NotFound:
        return None
    return rows.observed_in(row), (row.get("Config") or {}).get("Labels")


def _runs(row: Mapping[str, Any]) -> bool:
    return str(row.get("State", "")).lower() in ("running", "paused")
