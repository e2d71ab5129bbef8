"""The files that a project names: what they are, whether they may be used, and their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.project import FileKind
from kvmcompose.effects.files import expand
from kvmcompose.effects.opening import TooLargeError, open_regular, read_regular
from kvmcompose.effects.stat_cache import StatCache
from kvmcompose.images.qcow2 import read_header, refuse_no_image
from kvmcompose.render.inputs import CarriedFile

#: The largest file or context that is carried into a guest, in bytes.
CARRIED_LIMIT = 2**30
#: Up to this size (bytes) content is kept for all the guests that share it.
_REMEMBERED = 2**20


class Member(msgspec.Struct, frozen=True):
    """A path below a folder that is carried into a guest: a "file", a "folder", or a "link" to ``target``."""

    path: Path
    name: str
    kind: str
    target: str
    executable: bool


class FolderFiles:
    """The project folder; implements ``kvmcompose.core.project.ProjectFiles``.

    Answers are remembered for the life of the object, as many guests name the same files.
    """

    def __init__(
        self, folder: Path, digests: StatCache, allowed: Iterable[Path] = (), images: Iterable[str] = ()
    ) -> None:
        self.folder = folder
        self._images = tuple(images)
        self._digests = digests
        self._roots = tuple(root.resolve() for root in (folder, *allowed))
        self._kinds: dict[str, FileKind] = {}
        self._inside: dict[str, bool] = {}
        self._trees: dict[str, str] = {}
        self._carried: dict[str, tuple[CarriedFile, str]] = {}
        self._image_problems: dict[tuple[str, str | None], str | None] = {}

    def path(self, name: str) -> Path:
        """A path as written in the YAML, as one that can be opened."""
        return self.folder / expand(name)

    def kind(self, path: str) -> FileKind:
        """Return the kind of a path, links followed."""
        if path not in self._kinds:
            self._kinds[path] = _kind(self.path(path))
        return self._kinds[path]

    def is_inside(self, path: str) -> bool:
        """Whether the path, links resolved, is in the project folder or an allowed folder."""
        if path not in self._inside:
            resolved = _resolve(self.path(path))
            self._inside[path] = resolved is not None and self._allowed(resolved)
        return self._inside[path]

    def may_hold(self, folder: str) -> bool:
        """Whether a folder of ours is where it seems to be. It is no input, and so not remembered as one."""
        resolved = _resolve(self.path(folder))
        return resolved is not None and self._allowed(resolved)

    def _allowed(self, resolved: Path) -> bool:
        return any(resolved == root or root in resolved.parents for root in self._roots)

    def seen(self) -> set[str]:
        """Every path that an answer of this object rested on."""
        named = (*self._kinds, *self._inside, *self._trees, *(path for path, _ in self._image_problems))
        found: set[str] = set()
        for name in named:
            path = self.path(name)
            found.update((str(path), str(_resolve(path) or path)))
            if path.is_dir():
                found.update(str(each) for each in _walk(path))
                found.update(str(_resolve(each) or each) for each in _walk(path) if each.is_symlink())
        return found

    def image_names(self) -> tuple[str, ...]:
        """The names that a ``cloud_image`` may have."""
        return self._images

    def strays(self, path: str) -> str | None:
        """The first path below a folder that leads out of it by a link, or None."""
        for found in _walk(self.path(path)):
            if not found.is_symlink():
                continue
            resolved = _resolve(found)
            if resolved is None or not self._allowed(resolved):
                return str(found.relative_to(self.folder) if found.is_relative_to(self.folder) else found)
        return None

    def image_problem(self, path: str, wanted_format: str | None) -> str | None:
        """Why a disk image may not be used, or None.

        An image may be anywhere, but must be one, and must not refer to other files: otherwise a lab from the
        internet could make any file of this machine readable in a guest.
        """
        key = (path, wanted_format)
        if key not in self._image_problems:
            self._image_problems[key] = self._image_problem(path, wanted_format)
        return self._image_problems[key]

    def _image_problem(self, path: str, wanted_format: str | None) -> str | None:
        image = self.path(path)
        try:
            header = read_header(image)
            if not self.is_inside(path):
                refuse_no_image(image)
            if wanted_format is not None and header.format != wanted_format and header.format == "qcow2":
                return f"is a qcow2 image, and not {wanted_format}"
            if wanted_format == "qcow2" and header.format != "qcow2":
                return "is not a qcow2 image"
            if header.data_file is not None:
                return f"keeps its data in another file ({header.data_file!r})"
            if header.backing_file is not None:
                # its name is relative to the folder of the image, not to that of the overlays
                return f"is itself an overlay, on {header.backing_file!r}: flatten it with qemu-img convert"
        except KvmComposeError as error:
            return f"cannot be used: {error.message}"
        return None

    def content(self, path: str, limit: int) -> bytes | None:
        """The content of a regular file, at most ``limit`` bytes and one; None when it cannot be read."""
        try:
            with os.fdopen(open_regular(self.path(path)), "rb") as file:
                return file.read(limit + 1)
        except (OSError, ValueError):
            return None

    def digest(self, path: str) -> str:
        """A digest of a carried file (content and mode) or folder tree. Raises KvmComposeError."""
        if path not in self._trees:
            try:
                self._trees[path] = self._tree_digest(self.path(path))
            except OSError as error:
                raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error
        return self._trees[path]

    def image_digest(self, path: str) -> str:
        """The SHA-256 of a disk image, in hexadecimal. Raises KvmComposeError."""
        try:
            return self._digests.digest(self.path(path))
        except OSError as error:
            raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error

    def _tree_digest(self, whole: Path) -> str:
        found = self.members(whole)
        return self.members_digest(whole, found, lambda each: self._digests.digest(each.path))

    def members(self, whole: Path) -> list[Member]:
        """Return what is below a folder, or just the file; sorted, links not followed.

        Raises KvmComposeError for what cannot be carried into a guest, OSError.
        """
        found = []
        total = 0
        for path in _walk(whole) if whole.is_dir() else (whole,):
            kind, target, executable = self._member(whole, path)
            total += path.stat().st_size if kind == "file" else 0
            if total > CARRIED_LIMIT:  # reading a terabyte of nothing takes an hour
                raise too_large(whole)
            name = str(path.relative_to(whole)) if path != whole else whole.name
            found.append(Member(path, name, kind, target, executable=executable))
        return found

    def members_digest(self, whole: Path, found: Iterable[Member], digest: Callable[[Member], str]) -> str:
        """Return the digest of ``members``, given that of each file."""
        if not whole.is_dir():
            (file,) = found
            return _with_mode(digest(file), executable=file.executable)
        tree = hashlib.sha256()
        for each in found:
            content = digest(each) if each.kind == "file" else each.target
            line = f"{each.name}\0{each.kind}\0{each.executable:d}\0{content}\n"
            tree.update(line.encode(errors="surrogateescape"))
        return tree.hexdigest()

    def carried(self, path: str) -> tuple[CarriedFile, str]:
        """Return the content of a file, and the digest of just this content. Raises KvmComposeError."""
        if path not in self._carried:
            carried = self._read_carried(path)
            if len(carried[0].data) > _REMEMBERED:
                return carried
            self._carried[path] = carried
        return self._carried[path]

    def _read_carried(self, path: str) -> tuple[CarriedFile, str]:
        whole = self.path(path)
        try:
            data = read_regular(whole, limit=CARRIED_LIMIT)
            executable = bool(whole.stat().st_mode & stat.S_IXUSR)
        except TooLargeError as error:
            raise too_large(whole) from error
        except OSError as error:
            raise KvmComposeError(f"cannot read {path!r}: {error.strerror}") from error
        digest = _with_mode(hashlib.sha256(data).hexdigest(), executable=executable)
        return CarriedFile(data, executable), digest

    def _member(self, root: Path, found: Path) -> tuple[str, str, bool]:
        """What a path below a carried folder is: its kind, a link's target, whether it can be run.

        A link within the folder stays a link; one that leads elsewhere in the project becomes the file
        it points to, as its target would be missing in the guest.
        """
        if found.is_symlink():
            target = os.readlink(found)  # noqa: PTH115 (the text of the link, unresolved)
            resolved = _resolve(found)
            if resolved is not None and not Path(target).is_absolute() and root.resolve() in resolved.parents:
                return "link", target, False
            if resolved is None or not self._allowed(resolved) or not resolved.is_file():
                raise KvmComposeError(
                    f"{str(found)!r} is a link to {target!r}, which cannot be carried along"
                )
        mode = found.stat().st_mode
        if stat.S_ISDIR(mode):
            return "folder", "", True
        if not stat.S_ISREG(mode):
            raise KvmComposeError(f"{str(found)!r} is neither a file nor a folder")
        return "file", "", bool(mode & stat.S_IXUSR)


def _resolve(path: Path) -> Path | None:
    """Where a path leads, or None when its links go in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def too_large(path: Path) -> KvmComposeError:
    """The error for a file or folder beyond ``CARRIED_LIMIT``."""
    return KvmComposeError(
        f"{str(path)!r} holds more than {CARRIED_LIMIT >> 30} GiB, too much for a seed",
        hint="put large data on a separate disk image",
    )


def _with_mode(digest: str, *, executable: bool) -> str:
    return f"{digest} executable" if executable else digest


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


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, sorted, without following links."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
