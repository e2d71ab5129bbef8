"""The blob store of a simulated host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from kvmcompose.hosts.blob_store import HOSTED, Blob, FileSize, Inventory
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDisk
from kvmcompose.images.qcow2 import read_header


class FakeBlobStore:
    """See ``BlobStore``. Nothing is sent, only counted."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def inspect(self, project: str, home: str) -> Inventory:
        await self._host.call("look", project)
        world = self._host.world
        if world.homes.get(project, home) != home:
            raise DriverError(f"{project} belongs to another main host")
        delivered = world.delivered.get(project, {})
        return Inventory(
            stored=frozenset(world.blobs),
            delivered=dict(delivered),
            linked=frozenset(path for path in delivered if f"{HOSTED}/{project}/{path}" not in world.disks),
            room=1 << 50,
        )

    async def open(self, project: str, home: str) -> None:
        await self._host.call("open_depot", project)
        self._host.world.homes[project] = home
        self._host.world.delivered.setdefault(project, {})
        self._host.keep(("homes", project), ("delivered", project))

    async def store(self, digest: str, source: Path, progress: Callable[[int], None]) -> None:
        await self._host.call("store", source.name)
        size = source.stat().st_size  # noqa: ASYNC240 (a fake may)
        progress(size)
        self._host.world.blobs[digest] = size
        self._host.keep(("blobs", digest))

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        await self._host.call("link", project)
        self._host.world.delivered[project].update(links)
        self._host.keep(*(("delivered", project, path) for path in links))

    async def put(self, project: str, files: Mapping[str, Blob], progress: Callable[[int], None]) -> None:
        for path, blob in files.items():
            await self._host.call("put", path)
            self._host.world.delivered[project][path] = blob.digest
            there = str(HOSTED / project / path)
            self._host.world.disks.pop(there, None)
            known = self._host.main_disk(blob.source)  # with what a guest has written to it
            if blob.source.exists():  # one that was fetched does not
                progress(blob.source.stat().st_size)
                header = read_header(blob.source)
                if header.format == "qcow2" and (known is None or not known.size):
                    known = known or FakeDisk()
                    known.size, known.backing = header.virtual_size, header.backing_file
                    known.backing_format = header.backing_format
            if known is not None:
                self._host.world.disks[there] = known
            self._host.keep(("delivered", project, path), ("disks", there))

    async def measure(self, project: str, path: str) -> FileSize:
        await self._host.call("measure", path)
        size = len(self._content(project, path))
        return FileSize(size, size)

    async def digest(self, project: str, path: str, size: FileSize) -> str:  # noqa: ARG002
        await self._host.call("digest", path)
        return hashlib.sha256(self._content(project, path)).hexdigest()

    async def fetch(
        self, project: str, path: str, blob: Blob, size: FileSize, progress: Callable[[int], None]
    ) -> None:
        await self._host.call("fetch", path)
        progress(size.length)
        self._host.arrive(blob.source, self._disk(project, path))

    def _disk(self, project: str, path: str) -> FakeDisk:
        disk = self._host.world.disks.get(str(HOSTED / project / path))
        if disk is None:
            raise DriverError(f"{path} is not there")
        return disk

    def _content(self, project: str, path: str) -> bytes:
        return msgspec.json.encode(self._disk(project, path))

    async def note(self, project: str, path: str, digest: str) -> None:
        await self._host.call("note", path)
        self._host.world.delivered[project][path] = digest
        self._host.keep(("delivered", project, path))

    async def check_images(self, project: str, paths: Collection[str]) -> None:  # noqa: ARG002
        await self._host.call("check_images", project)

    async def clear(self, project: str) -> None:
        await self._host.call("clear_depot", project)
        self._host.world.delivered.pop(project, None)
        self._host.world.homes.pop(project, None)
        self._host.world.volumes.pop(project, None)
        gone = [path for path in self._host.world.disks if Path(path).is_relative_to(HOSTED / project)]
        for path in gone:
            del self._host.world.disks[path]
        places = [(field, project) for field in ("delivered", "homes", "volumes")]
        self._host.keep(*places, *(("disks", path) for path in gone))
