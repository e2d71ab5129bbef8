"""What is in a volume: a folder of the project, or a file, as other hosts are sent it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import kind_of, open_below, open_folder

#: The most files, folders and links in a volume.
MOST_ENTRIES = 20_000
#: Folders of a project that other hosts have already, with other contents.
_OURS = frozenset({".", "artefacts", ".kvm-compose"})
_HERE = "or place the guest on the main host (testbed_options.placement)"


class VolumeEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something in a volume.

    ``mode`` are its permissions, without set-user-ID, set-group-ID and sticky bits. ``value`` is the SHA-256
    of a file, or the target of a link as it is written; ``size`` is that of a file in bytes.
    """

    kind: Literal["folder", "file", "link"]
    mode: int
    value: str = ""
    size: int = 0


#: What is in a volume, by path below it, each folder before what is in it; a path "" is the volume itself.
VolumeTree = Mapping[str, VolumeEntry]


def in_one_line(path: str) -> str:
    """Return a path for messages: quoted, if it has characters that could be taken for another line."""
    return path if path.isprintable() else repr(path)


@contextmanager
def opened_volume(project: Path, source: str) -> Iterator[int]:
    """Open the volume ``source`` of the project folder ``project``, as a path (``O_PATH``).

    Containers of this host may write to it, and put links into it at any moment: what is in it is to be
    opened from this descriptor, without links. Raises OSError, RuntimeError for links that go in a circle,
    and KvmComposeError for what cannot be sent.
    """
    top = project.resolve()
    whole = (project / source).resolve(strict=True)
    if not whole.is_relative_to(top):
        raise KvmComposeError(
            f"the volume {source} is a link out of the project folder",
            hint=f"replace it by what it points to, {_HERE}",
        )
    inside = str(whole.relative_to(top))
    if not _OURS.isdisjoint({inside, inside.partition("/")[0]}):
        raise KvmComposeError(
            f"the volume {source} has artefacts in it, which other hosts are not sent as a whole",
            hint=f"mount a folder of its own, {_HERE}",
        )
    with ExitStack() as stack:
        folder = open_folder(top)
        stack.callback(os.close, folder)
        volume = open_below(folder, inside, os.O_PATH)
        stack.callback(os.close, volume)
        yield volume


def read_tree(project: Path, source: str, digest: Callable[[str, int], str]) -> VolumeTree:
    """Return what is in the volume ``source`` of the project folder ``project``.

    ``digest`` returns the SHA-256 of a file of the project by its path and a descriptor of it. Links in a
    volume are not followed. Raises KvmComposeError for what cannot be sent.
    """
    try:
        entries = {}
        with opened_volume(project, source) as volume:
            for path, entry in _entries(volume, source, digest):
                entries[path] = entry
                if len(entries) > MOST_ENTRIES:
                    raise KvmComposeError(
                        f"the volume {source} has more than {MOST_ENTRIES} files",
                        hint=f"mount folders with fewer files, {_HERE}",
                    )
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go in a circle
        why = error.strerror if isinstance(error, OSError) else "its links go in a circle"
        name = os.fspath(getattr(error, "filename", None) or source)
        raise KvmComposeError(f"the volume {source} cannot be read: {in_one_line(name)}: {why}") from error
    return entries


def _entries(
    volume: int, source: str, digest: Callable[[str, int], str]
) -> Iterator[tuple[str, VolumeEntry]]:
    status = os.fstat(volume)
    if stat.S_ISREG(status.st_mode):
        yield "", _file(status, source, volume, digest)
        return
    if not stat.S_ISDIR(status.st_mode):
        raise _unfit(source, status.st_mode)
    yield "", VolumeEntry("folder", status.st_mode & 0o777)
    for where, folders, files, handle in os.fwalk(".", onerror=_raise, follow_symlinks=False, dir_fd=volume):
        prefix = where[2:] + "/" if where != "." else ""
        folders.sort()
        for name in sorted([*folders, *files]):
            path = prefix + name
            try:
                path.encode()
            except UnicodeEncodeError:
                raise KvmComposeError(
                    f"the volume {source} has a file whose name is not UTF-8: {path!r}",
                    hint=f"rename it, {_HERE}",
                ) from None
            yield path, _entry(f"{source}/{path}", name, handle, digest)


def _raise(error: OSError) -> None:
    raise error


def _entry(path: str, name: str, folder: int, digest: Callable[[str, int], str]) -> VolumeEntry:
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(handle)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink("", dir_fd=handle)
            try:
                target.encode()
            except UnicodeEncodeError:
                raise KvmComposeError(f"{path!r} is a link to a name that is not UTF-8") from None
            return VolumeEntry("link", 0o777, target)
        if stat.S_ISDIR(status.st_mode):
            return VolumeEntry("folder", status.st_mode & 0o777)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, status.st_mode)
        return _file(status, path, handle, digest)
    finally:
        os.close(handle)


def _file(status: os.stat_result, path: str, handle: int, digest: Callable[[str, int], str]) -> VolumeEntry:
    try:
        return VolumeEntry("file", status.st_mode & 0o777, digest(path, handle), status.st_size)
    except OSError as error:
        error.filename = path  # it was opened by its descriptor
        raise


def _unfit(shown: str, mode: int) -> KvmComposeError:
    return KvmComposeError(
        f"{shown!r} is {kind_of(mode)}, which other hosts cannot be sent", hint=f"remove it, {_HERE}"
    )


class VolumeChange(msgspec.Struct, frozen=True):
    """What a host lacks of a volume.

    ``put`` are the paths of what is sent, each folder before what is in it. ``dropped`` are those of what it
    was sent and is no longer to have, what is in a folder before it.
    """

    put: tuple[str, ...]
    dropped: tuple[str, ...]


def difference(wanted: VolumeTree, sent: VolumeTree) -> VolumeChange:
    """Return what has to be sent where ``sent`` was before."""
    other = [path for path, each in sent.items() if path not in wanted or wanted[path].kind != each.kind]
    return VolumeChange(
        put=tuple(path for path, each in wanted.items() if sent.get(path) != each),
        dropped=tuple(sorted(other, key=lambda path: path.count("/") + bool(path), reverse=True)),
    )
