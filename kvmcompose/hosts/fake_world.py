"""What exists on a simulated host, as data."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import msgspec

from kvmcompose.core.model import PROJECTS_ROOT
from kvmcompose.core.nic import Bandwidth, Vlan
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.volume_tree import VolumeEntry

#: Where something is in a world: the name of a field of ``World``, then keys or names of fields.
Place = tuple[str, ...]


class FakeNic(msgspec.Struct, frozen=True, gc=False):
    """A NIC of a domain: a port of an Open vSwitch bridge, unless it is in a libvirt ``network``.

    ``interface_id`` is the logical port of OVN that it is. Others are as in ``DomainNic`` and ``GuestPort``.
    """

    tap: str
    bridge: str
    mac: str
    network: bool = False
    interface_id: str | None = None
    link: str = "up"
    bandwidth: Bandwidth | None = None
    vlan: Vlan = None


class FakeHardware(msgspec.Struct, gc=False):
    """What a domain has. Memory in MiB; ``disks`` are targets, ``further`` names of further disks;
    ``screen`` is its kind, "" for none.
    """

    memory_mb: int = 64
    most_memory_mb: int = 64
    cpus: int = 1
    most_cpus: int = 1
    nics: list[FakeNic] = []
    disks: list[str] = []
    further: list[str] = []
    screen: str = ""


class FakeDomain(msgspec.Struct, gc=False):
    """A domain. ``started`` in seconds since 1970, 0 while it is off.

    ``taps`` are the names of its ports while it runs. ``paused`` is why it is paused, "" when it is not;
    ``off`` why it is off, where that is known. ``made`` is what it runs as, ``defined`` what its definition
    says, and its next start; likewise ``hardware`` and ``next_hardware``. ``edited``: its definition was, by
    hand. ``clings``: its guest lets go of no device. ``answers_arp``: taps at which the host answers.
    ``agent``: a guest agent is connected while it runs; waiting for one is enough. ``agent_addresses``: what
    it says of its NICs.
    """

    project: str
    guest: str
    started: float = 0
    disk: str = ""
    snapshots: dict[str, str] = {}
    taps: list[str] = []
    paused: str = ""
    off: str = ""
    made: str = ""
    defined: str = ""
    hardware: FakeHardware = msgspec.field(default_factory=FakeHardware)
    next_hardware: FakeHardware | None = None
    edited: bool = False
    clings: bool = False
    answers_arp: list[str] = []
    agent: bool = False
    agent_addresses: list[str] = []


class FakeDisk(msgspec.Struct, gc=False):
    """A disk: ``markers`` are files in the guest that record which scripts have run, with their contents.

    ``sent`` is the digest of what was sent for ``/etc/nocloud`` since cloud-init unpacked the seed ``seed``,
    ``files`` are digests of its members. ``size``, ``backing`` and ``backing_format`` are those of its
    header, where it was sent.
    """

    written: bool = False
    frozen: bool = False
    version: int = 0
    markers: dict[str, str] = {}
    seed: str = ""
    sent: str = ""
    files: dict[str, str] = {}
    size: int = 0
    backing: str | None = None
    backing_format: str | None = None


@lru_cache(100_000)
def interface_id(mac: str) -> str:
    """Return the ID that a simulated libvirt gives a NIC."""
    return str(uuid5(NAMESPACE_OID, mac))


class FakePort(msgspec.Struct, gc=False):
    """A port of a bridge; see ``FoundPort``. ``project`` has marked it, where the bridge is no project's."""

    type: str = ""
    options: dict[str, str] = {}
    mac: str | None = None
    interface_id: str | None = None
    marked: bool = True
    capture: bool = False
    project: str | None = None
    vlan: Vlan = None
    shaped: bool = False
    policed: bool = False

    def limit(self, bandwidth: Bandwidth | None) -> None:
        """Limit the throughput as libvirt does; None: do not."""
        self.shaped = bandwidth is not None and bandwidth.inbound is not None
        self.policed = bandwidth is not None and bandwidth.outbound is not None


class FakeBridge(msgspec.Struct):
    """An Open vSwitch bridge with its ports, by name; see ``FoundBridge``."""

    datapath_type: str = ""
    protocol: str | None = None
    controller: str | None = None
    fail_mode: str | None = None
    ports: dict[str, FakePort] = {}


class FakeLink(msgspec.Struct):
    """One end of a veth pair; see ``FoundLink``."""

    peer: str
    up: bool = True
    mtu: int = 1500
    master: str | None = None
    attached: bool = False


class FakeRow(msgspec.Struct):
    """A row of OVN's northbound database: its table and name, its columns; the row that holds it.

    A reference to a row is a list of table and name, in a mapping with the key ``row``.
    """

    owner: str
    table: str
    name: str
    columns: dict[str, Any]
    parent: list[str] | None = None
    parent_column: str = ""


class FakeChassis(msgspec.Struct):
    """A host's part in OVN: settings, those made by kvm-compose, the projects that need them, mappings.

    ``expires`` is the day on which the TLS certificate ends. ``carried_out`` is the number of the last change
    that it has carried out.
    """

    settings: dict[str, str] = {}
    made: list[str] = []
    users: list[str] = []
    mappings: dict[str, str] = {}
    keys: bool = False
    expires: str = ""
    runs: bool = True
    carried_out: int = 0


class FakeOutside(msgspec.Struct):
    """A way to the outside of OVN's networks; see ``OutsideBridge``. ``users`` are ``OutsideUser``."""

    users: dict[str, dict[str, Any]]
    address: str
    datapath_type: str
    kept: bool = False


class FakeOvn(msgspec.Struct):
    """OVN on one simulated host: ``rows`` by project and reference, ``changes`` counts transactions.

    ``host_ports`` are by project and name. The southbound database listens at ``address`` for ``users``, with
    keys that end on the day ``expires``.
    """

    rows: dict[str, dict[str, FakeRow]] = {}
    changes: int = 0
    address: str = ""
    users: list[str] = []
    expires: str = ""
    chassis: FakeChassis = msgspec.field(default_factory=FakeChassis)
    outsides: dict[str, FakeOutside] = {}
    host_ports: dict[str, dict[str, dict[str, Any]]] = {}


class FakeNamespace(msgspec.Struct):
    """The namespace of a management port; ``port`` is the end of its pair on the host."""

    port: str
    address: str
    mac: str
    mtu: int
    firewall: bool = True


class FakeContainer(msgspec.Struct):
    """A container; see ``ObservedContainer``. ``request`` is what it was created with.

    ``pid`` is that of its first process, 0 while it does not run. ``nics`` are by their ends on the host, in
    JSON: ``ContainerNic``. ``half_started``: its engine was killed while it started it.
    """

    project: str
    guest: str
    id: str
    image: str = ""
    made: str = ""
    request: dict[str, Any] = {}
    state: str = "created"
    exit_code: int | None = None
    reason: str | None = None
    started: float = 0
    pid: int = 0
    health: str = ""
    files: dict[str, str] = {}
    nics: dict[str, dict[str, Any]] = {}
    half_started: bool = False


class FakeImage(msgspec.Struct):
    """An image of a container engine, by its ID; ``project`` made it, "" where it came from elsewhere.

    ``build`` is the key of what it was built from, "" for one that was not.
    ``files`` are those of the container that it was made of.
    """

    tags: list[str] = []
    size: int = 0
    project: str = ""
    files: dict[str, str] = {}
    build: str = ""


class World(msgspec.Struct):
    """Everything on one simulated host. ``blobs``: what was sent to it, by digest; ``delivered``: by path.

    ``bridges``: by project and name; those of no project are under the empty name. ``subnets``: those that
    the host is attached to, each with its interface. ``networks`` have their project,
    ``network_definitions`` the XML where it is known, ``stopped_networks`` those that are not active,
    ``edited_networks`` those whose definition was edited by hand.
    ``unleased``: MAC addresses whose lease was forgotten with a network, until their guests start.
    ``leases``: the addresses that their DHCP servers have given, by MAC. ``images``: those of the container
    engine, by ID. ``volumes``: what was sent of them, by project, volume and path.
    """

    domains: dict[str, FakeDomain] = {}
    networks: dict[str, str] = {}
    network_definitions: dict[str, str] = {}
    stopped_networks: list[str] = []
    edited_networks: list[str] = []
    unleased: list[str] = []
    leases: dict[str, str] = {}
    bridges: dict[str, dict[str, FakeBridge]] = {}
    links: dict[str, FakeLink] = {}
    namespaces: dict[str, FakeNamespace] = {}
    subnets: dict[str, str] = {}
    projects: dict[str, str] = {}
    disks: dict[str, FakeDisk] = {}
    blobs: dict[str, int] = msgspec.field(name="depot", default_factory=dict)
    delivered: dict[str, dict[str, str]] = {}
    homes: dict[str, str] = {}
    ovn: FakeOvn = msgspec.field(default_factory=FakeOvn)
    containers: dict[str, FakeContainer] = {}
    images: dict[str, FakeImage] = {}
    volumes: dict[str, dict[str, dict[str, VolumeEntry]]] = {}

    def domain(self, name: str) -> FakeDomain:
        """Return a domain by its name. Raises DriverError."""
        if name not in self.domains:
            raise DriverError(f"there is no domain {name}")
        return self.domains[name]

    def running(self, name: str, verb: str) -> FakeDomain:
        """Return a domain that is on, to ``verb`` it. Raises DriverError."""
        domain = self.domain(name)
        if not domain.started:
            raise DriverError(f"cannot {verb} the domain {name}: it is off")
        return domain

    def disk_path(self, project: str, path: str) -> str:
        """Return where a disk is: the path in the XML leads through the host's link to the project."""
        folder = self.projects.get(project)
        name = path.removeprefix(f"{PROJECTS_ROOT}/{project}")
        return path if folder is None or name == path else f"{folder}{name}"

    def plug(self, name: str, nics: Iterable[FakeNic]) -> list[Place]:
        """Create the ports of a domain's NICs, as libvirt does. Returns what changed. Raises DriverError."""
        changed: list[Place] = []
        for nic in nics:
            if nic.network:
                continue
            project = next((each for each in self.bridges if nic.bridge in self.bridges[each]), None)
            if project is None:
                raise DriverError(f"{name}: cannot add the port {nic.tap}: no bridge named {nic.bridge}")
            changed += self._remove_port(nic.tap)
            port = FakePort(
                mac=nic.mac,
                interface_id=nic.interface_id or interface_id(nic.mac),
                marked=False,
                vlan=nic.vlan,
            )
            port.limit(nic.bandwidth)
            self.bridges[project][nic.bridge].ports[nic.tap] = port
            changed.append(("bridges", project, nic.bridge, "ports", nic.tap))
            if nic.tap not in self.domains[name].taps:
                self.domains[name].taps.append(nic.tap)
        return changed

    def limit(self, nic: FakeNic) -> list[Place]:
        """Limit the throughput of a NIC at its port, and set its VLAN. Returns what changed."""
        for project, bridges in self.bridges.items():
            for name, bridge in bridges.items():
                if nic.tap in bridge.ports:
                    bridge.ports[nic.tap].limit(nic.bandwidth)
                    bridge.ports[nic.tap].vlan = nic.vlan
                    return [("bridges", project, name, "ports", nic.tap)]
        return []

    def unplug(self, name: str, taps: Collection[str] | None = None) -> list[Place]:
        """Remove the ports of a domain from whichever bridge they are on, as libvirt does; None: all.

        Returns what changed.
        """
        domain = self.domains[name]
        gone = domain.taps if taps is None else taps
        changed = [place for tap in gone for place in self._remove_port(tap)]
        domain.taps = [] if taps is None else [tap for tap in domain.taps if tap not in taps]
        return changed

    def drop_network(self, name: str) -> list[Place]:
        """Remove a network with its Linux bridge: what was a port of that is one of none.

        Returns what changed.
        """
        self.networks.pop(name, None)
        xml = self.network_definitions.pop(name, "")
        self.stopped_networks = [each for each in self.stopped_networks if each != name]
        self.edited_networks = [each for each in self.edited_networks if each != name]
        changed: list[Place] = network_places(name)
        for end, link in self.links.items():
            if link.master is not None and f'<bridge name="{link.master}"' in xml:
                link.master = None
                changed.append(("links", end))
        return changed

    def _remove_port(self, name: str) -> list[Place]:
        found = [
            (project, each)
            for project, bridges in self.bridges.items()
            for each, bridge in bridges.items()
            if name in bridge.ports
        ]
        for project, each in found:
            del self.bridges[project][each].ports[name]
        return [("bridges", project, each, "ports", name) for project, each in found]

    def at(self, place: Place) -> tuple[Place, Any]:
        """Return the place in JSON, and what is there; None when nothing is."""
        first, *rest = place
        value: Any = getattr(self, first)
        for key in rest:
            value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return (_IN_JSON[first], *rest), value


def network_places(name: str) -> list[Place]:
    """Return where a network is in a world."""
    return [("networks", name), ("network_definitions", name), ("stopped_networks",), ("edited_networks",)]


_IN_JSON = {field.name: field.encode_name for field in msgspec.structs.fields(World)}


def decode_worlds(saved: dict[str, Any]) -> dict[str, World]:
    """Decode saved worlds. Up to version 0.1 bridges have the names of their ports, links and markers are
    names.
    """
    for world in saved.values():
        for disk in world.get("disks", {}).values():
            if isinstance(markers := disk.get("markers"), list):
                disk["markers"] = dict.fromkeys(markers, "")
        for bridges in world.get("bridges", {}).values():
            for name, ports in bridges.items():
                if isinstance(ports, list):
                    bridges[name] = {"fail_mode": "standalone", "ports": {port: {} for port in ports}}
        links = world.get("links")
        if isinstance(links, list):  # pairs were created together, the left end first
            pairs = zip(links[::2], links[1::2], strict=True)
            world["links"] = {
                end: {"peer": other, "attached": True}
                for left, right in pairs
                for end, other in ((left, right), (right, left))
            }
    return msgspec.convert(saved, dict[str, World])
