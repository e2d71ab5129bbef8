"""Volumes of containers on other hosts: these have copies of folders and files of the project."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.volume_tree import VolumeChange, VolumeTree, difference, read_tree
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


def sources(guest: LoadedGuest) -> Iterator[str]:
    """Yield the paths of the project that a container has mounted, as normal paths."""
    if isinstance(guest.run, ContainerGuest):
        for mount in guest.run.mounts:
            if not mount.source.startswith("/"):
                yield posixpath.normpath(mount.source)


def volumes_on(testbed: LoadedTestbed, host: str) -> tuple[str, ...]:
    """Return the volumes that a host is sent: those that are in no other one. A main host is sent none.

    Neither are hosts of a member's testbed.
    """
    if host == testbed.main_host.name or testbed.source.member is not None:
        return ()
    guests = (guest for guest in testbed.by_host.get(host, ()) if guest.is_started)
    return tuple(_outermost({source for guest in guests for source in sources(guest)}))


def volumes_of(testbed: LoadedTestbed, guest: LoadedGuest) -> tuple[str, ...]:
    """Return those of these volumes that a guest needs."""
    mounted = tuple(sources(guest))
    return tuple(
        volume
        for volume in volumes_on(testbed, guest.state.testbed_host)
        if any(is_in(source, volume) for source in mounted)
    )


def is_in(source: str, volume: str) -> bool:
    """Return whether a path is a volume, or in it."""
    return volume in {".", source} or source.startswith(f"{volume}/")


def _outermost(paths: Iterable[str]) -> Iterator[str]:
    found: list[str] = []
    for path in sorted(paths, key=lambda path: (path != ".", path.split("/"))):
        if not found or not is_in(path, found[-1]):
            found.append(path)
            yield path


class HostVolumes(msgspec.Struct, frozen=True, kw_only=True):
    """The volumes of one host. ``sent`` is what it has been sent of them, by volume.

    ``wanted`` is what they have in the project; those that cannot be sent are in ``flaws``, with the reason
    and a hint.
    """

    wanted: Mapping[str, VolumeTree] = {}
    sent: Mapping[str, VolumeTree] = {}
    flaws: Mapping[str, tuple[str, str | None]] = {}

    def change(self, volume: str) -> VolumeChange:
        """Return what the host lacks of a volume."""
        return difference(self.wanted.get(volume, {}), self.sent.get(volume, {}))

    @property
    def lacking_bytes(self) -> int:
        """How much is to be sent."""
        return sum(
            tree[path].size for volume, tree in self.wanted.items() for path in self.change(volume).put
        )


async def read_volumes(testbed: LoadedTestbed, host: str, sent: Mapping[str, VolumeTree]) -> HostVolumes:
    """Return the volumes of a host that has been ``sent`` these."""
    return await in_thread(lambda: _read(testbed, host, sent))


def _read(testbed: LoadedTestbed, host: str, sent: Mapping[str, VolumeTree]) -> HostVolumes:
    wanted: dict[str, VolumeTree] = {}
    flaws: dict[str, tuple[str, str | None]] = {}
    guests = [guest for guest in testbed.by_host.get(host, ()) if guest.is_started]
    for volume in volumes_on(testbed, host):
        try:
            wanted[volume] = read_tree(testbed.source.location, volume, testbed.source.digest)
            for source in sorted(
                {each for guest in guests for each in sources(guest) if is_in(each, volume)}
            ):
                _check_inner(wanted[volume], volume, source)
        except KvmComposeError as error:
            flaws[volume] = (error.message, error.hint)
    return HostVolumes(wanted=wanted, sent=sent, flaws=flaws)


def _check_inner(tree: VolumeTree, volume: str, source: str) -> None:
    """Raise KvmComposeError for a volume in another one that is reached by a link: the engine follows it."""
    steps = source.removeprefix(volume).strip("/").split("/")
    paths = ("/".join(steps[:count]) for count in range(1, len(steps) + 1))
    if any(path and path in tree and tree[path].kind == "link" for path in paths):
        raise KvmComposeError(
            f"the volume {source} is reached by a link in the volume {volume}, which is not sent",
            hint="name in `source` what the link points to",
        )
