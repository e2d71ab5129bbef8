"""Files of a host that is not there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from kvmcompose.server.drivers import (
    Content,
    DriverError,
    Holdings,
)
from kvmcompose.server.drivers.fake.world import FakeDisk, FakeHost


class FakeDisks:
    """See ``Disks``. The files of the project are left alone."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def _disk(self, path: Path) -> FakeDisk:
        return self._host.world.disks.setdefault(path.name, FakeDisk())

    async def link_project(self, project: str, folder: Path, before: Path | None = None) -> None:  # noqa: ARG002
        """Note the folder."""
        await self._host.call("link_project", project)
        self._host.world.projects[project] = str(folder)
        self._host.keep()

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Forget it."""
        await self._host.call("unlink_project", project)
        if self._host.world.projects.get(project) == str(folder):
            del self._host.world.projects[project]
        self._host.keep()

    async def pristine(self, path: Path) -> bool:
        """Whether no fake guest has had it."""
        await self._host.call("pristine", path.name)
        return not self._disk(path).written

    async def reset_overlay(self, path: Path) -> None:
        """Empty it."""
        await self._host.call("reset_overlay", path.name)
        self._host.world.disks[path.name] = FakeDisk(version=self._disk(path).version + 1)
        self._host.keep()

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Note it."""
        await self._host.call("set_frozen", path.name)
        self._disk(path).frozen = frozen
        self._host.keep()

    async def signature(self, path: Path) -> str:
        """Its version."""
        await self._host.call("signature", path.name)
        return str(self._disk(path).version)

    async def remove(self, path: Path) -> None:
        """Forget it; the file stays."""
        await self._host.call("remove_disk", path.name)
        self._host.world.disks.pop(path.name, None)
        self._host.keep()

    async def read_tail(self, path: Path, lines: int) -> str:
        """What a fake console shows."""
        await self._host.call("read_tail", path.name)
        return "\n".join(["(a fake console)"][:lines])


class FakeDepot:
    """See ``Depot``. Nothing is sent; what would be is counted."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def look(self, project: str, home: str) -> Holdings:
        """What has come."""
        await self._host.call("look", project)
        world = self._host.world
        if world.homes.get(project, home) != home:
            raise DriverError(f"{project} is another main host's")
        return Holdings(
            stored=frozenset(world.depot), delivered=dict(world.delivered.get(project, {})), room=1 << 50
        )

    async def open(self, project: str, home: str) -> None:
        """Note whose it is."""
        await self._host.call("open_depot", project)
        self._host.world.homes[project] = home
        self._host.world.delivered.setdefault(project, {})
        self._host.keep()

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Count it."""
        await self._host.call("store", source.name)
        size = source.stat().st_size  # noqa: ASYNC240 (a fake may)
        told(size)
        self._host.world.depot[digest] = size
        self._host.keep()

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Note them."""
        await self._host.call("link", project)
        self._host.world.delivered[project].update(links)
        self._host.keep()

    async def put(self, project: str, files: Mapping[str, Content], told: Callable[[int], None]) -> None:
        """Note them; a disk is a new one."""
        for path, content in files.items():
            await self._host.call("put", path)
            told(content.source.stat().st_size)
            self._host.world.delivered[project][path] = content.digest
            self._host.world.disks.pop(path.rpartition("/")[2], None)
            self._host.keep()

    async def check_images(self, project: str, paths: Collection[str]) -> None:  # noqa: ARG002
        """Nothing was sent that could be looked at."""
        await self._host.call("check_images", project)

    async def clear(self, project: str) -> None:
        """All that was delivered goes."""
        await self._host.call("clear_depot", project)
        self._host.world.delivered.pop(project, None)
        self._host.world.homes.pop(project, None)
        self._host.keep()
