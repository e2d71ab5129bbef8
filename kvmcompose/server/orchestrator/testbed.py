"""A testbed as the orchestrator sees it: its state, what its guests and networks come to, its files.

Nothing here looks at the YAML: ``state.json`` and the artefacts are all there is.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kvmcompose.core.deployable import (
    DeployableGuest,
    DomainGuest,
    ManagementPort,
    NetworkPlan,
)
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.model import Host
from kvmcompose.core.once import once
from kvmcompose.core.resource import Resource
from kvmcompose.core.seed import SeedContents
from kvmcompose.core.state import GuestState, Shared, State, state_of
from kvmcompose.effects.artefacts import Inspection
from kvmcompose.effects.files import digest_bytes
from kvmcompose.effects.resources import schemas
from kvmcompose.guests import guest_kind
from kvmcompose.hosts.errors import DriverError
from kvmcompose.images.seeds import known_contents, seed_contents
from kvmcompose.networks import dialect
from kvmcompose.pipeline.stored import check_document, read_document
from kvmcompose.providers.guest.interface import Gate, Login, Secret
from kvmcompose.server.orchestrator.project_folder import ProjectFolder

#: What the server keeps in a project folder, beside what the build keeps there.
PRIVATE = ".kvm-compose"
KNOWN_HOSTS = f"{PRIVATE}/known_hosts"

#: Documents that were found sound, by digest: who watches a status has the same one read again and again.
_sound: dict[tuple[str, bool], None] = {}
_sound_guard = threading.Lock()
_MOST_SOUND = 256
#: What documents say, by digest, the newest last: of so many bytes of documents, or of one. It takes ten
#: times as much memory.
_contents: dict[str, _Content] = {}
_MOST_CONTENT = 24 << 20
#: From so many bytes on, the collector leaves out what a document says.
_LARGE = 1 << 20


_T = TypeVar("_T")


class LoadedGuest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A guest and how it is run; ``run`` is None for a kind that no runtime runs.

    ``management`` is the port through which ``address`` is reached, None if it is reached without one.
    """

    state: GuestState
    run: DeployableGuest | None
    address: str | None
    management: ManagementPort | None = None

    @property
    def name(self) -> str:
        """Its name in the YAML."""
        return self.state.name

    @property
    def domain(self) -> DomainGuest | None:
        """How libvirt runs it; None where it does not."""
        return self.run if isinstance(self.run, DomainGuest) else None

    @property
    def golden(self) -> str | None:
        """The golden image it is a clone of."""
        return self.state.extra_info.reference_image

    @property
    def disks(self) -> tuple[str, ...]:
        """The files that it writes to, the boot disk first."""
        return self.run.disks if self.run is not None else ()

    @property
    def image_disks(self) -> tuple[str, ...]:
        """Those that are qcow2 images."""
        return self.run.image_disks if self.run is not None else ()

    @property
    def shared_disks(self) -> dict[str, int]:
        """Those that other guests have as well, with the size that they are to have in bytes."""
        found = self.domain.shared_disks if self.domain is not None else {}
        return {path: each.gigabytes << 30 for path, each in found.items()}

    @property
    def is_started(self) -> bool:
        """Whether ``up`` starts it: it is no golden image, and of a kind that can run."""
        return self.run is not None and not self.state.is_golden_image


class _Content:
    """What a sound document says. It does not change, and is shared by all that read the same document."""

    def __init__(self, document: Any, state: State, size: int) -> None:
        """``size`` is that of the document in bytes. Raises KvmComposeError when its parts do not fit."""
        self.size = size
        self.state = state
        #: The guests as they are in the document.
        self.documents: Mapping[str, dict[str, Any]] = document["testbed_guests"]
        try:
            self.network_plan: NetworkPlan = dialect(self.state.network["dialect"]).network_plan(self.state)
            network = self.network_plan.network
            self._subnet = IPv4Network(network.subnet) if network is not None else None
            shared = self.state.shared
            self.guests: Mapping[str, LoadedGuest] = {
                name: self._guest(state, shared) for name, state in self.state.testbed_guests.items()
            }
        except (KeyError, StopIteration, ValueError, msgspec.MsgspecError) as error:
            raise KvmComposeError(
                f"state.json does not fit together: {error!r}", hint="rebuild it: kvm-compose generate"
            ) from error

    def _guest(self, state: GuestState, shared: Shared) -> LoadedGuest:
        address = next(
            (
                nic.ip
                for nic in state.interfaces
                if nic.bridge in self.network_plan.reachable
                and nic.is_in_reach
                # no other machine is logged into in its name
                and (nic.ip == "dynamic" or self._subnet is None or IPv4Address(nic.ip) in self._subnet)
            ),
            None,
        )
        run = guest_kind(state.kind).deployable(state, shared)
        access = self.network_plan.management.get(state.name) if address is None else None
        if access is None:
            direct = self.network_plan.direct.get(state.name)
            return LoadedGuest(state=state, run=run, address=address or direct)
        return LoadedGuest(state=state, run=run, address=access.address, management=access.port)


class LoadedTestbed:
    """What ``state.json`` and the artefacts of a project folder say."""

    __test__ = False  # not a test, whatever its name

    def __init__(
        self, folder: Path | ProjectFolder, document: bytes, files: dict[str, str] | None = None
    ) -> None:
        """``files`` are the digests of what it was started from, where that is known already: it was checked
        as a whole then, and what is up may be more than the project has now.

        Raises KvmComposeError when the document is no state that a build could have written.
        """
        self.source = folder if isinstance(folder, ProjectFolder) else ProjectFolder(folder)
        self.folder = self.source.work
        self.document = document
        self._files = files
        #: What guests were asked to be, where that is not to run: ``shut off`` or ``paused``.
        self.intents: Mapping[str, str] = {}
        content = _content(document, whole=files is None)
        self.state: State = content.state
        self.project = self.state.project_name
        self.network_plan: NetworkPlan = content.network_plan
        self.guests: Mapping[str, LoadedGuest] = content.guests
        self._content = content

    @property
    def main_host(self) -> Host:
        """The host that the testbed is driven from."""
        return self.state.main_host

    @once
    def runnable(self) -> list[LoadedGuest]:
        """The guests that are started: no golden images, none of a kind that no runtime runs."""
        return [guest for guest in self.guests.values() if guest.is_started]

    def is_in_userspace(self, host: str) -> bool:
        """Whether the switches of a host have their datapath in userspace."""
        found = self.state.testbed_hosts.get(host)
        return found is not None and found.datapath_type == "netdev"

    @once
    def dynamic(self) -> list[LoadedGuest]:
        """The guests that are started and can be reached at an address that DHCP assigns."""
        return [guest for guest in self.runnable if guest.address == "dynamic"]

    @once
    def golden(self) -> list[LoadedGuest]:
        """The golden images that have to be set up before their clones start."""
        return [
            guest
            for guest in self.guests.values()
            if guest.state.is_golden_image and guest.run is not None and guest.run.setup_scripts
        ]

    @once
    def names(self) -> dict[str, str]:
        """The guests' names by the identities that domains, notes and marks have."""
        return {guest.identity: name for name, guest in self.state.testbed_guests.items()}

    @property
    def documents(self) -> Mapping[str, dict[str, Any]]:
        """The guests as they are in ``state.json``."""
        return self._content.documents

    @property
    def has_files(self) -> bool:
        """Whether the artefacts are there that it was read with; what was brought up has their digests."""
        return self._files is None

    @property
    def resources(self) -> Iterator[Resource]:
        """The resources that the network dialect and guest types describe."""
        yield from self.network_plan.resources
        shared = self.state.shared
        for guest in self.guests.values():
            yield from guest_kind(guest.state.kind).resources(guest.state, shared)

    @once
    def runtimes(self) -> Mapping[str, frozenset[str]]:
        """What runs the guests of each host that has some. libvirt has the NAT network, too."""
        pairs = {(each.state.testbed_host, each.run.runtime) for each in self.guests.values() if each.run}
        if self.network_plan.network is not None:
            pairs.add((self.network_plan.network.host, "libvirt"))
        hosts = {host for host, _ in pairs}
        return {host: frozenset(name for other, name in pairs if other == host) for host in sorted(hosts)}

    @once
    def by_host(self) -> Mapping[str, list[LoadedGuest]]:
        """The guests of each host that has some."""
        return _grouped(self.guests.values(), lambda guest: guest.state.testbed_host)

    @once
    def disk_owners(self) -> Mapping[str, LoadedGuest]:
        """The guests by the paths of the disks that they write to: of a shared one, one of them."""
        return {path: guest for guest in self.guests.values() for path in guest.disks}

    @once
    def by_domain(self) -> Mapping[str, LoadedGuest]:
        """The guests by the names of their domains."""
        return {guest.state.domain: guest for guest in self.guests.values()}

    @once
    def _clones(self) -> Mapping[str | None, list[LoadedGuest]]:
        return _grouped(self.guests.values(), lambda guest: guest.golden)

    def clones(self, golden: str) -> list[LoadedGuest]:
        """The clones of a golden image."""
        return self._clones.get(golden, [])

    @property
    def identity_file(self) -> Path:
        """The private key that guests let in."""
        return self.source.key_path(self.state.testbed_guest_shared_config.ssh_private_key_location)

    @once
    def identity(self) -> Secret | None:
        """That key, where it is a member's. Raises DriverError."""
        return self.source.secret(self.identity_file)

    def has_key(self) -> bool:
        """Whether that key is there for those who use it."""
        try:
            return self.identity is not None or self.identity_file.is_file()
        except DriverError:
            return False

    def login(self, guest: LoadedGuest, address: str, gate: Gate | None = None) -> Login:
        """How to get into a guest; ``gate`` is the way through its management port."""
        assert guest.run is not None  # noqa: S101 (only guests that run are logged into)
        return Login(
            guest=guest.name,
            alias=guest.state.domain,
            notes=guest.state.id,
            address=address,
            user=guest.run.username or "root",
            identity_file=self.identity_file,
            identity=self.identity,
            known_hosts=self.folder / KNOWN_HOSTS,
            life=self.seed_digest(guest)[:16],
            gate=gate,
        )

    @once
    def digests(self) -> dict[str, str]:
        """The digests of what guests and networks are started from, by path; disks are left out."""
        if self._files is not None:
            return self._files
        paths = self._network_files
        for guest in self.guests.values():
            if guest.run is not None:
                paths += [path for path in guest.run.files if path not in guest.run.disks]
        found: dict[str, str] = {}
        for path in paths:
            with suppress(OSError):  # what is missing, or no file
                found[path] = self.source.digest(path)
        return found

    @property
    def _network_files(self) -> list[str]:
        network = self.network_plan.network
        return [network.xml] if network is not None else []

    def inspect(self) -> Inspection:
        """What the state speaks of and is not there, or is not as a build leaves it. Raises OSError."""
        paths = dict.fromkeys(self._network_files)
        for guest in self.guests.values():
            if guest.run is not None:
                paths.update(dict.fromkeys((*guest.run.files, *guest.run.main_host_files)))
        return self.source.inspect(paths)

    def read(self, path: str) -> str:
        """The text of an artefact. Raises KvmComposeError."""
        try:
            return self.source.read(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise KvmComposeError(f"{path}: {error}", hint="build it again: kvm-compose generate") from error

    def seed_digest(self, guest: LoadedGuest) -> str:
        """The digest of what a guest is set up with, empty without cloud-init."""
        return self.digests.get(self.seed_path(guest) or "", "")

    def seed_path(self, guest: LoadedGuest) -> str | None:
        """The path of what a guest is set up with: its seed, or the archive of a container; None without."""
        return guest.run.seed if guest.run is not None else None

    def seed_contents(self, guest: LoadedGuest) -> SeedContents | None:
        """What is in a guest's seed, None if that is not known. Reads a file at first."""
        path, digest = self.seed_path(guest), self.seed_digest(guest)
        if path is None or not digest:
            return None
        if path in self.source.to_be_made:
            return self.source.to_be_made[path].seed
        if not self.has_files:
            return known_contents(digest)
        try:
            return seed_contents(digest, lambda: self.source.open(path))
        except OSError:
            return None

    def read_files(self) -> None:
        """Read what can be asked for later without blocking: digests of files, and what is in seeds."""
        _ = self.digests
        for guest in self.guests.values():
            if guest.run is not None and (guest.run.setup_scripts or guest.run.run_scripts):
                self.seed_contents(guest)


def _grouped(guests: Iterable[LoadedGuest], key: Callable[[LoadedGuest], _T]) -> dict[_T, list[LoadedGuest]]:
    found: dict[_T, list[LoadedGuest]] = {}
    for guest in guests:
        found.setdefault(key(guest), []).append(guest)
    return found


def _content(document: bytes, *, whole: bool) -> _Content:
    """Return what a document says, with the checks done once for the same bytes.

    Raises KvmComposeError when the document is no state that a build could have written.
    """
    digest = digest_bytes(document)
    with _sound_guard:
        # what fits together as a whole is sound in its parts
        sound = (digest, True) in _sound or (digest, whole) in _sound
        found = _contents.get(digest)
    if found is None or not sound:
        decoded = read_document(document)
        state = state_of(decoded) if sound else check_document(decoded, document, schemas(), whole=whole)
        found = found or _Content(decoded, state, len(document))
        if found.size >= _LARGE:
            # it stays for long and has no cycles: the collector, which stops all threads, leaves it out
            gc.freeze()
    with _sound_guard:
        _sound[digest, whole] = None
        while len(_sound) > _MOST_SOUND:
            del _sound[next(iter(_sound))]
        _contents.pop(digest, None)  # so that it is the newest
        _contents[digest] = found
        while len(_contents) > 1 and sum(each.size for each in _contents.values()) > _MOST_CONTENT:
            del _contents[next(iter(_contents))]
    return found
