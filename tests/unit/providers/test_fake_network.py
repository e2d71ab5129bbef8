"""Bridges, ports and links of the fake host behave like those of a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.core.model import Host
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake_world import FakeBridge, FakePort, interface_id
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.iplink.interface import FoundLink
from kvmcompose.providers.ovs.interface import (
    FoundBridge,
    FoundPort,
    SwitchChange,
    tunnel_options,
)

EXTERNAL = VethPair(
    host="main", left="v0", left_bridge="br0", right="v1", right_bridge="lin", right_is_linux=True
)
TUNNEL = TunnelPort(host="main", bridge="br1", name="t", remote_ip="192.0.2.12", key=7)
PLAN = SwitchChange(
    project="p",
    datapath_type="netdev",
    bridges=(
        SwitchBridge(name="br0", host="main", protocol="OpenFlow13,OpenFlow10", controller="tcp:127.0.0.1:1"),
        SwitchBridge(name="br1", host="main"),
    ),
    veths=(EXTERNAL,),
    tunnels=(TUNNEL,),
    nics=(NicPort(host="main", bridge="br1", nic="eth1"),),
)
MAC = "52:54:00:00:00:01"
DOMAIN = f"""\
<domain><name>p-web</name>
<metadata><g:guest xmlns:g="urn:kvmcompose:guest:1" project="p" name="web"/></metadata>
<devices><disk><source file="/d"/></disk>
<interface type="bridge"><mac address="{MAC}"/><source bridge="br0"/><virtualport type="openvswitch"/>
<target dev="tap0"/></interface>
<interface type="network"><source network="default"/></interface></devices></domain>
"""


@pytest.fixture
def drivers() -> FakeDrivers:
    return FakeDrivers()


@pytest.fixture
def host(drivers: FakeDrivers) -> HostDrivers:
    return drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True))


async def brought_up(host: HostDrivers) -> None:
    await host.links.apply(PLAN.veths, up=[], mtu=1442)
    await host.switches.change(PLAN)
    await host.hypervisor.domains.start(DOMAIN)


def changed(host: HostDrivers, **named: object) -> dict[str, set[str]]:
    """The ports of each bridge after a change."""
    change = msgspec.convert({"project": "p", "datapath_type": "netdev", **named}, SwitchChange)
    asyncio.run(host.switches.change(change))
    found = asyncio.run(host.switches.observe("p"))
    return {name: {port.name for port in bridge.ports} for name, bridge in found.items()}


def test_all_is_observed_with_the_ports_of_guests(host: HostDrivers) -> None:
    asyncio.run(brought_up(host))
    assert asyncio.run(host.switches.observe("p")) == {
        "br0": FoundBridge(
            name="br0",
            datapath_type="netdev",
            protocol="OpenFlow10,OpenFlow13",
            controller="tcp:127.0.0.1:1",
            fail_mode="standalone",
            ports=(
                FoundPort(name="tap0", mac=MAC, interface_id=interface_id(MAC)),
                FoundPort(name="v0", marked=True),
            ),
        ),
        "br1": FoundBridge(
            name="br1",
            datapath_type="netdev",
            fail_mode="standalone",
            ports=(
                FoundPort(name="eth1", marked=True),
                FoundPort(name="t", type="geneve", options=tunnel_options(TUNNEL), marked=True),
            ),
        ),
    }
    assert asyncio.run(host.switches.observe("q")) == {}
    assert asyncio.run(host.links.observe(["v0", "v1", "none"])) == {
        "v0": FoundLink(up=True, mtu=1442, peer="v1", attached=True),
        "v1": FoundLink(up=True, mtu=1442, peer="v0", master="lin", attached=True),
    }


def test_tap_goes_with_its_domain_wherever_it_is(host: HostDrivers) -> None:
    asyncio.run(brought_up(host))
    there = {"br0": {"v0"}, "br1": {"eth1", "t", "tap0"}}
    assert changed(host, guests=[{"bridge": "br1", "name": "tap0", "mac": MAC}]) == there
    asyncio.run(host.hypervisor.domains.destroy("p-web"))
    assert changed(host) == {"br0": {"v0"}, "br1": {"eth1", "t"}}
    asyncio.run(host.hypervisor.domains.start(DOMAIN))
    assert changed(host)["br0"] == {"v0", "tap0"}


def test_domain_needs_its_bridges(host: HostDrivers) -> None:
    with pytest.raises(DriverError, match="no bridge named br0"):
        asyncio.run(host.hypervisor.domains.start(DOMAIN))
    assert not asyncio.run(host.hypervisor.domains.states("p"))["p-web"].uptime


def test_bridge_that_was_deleted_comes_back_with_its_ports(drivers: FakeDrivers, host: HostDrivers) -> None:
    asyncio.run(brought_up(host))
    del drivers.world.bridges["p"]["br0"]
    wanted = {
        "bridges": [{"name": "br0", "host": "main"}],
        "veths": [msgspec.to_builtins(EXTERNAL)],
        "guests": [{"bridge": "br0", "name": "tap0", "mac": MAC}],
    }
    for _ in range(2):
        assert changed(host, **wanted)["br0"] == {"v0", "tap0"}
    found = asyncio.run(host.switches.observe("p"))["br0"]
    assert found.controller is None
    assert found.ports[0] == FoundPort(name="tap0", mac=MAC)


def test_single_things_change_and_go(host: HostDrivers) -> None:
    asyncio.run(brought_up(host))
    moved = msgspec.structs.replace(TUNNEL, bridge="br0", remote_ip="192.0.2.13")
    assert changed(host, tunnels=[msgspec.to_builtins(moved)], removed_ports=["eth1", "none"]) == {
        "br0": {"t", "v0", "tap0"},
        "br1": set(),
    }
    port = next(each for each in asyncio.run(host.switches.observe("p"))["br0"].ports if each.name == "t")
    assert port.options == {"key": "7", "remote_ip": "192.0.2.13"}
    assert changed(host, removed_bridges=["br1"]) == {"br0": {"t", "v0", "tap0"}}
    assert changed(host, removed_bridges=["br0", "br1"]) == {}
    assert asyncio.run(host.switches.foreign(PLAN)) == []


def test_what_belongs_to_others_stays(drivers: FakeDrivers, host: HostDrivers) -> None:
    asyncio.run(brought_up(host))
    drivers.world.bridges["q"] = {"other": FakeBridge(ports={"x": FakePort(), "tap0": FakePort(mac=MAC)})}
    drivers.world.bridges["p"]["br0"].ports.pop("tap0")
    changed(host, removed_bridges=["other"], removed_ports=["x"])
    assert set(drivers.world.bridges["q"]["other"].ports) == {"x", "tap0"}
    with pytest.raises(DriverError, match="x is a port of the bridge other"):
        changed(host, nics=[{"host": "main", "bridge": "br0", "nic": "x"}])
    assert changed(host, guests=[{"bridge": "br0", "name": "tap0", "mac": MAC}])["br0"] == {"v0", "tap0"}
    assert set(drivers.world.bridges["q"]["other"].ports) == {"x"}


def test_port_of_a_link_that_was_made_again_is_dead_until_it_is_replaced(
    drivers: FakeDrivers, host: HostDrivers
) -> None:
    asyncio.run(brought_up(host))
    asyncio.run(host.links.remove(["v1"]))
    assert asyncio.run(host.links.observe(["v0", "v1"])) == {}
    assert "v0" in drivers.world.bridges["p"]["br0"].ports
    asyncio.run(host.links.apply(PLAN.veths, up=[], mtu=1442))
    changed(host, veths=[msgspec.to_builtins(EXTERNAL)])
    assert not asyncio.run(host.links.observe(["v0"]))["v0"].attached
    changed(host, veths=[msgspec.to_builtins(EXTERNAL)], removed_ports=["v0"])
    assert asyncio.run(host.links.observe(["v0"]))["v0"].attached


def test_worlds_saved_by_version_0_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    old = {"bridges": {"p": {"br0": ["v0"], "br1": []}}, "links": ["v0", "v1"], "networks": {"n": "p"}}
    path.write_bytes(msgspec.json.encode({"": old}))
    drivers = FakeDrivers(path)
    host = drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True))
    found = asyncio.run(host.switches.observe("p"))
    assert {name: [port.name for port in each.ports] for name, each in found.items()} == {
        "br0": ["v0"], "br1": [],
    }  # fmt: skip
    assert asyncio.run(host.links.observe(["v0", "v1"])).keys() == {"v0", "v1"}
    drivers.keep()
    assert FakeDrivers(path).worlds == drivers.worlds
    asyncio.run(host.links.remove(["v0"]))
    assert drivers.world.links == {}
