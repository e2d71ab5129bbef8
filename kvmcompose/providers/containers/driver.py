"""Containers of projects in one engine: Docker Engine API, v1.41, as Docker and Podman's service speak it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from docker import APIClient
from docker.errors import APIError, NotFound

from kvmcompose.core.instance import HostMeasures, Usage
from kvmcompose.core.names import first_few
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.providers.containers import measuring, rows
from kvmcompose.providers.containers.connection import AT_ONCE, CALL_SECONDS, COPY_SECONDS, Engine
from kvmcompose.providers.containers.events import EngineEvents
from kvmcompose.providers.containers.execution import Execution
from kvmcompose.providers.containers.interface import (
    GUEST_LABEL,
    MADE_LABEL,
    NAME_LABEL,
    PROJECT_LABEL,
    EngineFacts,
    HalfStartedError,
    ObservedContainer,
)
from kvmcompose.providers.containers.streaming import outputs

_T = TypeVar("_T")

#: Statuses of HTTP: it is so already; another request is at it, or the state forbids it.
_NOT_MODIFIED, _CONFLICT = 304, 409
#: What an engine says of a container whose process it has made and does not know of: it was killed between.
_UNKNOWN_PROCESSES = "already exists"
#: How long a removal by someone else may take, in seconds, and how often to look.
_REMOVAL_SECONDS, _LOOK_SECONDS = 30.0, 0.1
#: How many lines of a log wait for their reader.
_LINES = 1000


class EngineContainers:
    """See ``Containers``. ``runner`` runs programs on the engine's host: it ends commands in containers."""

    def __init__(self, engine: Engine, runner: CommandRunner) -> None:
        self._engine = engine
        self._runner = runner
        self._events = EngineEvents(engine)
        #: What was asked once, for measurements.
        self._facts: EngineFacts | None = None

    async def facts(self) -> EngineFacts:
        return await self._engine.call(
            "ask the container engine", lambda client: rows.facts_in(client.info(), client.version())
        )

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
        found = await self._for_each(list(listed), _observed)
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
        found = await self._for_each([*ids], _observed)
        ours = {each.id: each for each, labels in found if rows.is_of(project, each.name, labels)}
        return {each: ours.get(each) for each in ids}

    async def container(self, project: str, name: str) -> ObservedContainer:
        doing = f"look at the container {name}"
        return await self._own(project, name, doing, rows.observed_in)

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
                    self._refuse_foreign(project, name, found, doing)
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
                self._refuse_foreign(project, name, found, doing)
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
            self._refuse_foreign(project, name, found, doing)
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
            self._refuse_foreign(project, name, found, doing)
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

    async def commit(self, project: str, name: str, tag: str) -> str:
        doing = f"make an image of the container {name}"
        label = f"LABEL {PROJECT_LABEL}={project}"  # Podman keeps quotes
        named, put = await self._engine.named(tag), await self._engine.completed(tag)
        facts = await self.facts()
        pause = facts.limits or not facts.rootless  # or a rootless engine refuses to copy its files

        def commit(client: APIClient) -> str:
            found = client.inspect_container(name)
            self._refuse_foreign(project, name, found, doing)
            with contextlib.suppress(NotFound):
                there = (client.inspect_image(named).get("Config") or {}).get("Labels") or {}
                if there.get(PROJECT_LABEL) != project:
                    raise DriverError(f"cannot {doing}: {tag} is an image that is not the project's")
            repository, _, last = put.rpartition(":")
            made = client.commit(found["Id"], repository, last, pause=pause, changes=[label])
            return rows.image_id(str(made["Id"]))

        return await self._engine.call(doing, commit, seconds=COPY_SECONDS)

    async def run(
        self,
        project: str,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str = "",
        environment: Mapping[str, str] | None = None,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        doing = f"run {argv[0]} in the container {name}"
        identity, state = await self._own(
            project, name, doing, lambda row: (_identity(row), {**row["State"]})
        )
        if not state.get("Running") or state.get("Paused"):
            raise DriverError(f"cannot {doing}: it is {'paused' if state.get('Paused') else 'not running'}")
        execution = Execution(self._engine, self._runner, identity, doing)
        try:
            async with asyncio.timeout(seconds):
                return await execution.run(argv, on_line, user=user, environment=environment, stdin=stdin)
        except TimeoutError:
            raise DriverError(f"cannot {doing}: it has not ended within {seconds:g} s") from None

    async def logs(
        self, project: str, name: str, *, since: float = 0, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        doing = f"read the log of the container {name}"
        identity, has_terminal = await self._own(
            project, name, doing, lambda row: (_identity(row), bool(row["Config"].get("Tty")))
        )
        parameters = {
            "stdout": "1",
            "stderr": "1",
            "since": f"{since:.9f}" if since else "0",
            "tail": "all" if tail is None else str(tail),
            "follow": "1" if follow else "0",
        }
        waiting: list[str] = []
        lines = Lines(waiting.append)
        path = ("containers", identity, "logs")
        async with self._engine.stream(doing, "GET", path, parameters=parameters) as stream:
            raw = stream.read()
            async for piece in raw if has_terminal else outputs(raw):
                lines.feed(piece)
                for line in waiting:
                    yield line
                waiting.clear()
        lines.end()
        for line in waiting:
            yield line

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        doing = f"copy files into the container {name}"
        path = ("containers", await self._own(project, name, doing, _identity), "archive")
        headers = {"Content-Type": "application/x-tar"}
        async with self._engine.stream(
            doing,
            "PUT",
            path,
            parameters={"path": folder},
            headers=headers,
            body=archive,
            missing=_no_path(doing, folder),
        ) as stream:
            async for _ in stream.read():
                pass

    async def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        doing = f"copy files from the container {name}"
        where = ("containers", await self._own(project, name, doing, _identity), "archive")
        missing = _no_path(doing, path)
        async with self._engine.stream(
            doing, "GET", where, parameters={"path": path}, missing=missing
        ) as stream:
            async for piece in stream.read():
                yield piece

    async def usage(self, project: str) -> Mapping[str, Usage]:
        if not (await self.facts()).limits:
            return {}
        running = {each: name for each, (name, runs) in (await self._list(project)).items() if runs}
        found = await self._for_each(list(running), _usage)
        return {running[each]: usage for each, usage in found}

    async def measure(self) -> HostMeasures:
        if self._facts is None:
            self._facts = await self.facts()
        ids = await self._engine.call("list containers", measuring.listed)
        look = partial(measuring.measured, limits=self._facts.limits)
        return await measuring.measures(self._facts, await self._for_each(ids, look), self._runner)

    async def close(self) -> None:
        await self._engine.close()

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

    async def _for_each(self, ids: Sequence[str], look: Callable[[APIClient, str], _T | None]) -> list[_T]:
        """Ask for containers, some at a time; those that go meanwhile are left out."""
        doing = "look at containers"
        shares = [ids[start::AT_ONCE] for start in range(min(AT_ONCE, len(ids)))]

        def of_share(share: Iterable[str]) -> Callable[[APIClient], list[_T | None]]:
            return lambda client: [look(client, each) for each in share]

        found = await asyncio.gather(*(self._engine.call(doing, of_share(share)) for share in shares))
        return [each for share in found for each in share if each is not None]

    async def _own(self, project: str, name: str, doing: str, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        """Return what ``read`` finds in the answer about a container of the project."""

        def own(client: APIClient) -> _T:
            found = client.inspect_container(name)
            self._refuse_foreign(project, name, found, doing)
            return read(found)

        return await self._engine.call(doing, own)

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
            self._refuse_foreign(project, name, found, doing)
            try:
                act(client, found)
            except APIError as error:
                if error.status_code != _NOT_MODIFIED:
                    raise

        await self._engine.call(doing, work, seconds=seconds + CALL_SECONDS)

    def _refuse_foreign(self, project: str, name: str, found: Mapping[str, Any], doing: str) -> None:
        """Raise DriverError for a container that is not the project's, or has the name as part of its ID."""
        labels = (found.get("Config") or {}).get("Labels") or {}
        if str(found.get("Name", "")).removeprefix("/") != name:
            raise DriverError(f"cannot {doing}: there is no container of that name")
        if rows.is_of(project, name, labels):
            return
        owner = labels.get(PROJECT_LABEL) if labels.get(NAME_LABEL) == name else None
        whose = f"the project {first_few([owner])} has" if owner else "another container has"
        raise DriverError(
            f"cannot {doing}: {whose} this name on {self._runner.name}",
            hint="rename or remove that one, or give the project another name: --project-name",
        )


def _no_path(doing: str, path: str) -> NoSuchPathError:
    return NoSuchPathError(f"cannot {doing}: no such file or folder: {path}")


def _inspect(client: APIClient, container: str) -> dict[str, Any] | None:
    try:
        return dict(client.inspect_container(container))
    except NotFound:
        return None


def _observed(client: APIClient, container: str) -> tuple[ObservedContainer, Mapping[str, Any] | None] | None:
    """Return a container with its labels."""
    row = _inspect(client, container)
    return None if row is None else (rows.observed_in(row), (row.get("Config") or {}).get("Labels"))


def _identity(row: Mapping[str, Any]) -> str:
    return str(row["Id"])


def _usage(client: APIClient, container: str) -> tuple[str, Usage] | None:
    try:
        return container, rows.usage_in(client.stats(container, stream=False, one_shot=True))
    except APIError as error:
        if error.status_code is not None and error.status_code >= 500:  # noqa: PLR2004 - it ends just now
            return None
        raise


def _runs(row: Mapping[str, Any]) -> bool:
    return str(row.get("State", "")).lower() in ("running", "paused")


@contextlib.contextmanager
def _unless_it_ended(client: APIClient, row: Mapping[str, Any]) -> Any:
    """Ignore an error about a container that has ended meanwhile."""
    try:
        yield
    except APIError:
        now = _inspect(client, row["Id"])
        if now is not None and now["State"].get("Running"):
            raise
