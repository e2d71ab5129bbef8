"""Images in one engine: pulled, loaded, saved, built, made of containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec
from docker import APIClient
from docker.errors import ImageNotFound, NotFound

from kvmcompose.core.image_build import ImageBuild, build_tag
from kvmcompose.core.image_source import is_ours
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.providers.containers import rows
from kvmcompose.providers.containers.connection import CALL_SECONDS, COPY_SECONDS, EngineConnection, failure
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.containers.labels import BUILD_LABEL, PROJECT_LABEL
from kvmcompose.providers.containers.ownership import ContainerOwnership

_TAR = {"Content-Type": "application/x-tar"}
#: How long a build may take, in seconds, and how much it may print, in bytes.
BUILD_SECONDS, LARGEST_BUILD_LOG = 3600.0, 64 << 20
#: What begins a step of a Dockerfile: ``Step 1/3 : RUN true``, and Podman's ``[1/2] STEP 1/3: RUN true``.
_STEP = re.compile(r"(\[\d+/\d+\] )?(?i:step) \d+(/\d+)? ?: ")
_FROM = re.compile(r": (?i:from) ")
#: What an engine says itself of a step.
_OF_ENGINE = (" ---> ", "--> ", "Removing intermediate container ")
_LOAD = "docker load -i FILE, or podman load -i FILE"
_WITHOUT_REGISTRY = f"where its registry cannot be reached, load it on the main host: {_LOAD}"
#: So many lines of a step that failed are shown, and so many characters of each.
_LAST_LINES, _LONGEST_LINE = 10, 300
#: The status of so many layers is known, so that it is reported once.
_MOST_LAYERS = 1000
#: No layer is as large, in bytes.
_MOST_BYTES = 1 << 60


class EngineImages:
    """See ``ContainerImages``. ``host`` is the name of the engine's host, for messages."""

    def __init__(self, engine: EngineConnection, host: str) -> None:
        self._engine = engine
        self._ownership = ContainerOwnership(engine, host)

    async def image(self, reference: str) -> FoundImage | None:
        named = await self._engine.named(reference)

        def inspect(client: APIClient) -> FoundImage | None:
            try:
                return rows.image_in(client.inspect_image(named))
            except (ImageNotFound, NotFound):
                return None

        return await self._engine.call(f"look for the image {reference}", inspect)

    async def of_project(self, project: str) -> Sequence[FoundImage]:
        filters = {"label": [f"{PROJECT_LABEL}={project}"]}
        found = await self._engine.call(
            "list images", lambda client: list(map(rows.image_in, client.images(filters=filters)))
        )
        return sorted(found, key=lambda each: (each.tags, each.id))

    async def pull(self, reference: str, on_line: OnLine) -> str:
        doing = f"pull the image {reference}"
        if is_ours(reference):  # it would be taken for one that was built here, or is a snapshot
            raise DriverError(
                f"cannot {doing}: images of that name are made by kvm-compose on this host alone"
            )
        named = (
            reference if "@" in reference or ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        )
        progress = _Progress(doing, on_line)
        parameters = {"fromImage": await self._engine.completed(named)}
        pulled = self._engine.stream(doing, "POST", ("images", "create"), parameters=parameters)
        try:
            async with pulled as stream:
                await progress.follow(stream.read())
        except DriverError as error:
            if error.hint is None:
                error.hint = _WITHOUT_REGISTRY
            raise
        return await self._id_of(named, doing)

    async def load(self, archive: Pieces, image_id: str, on_line: OnLine) -> None:
        doing = f"load the image {image_id}"
        progress = _Progress(doing, on_line)
        async with self._engine.stream(
            doing,
            "POST",
            ("images", "load"),
            parameters={"quiet": "0"},
            headers=_TAR,
            body=archive,
            begin_seconds=COPY_SECONDS,  # Podman answers when it is done
        ) as stream:
            await progress.follow(stream.read())
        if await self._id_of(image_id, doing) != image_id:
            raise DriverError(f"cannot {doing}: the engine has made another image of the archive")

    async def save(self, image_id: str) -> AsyncGenerator[bytes]:
        doing = f"read the image {image_id}"
        path = ("images", image_id, "get")
        # engines write the whole archive to a disk before they answer
        async with self._engine.stream(doing, "GET", path, begin_seconds=COPY_SECONDS) as stream:
            async for piece in stream.read():
                yield piece

    async def build(self, project: str, build: ImageBuild, key: str, context: Pieces, on_line: OnLine) -> str:
        doing, tag = f"build the image of {build.context}", build_tag(project, key)
        before = await self.image(tag)
        if before is not None and before.project != project:
            raise DriverError(
                f"cannot {doing}: another image has the name {tag}", hint=f"remove that: docker rmi {tag}"
            )
        parameters = {
            "t": await self._engine.completed(tag),
            "dockerfile": posixpath.normpath(build.dockerfile),
            "rm": "1",
            "forcerm": "1",
            "buildargs": json.dumps(build.args),
            "labels": json.dumps({PROJECT_LABEL: project, BUILD_LABEL: key}),
            **({"target": build.target} if build.target is not None else {}),
            **({"networkmode": await self._no_network()} if build.network == "none" else {}),
        }
        progress = _BuildProgress(doing, on_line)
        try:
            async with (
                asyncio.timeout(BUILD_SECONDS),
                self._engine.stream(
                    doing,
                    "POST",
                    ("build",),
                    parameters=parameters,
                    headers=_TAR,
                    body=context,
                    begin_seconds=COPY_SECONDS,  # Podman unpacks the context before it answers
                ) as stream,
            ):
                await progress.follow(stream.read())
        except TimeoutError as error:
            raise DriverError(
                f"cannot {doing}: it has not ended within {BUILD_SECONDS / 60:g} min"
            ) from error
        return await self._id_of(tag, doing)

    async def commit(self, project: str, name: str, tag: str) -> str:
        doing = f"make an image of the container {name}"
        label = f"LABEL {PROJECT_LABEL}={project}"  # Podman keeps quotes
        named, put = await self._engine.named(tag), await self._engine.completed(tag)
        facts = await self._engine.facts()
        pause = facts.limits or not facts.rootless  # or a rootless engine refuses to copy its files

        def commit(client: APIClient) -> str:
            found = client.inspect_container(name)
            self._ownership.check(project, name, found, doing)
            with contextlib.suppress(NotFound):
                there = (client.inspect_image(named).get("Config") or {}).get("Labels") or {}
                if there.get(PROJECT_LABEL) != project:
                    raise DriverError(f"cannot {doing}: {tag} is an image that is not the project's")
            repository, _, last = put.rpartition(":")
            made = client.commit(found["Id"], repository, last, pause=pause, changes=[label])
            return rows.image_id(str(made["Id"]))

        return await self._engine.call(doing, commit, seconds=COPY_SECONDS)

    async def remove_image(self, project: str, tag: str) -> None:
        doing = f"remove the image {tag}"
        named = await self._engine.named(tag)

        def remove(client: APIClient) -> None:
            try:
                found = client.inspect_image(named)
                labels = (found.get("Config") or {}).get("Labels") or {}
                if labels.get(PROJECT_LABEL) != project:
                    raise DriverError(f"cannot {doing}: it is not the project's")
                client.remove_image(named)
            except (ImageNotFound, NotFound):
                return

        await self._engine.call(doing, remove, seconds=CALL_SECONDS)

    async def _no_network(self) -> str:
        """Return the ``networkmode`` of a build without one: Podman takes Docker's word for the default."""
        return "NetworkDisabled" if await self._engine.is_podman() else "none"

    async def _id_of(self, reference: str, doing: str) -> str:
        found = await self.image(reference)
        if found is None:
            raise DriverError(f"cannot {doing}: the engine has no such image afterwards")
        return found.id


class _Progress:
    """Reads what an engine reports about its progress: JSON objects, one a line (``JSONMessage``)."""

    def __init__(self, doing: str, on_line: OnLine) -> None:
        self._doing = doing
        self._on_line = on_line
        self._output = Lines(on_line)
        self._said: dict[str, str] = {}
        self._error: str | None = None

    async def follow(self, pieces: Pieces) -> None:
        """Report to the end. Raises DriverError for an error that the engine reports."""
        lines = Lines(self._line)
        async for piece in pieces:
            lines.feed(piece)
        lines.end()
        self._output.end()
        if self._error is not None:
            raise self._failure(self._error)

    def _failure(self, text: str) -> DriverError:
        return failure(self._doing, text)

    def _line(self, line: str) -> None:
        try:
            said = msgspec.json.decode(line.strip() or "{}")
        except (msgspec.DecodeError, RecursionError):  # a piece of a line that is too long, or nonsense
            return
        if not isinstance(said, dict):
            return
        if error := said.get("error") or _part(said, "errorDetail").get("message"):
            self._error = self._error or str(error)
        elif said.get("stream"):
            self._output.feed(str(said["stream"]).encode(errors="replace"))
        elif said.get("status"):
            layer, status = str(said.get("id") or ""), str(said["status"])
            self._status(layer[:_LONGEST_LINE], status[:_LONGEST_LINE], _part(said, "progressDetail"))

    def _status(self, layer: str, status: str, detail: Mapping[str, Any]) -> None:
        """Report each status of a layer once, and each tenth of what it loads."""
        if len(self._said) > _MOST_LAYERS:
            self._said.clear()
        done, total = detail.get("current"), detail.get("total")
        if (
            isinstance(done, int)
            and isinstance(total, int)
            and 0 <= done <= total
            and 0 < total < _MOST_BYTES
        ):
            status += f" {done * 10 // total}0 % of {total / 2**20:.1f} MiB"
        if self._said.get(layer) != status:
            self._said[layer] = status
            self._on_line(f"{layer}: {status}" if layer else status)


def _part(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}


class _BuildProgress(_Progress):
    """Keeps the last lines of a step of a Dockerfile, to show them when it fails."""

    def __init__(self, doing: str, on_line: OnLine) -> None:
        super().__init__(doing, self._printed)
        self._pass_on = on_line
        self._step = ""
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._left = LARGEST_BUILD_LOG

    def _printed(self, line: str) -> None:
        self._left -= len(line) + 1
        if self._left < 0:
            raise DriverError(
                f"cannot {self._doing}: it prints more than {LARGEST_BUILD_LOG >> 20} MiB",
                hint="redirect the output of the command: RUN make >make.log",
            )
        if _STEP.match(line):
            self._step = line
            self._last.clear()
        elif line.strip() and not line.startswith(_OF_ENGINE):
            self._last.append(line[:_LONGEST_LINE])
        self._pass_on(line)

    def _failure(self, text: str) -> DriverError:
        found = super()._failure(f"{self._step}: {text}" if self._step else text)
        printed = [f"  | {each}" for each in self._last if text not in each]
        hint = found.hint
        if _FROM.search(self._step):
            hint = f"without a registry, load the base image on the main host: {_LOAD}"
        return DriverError("\n".join([found.message, *printed]), hint=hint)
