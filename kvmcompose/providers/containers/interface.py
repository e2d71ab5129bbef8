"""Containers of projects and their images, in the container engine of one host.

All drivers are called from one event loop and must not block it. Failures raise DriverError, whose message
names what was attempted. Every call is idempotent unless it says otherwise: starting what runs, or removing
what is gone, is no error. Names are those on the host. A container that does not carry the label of the
project is never touched: a call that names one raises DriverError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.image_build import ImageBuild
from kvmcompose.core.instance import GONE, HostMeasures, HostSize, Usage
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import OnLine, Pieces

#: The labels of a container and of an image that a project made.
PROJECT_LABEL, GUEST_LABEL, MADE_LABEL = "kvm-compose.project", "kvm-compose.guest", "kvm-compose.made"
#: The label of an image that was built, with its key (``core.image_build``).
BUILD_LABEL = "kvm-compose.build"
#: The label of a container with its own name. Images, and what others make of them, inherit all labels.
NAME_LABEL = "kvm-compose.name"


class HalfStartedError(DriverError):
    """An engine was killed while it started a container, and cannot start it any more."""


class EngineFacts(HostSize, frozen=True, kw_only=True):
    """A container engine: ``Docker`` or ``Podman``, its version, and the host as it sees it.

    ``limits`` is whether it can limit and measure what a container uses,
    and pause it: a rootless engine cannot under version 1 of control groups.
    """

    engine: str
    version: str
    rootless: bool
    limits: bool


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


class FoundImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a host. ``id`` is the digest of its configuration, which is the same on every host.

    ``digests`` are those by which a registry knows it, as ``REPOSITORY@sha256:…``. ``size`` in bytes.
    ``project`` is the one that made it, "" for others; ``build`` is the key of what it was built from: an
    image that is made of a container inherits it.
    """

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    project: str = ""
    build: str = ""


class Containers(Protocol):
    """The containers of projects on one host."""

    async def facts(self) -> EngineFacts:
        """Return facts about the engine. Raises DriverError when none answers."""

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

    async def commit(self, project: str, name: str, tag: str) -> str:
        """Make an image of the container's files, name it ``tag``, and return its ID.

        The container is paused meanwhile where its engine can pause it. The image has the label of the
        project. A name that an image has which is not the project's raises DriverError.
        """

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
        """Run a command in a running container and return its exit status: 126 or 127 where it cannot start.

        ``user`` as in ``docker exec --user``; "" is the container's own. Cancelling ends the command and
        its children. Raises DriverError when the container does not run or ``seconds`` have passed. What
        ``stdin`` raises ends the command, and is raised here.
        """

    def logs(
        self, project: str, name: str, *, since: float = 0, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        """Yield the lines that the container has printed since a time in seconds since 1970, in order.

        ``tail``: the last ones only. ``follow``: also those to come, until it ends. A line that is too long
        is split.
        """

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        """Extract a tar archive in a folder of the container. Owners are those in it.

        Docker raises NoSuchPathError for a folder that does not exist, Podman creates it.
        """

    def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        """Yield a tar archive of a file or folder of the container. Raises NoSuchPathError.

        Relative paths are below ``/``. Where the last part is a symbolic link, Docker yields the link, Podman
        what it refers to; with a slash at the end both do the latter.
        """

    async def usage(self, project: str) -> Mapping[str, Usage]:
        """Return what the project's running containers use, by name; those that end meanwhile are missing.

        It is empty where the engine measures nothing (``EngineFacts.limits``).
        """

    async def measure(self) -> HostMeasures:
        """Return what the containers of all projects have used; states are the engine's terms.

        An engine that measures nothing (``EngineFacts.limits``) knows their states alone.
        """

    async def close(self) -> None:
        """Close the connections."""


class ContainerImages(Protocol):
    """The images of the engine of one host. References are as for docker(1): names, tags, digests, IDs."""

    async def image(self, reference: str) -> FoundImage | None:
        """Return an image that the host has, None when it has not."""

    async def of_project(self, project: str) -> Sequence[FoundImage]:
        """Return the images that a project made (``Containers.commit``, ``build``)."""

    async def pull(self, reference: str, on_line: OnLine) -> str:
        """Pull an image from its registry, without credentials, and return its ID. ``on_line``: progress."""

    async def load(self, archive: Pieces, image_id: str, on_line: OnLine) -> None:
        """Load an archive (``docker save``; see ``archives`` for OCI's) that has the image with this ID.

        Docker reports its progress to ``on_line``. Raises DriverError when the image is not there afterwards.
        """

    def save(self, image_id: str) -> AsyncGenerator[bytes]:
        """Yield an archive of the image with this ID, for ``load`` on another host. It has no tags."""

    async def build(self, project: str, build: ImageBuild, key: str, context: Pieces, on_line: OnLine) -> str:
        """Build an image from a context, a tar archive, and return its ID.

        It gets the ``build_tag`` of the project and the key, and both as labels. ``on_line``: what the build
        prints. Raises DriverError, with the last lines of the step that failed, and for a name that an image
        of another origin has. Cancelling ends the build.
        """

    async def remove_image(self, project: str, tag: str) -> None:
        """Remove the name of an image that the project made, and the image with its last name.

        One without a name is named by its ID.

        Raises DriverError for an image of another origin, or one that a container uses.
        """
