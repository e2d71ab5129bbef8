"""The files that a project names: what they are, whether they may be used, and their content."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from kvmcompose.build.cloud_config import CloudConfigSchema
from kvmcompose.build.context_listing import (
    CARRIED_LIMIT,
    FOR_GUEST,
    Listing,
    Member,
    Surroundings,
    for_image,
    list_context,
    resolve,
    too_large,
)
from kvmcompose.build.outputs import Outputs
from kvmcompose.core.artefact import is_shared_disk
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_build import ContextEntry, content_digest
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.project import FileKind, Flaw
from kvmcompose.effects.files import expand
from kvmcompose.effects.opening import TooLargeError, open_regular, read_regular
from kvmcompose.effects.stat_cache import StatCache
from kvmcompose.images.formats import check_image
from kvmcompose.images.image_archives import INDEX, opened_image

#: Up to this size (bytes) content is kept for all the guests that share it.
_REMEMBERED = 2**20
#: How much of a file is searched for a private key, in bytes; keys are a few KiB.
_HEAD = 2**16
#: As OpenSSH and OpenSSL (RFC 7468), GnuPG, PuTTY and age write them.
_PRIVATE_KEY = re.compile(
    rb"^(?:-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-|AGE-SECRET-KEY-1)",
    re.MULTILINE,
)

#: Stands for the digest of a file that a build is going to make.
TO_BE_MADE = "to be made"

#: A path, and the modes that the YAML gives to what is there.
_Context = tuple[str, tuple[tuple[str, str], ...]]


class FolderFiles:
    """The project folder; implements ``kvmcompose.core.project.ProjectFiles``.

    Answers are remembered for the life of the object, as many guests name the same files. ``to_be_made`` is a
    file that a build makes if it does not exist: the default key.
    """

    def __init__(
        self,
        folder: Path,
        digests: StatCache,
        allowed: Iterable[Path] = (),
        images: Iterable[str] = (),
        to_be_made: str | None = None,
        archs: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self._to_be_made = to_be_made
        self._images = tuple(images)
        self._archs = archs
        self._digests = digests
        self._roots = tuple(root.resolve() for root in (folder, *allowed))
        self._kinds: dict[str, FileKind] = {}
        self._inside: dict[str, bool] = {}
        self._contents: dict[tuple[str, int], bytes] = {}
        self._outputs: Outputs | None = None
        self._contexts: dict[_Context, Listing] = {}
        self._file_digests: dict[str, str] = {}
        self._tree_digests: dict[_Context, str] = {}
        #: By the path of a folder, and that of the Dockerfile in it.
        self._builds: dict[tuple[str, str], Listing] = {}
        self._build_flaws: dict[tuple[str, str], tuple[Flaw, ...]] = {}
        self._build_digests: dict[tuple[str, str], str] = {}
        self._carried: dict[str, tuple[bytes, str]] = {}
        self._image_flaws: dict[tuple[str, str | None, bool], Flaw | None] = {}
        self._cloud_config = CloudConfigSchema()
        self._image_ids: dict[ImageFile, str | Flaw] = {}

    def path(self, name: str) -> Path:
        """A path as written in the YAML, as one that can be opened."""
        return self.folder / expand(name)

    def kind(self, path: str) -> FileKind:
        """Return the kind of a path, links followed."""
        if path not in self._kinds:
            self._kinds[path] = _kind(self.path(path))
        return self._kinds[path]

    def is_inside(self, path: str) -> bool:
        """Return whether the path, links resolved, is in the project folder or an allowed folder."""
        if path not in self._inside:
            resolved = resolve(self.path(path))
            self._inside[path] = resolved is not None and self._allowed(resolved)
        return self._inside[path]

    def holds(self, descriptor: int) -> bool:
        """Return whether an open file is in the project folder or an allowed folder, however it was reached.

        What was a file when it was listed may have become a link meanwhile: containers write to volumes.
        """
        place = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (it need not exist any more)
        return self._allowed(Path(place))

    def may_hold(self, folder: str) -> bool:
        """Return whether builds may write to a folder at this place. It is not recorded as an input."""
        resolved = resolve(self.path(folder))
        return resolved is not None and self._allowed(resolved)

    def _allowed(self, resolved: Path) -> bool:
        return any(resolved == root or root in resolved.parents for root in self._roots)

    def seen(self) -> set[str]:
        """Return every path that an answer of this object depends on."""
        found: set[str] = set()
        for name in (*self._kinds, *self._inside, *(path for path, *_ in self._image_flaws)):
            path = self.path(name)
            found.update((str(path), str(resolve(path) or path)))
        found.update(str(self.path(each.path) / INDEX) for each in self._image_ids if each.is_folder)
        listings = (*self._contexts.values(), *self._builds.values())
        return found.union(*(listing.seen for listing in listings))

    def image_arch(self, name: str) -> str | None:
        """Return the architecture of an image of the catalogue."""
        return self._archs.get(name)

    def cloud_config_errors(self, data: bytes) -> Iterable[tuple[tuple[str | int, ...], str]]:
        return self._cloud_config.errors(data)

    def image_names(self) -> tuple[str, ...]:
        """The names that a ``cloud_image`` may have."""
        return self._images

    def flaws(self, path: str, modes: Mapping[str, str]) -> tuple[Flaw, ...]:
        """Return why a context, a folder or a file, cannot be carried into a guest."""
        try:
            return self._listing(path, modes).flaws
        except OSError as error:
            return (Flaw("bad-file", f"{path!r} cannot be read: {error.strerror}"),)

    def _listing(self, path: str, modes: Mapping[str, str]) -> Listing:
        key = _key(path, modes)
        if key not in self._contexts:
            self._contexts[key] = list_context(self.path(path), self._around, modes, FOR_GUEST)
        return self._contexts[key]

    @property
    def _around(self) -> Surroundings:
        self._outputs = self._outputs or Outputs(self.folder)
        return Surroundings(self.folder, self._allowed, self._outputs.include)

    def exposed_keys(self, path: str, modes: Mapping[str, str]) -> tuple[str, ...]:
        """Return the members of a context with a private key that every user of the guest could read."""
        return tuple(
            each.name
            for each in self._listing(path, modes).members
            if each.kind == "file"
            and (each.mode is None or each.mode & 0o077)
            and _has_private_key(each.path)
        )

    def image_flaw(self, path: str, wanted_format: str | None, *, is_said: bool) -> Flaw | None:
        """Return why a disk image may not be used, or None.

        An image may be anywhere, but must be one, and must not refer to other files: otherwise a lab from the
        internet could make any file of this machine readable in a guest. Within the project, a raw disk
        without a boot sector or file system may be one if the YAML says so (``is_said``).
        """
        key = (path, wanted_format, is_said)
        if key not in self._image_flaws:
            self._image_flaws[key] = self._image_flaw(*key)
        return self._image_flaws[key]

    def _image_flaw(self, path: str, wanted_format: str | None, is_said: bool) -> Flaw | None:
        real = resolve(self.path(path))
        if (
            real is not None
            and is_shared_disk(f"artefacts/{real.name}")
            and real.parent == resolve(self.folder / "artefacts")
        ):  # it is raw for the guests that write it: taken for an image, it could name any file
            return Flaw("bad-image", f"{path} is a disk that guests share, and no image")
        may_be_bare = is_said and wanted_format == "raw" and self.is_inside(path)
        try:
            header = check_image(self.path(path), name=path, may_be_bare=may_be_bare)
        except KvmComposeError as error:
            return Flaw(code="bad-image", message=error.message, hint=error.hint)
        if wanted_format not in (None, header.format):
            said = (
                f"a qcow2 image, and not {wanted_format}" if header.format == "qcow2" else "not a qcow2 image"
            )
            return Flaw(code="bad-image", message=f"{path} is {said}")
        return None

    def image_id(self, source: ImageFile) -> str | Flaw:
        """Return the ID of a container's image that is in a file, or why the file may not be used."""
        if source not in self._image_ids:
            try:
                self._image_ids[source] = self._image_id(source)
            except KvmComposeError as error:
                self._image_ids[source] = Flaw("bad-image", error.message, error.hint)
        return self._image_ids[source]

    def _image_id(self, source: ImageFile) -> str:
        path = self.path(source.path)

        def read() -> str:
            with opened_image(source, path) as image:
                return image.image_id

        if source.is_folder:
            return read()
        try:
            # a compressed archive is read to its end
            return self._digests.found_in(str(path.resolve()), str(source), read)
        except OSError as error:
            raise KvmComposeError(f"cannot read {source}: {error.strerror}") from error

    def content(self, path: str, limit: int) -> bytes | None:
        """Return at most ``limit`` bytes of a regular file and one; None if it cannot be read."""
        key = path, limit
        if key in self._contents:
            return self._contents[key]
        try:
            with os.fdopen(open_regular(self.path(path)), "rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError):
            return None
        self._contents[key] = data
        return data

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file, in hexadecimal, or ``TO_BE_MADE``. Raises KvmComposeError."""
        if self.is_to_be_made(path):
            return TO_BE_MADE
        if path not in self._file_digests:
            try:
                self._file_digests[path] = self._digests.digest(self.path(path))
            except OSError as error:
                raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error
        return self._file_digests[path]

    def is_to_be_made(self, path: str) -> bool:
        """Return whether a file does not exist, but a build makes it."""
        return path == self._to_be_made and not os.path.lexists(self.path(path))

    def context_digest(self, path: str, modes: Mapping[str, str]) -> str:
        """Return a digest of a context: of names, contents and modes. Raises KvmComposeError."""
        key = _key(path, modes)
        if key not in self._tree_digests:
            try:
                found = self.members(path, modes)
                self._tree_digests[key] = self.members_digest(
                    path, found, lambda each: self._digests.digest(each.path)
                )
            except OSError as error:
                raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error
        return self._tree_digests[key]

    def members(self, path: str, modes: Mapping[str, str]) -> tuple[Member, ...]:
        """Return what is below a folder, or just the file; sorted, links not followed.

        Raises KvmComposeError for what cannot be carried into a guest, OSError.
        """
        listing = self._listing(path, modes)
        for flaw in listing.flaws:
            raise KvmComposeError(flaw.message, hint=flaw.hint)
        return listing.members

    def members_digest(self, path: str, found: Iterable[Member], digest: Callable[[Member], str]) -> str:
        """Return the digest of ``members``, given that of each file."""
        if not self.path(path).is_dir():
            (file,) = found
            mode = _mode(file, "executable", "")
            return f"{digest(file)} {mode}" if mode else digest(file)
        tree = hashlib.sha256()
        for each in found:
            content = digest(each) if each.kind == "file" else each.target
            line = f"{each.name}\0{each.kind}\0{_mode(each, '1', '0')}\0{content}\n"
            tree.update(line.encode(errors="surrogateescape"))
        return tree.hexdigest()

    def build_flaws(self, context: str, dockerfile: str) -> tuple[Flaw, ...]:
        """Return why no image can be built from a folder with this Dockerfile."""
        key = context, posixpath.normpath(dockerfile)
        if key not in self._build_flaws:
            self._build_flaws[key] = self._flaws_of_build(*key)
        return self._build_flaws[key]

    def _flaws_of_build(self, context: str, dockerfile: str) -> tuple[Flaw, ...]:
        try:
            listing = self._build_listing(context, dockerfile)
        except OSError as error:
            return (Flaw("bad-file", f"{context!r} cannot be read: {error.strerror}"),)
        there = next((each for each in listing.members if each.name == dockerfile), None)
        if there is not None and there.kind != "file":
            what = f"a {there.kind}, and not a file"
            return (*listing.flaws, Flaw("bad-file", f"{dockerfile!r} in {context!r} is {what}"))
        if there is not None or listing.flaws:
            return listing.flaws
        hint = "to name another: build: {context: FOLDER, dockerfile: PATH}, with its path in the folder"
        return (Flaw("missing-file", f"there is no {dockerfile!r} in {context!r}", hint),)

    def _build_listing(self, context: str, dockerfile: str) -> Listing:
        key = context, posixpath.normpath(dockerfile)
        if key not in self._builds:
            self._builds[key] = list_context(self.path(context), self._around, {}, for_image(key[1]))
        return self._builds[key]

    def build_members(self, context: str, dockerfile: str) -> tuple[Member, ...]:
        """Return what is in the context of an image. Raises KvmComposeError for one with flaws."""
        for flaw in self.build_flaws(context, dockerfile):
            raise KvmComposeError(flaw.message, hint=flaw.hint)
        return self._build_listing(context, dockerfile).members

    def build_entries(self, context: str, dockerfile: str) -> tuple[ContextEntry, ...]:
        """Return what decides on an image, of its context. Raises KvmComposeError."""
        try:
            found = self.build_members(context, dockerfile)
            return entries_of(found, lambda each: self._digests.digest(each.path))
        except OSError as error:
            raise KvmComposeError(f"cannot read {context!r}: {error.strerror}") from error

    def build_digest(self, context: str, dockerfile: str) -> str:
        """Return the digest of the context of an image. Raises KvmComposeError."""
        key = context, posixpath.normpath(dockerfile)
        if key not in self._build_digests:
            self._build_digests[key] = content_digest(self.build_entries(*key))
        return self._build_digests[key]

    def carried(self, path: str) -> tuple[bytes, str]:
        """Return the content of a file, and the digest of just this content. Raises KvmComposeError."""
        if path not in self._carried:
            carried = self._read_carried(path)
            if len(carried[0]) > _REMEMBERED:
                return carried
            self._carried[path] = carried
        return self._carried[path]

    def _read_carried(self, path: str) -> tuple[bytes, str]:
        whole = self.path(path)
        try:
            data = read_regular(whole, limit=CARRIED_LIMIT)
        except TooLargeError as error:
            raise too_large(whole) from error
        except OSError as error:
            raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error
        return data, hashlib.sha256(data).hexdigest()


def entries_of(found: Iterable[Member], digest: Callable[[Member], str]) -> tuple[ContextEntry, ...]:
    """Return what decides on an image, given the digest of each file."""
    return tuple(
        ContextEntry(each.name, "file", digest(each), each.executable)
        if each.kind == "file"
        else ContextEntry(each.name, "link" if each.kind == "link" else "folder", each.target)
        for each in found
    )


def _key(path: str, modes: Mapping[str, str]) -> _Context:
    return path, tuple(sorted(modes.items()))


def _mode(member: Member, executable: str, other: str) -> str:
    """Return the mode of a member for a digest. One that the YAML gives stays when the file's own changes."""
    return f"{member.mode:04o}" if member.mode is not None else executable if member.executable else other


def _has_private_key(path: Path) -> bool:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return _PRIVATE_KEY.search(file.read(_HEAD)) is not None
    except OSError:
        return False


def _kind(path: Path) -> FileKind:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return FileKind.FILE if os.access(path, os.R_OK) else FileKind.UNREADABLE
        if stat.S_ISDIR(mode):
            return FileKind.FOLDER if os.access(path, os.R_OK | os.X_OK) else FileKind.UNREADABLE
    except (FileNotFoundError, NotADirectoryError):
        return FileKind.MISSING
    except (OSError, ValueError):
        return FileKind.UNREADABLE
    return FileKind.OTHER
