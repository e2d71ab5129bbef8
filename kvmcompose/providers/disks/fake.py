"""Disk images of a simulated host."""

from __future__ import annotations

from pathlib import Path

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import HOSTED
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDisk
from kvmcompose.images.qcow2 import ImageHeader, read_header


class FakeDisks:
    """See ``Disks``. The real files of the project are left alone."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def _disk(self, path: Path) -> FakeDisk:
        return self._host.world.disks.setdefault(str(path), FakeDisk())

    async def pristine(self, path: Path) -> bool:
        await self._host.call("pristine", path.name)
        if not path.is_relative_to(HOSTED) and not await in_thread(path.exists):  # built by the real build
            raise DriverError(f"{path} does not exist")
        if path.is_relative_to(HOSTED) and str(path) not in self._host.world.disks:
            raise DriverError(f"cannot read {path}: too many levels of symbolic links")  # what is shared
        return not self._disk(path).written

    async def reset_overlay(self, path: Path, *, blank: bool = False) -> None:  # noqa: ARG002
        await self._host.call("reset_overlay", path.name)
        old = self._disk(path)
        new = FakeDisk(
            version=old.version + 1,
            size=old.size,
            backing=old.backing,
            backing_format=old.backing_format,
        )
        self._host.world.disks[str(path)] = new
        self._host.keep(("disks", str(path)))

    async def ready_nvram(self, path: Path, *, fresh: bool) -> None:
        await self._host.call("ready_nvram", path.name)
        if fresh:
            self._host.world.disks.pop(str(path), None)
            self._host.keep(("disks", str(path)))

    async def ready_raw(self, path: Path, size: int) -> None:
        await self._host.call("ready_raw", path.name)
        disk = self._disk(path)
        disk.size = max(size, disk.size)
        self._host.keep(("disks", str(path)))

    async def length(self, path: Path) -> int:
        await self._host.call("length", path.name)
        return self._disk(path).size

    async def replace(self, path: Path, staged: Path) -> None:
        await self._host.call("replace_disk", path.name)
        self._host.world.disks[str(path)] = self._host.world.disks.pop(str(staged))
        self._host.keep(("disks", str(path)), ("disks", str(staged)))

    async def header(self, path: Path) -> ImageHeader:
        await self._host.call("header", path.name)
        disk = self._disk(path)
        if not disk.size and path.is_file():  # noqa: ASYNC240 (one that was built here)
            return read_header(path)
        return ImageHeader(
            format="qcow2",
            virtual_size=disk.size,
            backing_file=disk.backing,
            backing_format=disk.backing_format,
        )

    async def grow(self, path: Path, size: int) -> None:
        await self._host.call("grow", path.name)
        self._disk(path).size = size
        self._host.keep(("disks", str(path)))

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        await self._host.call("set_frozen", path.name)
        self._disk(path).frozen = frozen
        self._host.keep(("disks", str(path)))

    async def signature(self, path: Path) -> str:
        await self._host.call("signature", path.name)
        return str(self._disk(path).version)

    async def remove(self, path: Path) -> None:
        await self._host.call("remove_disk", path.name)
        self._host.world.disks.pop(str(path), None)
        self._host.keep(("disks", str(path)))
        if path.is_relative_to(HOSTED):  # a record counts while its file exists
            project, *rest = path.relative_to(HOSTED).parts
            if self._host.world.delivered.get(project, {}).pop("/".join(rest), None) is not None:
                self._host.keep(("delivered", project, "/".join(rest)))
