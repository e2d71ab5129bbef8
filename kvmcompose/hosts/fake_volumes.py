"""The volumes on a simulated host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.volume_store import Kept
from kvmcompose.hosts.volume_tree import VolumeChange, VolumeTree


class FakeVolumeStore:
    """See ``VolumeStore``. Nothing is sent, only counted."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def look(self, project: str) -> Mapping[str, VolumeTree]:
        await self._host.call("look_at_volumes", project)
        return {source: dict(tree) for source, tree in self._host.world.volumes.get(project, {}).items()}

    async def put(
        self,
        project: str,
        source: str,
        folder: Path,  # noqa: ARG002 (its digests were taken before)
        tree: VolumeTree,
        change: VolumeChange,
        progress: Callable[[int], None],
    ) -> Sequence[Kept]:
        await self._host.call("put_volume", source)
        known = self._host.world.volumes.setdefault(project, {}).setdefault(source, {})
        for path in change.dropped:
            known.pop(path, None)
        for path in change.put:
            known[path] = tree[path]
            progress(tree[path].size)
        self._host.keep(("volumes", project, source))
        return []
