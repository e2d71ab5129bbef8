"""The store of disk images of this machine: each content once, found by name.

::

    <root>/index.json               name -> content (index.py)
    <root>/sha256/<aa>/<sha256>     the images, read-only
    <root>/partial/<name>/          what is being fetched; never taken for an image
    <root>/locks/<name>.lock        held while an image is fetched or added
    <root>/noted.json               what each image was when it was first fetched (pins.py)
    <root>/uses/                    which projects use what (uses.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem
from kvmcompose.effects.files import digest_file, expand, sync_folder
from kvmcompose.images.catalogue import (
    NAME_PATTERN,
    Checksum,
    is_image_name,
    mirrored,
    parse_catalogue,
    pick_checksum,
)
from kvmcompose.images.download import Download, Downloaded
from kvmcompose.images.index import Entry, Index, locked
from kvmcompose.images.pins import Note, NotedImages, refuse_other
from kvmcompose.images.qcow2 import ImageHeader, read_header, refuse_no_image
from kvmcompose.images.signatures import fetch_list
from kvmcompose.images.uses import Doubt, Uses, replace_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmcompose.images.catalogue import Catalogue, CatalogueImage, ImageFormat
    from kvmcompose.images.download import Progress

log = logging.getLogger(__name__)

_CHUNK = 2**20  # bytes
_ZEROS = bytes(_CHUNK)


class StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is here. ``virtual_size`` (of the disk) and ``size`` (of the file) in bytes.

    ``checksum_from`` tells who vouches for the content: the URL of a published list, ``catalogue``, or
    None for what the user added or built; ``recipe`` is the digest of what the latter was built by.
    ``signature`` says in words whether that list was signed, and whether that was verified.
    """

    name: str
    path: Path
    sha256: str
    format: ImageFormat
    virtual_size: int
    size: int
    added_by_user: bool
    url: str | None
    checksum: str | None
    checksum_from: str | None
    recipe: str | None
    signature: str | None = None


class StoreProblem(msgspec.Struct, frozen=True):
    """Something wrong with an image that should be here."""

    name: str
    path: Path
    message: str
    hint: str


class Pruned(msgspec.Struct, frozen=True):
    """What ``prune`` removed, how many bytes that freed, and images that it kept for want of knowledge."""

    paths: tuple[Path, ...]
    freed: int
    kept: tuple[tuple[Path, Doubt], ...] = ()


def default_store() -> ImageStore:
    """The store of this user: KVM_COMPOSE_STORE, else ``kvm-compose/images`` in the XDG data folder."""
    chosen = os.environ.get("KVM_COMPOSE_STORE")
    if chosen:
        return ImageStore(expand(chosen).absolute())
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # a relative path there is invalid and to be ignored (XDG Base Directory Specification, "Basics")
    home = data if data.is_absolute() else Path.home() / ".local" / "share"
    return ImageStore(home / "kvm-compose" / "images")


def read_catalogue() -> Catalogue:
    """The images that come with kvm-compose by name."""
    return parse_catalogue(Path(__file__).with_name("catalogue.json").read_bytes())


class ImageStore:
    """The images in folder ``root``, which is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index = Index(root)
        self._noted = NotedImages(root)
        self._uses = Uses(root / "uses")

    def find(self, name: str) -> StoredImage | None:
        """The image of that name, or None when it is not here (or not whole)."""
        entry = self._index.read().get(name)
        return self._present(name, entry) if entry is not None else None

    def list(self) -> tuple[StoredImage, ...]:
        """All images that are here, by name."""
        found = (self._present(name, entry) for name, entry in sorted(self._index.read().items()))
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
        """Fetch an image of the catalogue, unless it is here; with ``refresh`` see whether it moved on.

        One that is another than when it was first fetched is refused unless ``accept`` says to take it.

        ``mirror`` (default: KVM_COMPOSE_MIRROR) has the URL ``https://host/path`` at ``<mirror>/host/path``,
        an http, https or file URL. Raises KvmComposeError when it cannot be had, or is not what it should be.
        """
        refresh = refresh or accept
        if not refresh and (present := self.find(image.name)):
            return present
        mirror = mirror or os.environ.get("KVM_COMPOSE_MIRROR")
        with self._writing(image.name) as folder:
            present = self.find(image.name)  # by now another process may have fetched it
            if present and not refresh:
                return present
            if image.sha256:
                expected, source, signature = Checksum("sha256", image.sha256), "catalogue", None
            else:
                source = mirrored(image.checksums_url, mirror)
                listed, signature = fetch_list(image, source, mirror)
                expected = pick_checksum(image, listed)
            noted = None if accept else self._noted_before(image)
            refuse_other(image, noted, expected)
            if present and present.checksum == str(expected) and _is_whole(present.path, present.sha256):
                return present
            source_url = mirrored(image.url, mirror)
            got = self._adopt(expected) or Download(source_url, folder / "image", expected, progress).run()
            header = read_header(got.path)
            refusal = _refusal(header)
            if header.format != image.format:
                refusal = f"a {header.format} image, the catalogue says {image.format}"
            if refusal:
                (folder / "image").unlink(missing_ok=True)
                raise KvmComposeError(f"{image.url} is refused: {refusal}")
            refuse_other(image, noted, Checksum("sha256", got.sha256))
            entry = _entry(
                got, header, url=image.url, checksum=str(expected), checksum_from=source, signature=signature
            )
            return self._place(image.name, got.path, entry)

    def _note(self, name: str, entry: Entry | None) -> None:
        """Note what an image is that was fetched. Raises OSError."""
        if entry is not None and entry.url is not None:
            self._noted.note(name, entry.url, entry.sha256, entry.checksum)

    def _noted_before(self, image: CatalogueImage) -> Note | None:
        """What an image was when it was fetched; versions that noted nothing have it in the index."""
        noted = self._noted.find(image.name, image.url)
        entry = self._index.read().get(image.name)
        if noted is None and entry is not None and entry.url == image.url:
            return Note(sha256=entry.sha256, checksum=entry.checksum, day=None)
        return noted

    def build(
        self, name: str, recipe: str, make: Callable[[Path], None], *, refresh: bool = False
    ) -> StoredImage:
        """Have ``make`` write an image, unless it is here by this recipe; with ``refresh`` anyway.

        What lies on an older image of that name keeps it. Raises KvmComposeError.
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
            return self._place(name, file, _entry(got, read_header(file), recipe=recipe))

    def add(self, name: str, file: Path) -> StoredImage:
        """Copy a disk image of the user's into the store under a name, the file itself stays as it is.

        Raises InputError for a name that cannot be, KvmComposeError for a file that is no image of its own.
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
        refuse_no_image(file)
        header = read_header(file)
        if refusal := _refusal(header):
            raise KvmComposeError(f"{file} is refused: {refusal}")
        with self._writing(name) as folder:
            got = _copy(file, folder / "image")
            return self._place(name, got.path, _entry(got, header, added_by_user=True))

    def remove(self, name: str) -> bool:
        """Forget a name; ``prune`` then frees the space. False when there is no such image here."""
        with self._writing(name), self._index.changing() as entries:
            entry = entries.pop(name, None)
            self._note(name, entry)
            return entry is not None

    def verify(self) -> tuple[StoreProblem, ...]:
        """Read every image again and tell which are not what they were."""
        problems = []
        for name, entry in sorted(self._index.read().items()):
            path = self._blob(entry.sha256)
            action = f"add {name} FILE" if entry.added_by_user else f"pull --refresh {name}"
            again = f"kvm-compose cloud-images {f'build --refresh {name}' if entry.recipe else action}"
            try:
                actual = digest_file(path)
            except OSError as error:
                problems.append(StoreProblem(name, path, f"cannot be read: {error.strerror}", again))
                continue
            if actual != entry.sha256:
                problems.append(StoreProblem(name, path, f"was changed: its SHA-256 is {actual}", again))
        return tuple(problems)

    def link(self, image: StoredImage, path: Path) -> None:
        """Make ``path`` a symlink to an image; ``prune`` keeps the image as long as the link is there.

        The link's name should carry the image's digest: a refreshed image is another content. Raises OSError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)  # the project's folder: no fault of the store
        with self._spoken(), locked(self.root / "index.lock"):  # nothing is pruned meanwhile
            if not image.path.exists():
                raise KvmComposeError(
                    f"the image {image.name} went from the store meanwhile",
                    hint="build again: kvm-compose generate",
                )
            self._uses.note(path)
            replace_link(path, image.path)

    def follow(self, folder: Path) -> None:
        """Note the links that a project has in its folder of links, as it may have been moved or copied here.

        Raises KvmComposeError when that cannot be noted.
        """
        missing = [link for link in self.links_in(folder) if not self._uses.is_noted(link)]
        if missing:
            with self._spoken(), locked(self.root / "index.lock"):
                for link in missing:
                    self._uses.note(link)

    def links_in(self, folder: Path) -> tuple[Path, ...]:
        """The links of a folder that lead into this store."""
        return tuple(
            each
            for each in _entries(folder)
            if each.is_symlink() and self._blob(Path(os.readlink(each)).name).exists()  # noqa: PTH115
        )

    def note_of(self, link: Path) -> Path:
        """Where it is noted that a project has this link. Raises OSError."""
        return self._uses.note_of(link)

    def prune(self) -> Pruned:
        """Remove broken downloads, and images that no name and no project's link stands for.

        What projects used that cannot be looked into is kept.
        """
        with self._spoken():
            partial, unnamed = self._prune_partial(), self._prune_unnamed()
        return Pruned(partial.paths + unnamed.paths, partial.freed + unnamed.freed, unnamed.kept)

    def _prune_partial(self) -> Pruned:
        removed: list[Path] = []
        freed = 0
        for folder in _entries(self.root / "partial"):
            with locked(self._lock(folder.name), wait=False) as mine:
                if mine:
                    freed += sum(file.stat().st_blocks * 512 for file in _entries(folder))
                    shutil.rmtree(folder)
                    removed.append(folder)
        return Pruned(tuple(removed), freed)

    def _prune_unnamed(self) -> Pruned:
        removed: list[Path] = []
        spared: list[tuple[Path, Doubt]] = []
        freed = 0
        with self._index.changing() as entries:  # no image comes or goes meanwhile
            used, doubts = self._uses.look()
            kept = {entry.sha256 for entry in entries.values()} | used
            for blob in (blob for shelf in _entries(self.root / "sha256") for blob in _entries(shelf)):
                facts = blob.stat()
                if blob.name in kept or facts.st_nlink > 1:  # a hard link elsewhere: nothing would be freed
                    continue
                doubt = next((each for each in doubts if blob.name.startswith(each.digest)), None)
                if doubt is not None:
                    spared.append((blob, doubt))
                    continue
                freed += facts.st_blocks * 512
                blob.unlink()
                removed.append(blob)
        return Pruned(tuple(removed), freed, tuple(spared))

    def _present(self, name: str, entry: Entry) -> StoredImage | None:
        path = self._blob(entry.sha256)
        try:
            facts = path.stat()
        except OSError as error:
            log.warning("the image %s is in the index but not in the store: %s", name, error)
            return None
        if facts.st_size != entry.size:
            log.warning("the image %s has %d bytes instead of %d: %s", name, facts.st_size, entry.size, path)
            return None
        return StoredImage(name=name, path=path, **msgspec.structs.asdict(entry))

    def _adopt(self, expected: Checksum) -> Downloaded | None:
        """The content, if it lies here without a name (the index was lost, or another name has it)."""
        if expected.algorithm != "sha256":
            return None
        blob = self._blob(expected.digest)
        if not blob.is_file() or not _is_whole(blob, expected.digest):
            return None
        return Downloaded(blob, blob.stat().st_size, expected.digest)

    def _place(self, name: str, file: Path, entry: Entry) -> StoredImage:
        """Put a finished file among the images and name it, in that order."""
        blob = self._blob(entry.sha256)
        with self._index.changing() as entries:
            if file != blob:
                blob.parent.mkdir(parents=True, exist_ok=True)
                file.chmod(0o444)
                file.replace(blob)
                sync_folder(blob.parent)
            entries[name] = entry
            self._note(name, entry)
        shutil.rmtree(self.root / "partial" / name, ignore_errors=True)
        return StoredImage(name=name, path=blob, **msgspec.structs.asdict(entry))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The folder for an image's unfinished files, while no other process has it."""
        with self._spoken(), locked(self._lock(name)):
            folder = self.root / "partial" / name
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    @contextlib.contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what the operating system refuses into a KvmComposeError."""
        try:
            yield
        except OSError as error:
            raise KvmComposeError(
                f"cannot write to the image store {self.root}: {error.strerror or error}",
                hint="set KVM_COMPOSE_STORE to a folder that you may write to, with room for images",
            ) from error

    def _blob(self, sha256: str) -> Path:
        return self.root / "sha256" / sha256[:2] / sha256

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def _entry(
    got: Downloaded,
    header: ImageHeader,
    *,
    added_by_user: bool = False,
    url: str | None = None,
    checksum: str | None = None,
    checksum_from: str | None = None,
    recipe: str | None = None,
    signature: str | None = None,
) -> Entry:
    return Entry(
        sha256=got.sha256,
        format=header.format,
        virtual_size=header.virtual_size,
        size=got.size,
        added_by_user=added_by_user,
        url=url,
        checksum=checksum,
        checksum_from=checksum_from,
        recipe=recipe,
        signature=signature,
    )


def _refusal(header: ImageHeader) -> str | None:
    """Why an image cannot be kept by itself: QEMU would open other files for it, or want a key."""
    if header.backing_file is not None:
        return f"it is an overlay on another file ({header.backing_file}); qemu-img convert makes it whole"
    if header.data_file is not None:
        return f"its data lie in another file ({header.data_file}); qemu-img convert makes it whole"
    if header.encryption is not None:
        return f"it is encrypted ({header.encryption})"
    return None


def _copy(source: Path, target: Path) -> Downloaded:
    """Copy a file with its holes, onto the disk for good. Raises KvmComposeError if it changes meanwhile."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        before = os.fstat(reader.fileno())
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            if chunk == _ZEROS:
                writer.seek(len(chunk), os.SEEK_CUR)
            else:
                writer.write(chunk)
        writer.truncate()
        writer.flush()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
        size = writer.tell()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise KvmComposeError(f"{source} was changed while it was copied", hint="shut down what runs on it")
    return Downloaded(target, size, digest.hexdigest())


def _is_whole(path: Path, sha256: str) -> bool:
    return digest_file(path) == sha256


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if there is no such folder."""
    if not folder.is_dir() or stat.S_ISLNK(folder.lstat().st_mode):
        return []
    return sorted(folder.iterdir())
