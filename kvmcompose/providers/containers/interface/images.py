"""Images in one engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.image_build import ImageBuild
from kvmcompose.hosts.lines import OnLine, Pieces


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


class ContainerImages(Protocol):
    """The images of the engine of one host. References are as for docker(1): names, tags, digests, IDs."""

    async def image(self, reference: str) -> FoundImage | None:
        """Return an image that the host has, None when it has not."""

    async def of_project(self, project: str) -> Sequence[FoundImage]:
        """Return the images that a project made (``commit``, ``build``)."""

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

    async def commit(self, project: str, name: str, tag: str) -> str:
        """Make an image of the files of a container of the project, name it ``tag``, and return its ID.

        The container is paused meanwhile where its engine can pause it. The image has the label of the
        project. A name that an image has which is not the project's raises DriverError.
        """

    async def remove_image(self, project: str, tag: str) -> None:
        """Remove the name of an image that the project made, and the image with its last name.

        One without a name is named by its ID.

        Raises DriverError for an image of another origin, or one that a container uses.
        """
