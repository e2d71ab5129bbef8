"""``state.json``: the specialised testbed, the only input of the artefacts.

Its content does not depend on the clock, on chance or on the machine that writes it. Paths are relative to
the project folder. The module of the network dialect defines the network section.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvmcompose.core.environment import without_values
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.model import Host, SshKeys
from kvmcompose.core.nic import VIRTIO, Bandwidth, NicKeys, Vlan
from kvmcompose.core.order import Condition, Healthcheck

STATE_VERSION = 1


class Interface(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A network interface with all names and addresses.

    ``source`` is the name, on the host, of the bridge or network that it is connected to; ``attach`` is
    ``ovs`` for an Open vSwitch bridge, ``ovn`` for OVN's integration bridge, and ``network`` for a libvirt
    network. ``bridge`` is the bridge or logical switch of the YAML. ``ip`` is an address or ``dynamic``
    (DHCP). ``target`` is the tap device's name on the host. ``mtu`` is in bytes.

    With OVN only: ``ip`` is an IPv6 address where the logical switch has no IPv4 subnet; ``ipv6`` is the
    second address, with its prefix length, or ``dynamic``. ``interface_id`` is the name of the logical port.
    ``leases`` are the addresses that DHCP gives it, ``nameservers`` those of the resolvers.

    The others are keys of the YAML, see ``NicKeys``; they are in the file where they differ from the default.
    """

    bridge: str
    attach: str
    source: str
    target: str
    mac: str
    ip: str
    prefix_length: int
    mtu: int
    gateway: str | None = None
    ipv6: str | None = None
    ipv6_gateway: str | None = None
    interface_id: str | None = None
    leases: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    model: str = VIRTIO
    queues: int = 1
    link: str = "up"
    bandwidth: Bandwidth | None = None
    vlan: Vlan = None
    port_security: bool = False

    def with_keys(self, keys: NicKeys) -> Interface:
        """Return the interface with the keys of the YAML."""
        given = {key: getattr(keys, key) for key in _KEYS}
        return msgspec.structs.replace(self, mtu=keys.mtu or self.mtu, **given)

    @property
    def is_in_reach(self) -> bool:
        """Whether what is connected to the bridge itself, in no VLAN, reaches the interface."""
        return self.link == "up" and self.vlan is None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses that it has, those by DHCP included as far as they are known. IPv4 comes first."""
        given = (self.ip, (self.ipv6 or "dynamic").partition("/")[0], *self.leases)
        return tuple(sorted((each for each in given if each != "dynamic"), key=lambda each: ":" in each))


_KEYS = tuple(key for key in NicKeys.__struct_fields__ if key != "mtu")


class ExtraInfo(msgspec.Struct, frozen=True, gc=False):
    """``reference_image``: for a clone, the guest that is its golden image; ``reference_id``: its ``id``."""

    reference_image: str | None = None
    reference_id: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def golden_identity(self) -> str | None:
        """The name that the disk of the golden image derives from; None without one."""
        return self.reference_image if self.reference_id is msgspec.UNSET else self.reference_id


class GuestState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A guest with all names, addresses and its host.

    ``kind`` names its module in ``kvmcompose.guests``. ``definition`` is the YAML's ``section`` with the
    defaults filled in, and is under that key in the file. In the file, digests replace the values of an
    ``environment``, because users commit the file. ``labels`` are in the file where there are any, ``id``
    where it is not the name. ``depends_on`` are the guests that must have come so far before this one starts,
    in the file where there are any; so is ``healthcheck``.
    """

    name: str
    kind: str
    section: str
    hostname: str
    guest_id: int
    testbed_host: str
    virt_type: str
    datapath_type: str
    is_golden_image: bool
    extra_info: ExtraInfo
    interfaces: tuple[Interface, ...]
    definition: Any
    labels: dict[str, str] = {}
    id: str | None = None
    depends_on: dict[str, Condition] = {}
    healthcheck: Healthcheck | None = None

    @property
    def identity(self) -> str:
        """The name that its disk, addresses and names on hosts derive from: another name changes none."""
        return self.id or self.name

    @property
    def domain(self) -> str:
        """The name of its domain, and the alias of its SSH host key."""
        return self.hostname.removesuffix(self.name) + self.identity


class HostSharedConfig(msgspec.Struct, frozen=True, gc=False):
    """Settings of all hosts. ``project_folder`` is the path of the project on each of them."""

    external_bridge: str | None
    project_folder: str


class Shared(msgspec.Struct, frozen=True, gc=False):
    """What the artefacts of a guest may depend on besides the guest itself.

    Other guests are not part of it, so that a change of one guest does not affect the artefacts of others.
    """

    project_name: str
    host_config: HostSharedConfig
    guest_config: SshKeys


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state."""

    version: int
    project_name: str
    testbed_hosts: dict[str, Host]
    testbed_guests: dict[str, GuestState]
    testbed_host_shared_config: HostSharedConfig
    testbed_guest_shared_config: SshKeys
    network: Any

    @property
    def main_host(self) -> Host:
        """The main host."""
        return next(host for host in self.testbed_hosts.values() if host.is_main_host)

    @property
    def shared(self) -> Shared:
        """What the artefacts of every guest may depend on."""
        return Shared(self.project_name, self.testbed_host_shared_config, self.testbed_guest_shared_config)


def _guest_document(guest: GuestState) -> dict[str, Any]:
    document = {
        "name": guest.name,
        "kind": guest.kind,
        "hostname": guest.hostname,
        "guest_id": guest.guest_id,
        "testbed_host": guest.testbed_host,
        "virt_type": guest.virt_type,
        "datapath_type": guest.datapath_type,
        "is_golden_image": guest.is_golden_image,
        "extra_info": guest.extra_info,
        "interfaces": guest.interfaces,
        guest.section: without_values(guest.definition),
    }
    optional = ("id", "labels", "depends_on", "healthcheck")
    extra = {key: value for key in optional if (value := getattr(guest, key))}
    return document | extra


def encode_state(state: State) -> bytes:
    """Return the bytes of ``state.json``: indented, in file order, with a final newline."""
    document = {name: getattr(state, name) for name in State.__struct_fields__}
    document["testbed_guests"] = {
        name: _guest_document(guest) for name, guest in state.testbed_guests.items()
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


#: The keys of every guest in the file. The only other key is the section of its kind.
GUEST_KEYS = frozenset(GuestState.__struct_fields__) - {"section", "definition"}


def decode_document(data: bytes) -> Any:
    """Decode the JSON of ``state.json``, whatever it says, guest by guest.

    One call for thousands of guests would stop all threads meanwhile. Raises msgspec.DecodeError.
    """
    try:
        parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        guests = msgspec.json.decode(parts["testbed_guests"], type=dict[str, msgspec.Raw])
        return {
            name: msgspec.json.decode(part)
            if name != "testbed_guests"
            else {guest: msgspec.json.decode(body) for guest, body in guests.items()}
            for name, part in parts.items()
        }
    except (KeyError, msgspec.DecodeError):  # no state: its errors are those of the whole
        return msgspec.json.decode(data)


def decode_state(data: bytes) -> State:
    """Decode ``state.json``. Raises KvmComposeError when this version cannot use it.

    The guests' definitions and the network stay plain data; the modules of their kinds convert them. Only
    types are checked: decode a document from an untrusted source with ``pipeline.stored``.
    """
    try:
        return state_of(decode_document(data))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(error) from error


def state_of(document: Any) -> State:
    """Return the state that ``decode_document`` has decoded; see ``decode_state``."""
    try:
        version = document.get("version")
        if version != STATE_VERSION:
            raise KvmComposeError(
                f"state.json has version {version}, but this program supports version {STATE_VERSION}",
                hint="rebuild it: kvm-compose generate",
            )
        guests = {name: _guest(body) for name, body in document["testbed_guests"].items()}
        return msgspec.convert({**document, "testbed_guests": guests}, State)
    except (RecursionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> KvmComposeError:
    return KvmComposeError(f"cannot read state.json: {error}", hint="rebuild it: kvm-compose generate")


def _guest(body: dict[str, Any]) -> GuestState:
    (section,) = body.keys() - GUEST_KEYS or {""}
    known = {key: value for key, value in body.items() if key in GUEST_KEYS}
    return msgspec.convert({**known, "section": section, "definition": body.get(section)}, GuestState)
