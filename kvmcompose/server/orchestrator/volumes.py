"""Volumes of containers and shares of domains on other hosts: copies of folders and files of the project."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.volume_tree import VolumeChange, VolumeTree, difference, read_tree
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: The volumes of each host, by testbed.
_known: WeakKeyDictionary[LoadedTestbed, Mapping[str, Collection[str]]] = WeakKeyDictionary()


def sources(guest: LoadedGuest) -> Iterator[str]:
    """Yield the paths of the project that a guest has mounted, as normal paths."""
    for mount in guest.run.mounts if guest.run is not None else ():
        if not mount.source.startswith("/"):
            yield posixpath.normpath(mount.source)


def volumes_on(testbed: LoadedTestbed, host: str) -> Collection[str]:
    """Return the volumes that a host is sent: those that are in no other one. A main host is sent none.

    Neither are hosts of a member's testbed.
    """
    if testbed not in _known:
        _known[testbed] = {} if testbed.source.member is not None else dict(_of_hosts(testbed))
    return _known[testbed].get(host, ())


def _of_hosts(testbed: LoadedTestbed) -> Iterator[tuple[str, Collection[str]]]:
    for host, guests in testbed.by_host.items():
        if host != testbed.main_host.name:
            yield host, _outermost({each for guest in guests if guest.is_started for each in sources(guest)})


def _outermost(paths: Iterable[str]) -> Collection[str]:
    found: dict[str, None] = {}
    for path in sorted(paths, key=lambda path: (path != ".", path.count("/"), path)):
        if volume_of(path, found) is None:
            found[path] = None
    return dict.fromkeys(sorted(found))


def volume_of(source: str, volumes: Collection[str]) -> str | None:
    """Return which of the volumes a path is in, or is."""
    steps = source.split("/")
    paths = (".", *("/".join(steps[:count]) for count in range(1, len(steps) + 1)))
    return next((path for path in paths if path in volumes), None)


def volumes_of(testbed: LoadedTestbed, guest: LoadedGuest) -> Collection[str]:
    """Return those of these volumes that a guest needs."""
    volumes = volumes_on(testbed, guest.state.testbed_host)
    found = (volume_of(source, volumes) for source in sources(guest))
    return dict.fromkeys(each for each in found if each is not None)


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
    volumes = volumes_on(testbed, host)
    inner: dict[str | None, set[str]] = {}
    for guest in testbed.by_host.get(host, ()):
        for source in sources(guest) if guest.is_started else ():
            inner.setdefault(volume_of(source, volumes), set()).add(source)
    for volume in volumes:
        try:
            wanted[volume] = read_tree(testbed.source.location, volume, testbed.source.digest)
            for source in sorted(inner[volume]):
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
