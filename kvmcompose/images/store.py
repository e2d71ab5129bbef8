"""The store of this machine's disk images, found by name; each content is stored once.

::

    <root>/index.json               name -> content (index.py)
    <root>/sha256/<aa>/<sha256>     the images, read-only
    <root>/partial/<name>/          unfinished images
    <root>/locks/<name>.lock        held while an image is fetched, built or added
    <root>/noted.json               the content of each image when it was fetched (pins.py)
    <root>/uses/                    which projects use which images (uses.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import asdict, replace

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem
from kvmcompose.effects.environment import xdg_folder
from kvmcompose.effects.files import ZEROS, digest_file, expand, list_folder, read_sparse, sync_folder
from kvmcompose.images.catalogue import (
    NAME_PATTERN,
    Checksum,
    is_image_name,
    mirrored,
    parse_catalogue,
    pick_checksum,
)
from kvmcompose.images.download import Download, Downloaded
from kvmcompose.images.formats import check_image, dependence
from kvmcompose.images.index import ImageFacts, Index, image_lock, locked
from kvmcompose.images.pins import Pin, Pins, refuse_replaced
from kvmcompose.images.prune import Pruned, prune
from kvmcompose.images.qcow2 import ImageHeader, read_header
from kvmcompose.images.signatures import fetch_list
from kvmcompose.images.uses import Uses, replace_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmcompose.images.catalogue import Catalogue, CatalogueImage
    from kvmcompose.images.download import Progress

log = logging.getLogger(__name__)


class StoredImage(ImageFacts, frozen=True, kw_only=True):
    """An image in the store."""

    name: str
    path: Path


class DamagedImage(msgspec.Struct, frozen=True):
    """An image whose file is missing or has changed; ``hint`` is the command that restores it."""

    name: str
    path: Path
    message: str
    hint: str


def default_store() -> ImageStore:
    """Return this user's store: KVM_COMPOSE_STORE, else ``kvm-compose/images`` in the XDG data folder."""
    chosen = os.environ.get("KVM_COMPOSE_STORE")
    if chosen:
        return ImageStore(expand(chosen).absolute())
    return ImageStore(xdg_folder("data") / "images")


def read_catalogue() -> Catalogue:
    """Return the catalogue that comes with kvm-compose."""
    return parse_catalogue(Path(__file__).with_name("catalogue.json").read_bytes())


class ImageStore:
    """The images in folder ``root``, which is created when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index = Index(root)
        self._pins = Pins(root)
        self._uses = Uses(root / "uses")

    def find(self, name: str) -> StoredImage | None:
        """Return the image of that name, or None if it is not here or incomplete."""
        facts = self._index.read().get(name)
        return self._present(name, facts) if facts is not None else None

    def list(self) -> tuple[StoredImage, ...]:
        """Return all images that are here, sorted by name."""
        found = (self._present(name, facts) for name, facts in sorted(self._index.read().items()))
        return tuple(image for image in found if image is not None)

    def pull(
        self,
        image: CatalogueImage,
        *,
        mirror: str | None = None,
        progress: Progress | None = None,
        refresh: bool = False,
        accept: bool = False,
    ) -> StoredImage:
        """Fetch an image of the catalogue unless it is here; with ``refresh`` check for a newer one.

        ``mirror`` (default: KVM_COMPOSE_MIRROR) is an http, https or file URL that has ``https://host/path``
        at ``<mirror>/host/path``. Raises RefusedError, unless ``accept`` is set, when the image has changed
        since it was fetched before, KvmComposeError when it cannot be fetched or is not what was published.
        """
        refresh = refresh or accept
        if not refresh and (present := self.find(image.name)):
            return present
        mirror = mirror or os.environ.get("KVM_COMPOSE_MIRROR")
        with self._writing(image.name) as folder:
            present = self.find(image.name)  # another process may have fetched it meanwhile
            if present and not refresh:
                return present
            if image.sha256:
                expected, source, signature = Checksum("sha256", image.sha256), "catalogue", None
            else:
                source = mirrored(image.checksums_url, mirror)
                listed, signature = fetch_list(image, source, mirror)
                expected = pick_checksum(image, listed)
            pin = None if accept else self._pin(image)
            refuse_replaced(image, pin, expected)
            if present and present.checksum == str(expected) and _is_whole(present.path, present.sha256):
                return present
            source_url = mirrored(image.url, mirror)
            got = self._adopt(expected) or Download(source_url, folder / "image", expected, progress).run()
            header = read_header(got.path)
            refusal = dependence(header)
            if header.format != image.format:
                refusal = f"is a {header.format} image, the catalogue says {image.format}"
            if refusal:
                (folder / "image").unlink(missing_ok=True)
                raise KvmComposeError(f"{image.url} is refused: it {refusal}")
            refuse_replaced(image, pin, Checksum("sha256", got.sha256))
            facts = replace(
                _facts(got, header),
                url=image.url,
                checksum=str(expected),
                checksum_from=source,
                signature=signature,
            )
            return self._place(image.name, got.path, facts)

    def _pin(self, image: CatalogueImage) -> Pin | None:
        """Return the content of an image when it was fetched; versions without pins have it in the index."""
        pin = self._pins.find(image.name, image.url)
        facts = self._index.read().get(image.name)
        if pin is None and facts is not None and facts.url == image.url:
            return Pin(sha256=facts.sha256, checksum=facts.checksum, day=None)
        return pin

    def _update_pin(self, name: str, facts: ImageFacts | None) -> None:
        """Pin an image if it was fetched. Raises OSError."""
        if facts is not None and facts.url is not None:
            self._pins.pin(name, facts.url, facts.sha256, facts.checksum)

    def build(
        self, name: str, recipe: str, make: Callable[[Path], None], *, refresh: bool = False
    ) -> StoredImage:
        """Have ``make`` write an image, unless it is here by this recipe; with ``refresh`` in any case.

        Disks on an older image of that name keep it. Raises KvmComposeError.
        """
        with self._writing(name) as folder:
            present = self.find(name)
            if present and present.recipe == recipe and not refresh:
                return present
            file = folder / "image"
            make(file)
            with file.open("rb") as built:
                os.fsync(built.fileno())
            got = Downloaded(file, file.stat().st_size, digest_file(file))
            return self._place(name, file, replace(_facts(got, read_header(file)), recipe=recipe))

    def add(self, name: str, file: Path) -> StoredImage:
        """Copy a disk image of the user's into the store.

        Raises InputError for an invalid name, KvmComposeError for a file that is not a self-contained image.
        """
        if not is_image_name(name):
            raise InputError(
                [
                    Problem(
                        code="image-name",
                        message=f"{name!r} cannot be the name of an image",
                        location=Location("command line"),
                        wanted=f"lower case letters, digits, '_', '.' and '-': {NAME_PATTERN}",
                    )
                ]
            )
        if file.exists() and not file.is_file():
            raise KvmComposeError(f"{file} is not a file")
        header = check_image(file)
        with self._writing(name) as folder:
            got = _copy(file, folder / "image")
            return self._place(name, got.path, replace(_facts(got, header), added_by_user=True))

    def remove(self, name: str) -> bool:
        """Remove a name; ``prune`` then frees the space. Returns False if no image has the name."""
        with self._writing(name), self._index.changing() as images:
            facts = images.pop(name, None)
            self._update_pin(name, facts)
            return facts is not None

    def verify(self) -> tuple[DamagedImage, ...]:
        """Read every image again, and return those whose content has changed."""
        problems = []
        for name, facts in sorted(self._index.read().items()):
            path = self._blob(facts.sha256)
            action = f"add {name} FILE" if facts.added_by_user else f"pull --refresh {name}"
            again = f"kvm-compose cloud-images {f'build --refresh {name}' if facts.recipe else action}"
            try:
                actual = digest_file(path)
            except OSError as error:
                problems.append(DamagedImage(name, path, f"cannot be read: {error.strerror}", again))
                continue
            if actual != facts.sha256:
                problems.append(DamagedImage(name, path, f"was changed: its SHA-256 is {actual}", again))
        return tuple(problems)

    def link(self, image: StoredImage, path: Path) -> None:
        """Make ``path`` a symlink to an image; ``prune`` keeps the image as long as the link exists.

        The link's name should contain the image's digest, as a refreshed image has another content. Raises
        OSError when the link cannot be written, KvmComposeError when the store cannot.
        """
        path.parent.mkdir(parents=True, exist_ok=True)  # in the project: its errors are not the store's
        with self._reporting(), locked(self.root / "index.lock"):  # keeps prune out
            if not image.path.exists():
                raise KvmComposeError(
                    f"the image {image.name} was removed from the store meanwhile",
                    hint="build again: kvm-compose generate",
                )
            self._uses.note(path)
            replace_link(path, image.path)

    def follow(self, folder: Path) -> None:
        """Note the links in a project's folder, as the project may have been moved or copied.

        Raises KvmComposeError when they cannot be noted.
        """
        missing = [link for link in self.links_in(folder) if not self._uses.is_noted(link)]
        if missing:
            with self._reporting(), locked(self.root / "index.lock"):
                for link in missing:
                    self._uses.note(link)

    def links_in(self, folder: Path) -> tuple[Path, ...]:
        """Return the links of a folder that point into this store."""
        return tuple(
            each
            for each in list_folder(folder)
            if each.is_symlink() and self._blob(Path(os.readlink(each)).name).exists()  # noqa: PTH115
        )

    def note_of(self, link: Path) -> Path:
        """Return the path of the note that a project has this link. Raises OSError."""
        return self._uses.note_of(link)

    def prune(self) -> Pruned:
        """Remove unfinished images, and images without a name or a project's link. Raises KvmComposeError."""
        with self._reporting():
            return prune(self.root, self._index, self._uses)

    def _present(self, name: str, facts: ImageFacts) -> StoredImage | None:
        path = self._blob(facts.sha256)
        try:
            size = path.stat().st_size
        except OSError as error:
            log.warning("the image %s is in the index but not in the store: %s", name, error)
            return None
        if size != facts.size:
            log.warning("the image %s has %d bytes instead of %d: %s", name, size, facts.size, path)
            return None
        return StoredImage(name=name, path=path, **asdict(facts))

    def _adopt(self, expected: Checksum) -> Downloaded | None:
        """Return the content if the store has it under another name or, after a loss of the index, none."""
        if expected.algorithm != "sha256":
            return None
        blob = self._blob(expected.digest)
        if not blob.is_file() or not _is_whole(blob, expected.digest):
            return None
        return Downloaded(blob, blob.stat().st_size, expected.digest)

    def _place(self, name: str, file: Path, facts: ImageFacts) -> StoredImage:
        """Move a finished file to the images, then add its name to the index."""
        blob = self._blob(facts.sha256)
        with self._index.changing() as images:
            if file != blob:
                blob.parent.mkdir(parents=True, exist_ok=True)
                file.chmod(0o444)
                file.replace(blob)
                sync_folder(blob.parent)
            images[name] = facts
            self._update_pin(name, facts)
        shutil.rmtree(self.root / "partial" / name, ignore_errors=True)
        return StoredImage(name=name, path=blob, **asdict(facts))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Lock an image, and yield the folder for its unfinished files."""
        with self._reporting(), locked(image_lock(self.root, name)):
            folder = self.root / "partial" / name
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn an OSError into a KvmComposeError about the store."""
        try:
            yield
        except OSError as error:
            raise KvmComposeError(
                f"cannot write to the image store {self.root}: {error.strerror or error}",
                hint="set KVM_COMPOSE_STORE to a folder that you may write to, with room for images",
            ) from error

    def _blob(self, sha256: str) -> Path:
        return self.root / "sha256" / sha256[:2] / sha256


def _facts(got: Downloaded, header: ImageHeader) -> ImageFacts:
    return ImageFacts(
        sha256=got.sha256, format=header.format, virtual_size=header.virtual_size, size=got.size
    )


def _copy(source: Path, target: Path) -> Downloaded:
    """Copy a file and its holes, and flush it. Raises KvmComposeError if it changes meanwhile."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        before = os.fstat(reader.fileno())
        for chunk in read_sparse(reader.fileno(), source):
            digest.update(chunk)
            if chunk == ZEROS:
                writer.seek(len(chunk), os.SEEK_CUR)
            else:
                writer.write(chunk)
        writer.truncate()
        writer.flush()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
        size = writer.tell()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise KvmComposeError(
            f"{source} was changed while it was copied", hint="shut down the guest that uses it"
        )
    return Downloaded(target, size, digest.hexdigest())


def _is_whole(path: Path, sha256: str) -> bool:
    return digest_file(path) == sha256
