"""Context folders, packed once per build for all guests that use them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from kvmcompose.build.context_listing import (
    CARRIED_LIMIT,
    FOR_GUEST,
    Member,
    Purpose,
    for_image,
    too_large,
)
from kvmcompose.build.project_files import FolderFiles, entries_of
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_build import ContextEntry
from kvmcompose.effects.opening import open_regular
from kvmcompose.render.archive import ContextMember, PackedContext, pack_context

#: What is at most this large (bytes) is kept in memory, and anything larger in a temporary file.
_IN_MEMORY = 2**20
_LARGE_FILES = "/var/tmp"  # noqa: S108 (the file has no name)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_file() -> io.BufferedRandom:
    """Return an empty file without a name, for contents that may be too large for memory."""
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=_folder())  # noqa: SIM115
    return cast(io.BufferedRandom, file)


def _folder() -> str:
    """Return the folder of large temporary files."""
    # file-hierarchy(7): /tmp may be memory, /var/tmp is for large files
    usual = "TMPDIR" in os.environ or not os.access(_LARGE_FILES, os.W_OK)
    return tempfile.gettempdir() if usual else _LARGE_FILES


#: A path; the modes that the YAML gives to what is there, or the Dockerfile of an image.
_Context = tuple[str, tuple[tuple[str, str], ...] | str]
_T = TypeVar("_T")


class Contexts:
    """The packed contexts of one build. Safe to share between threads, and with processes forked later."""

    def __init__(self, files: FolderFiles, epoch: int) -> None:
        self._files = files
        self._epoch = epoch
        self._guard = threading.Lock()
        self._packed: dict[_Context, tuple[PackedContext, str]] = {}
        self._of_images: dict[_Context, tuple[PackedContext, tuple[ContextEntry, ...]]] = {}

    def packed(self, path: str, modes: Mapping[str, str]) -> tuple[PackedContext, str]:
        """Return a context as it was when it was first needed, and the digest of just this content.

        Raises KvmComposeError for what cannot be carried.
        """

        def pack() -> tuple[PackedContext, str]:
            found = self._files.members(path, modes)
            packed, digests = self._pack(found, _Source(self._files, path, FOR_GUEST))
            return packed, self._files.members_digest(path, found, lambda each: digests[each.name])

        return self._once(self._packed, (path, tuple(sorted(modes.items()))), pack)

    def packed_for_image(self, path: str, dockerfile: str) -> tuple[PackedContext, tuple[ContextEntry, ...]]:
        """Return the context of an image, likewise, and what is in it."""

        def pack() -> tuple[PackedContext, tuple[ContextEntry, ...]]:
            found = self._files.build_members(path, dockerfile)
            packed, digests = self._pack(found, _Source(self._files, path, for_image(dockerfile)))
            return packed, entries_of(found, lambda each: digests[each.name])

        return self._once(self._of_images, (path, dockerfile), pack)

    def _once(self, known: dict[_Context, _T], key: _Context, pack: Callable[[], _T]) -> _T:
        with self._guard:
            if key not in known:
                try:
                    known[key] = pack()
                except OSError as error:
                    hint = None
                    if error.errno in _NO_SPACE:
                        hint = (
                            f"make room in {_folder()}, or set TMPDIR to a folder with room for the context"
                        )
                    message = f"cannot pack the context {key[0]!r}: {error.strerror}"
                    raise KvmComposeError(message, hint=hint) from error
            return known[key]

    def _pack(self, found: Iterable[Member], source: _Source) -> tuple[PackedContext, Mapping[str, str]]:
        """Pack members, and return the digests of the files by their names."""
        members = (
            ContextMember(
                each.name,
                source.opener(each.path) if each.kind == "file" else None,
                executable=each.executable,
                link_target=each.target if each.kind == "link" else None,
                mode=each.mode,
            )
            for each in found
        )
        out = temporary_file()
        weakref.finalize(self, _discard, out)
        try:
            sha256, digests = pack_context(members, self._epoch, out)
            packed = PackedContext(_reader(out), out.tell(), sha256)
        except BaseException:
            _discard(out)
            raise
        if packed.size <= _IN_MEMORY:
            out.close()
        return packed, digests


def _discard(file: io.BufferedRandom) -> None:
    """Close a temporary file, even if what it still buffers cannot be written."""
    with contextlib.suppress(OSError):
        file.close()


class _Source:
    """Opens the files of a context, as long as they are not too large in all, and in the project."""

    def __init__(self, files: FolderFiles, context: str, purpose: Purpose) -> None:
        self._files = files
        self._whole = files.path(context)
        self._purpose = purpose
        self._left = CARRIED_LIMIT

    def opener(self, path: Path) -> Callable[[], BinaryIO]:
        def opened() -> BinaryIO:
            file = os.fdopen(open_regular(path), "rb")
            if not self._files.holds(file.fileno()):
                file.close()
                raise KvmComposeError(
                    f"{str(path)!r} became a link out of the project folder while it was read",
                    hint="does a container write to this folder? Use another one as its volume",
                )
            self._left -= os.fstat(file.fileno()).st_size
            if self._left < 0:
                file.close()
                raise too_large(self._whole, self._purpose)
            return file

        return opened


def _reader(file: BinaryIO) -> Callable[[], BinaryIO]:
    """Return what opens a temporary file for reading, each time from its beginning and for one reader."""
    if file.tell() <= _IN_MEMORY:
        file.seek(0)
        data = file.read()
        file.seek(0, os.SEEK_END)
        return lambda: io.BytesIO(data)
    file.flush()
    # the file has no name any more, and would vanish with its last descriptor
    return lambda: open(f"/proc/self/fd/{file.fileno()}", "rb")  # noqa: PTH123
