"""The base images of a project's disks: found, fetched, and linked below ``artefacts/images``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from kvmcompose.build.project_files import FolderFiles
from kvmcompose.core.artefact import Artefact, BaseImage, DeepCopy, Overlay
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import stable_number
from kvmcompose.effects.files import expand
from kvmcompose.images.catalogue import Catalogue
from kvmcompose.images.download import Progress
from kvmcompose.images.qcow2 import read_header
from kvmcompose.images.store import ImageStore
from kvmcompose.images.uses import replace_link

#: The disks that have a base image. A tuple, as making a union takes longer than the check.
_ON_IMAGES = (Overlay, DeepCopy)


class ResolvedImage(msgspec.Struct, frozen=True):
    """An image that is on this machine.

    ``link`` is its name below ``artefacts/`` (what overlays call it), ``goal`` what the link there holds;
    ``size`` is the disk's size in bytes.
    """

    digest: str
    format: str
    size: int
    link: str
    goal: str


class Images:
    """Resolves each ``BaseImage`` to a file of this machine, once per run."""

    def __init__(self, store: ImageStore, catalogue: Catalogue, files: FolderFiles) -> None:
        self._store = store
        self._catalogue = catalogue
        self._files = files
        self._resolved: dict[BaseImage, ResolvedImage | None] = {}
        #: How many images were fetched, so that others can see when what they remember is out of date.
        self.changes = 0

    def resolve(self, image: BaseImage) -> ResolvedImage | None:
        """Return the image on this machine, None if it has to be fetched first."""
        if image not in self._resolved:
            self._resolved[image] = self._of_store(image) if image.name is not None else self._of_file(image)
        return self._resolved[image]

    def _of_store(self, image: BaseImage) -> ResolvedImage | None:
        stored = self._store.find(str(image.name))
        if stored is None:
            return None
        # the digest in the name: another image of that name must not slip below a disk in use
        link = f"images/{stored.name}-{stored.sha256[:12]}.{stored.format}"
        return ResolvedImage(stored.sha256, stored.format, stored.virtual_size, link, str(stored.path))

    def _of_file(self, image: BaseImage) -> ResolvedImage:
        written = str(image.path)
        path = self._files.path(written)
        header = read_header(path)
        kind = image.format or header.format
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem)[:40].lstrip(".-") or "image"
        link = f"images/{stem}-{stable_number(written) % 16**8:08x}.{kind}"
        goal = self._goal(written, "artefacts/images")
        return ResolvedImage(self._files.digest(written), kind, header.virtual_size, link, goal)

    def goal_from(self, image: BaseImage, folder: str) -> str | None:
        """Return the text of a link to an image, for a link in a ``folder`` of the project ("artefacts").

        None if the image has to be fetched first.
        """
        if image.name is None:
            return self._goal(str(image.path), folder)
        resolved = self.resolve(image)
        return resolved.goal if resolved is not None else None

    def _goal(self, written: str, folder: str) -> str:
        """A path as written in the YAML, as the text of a link: relative if that lets the project move."""
        path = expand(written)
        root = Path(os.path.realpath(self._files.folder))
        goal = root / path
        if path.is_absolute() or ".." in path.parts:  # which does not lead back out of a link
            goal = Path(os.path.realpath(goal.parent), path.name)
        if path.is_absolute() and not goal.is_relative_to(root):
            return str(path)
        # "artefacts" may itself be a link, and ".." is relative to what it leads to
        return os.path.relpath(goal, os.path.realpath(root / folder))

    def seen(self) -> set[str]:
        """Every path that a result of this object depended on."""
        links = (image.link for image in self._resolved.values() if image is not None)
        goals = (image.goal for image in self._resolved.values() if image is not None)
        found = {str(self._store.root / "index.json"), *(goal for goal in goals if os.path.isabs(goal))}  # noqa: PTH117
        found |= {str(self._files.folder / "artefacts" / link) for link in links}
        # should a note go, the next build makes it again
        return found | {str(self._store.note_of(link)) for link in self._store.links_in(self._links)}

    @property
    def _links(self) -> Path:
        return self._files.folder / "artefacts" / "images"

    def follow(self) -> None:
        """Record in the store that this project uses the images it links to. Raises KvmComposeError."""
        self._store.follow(self._links)

    def why_absent(self, image: BaseImage) -> str:
        """Return why an image that is not in the store is missing, and how it gets there."""
        name = str(image.name)
        built, entry = self._catalogue.find_built(name), self._catalogue.find(name)
        if built is not None:
            return f"not in the store: build it first: {built.command}"
        if entry is None:
            return f"no longer in the store: kvm-compose cloud-images add {name} FILE"
        return "not in the store: it will be fetched"

    def fetch(self, image: BaseImage, progress: Progress | None) -> ResolvedImage:
        """Return the image, fetching it into the store if necessary. Raises KvmComposeError."""
        found = self.resolve(image)
        if found is not None:
            return found
        name = str(image.name)
        built, entry = self._catalogue.find_built(name), self._catalogue.find(name)
        if built is not None:
            raise KvmComposeError(
                f"the image {name!r} is not here yet, and it is built, not fetched", hint=built.command
            )
        if entry is None:
            raise KvmComposeError(
                f"the image {image.name!r} is no longer in the store",
                hint=f"kvm-compose cloud-images add {image.name} FILE",
            )
        try:
            self._store.pull(entry, progress=progress)
        except KvmComposeError as error:
            add = f"kvm-compose cloud-images add {image.name} FILE"
            error.hint = f"{error.hint}; or put a file of yours in its place: {add}" if error.hint else add
            raise
        del self._resolved[image]
        self.changes += 1
        resolved = self.resolve(image)
        if resolved is None:
            raise KvmComposeError(f"the image {image.name!r} disappeared from the store during the download")
        return resolved

    def is_linked(self, image: ResolvedImage) -> bool:
        """Return whether the link below ``artefacts/`` exists and has the right target."""
        link = self._files.folder / "artefacts" / image.link
        return link.is_symlink() and os.readlink(link) == image.goal  # noqa: PTH115

    def link(self, image: BaseImage, resolved: ResolvedImage) -> None:
        """Create the link below ``artefacts/``. Raises OSError."""
        path = self._files.folder / "artefacts" / resolved.link
        stored = self._store.find(image.name) if image.name is not None else None
        if stored is not None:
            self._store.link(stored, path)  # which keeps the image from being pruned
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_link(path, Path(resolved.goal))


def image_of(artefact: Artefact) -> BaseImage | None:
    """Return the image that an artefact is an overlay or a copy of."""
    content = artefact.content
    return content.image if isinstance(content, _ON_IMAGES) else None


def image_task(image: BaseImage) -> str:
    """Return the name of the task that makes an image available."""
    return f"image:{image.name or image.path}"
