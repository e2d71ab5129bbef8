"""Unpacks a tar archive that a guest sent, and trusts nothing in it.

The entries are extracted in a new folder beside the target, which has no links until all files are written:
no name can refer to another place (tarfile's own filters resolve links, and have been evaded:
CVE-2025-4517). Then they are moved into place, each at once: whatever ends this leaves no file in part.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.core.errors import KvmComposeError

_CHUNK = 1 << 20
#: Bits of a mode that are kept (as by tarfile's data filter), and those that every file has.
_KEPT, _ALWAYS = 0o755, 0o600
#: The largest header, in bytes: it is read in one piece. Those of engines have a name of 4 KiB at most.
_LARGEST_HEADER = 1 << 20
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES)
#: What the name of a folder beside the target has after a dot and the target's name, of which it has so many
#: characters.
_STAGE, _NAME_PART = ".kvm-compose-cp.", 32
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A folder that was changed so lately is left, in seconds.
_YOUNG_SECONDS = 60
#: How many of the entries that were left out are named.
_NAMED = 100


class LinkError(KvmComposeError):
    """What was asked for is a symbolic link. ``target`` is as written in it."""

    def __init__(self, target: str) -> None:
        super().__init__(f"a symbolic link to {target}")
        self.target = target


class Unpacked(msgspec.Struct, frozen=True):
    """What came: files with the bytes of their contents, and what was left out, with the reason.

    Of very much that was left out, the last line says how much more there is.
    """

    files: int
    size: int
    left_out: tuple[str, ...]


class _Entry(tarfile.TarInfo):
    """An entry with headers of a bounded size."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc] # tarfile's place to override it


class Reader:
    """A stream of bytes, as the file that tarfile reads."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, less at the end."""
        parts, missing = [self._rest[:size]], size - len(self._rest)
        self._rest = self._rest[size:]
        while missing > 0 and (piece := next(self._pieces, b"")):
            parts.append(piece[:missing])
            self._rest = piece[missing:]
            missing -= len(piece)
        return b"".join(parts)


def first_entry(pieces: Iterable[bytes]) -> tarfile.TarInfo:
    """Return the first entry of an archive. Raises KvmComposeError."""
    with _archive(pieces) as archive:
        return _next(archive) or _empty()


def unpack(
    pieces: Iterable[bytes], target: Path, *, recursive: bool, advance: Callable[[int], None]
) -> Unpacked:
    """Extract an archive with one file or folder, its first entry, as ``target``.

    Folders that are there already are added to, files are replaced. ``advance`` is called with the bytes of
    contents so far. Raises LinkError when it is a link, KvmComposeError.
    """
    with _archive(pieces) as archive:
        first = _next(archive) or _empty()
        if first.issym():
            raise LinkError(first.linkname)
        if first.isdir() and not recursive:
            raise KvmComposeError("it is a folder", hint="kvm-compose cp -r copies folders")
        if not (first.isdir() or _is_file(first)):
            raise KvmComposeError("it is neither a file nor a folder")
        try:
            with _stage(target) as stage:
                arrival = _Arrival(stage / "root", _parts(first.name) or (), advance)
                found = arrival.take(archive, first)
                _place(stage / "root", target)
        except OSError as error:
            raise KvmComposeError(f"cannot write {target}: {error.strerror or error}") from error
    return found


@contextlib.contextmanager
def _stage(target: Path) -> Iterator[Path]:
    """Yield a new folder beside a target, and remove those that copies to it have left that were killed."""
    prefix = f".{target.name[:_NAME_PART]}{_STAGE}"
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                _sweep(Path(entry.path))
    stage = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    handle = os.open(stage, _FOLDER)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks nothing is swept
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(handle)


def _sweep(stage: Path) -> None:
    """Remove the folder of a copy that has ended: one that goes on holds the lock."""
    with contextlib.suppress(OSError):
        handle = os.open(stage, _FOLDER)
        try:
            status = os.fstat(handle)
            # one that has just been made may not be locked yet
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _YOUNG_SECONDS:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stage)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _archive(pieces: Iterable[bytes]) -> Iterator[tarfile.TarFile]:
    stream: Any = Reader(pieces)  # typeshed expects to write, too
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry, errors="surrogateescape") as archive:
            yield archive
    except RecursionError:
        raise KvmComposeError(
            "the archive that came is invalid: folders or headers nest too deeply"
        ) from None
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise KvmComposeError(f"the archive that came is invalid: {error}") from error


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    archive.members = []  # type: ignore[attr-defined] # it keeps all that it has read
    return archive.next()


def _empty() -> tarfile.TarInfo:
    raise KvmComposeError("the archive that came is empty")


def _is_file(entry: tarfile.TarInfo) -> bool:
    return entry.isreg() and not entry.issparse()


def _parts(name: str) -> tuple[str, ...] | None:
    """Return the parts of a name, None for one that goes up."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return None if ".." in parts else parts


class _Arrival:
    """The entries below ``root``, which is the archive's first entry."""

    def __init__(self, root: Path, top: tuple[str, ...], advance: Callable[[int], None]) -> None:
        self._root = root
        self._top = top
        self._advance = advance
        self._files, self._size = 0, 0
        self._links: list[tuple[tuple[str, ...], str]] = []
        self._left_out: list[str] = []
        self._more = 0

    def take(self, archive: tarfile.TarFile, first: tarfile.TarInfo) -> Unpacked:
        """Extract everything."""
        entry: tarfile.TarInfo | None = first
        while entry is not None:
            reason = self._take(archive, entry)
            if reason is not None and len(self._left_out) >= _NAMED:
                self._more += 1
            elif reason is not None:
                # engines differ in how they call the folder that was asked for
                name = "/".join(self._below(entry.name) or ()) or entry.name
                self._left_out.append(f"{name}: {reason}")
            entry = _next(archive)
        for parts, to in self._links:
            self._path(parts).symlink_to(to)
        if self._more:
            self._left_out.append(f"{self._more} more")
        return Unpacked(self._files, self._size, tuple(self._left_out))

    def _take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str | None:
        """Extract an entry, or return why it is left out."""
        parts = self._below(entry.name)
        if parts is None:
            return "not below what was asked for"
        if entry.isdir():
            self._path(parts).mkdir(parents=True, exist_ok=True)
            return None
        if entry.issym():
            if not _stays_inside(parts, entry.linkname):
                return f"a symbolic link to {entry.linkname}, which is outside"
            self._links.append((parts, entry.linkname))
            return None
        if entry.islnk():
            other = self._below(entry.linkname)
            if other is None or not self._path(other).is_file():
                return f"a hard link to {entry.linkname}, which has not come"
            self._above(parts)
            os.link(self._path(other), self._path(parts))
        elif _is_file(entry):
            self._write(archive, entry, parts)
        else:
            return "neither a file nor a folder nor a link"
        self._files += 1
        return None

    def _write(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        content = archive.extractfile(entry)
        assert content is not None  # noqa: S101 (it is a regular file)
        self._above(parts)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._path(parts), flags, entry.mode & _KEPT | _ALWAYS)
        with open(handle, "wb") as file:  # noqa: PTH123 (a descriptor)
            while chunk := content.read(_CHUNK):
                file.write(chunk)
                self._size += len(chunk)
                self._advance(self._size)

    def _above(self, parts: tuple[str, ...]) -> None:
        if parts:
            self._path(parts).parent.mkdir(parents=True, exist_ok=True)

    def _below(self, name: str) -> tuple[str, ...] | None:
        parts = _parts(name)
        if parts is None or parts[: len(self._top)] != self._top:
            return None
        return parts[len(self._top) :]

    def _path(self, parts: tuple[str, ...]) -> Path:
        return self._root.joinpath(*parts)


def _stays_inside(parts: tuple[str, ...], target: str) -> bool:
    """Return whether a link at a place below the root refers to a place below it.

    Only steps up at the beginning are allowed: one after a name could lead out through another link.
    """
    if not target or target.startswith("/") or not parts:
        return False
    steps = [step for step in target.split("/") if step not in ("", ".")]
    up = next((number for number, step in enumerate(steps) if step != ".."), len(steps))
    return ".." not in steps[up:] and up < len(parts)


def _place(source: Path, target: Path, *, below: bool = False) -> None:
    """Move what came to its place.

    ``below`` the place that the user named, folders are not put through symbolic links: these may have come
    with an earlier copy. Each stayed inside, seen from its own place; what is put elsewhere has another one.
    """
    if source.is_symlink() or not source.is_dir():
        if target.is_dir() and not target.is_symlink():
            raise KvmComposeError(f"{target} is a folder, and what came is none")
        source.replace(target)
        return
    try:
        target.lstat()
    except FileNotFoundError:
        source.rename(target)
        return
    if below and target.is_symlink():
        raise KvmComposeError(
            f"{target} is a symbolic link, and what came is a folder",
            hint="remove it, or copy to another place",
        )
    if not target.is_dir():
        raise KvmComposeError(f"{target} is no folder, and what came is one")
    for each in sorted(source.iterdir()):
        _place(each, target / each.name, below=True)
