"""Blobs on the main host, for a user who is no administrator: read with that user's rights, kept as root's.

The tree is that of any other host (``remote_blobs``). libvirt and qemu-img open what is in it, and the user
can create no link there. Images are checked in the tree, where they cannot change any more.
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
from kvmcompose.hosts.blob_commands import PRIVATE
from kvmcompose.hosts.blob_store import HOSTED, STORE, Blob
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.remote_blobs import RemoteBlobStore
from kvmcompose.images.qcow2 import read_header


class LocalBlobStore(RemoteBlobStore):
    """See ``BlobStore``."""

    def __init__(
        self, runner: CommandRunner, files: OwnerFiles, hosted: Path = HOSTED, store: Path = STORE
    ) -> None:
        super().__init__(runner, hosted, store)
        self._files = files

    async def open(self, project: str, home: str) -> None:
        """Create the folders for root; others may traverse them, and list none."""
        await asyncio.to_thread(self._open, self._once.folder(project), home)

    def _open(self, folder: Path, home: str) -> None:
        self._hosted.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        private = folder / PRIVATE
        for each in (self._hosted, self._store, folder, private, private / "consoles", folder / "artefacts"):
            if each.is_symlink():
                raise DriverError(f"{each} is a link", hint=f"rm {each}")
            each.mkdir(mode=0o711, exist_ok=True)
            if each != self._store:  # other main hosts that send to this one list it
                each.chmod(0o711)
        os.chown(folder, 0, 0)
        staged = private / "home.part"
        staged.write_text(home)
        staged.replace(private / "home")

    async def put(self, project: str, files: Mapping[str, Blob], progress: Callable[[int], None]) -> None:
        """Copy files. Existing ones are removed first: a record without a file counts for nothing."""
        folder = self._once.folder(project)
        targets = {path: self._once.inside(folder, path) for path in files}
        async with self._noting:
            noted = await self._once.notes(folder)
            for target in targets.values():
                await asyncio.to_thread(target.unlink, missing_ok=True)
            after = noted | {path: blob.digest for path, blob in files.items()}
            await self._once.write_notes(folder, after)
        for path, blob in files.items():
            # libvirt gives QEMU's user access
            await self._send(blob, targets[path], 0o600, progress)

    async def _send(
        self,
        blob: Blob,
        target: Path,
        mode: int,
        progress: Callable[[int], None],
        *,
        shared: bool = False,  # noqa: ARG002 (everything here is root's)
    ) -> None:
        staged = self._once.part(blob.digest, target).with_name(f"{uuid.uuid4().hex}.incoming")
        try:
            progress(await asyncio.to_thread(self._copy, blob, staged, target, mode))
        except OSError as error:
            raise DriverError(
                f"cannot read {blob.source} with the rights of {self._files.name}: {error.strerror}",
                hint="the user must be able to read it, and it must not be a link to what they cannot read",
            ) from error

    def _copy(self, blob: Blob, staged: Path, target: Path, mode: int) -> int:
        found, at, sent = hashlib.sha256(), 0, 0
        try:
            with staged.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                for offset, data in self._files.pieces(blob.source):
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
            if found.hexdigest() != blob.digest:
                raise DriverError(f"{blob.source} changed while it was read", hint="run kvm-compose up again")
            target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
        return sent

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Check that QEMU would open no file outside the project because an image names it."""
        await asyncio.to_thread(check_images, self._once.folder(project), paths)


def check_images(tree: Path, paths: Collection[str]) -> None:
    """Raise DriverError for an image that names files outside the tree, or lets QEMU guess a format."""
    for path in paths:
        try:
            header = read_header(tree / path)
        except KvmComposeError as error:
            raise DriverError(error.message, hint=error.hint) from error
        if header.data_file is not None:
            raise DriverError(f"{path} has an external data file, {header.data_file}")
        backing = header.backing_file
        if backing is None:
            continue
        below = posixpath.normpath(posixpath.join(posixpath.dirname(path), backing))
        if backing.startswith("/") or ":" in backing or below not in paths:
            raise DriverError(
                f"{path} has the backing file {backing}, which is not one of the project's images",
                hint="kvm-compose generate --provision rebuilds the disk",
            )
        if header.backing_format not in ("qcow2", "raw"):
            raise DriverError(f"{path} does not name the format of its backing file")
        if below.endswith(".iso") and header.backing_format != "raw":  # a guest may have written to it
            raise DriverError(f"{path} names the format {header.backing_format} for {backing}, which is raw")
