"""What a root's server is sent by a member on its own machine: read with the member's rights, kept as root's.

The tree is that of a host that is not the main host (``depot``). libvirt and qemu-img open what is in it, and
a member makes no link there. What was delivered is looked at in the tree, where it cannot change any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.blob_store import HOSTED, STORE, Blob
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.remote_blobs import RemoteBlobStore
from kvmcompose.images.qcow2 import read_header

_PRIVATE = ".kvm-compose"


class LocalBlobStore(RemoteBlobStore):
    """See ``BlobStore``."""

    def __init__(
        self, machine: CommandRunner, files: OwnerFiles, hosted: Path = HOSTED, store: Path = STORE
    ) -> None:
        super().__init__(machine, hosted, store)
        self._files = files

    async def open(self, project: str, home: str) -> None:
        """Everything is root's; others may pass through folders, and list none."""
        await asyncio.to_thread(self._open, self._folder(project), home)

    def _open(self, folder: Path, home: str) -> None:
        self._hosted.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        private = folder / _PRIVATE
        for each in (self._hosted, self._store, folder, private, private / "consoles", folder / "artefacts"):
            if each.is_symlink():
                raise DriverError(f"{each} is a link", hint=f"rm {each}")
            each.mkdir(mode=0o711, exist_ok=True)
            if each != self._store:  # whoever sends to this host lists it
                each.chmod(0o711)
        os.chown(folder, 0, 0)
        staged = private / "home.part"
        staged.write_text(home)
        staged.replace(private / "home")

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Copy it, unless it is there."""
        async with self._sending[digest]:
            if not await self._is_stored(digest):
                goal = self._content(digest)
                told(await self._copy(Blob(digest, source), self._store, goal, 0o444))

    async def put(self, project: str, files: Mapping[str, Blob], told: Callable[[int], None]) -> None:
        """Those that are there go first: a note of what is not there counts for nothing."""
        folder = self._folder(project)
        goals = {path: self._inside(folder, path) for path in files}
        async with self._noting:
            noted = await self._notes(folder)
            for goal in goals.values():
                await asyncio.to_thread(goal.unlink, missing_ok=True)
            after = noted | {path: content.digest for path, content in files.items()}
            await self._write_notes(folder, after)
        for path, content in files.items():
            # libvirt gives QEMU's user what it needs
            told(await self._copy(content, folder / _PRIVATE, goals[path], 0o600))

    async def _copy(self, content: Blob, staging: Path, goal: Path, mode: int) -> int:
        staged = staging / f"{uuid.uuid4().hex}.incoming"
        try:
            return await asyncio.to_thread(self._take, content, staged, goal, mode)
        except OSError as error:
            raise DriverError(
                f"cannot read {content.source} with the rights of {self._files.name}: {error.strerror}",
                hint="is it theirs, and no link to what they may not read?",
            ) from error

    def _take(self, content: Blob, staged: Path, goal: Path, mode: int) -> int:
        found, at, sent = hashlib.sha256(), 0, 0
        try:
            with staged.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                for offset, data in self._files.pieces(content.source):
                    while at < offset:
                        step = min(offset - at, 1 << 20)
                        found.update(bytes(step))
                        at += step
                    found.update(data)
                    file.seek(offset)
                    file.write(data)
                    at += len(data)
                    sent += len(data)
                file.truncate(at)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), mode)
            if found.hexdigest() != content.digest:
                raise DriverError(f"{content.source} changed while it was read", hint="kvm-compose up, again")
            goal.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            staged.replace(goal)
        finally:
            staged.unlink(missing_ok=True)
        return sent

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """What QEMU would open because an image names it must be the project's own. Raises DriverError."""
        await asyncio.to_thread(check_images, self._folder(project), paths)


def check_images(tree: Path, paths: Collection[str]) -> None:
    """Raise DriverError for an image that names files outside the tree, or that lets QEMU guess a format."""
    for path in paths:
        try:
            header = read_header(tree / path)
        except KvmComposeError as error:
            raise DriverError(error.message, hint=error.hint) from error
        if header.data_file is not None:
            raise DriverError(f"{path} keeps its data in another file, {header.data_file}")
        backing = header.backing_file
        if backing is None:
            continue
        below = posixpath.normpath(posixpath.join(posixpath.dirname(path), backing))
        if backing.startswith("/") or ":" in backing or below not in paths:
            raise DriverError(
                f"{path} has the backing file {backing}, which is none of the project's images",
                hint="kvm-compose generate --provision makes the disk anew",
            )
        if header.backing_format not in ("qcow2", "raw"):
            raise DriverError(f"{path} does not say which format its backing file has")
        if below.endswith(".iso") and header.backing_format != "raw":  # a guest may have written to it
            raise DriverError(f"{path} takes {backing}, which is raw, for {header.backing_format}")
