"""What the libvirt driver changes while guests run, with libvirt's own test driver and with the fake."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import msgspec
import pytest
from libvirt_bench import Bench, domain_xml, fails_with, network_xml

from kvmcompose.core.model import Host
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake_world import World
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.libvirt import domains
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.libvirt.interface.domains import DomainState
from kvmcompose.providers.libvirt.network_entries import addresses, difference

NO_SPACE = {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE, "vdb": libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC}
HOSTS = "<dns><host ip='10.1.0.9'><hostname>web</hostname></host></dns>"


def fake() -> FakeDrivers:
    return FakeDrivers()


def hypervisor(drivers: FakeDrivers) -> Hypervisor:
    return drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True)).hypervisor


async def state(driver: Hypervisor) -> DomainState:
    return (await driver.domains.states("p"))["p-web"]


async def run_through_states(driver: Hypervisor) -> None:
    """What holds for a domain, real or not."""
    await driver.domains.define(domain_xml(), "first")
    found = await state(driver)
    assert (found.state, found.made) == ("shut off", "first")
    await driver.domains.start(domain_xml(), "second")
    await driver.domains.start(domain_xml(), "of a start that changes nothing")
    await driver.domains.define(domain_xml(vcpus=2), "third")
    found = await state(driver)
    assert (found.state, found.reason, found.made) == ("running", None, "second")
    for _ in range(2):
        await driver.domains.suspend("p-web")
        found = await state(driver)
        assert (found.state, found.reason) == ("paused", "by user")
    for _ in range(2):
        await driver.domains.resume("p-web")
        assert (await state(driver)).state == "running"
    await driver.domains.stamp("p-web", "fourth")
    assert (await state(driver)).made == "fourth"
    await driver.domains.destroy("p-web")
    found = await state(driver)
    assert (found.state, found.reason, found.made) == ("shut off", "destroyed", "fourth")
    for call in (driver.domains.suspend, driver.domains.resume):
        with pytest.raises(DriverError, match="the domain p-web: it is off"):
            await call("p-web")
        with pytest.raises(DriverError, match="there is no domain p-gone"):
            await call("p-gone")
    with pytest.raises(DriverError, match="there already is a domain p-web of the project p"):
        await driver.domains.define(domain_xml(project="q"), "")


def test_a_domain_says_what_it_was_made_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_RESUME_SECONDS", 0.05)
    bench.run(lambda: run_through_states(bench.driver))
    assert ">2</vcpu>" in bench.domain().XMLDesc()


def test_so_does_a_fake_one() -> None:
    asyncio.run(run_through_states(hypervisor(fake())))


def test_a_domain_without_room_on_its_disk_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    paused = {"state.state": libvirt.VIR_DOMAIN_PAUSED, "state.reason": libvirt.VIR_DOMAIN_PAUSED_IOERROR}
    monkeypatch.setattr(libvirt.virConnect, "getAllDomainStats", lambda *_: [(bench.domain(), paused)])
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _: list(paused.values()))
    monkeypatch.setattr(libvirt.virDomain, "resume", lambda _: 0)
    monkeypatch.setattr(libvirt.virDomain, "diskErrors", lambda *_: NO_SPACE, raising=False)
    assert bench.run(lambda: state(bench.driver)).reason == "I/O error: no space for vda"
    monkeypatch.setattr(domains, "_RESUME_SECONDS", 0.05)
    with pytest.raises(DriverError, match="it was paused again at once: I/O error: no space for vda"):
        bench.run(lambda: bench.driver.domains.resume("p-web"))
    monkeypatch.setattr(libvirt.virDomain, "diskErrors", fails_with(libvirt.VIR_ERR_OPERATION_INVALID, "off"))
    assert bench.run(lambda: state(bench.driver)).reason == "I/O error"


async def change_entries(driver: Hypervisor) -> None:
    """What holds for a network, real or not."""
    first = network_xml()
    wanted = first.replace("<ip", f"{HOSTS}<ip")
    with pytest.raises(DriverError, match="there is no network p-network"):
        await driver.networks.update(wanted)
    await driver.networks.start(first)
    (found,) = (await driver.networks.observe("p")).values()
    assert (found.name, found.active, difference(first, found)) == ("p-network", True, None)
    differs = difference(wanted, found)
    assert differs is not None
    assert ([each.subject for each in differs.entries], differs.other) == (
        ["addresses and names of web"],
        False,
    )
    assert await driver.networks.update(wanted)
    (found,) = (await driver.networks.observe("p")).values()
    assert difference(wanted, found) is None
    await driver.networks.start(wanted)
    await driver.networks.put_names("p-network", {"late": "10.1.0.77"})
    (found,) = (await driver.networks.observe("p")).values()
    assert addresses(found.xml)["late"] == "10.1.0.77"
    assert difference(wanted, found, ("late",)) is None
    # the address is that of an entry of the definition
    with pytest.raises(DriverError, match="cannot change names in the network p-network"):
        await driver.networks.put_names("p-network", {"other": "10.1.0.9"})
    await driver.networks.put_names("p-network", {"late": None, "never": None})
    await driver.networks.put_names("p-gone", {"late": None})
    assert not await driver.networks.update(network_xml(address="10.2.0.1"))
    (found,) = (await driver.networks.observe("p")).values()
    assert difference(wanted, found) is None
    with pytest.raises(DriverError, match="there already is a network p-network of the project p"):
        await driver.networks.update(network_xml(project="q"))
    assert await driver.networks.observe("q") == {}


def test_entries_of_a_live_network_follow_its_xml(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # the test driver has one definition of a network, and does not redefine one that is active
    define = libvirt.virConnect.networkDefineXML
    recorded: list[str] = []

    def define_inactive(connection: libvirt.virConnect, xml: str) -> libvirt.virNetwork:
        recorded.append(xml)
        try:
            return connection.networkLookupByName("p-network")
        except libvirt.libvirtError:
            return define(connection, xml)

    describe = libvirt.virNetwork.XMLDesc

    def xml_desc(network: libvirt.virNetwork, flags: int = 0) -> str:
        if not flags:
            return str(describe(network, flags))
        root = ET.fromstring(recorded[-1])  # noqa: S314 (ours)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode")

    monkeypatch.setattr(libvirt.virConnect, "networkDefineXML", define_inactive)
    monkeypatch.setattr(libvirt.virNetwork, "XMLDesc", xml_desc)
    bench.run(lambda: change_entries(bench.driver))
    # virsh net-edit keeps the metadata
    recorded.append(recorded[-1].replace("</network>", "<route address='10.8.0.0' prefix='16'/></network>"))
    (found,) = bench.run(lambda: bench.driver.networks.observe("p")).values()
    assert found.edited
    wanted = network_xml().replace("<ip", f"{HOSTS}<ip")
    differs = difference(wanted, found)
    assert differs is not None
    assert (differs.edited, differs.outside, differs.other, differs.entries) == (True, True, False, ())
    assert bench.run(lambda: bench.driver.networks.update(wanted))
    (found,) = bench.run(lambda: bench.driver.networks.observe("p")).values()
    assert not found.edited


def test_so_do_those_of_a_fake_one() -> None:
    asyncio.run(change_entries(hypervisor(fake())))


def test_fake_hosts_of_before_are_still_read(tmp_path: Path) -> None:
    """Their networks have no XML: they count as what is wanted."""
    world = tmp_path / "world.json"
    before = World(networks={"p-network": "p"})
    kept = msgspec.to_builtins({"": before})
    del kept[""]["network_definitions"], kept[""]["stopped_networks"]
    kept[""]["domains"] = {
        "p-web": {"project": "p", "guest": "web", "started": 5.0, "disk": "d", "snapshots": {}}
    }
    world.write_bytes(msgspec.json.encode(kept))
    driver = hypervisor(FakeDrivers(world))

    async def read() -> None:
        (found,) = (await driver.networks.observe("p")).values()
        assert difference(network_xml(), found) is None
        await driver.networks.start(network_xml())
        (found,) = (await driver.networks.observe("p")).values()
        assert found.digest
        assert ((await state(driver)).state, (await state(driver)).made) == ("running", "")

    asyncio.run(read())
