"""Interfaces of hosts that are logical ports: the commands of ovs-vsctl, and what its tables contain."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from recorder import Recorder

from kvmcompose.core.ovn_hosts import HostPort
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.host_ports import OvsHostPorts

PAIR = HostPort(
    name="lab-lan-mgmt",
    bridge="br-int",
    interface_id="e0ea68cc-a10f-59c9-a852-d9e1edc28a93",
    mac="",
    addresses=(),
    mtu=1442,
    datapath_type="system",
    is_pair=True,
)
INTERNAL = msgspec.structs.replace(
    PAIR,
    name="lab-host",
    interface_id="lab-host",
    mac="02:00:00:00:00:02",
    addresses=("10.0.0.2/24",),
    is_pair=False,
)


def table(*ports: HostPort, project: str = "lab") -> bytes:
    """What ``ovs-vsctl list Interface`` prints."""
    rows = []
    for port in ports:
        ids = {
            "kvm-compose-host-port": project,
            "kvm-compose-bridge": port.bridge,
            "iface-id": port.interface_id,
        }
        rows.append([port.name, ["map", [*ids.items()]], "" if port.is_pair else "internal"])
    return json.dumps({"headings": ["name", "external_ids", "type"], "data": rows}).encode()


def link(port: HostPort, **more: Any) -> dict[str, Any]:
    return {"ifname": port.name, "address": port.mac or "5e:00:00:00:00:01", "mtu": port.mtu, **more}


def observed(port: HostPort, *links: dict[str, Any]) -> list[HostPort]:
    answers = (("list Interface", 0, table(port), b""), ("ip -json", 0, json.dumps(links).encode(), b""))
    return [*asyncio.run(OvsHostPorts(Recorder(*answers)).observe("lab"))]


@pytest.mark.parametrize("how", [{"master": "ovs-system"}, {"flags": ["UP", "PROMISC"]}], ids=str)
def test_an_end_of_a_pair_is_seen_as_it_was_made(how: dict[str, Any]) -> None:
    addresses = [{"scope": "global", "local": "192.0.2.1", "prefixlen": 24}]
    wanted = msgspec.structs.replace(PAIR, datapath_type="")
    assert observed(PAIR, link(PAIR, addr_info=addresses, **how)) == [wanted]


def test_a_pair_that_the_switch_has_not_open_is_on_no_bridge() -> None:
    for links in ([], [link(PAIR, flags=["UP"])]):
        (found,) = observed(PAIR, *links)
        assert (found.bridge, found.is_pair) == ("", True)


def test_an_internal_port_is_seen_as_before() -> None:
    addresses = [{"scope": "global", "local": "10.0.0.2", "prefixlen": 24}]
    (found,) = observed(INTERNAL, link(INTERNAL, addr_info=addresses))
    assert found == msgspec.structs.replace(INTERNAL, datapath_type="")


def test_an_end_of_a_pair_is_opened_again_and_nothing_is_set_on_it() -> None:
    host = Recorder(("list Interface", 0, table(PAIR), b""))
    asyncio.run(OvsHostPorts(host).create("lab", PAIR))
    _, removed, added = [" ".join(each) for each in host.commands]
    assert removed.endswith("--if-exists del-port lab-lan-mgmt")
    assert "--may-exist add-port br-int lab-lan-mgmt" in added
    assert f'external_ids:iface-id="{PAIR.interface_id}"' in added
    assert "type=" not in added
    assert "mac=" not in added


def test_an_internal_port_takes_no_address_that_a_router_advertises() -> None:
    """Not even at first: it is off before the interface is up."""
    host = Recorder(("list Interface", 0, table(), b""))
    asyncio.run(OvsHostPorts(host).create("lab", INTERNAL))
    words = [" ".join(each) for each in host.commands]
    off = words.index("sysctl -e -q -w net/ipv6/conf/lab-host/accept_ra=0")
    assert off < words.index("ip -batch -")


def test_a_port_of_another_project_stays() -> None:
    host = Recorder(("list Interface", 0, table(PAIR, project="other"), b""))
    with pytest.raises(DriverError, match="is a port of Open vSwitch already"):
        asyncio.run(OvsHostPorts(host).create("lab", PAIR))
    assert len(host.commands) == 1
