"""What a container is made from, and the NICs that it has. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.nic import Vlan
from kvmcompose.core.state import Interface
from kvmcompose.providers.netns.container_nics import ContainerNic, FoundNic
from kvmcompose.providers.ovs.interface import GuestPort
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: Of what ``made`` is a digest, and how.
FORMAT = 1
#: The prefix of an IPv6 subnet with router advertisements (RFC 4862, 5.5.3).
_SLAAC_PREFIX = 64


class WantedNic(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A NIC, and the bridge of Open vSwitch that its end on the host is a port of, as ``port``.

    ``segment`` is the name of the bridge or logical switch in the YAML.
    """

    nic: ContainerNic
    port: GuestPort
    segment: str


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a container is to be. ``made`` is what it is made from, see ``made_of``; "" if that is not known.

    ``document`` is its guest in ``state.json``, ``state`` as in ``Instance``, ``files`` are digests of the
    artefacts that it is made from, by path.
    """

    made: str
    document: Mapping[str, Any]
    files: Mapping[str, str]
    state: str
    nics: tuple[WantedNic, ...] = ()


class ContainerDetail(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A container that exists. ``id`` and ``pid`` are as in ``ObservedContainer``, "" and 0 without one.

    ``earlier`` is what it was brought up as, None where that is not known. ``nics`` are its NICs by their
    ends on the host; ``bridges``, ``logical_ports`` and ``vlans`` are those of the ends that are ports, by
    name.
    """

    name: str
    id: str = ""
    pid: int = 0
    reason: str | None = None
    earlier: ContainerSpec | None = None
    nics: Mapping[str, FoundNic] = {}
    bridges: Mapping[str, str] = {}
    logical_ports: Mapping[str, str | None] = {}
    vlans: Mapping[str, Vlan] = {}


def spec_of(testbed: LoadedTestbed, guest: LoadedGuest) -> ContainerSpec:
    """Return what a guest's container is to be."""
    run = guest.run
    assert isinstance(run, ContainerGuest)  # noqa: S101 (of this runtime)
    paths = [path for path in (run.request, run.resolv_conf) if path is not None]
    files = {path: testbed.digests[path] for path in paths if path in testbed.digests}
    return ContainerSpec(
        made=made_of(files) if run.request in files else "",
        document=testbed.documents[guest.name],
        files=files,
        state=testbed.intents.get(guest.name, "running"),
        nics=tuple(_nics(testbed, guest)),
    )


def made_of(files: Mapping[str, str]) -> str:
    """Return what stands for the artefacts that a container is made from: a format, and a digest."""
    digest = hashlib.sha256(msgspec.json.encode(files, order="sorted")).hexdigest()
    return f"{FORMAT}:{digest}"


def is_of_this_format(made: str) -> bool:
    """Return whether this version can compare it."""
    return made.startswith(f"{FORMAT}:")


def _nics(testbed: LoadedTestbed, guest: LoadedGuest) -> Iterator[WantedNic]:
    userspace = testbed.is_in_userspace(guest.state.testbed_host)
    for number, nic in enumerate(guest.state.interfaces):
        yield WantedNic(
            nic=ContainerNic(
                end=nic.target,
                name=f"eth{number}",
                mac=nic.mac.lower(),
                mtu=nic.mtu,
                addresses=tuple(_addresses(nic)),
                gateways=tuple(each for each in (nic.gateway, nic.ipv6_gateway) if each is not None),
                userspace=userspace,
                link=nic.link,
            ),
            port=GuestPort(
                bridge=nic.source,
                name=nic.target,
                mac=nic.mac.lower(),
                interface_id=nic.interface_id or "",
                integration=nic.attach == "ovn",
                vlan=nic.vlan,
            ),
            segment=nic.bridge,
        )


def _addresses(nic: Interface) -> Iterator[str]:
    """Yield the addresses with the lengths of their prefixes; those by DHCP as they are known beforehand."""
    if nic.ip != "dynamic":
        yield f"{nic.ip}/{nic.prefix_length}"
    if nic.ipv6 not in (None, "dynamic"):
        yield str(nic.ipv6)
    for lease in nic.leases:
        first = nic.ip == "dynamic" and (":" not in lease or nic.prefix_length > 32)  # noqa: PLR2004 - IPv4's
        yield f"{lease}/{nic.prefix_length if first else _SLAAC_PREFIX}"
