"""Volumes of containers on another host: copies of folders and files of the project, in its folder there.

What is sent is put in place by a program on the host (``_volume_program``), which needs Python there. A
volume stays until the project's folder is removed (``BlobStore.clear``), with what containers wrote to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from kvmcompose.effects.opening import open_regular, open_regular_below
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts import _volume_program
from kvmcompose.hosts.blob_store import Blob
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.remote_blobs import PIECE, SMALL, RemoteBlobStore
from kvmcompose.hosts.volume_tree import VolumeChange, VolumeEntry, VolumeTree, in_one_line, opened_volume

_T = TypeVar("_T")

#: The most entries in one call.
_MOST = 2000


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a container had made or changed at ``path`` is beside it, under ``name``."""

    path: str
    name: str


class VolumeStore(Protocol):
    """The volumes on one host."""

    async def look(self, project: str) -> Mapping[str, VolumeTree]:
        """Return what was sent of the volumes that are there, by volume. Raises DriverError."""

    async def put(
        self,
        project: str,
        source: str,
        folder: Path,
        tree: VolumeTree,
        change: VolumeChange,
        progress: Callable[[int], None],
    ) -> Sequence[Kept]:
        """Send what has changed of the volume ``source`` of the project, whose folder here is ``folder``.

        What containers have made stays. ``progress`` is called with the number of bytes of each piece. When
        interrupted, the next call finishes it. Raises DriverError.
        """


class _Done(msgspec.Struct, frozen=True):
    kept: list[Kept]


class _Request(msgspec.Struct, frozen=True):
    """What the program is asked for. A file whose content was sent before has the name that it has there."""

    source: str
    drop: tuple[str, ...]
    put: list[tuple[str, VolumeEntry, str | None]]
    last: bool


class RemoteVolumeStore:
    """See ``VolumeStore``."""

    def __init__(self, blobs: RemoteBlobStore) -> None:
        self._blobs = blobs

    async def look(self, project: str) -> Mapping[str, VolumeTree]:
        """Ask the program."""
        printed = await self._run(project, "look")
        return self._decoded(printed, dict[str, dict[str, VolumeEntry]])

    async def put(
        self,
        project: str,
        source: str,
        folder: Path,
        tree: VolumeTree,
        change: VolumeChange,
        progress: Callable[[int], None],
    ) -> Sequence[Kept]:
        """Send large files by themselves, resumable, and the others with what is put in place at once."""
        with ExitStack() as stack:
            try:
                volume = await in_thread(stack.enter_context, opened_volume(folder, source))
            except (OSError, RuntimeError) as error:
                raise DriverError(f"the volume {source} cannot be read: {error}") from error
            return await self._put(project, _Here(source, volume), tree, change, progress)

    async def _put(
        self,
        project: str,
        here: _Here,
        tree: VolumeTree,
        change: VolumeChange,
        progress: Callable[[int], None],
    ) -> Sequence[Kept]:
        kept: list[Kept] = []
        batches = list(_batches([(path, tree[path]) for path in change.put]))
        for number, batch in enumerate(batches):
            sent: dict[str, str] = {}
            for path, entry in batch:
                if _is_large(entry):
                    sent[path] = f"sent-{len(sent)}"
                    place = f"{_volume_program.PLACE}/{sent[path]}"
                    with await in_thread(here.open, path) as file:
                        # the file that is open, whatever its name becomes
                        source = Path(f"/proc/self/fd/{file.fileno()}")
                        blob = Blob(entry.value, source, shown=here.shown(path))
                        await self._blobs.stage(project, place, blob, progress)
            request = _Request(
                source=here.source,
                drop=change.dropped if number == 0 else (),
                put=[(path, entry, sent.get(path)) for path, entry in batch],
                last=number == len(batches) - 1,
            )
            carried = await in_thread(_contents, here, request)
            printed = await self._run(project, "put", msgspec.json.encode(request) + b"\n" + carried)
            progress(len(carried))
            kept += self._decoded(printed, _Done).kept
        return kept

    async def _run(self, project: str, action: str, stdin: bytes | None = None) -> bytes:
        source = await in_thread(_program)
        done = await self._blobs.run_program(source, project, action, stdin=stdin)
        if done.status != 0:
            raise DriverError(f"cannot put volumes in place on {self._blobs.host}: {done.complaint}")
        return done.stdout

    def _decoded(self, printed: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(printed, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DriverError(
                f"the record of volumes on {self._blobs.host} cannot be read: {error}"
            ) from error


@cache
def _program() -> str:
    return Path(_volume_program.__file__).read_text()


def _is_large(entry: VolumeEntry) -> bool:
    return entry.kind == "file" and entry.size > SMALL


def _batches(entries: Sequence[tuple[str, VolumeEntry]]) -> Iterator[Sequence[tuple[str, VolumeEntry]]]:
    """Yield entries in their order, with at most a piece of content each; at least one batch."""
    batch: list[tuple[str, VolumeEntry]] = []
    size = 0
    for path, entry in entries:
        more = entry.size if not _is_large(entry) else 0
        if batch and (size + more > PIECE or len(batch) == _MOST):
            yield batch
            batch, size = [], 0
        batch.append((path, entry))
        size += more
    yield batch


class _Here(msgspec.Struct, frozen=True):
    """A volume on the main host, whose containers may write to it: ``handle`` is its descriptor."""

    source: str
    handle: int

    def open(self, path: str) -> BinaryIO:
        """Open a regular file, following no link. Raises DriverError."""
        try:
            if path:
                return os.fdopen(open_regular_below(self.handle, path), "rb")
            return os.fdopen(open_regular(f"/proc/self/fd/{self.handle}"), "rb")
        except OSError as error:
            raise DriverError(f"cannot read {self.shown(path)}: {error.strerror}") from error

    def shown(self, path: str) -> str:
        """Return a path for messages."""
        return in_one_line(f"{self.source}/{path}" if path else self.source)


def _contents(here: _Here, request: _Request) -> bytes:
    """Return the contents of the files that are carried. Raises DriverError."""
    found = []
    for path, entry, sent in request.put:
        if entry.kind != "file" or sent is not None:
            continue
        with here.open(path) as file:
            data = file.read(entry.size + 1)
        if len(data) != entry.size:
            text = f"{here.shown(path)} changed while it was sent"
            raise DriverError(text, hint="run kvm-compose up again")
        found.append(data)
    return b"".join(found)
