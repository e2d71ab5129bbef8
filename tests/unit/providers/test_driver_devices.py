"""What the driver changes in running domains, and how it sees changes by hand; of the fake, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import libvirt
import pytest
from libvirt_bench import Bench, domain_xml, fails_with
from test_driver_alive import hypervisor

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake_world import FakeBridge
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.libvirt import alive, devices, domains
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.libvirt.interface.domains import DomainEvent, ObservedDomain

MAC = "52:54:00:00:00:99"
NIC = (
    '<interface type="bridge"><source bridge="br"/><virtualport type="openvswitch"/>'
    f'<mac address="{MAC}"/><target dev="tap-1"/></interface>'
)
XML = (
    domain_xml(vcpus=2)
    .replace("<vcpu>", '<vcpu current="1">')
    .replace(
        "<memory>1024</memory>",
        '<memory unit="MiB">256</memory><currentMemory unit="MiB">128</currentMemory>',
    )
)


async def observed(driver: Hypervisor) -> ObservedDomain:
    return (await driver.domains.observe("p"))["p-web"]


def fake_driver() -> tuple[FakeDrivers, Hypervisor]:
    drivers = FakeDrivers()
    drivers.world.bridges["p"] = {"br": FakeBridge()}
    return drivers, hypervisor(drivers)


async def change_alive(driver: Hypervisor) -> None:
    """What holds for a domain, real or not."""
    await driver.domains.define(XML, "first")
    for call in (driver.devices.set_memory, driver.devices.set_vcpus):
        with pytest.raises(DriverError, match="it is off"):
            await call("p-web", 1)
    with pytest.raises(DriverError, match="it is off"):
        await driver.devices.attach_nic("p-web", NIC)
    found = await observed(driver)
    assert (found.guest, found.state, found.made, found.defined) == ("web", "shut off", "first", "first")
    assert (found.memory_mb, found.cpus, found.nics, found.disks) == (128, 1, (), ("vda", "vdb"))
    await driver.domains.start(XML, "second")
    await driver.devices.set_memory("p-web", 200)
    await driver.devices.set_vcpus("p-web", 2)
    found = await observed(driver)
    assert (found.state, found.memory_mb, found.cpus) == ("running", 200, 2)
    with pytest.raises(DriverError, match="cannot give 300 MiB to the domain p-web"):
        await driver.devices.set_memory("p-web", 300)
    with pytest.raises(DriverError, match="cannot give 3 CPUs to the domain p-web"):
        await driver.devices.set_vcpus("p-web", 3)
    for _ in range(2):
        await driver.devices.attach_nic("p-web", NIC)
        (nic,) = (await observed(driver)).nics
        assert (nic.mac, nic.target, nic.source) == (MAC, "tap-1", "br")
    for _ in range(2):
        assert await driver.devices.detach_nic("p-web", MAC.upper(), 5)
        assert (await observed(driver)).nics == ()
    found = await observed(driver)
    assert (found.made, found.defined, found.edited) == ("second", "second", False)
    await driver.domains.define(XML, "third")
    found = await observed(driver)
    assert (found.made, found.defined, found.memory_mb) == ("second", "third", 200)
    await driver.domains.destroy("p-web")
    found = await observed(driver)
    assert (found.made, found.defined, found.memory_mb, found.cpus) == ("third", "third", 128, 1)


def test_a_domain_changes_alive(bench: Bench) -> None:
    bench.run(lambda: change_alive(bench.driver))
    quiet = [argv for argv in bench.machine.commands if "arp_ignore" in " ".join(argv)]
    assert [argv[-1] for argv in quiet] == ["tap-1", "tap-1"]


def test_so_does_a_fake_one() -> None:
    drivers, driver = fake_driver()
    asyncio.run(change_alive(driver))
    assert drivers.world.bridges["p"]["br"].ports == {}


def test_a_definition_that_was_edited_is_seen(bench: Bench) -> None:
    def edited() -> bool:
        return bool(bench.run(lambda: observed(bench.driver)).edited)

    bench.run(lambda: bench.driver.domains.start(XML, "made"))
    assert not edited()
    bench.domain().setMemoryFlags(100 << 10, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    assert edited()
    bench.run(lambda: bench.driver.devices.attach_nic("p-web", NIC))  # does not hide it
    bench.run(lambda: bench.driver.domains.stamp("p-web", "other"))
    assert edited()
    bench.run(lambda: bench.driver.domains.define(XML, "again"))
    assert not edited()


def test_what_cannot_be_compared_is_not_edited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    config, kind = libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_METADATA_ELEMENT
    bench.domain().setMemoryFlags(512, config)
    assert bench.run(lambda: observed(bench.driver)).edited
    with monkeypatch.context() as patch:  # another libvirt may complete a definition otherwise
        patch.setattr(libvirt.virConnect, "getLibVersion", lambda _: 99_000_000)
        assert not bench.run(lambda: observed(bench.driver)).edited
    # a domain that version 0.1 of kvm-compose has defined
    mark = '<guest project="p" name="web" host="main"/>'
    bench.domain().setMetadata(kind, mark, "kc", "urn:kvmcompose:guest:1", config)
    assert not bench.run(lambda: observed(bench.driver)).edited
    bench.run(
        lambda: bench.driver.devices.set_vcpus("p-web", 1), lambda: bench.driver.domains.stamp("p-web", "now")
    )
    found = bench.run(lambda: observed(bench.driver))
    assert (found.made, found.edited) == ("now", False)


def test_a_guest_that_does_not_let_go_keeps_its_nic(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(lambda: bench.driver.domains.start(XML), lambda: bench.driver.devices.attach_nic("p-web", NIC))
    asked = 0

    def ignore(_domain: libvirt.virDomain, _xml: str, _flags: int) -> int:
        nonlocal asked
        asked += 1
        if asked > 1:
            fails_with(libvirt.VIR_ERR_OPERATION_FAILED, "already in the process of unplug")()
        return 0

    monkeypatch.setattr(libvirt.virDomain, "detachDeviceFlags", ignore)
    monkeypatch.setattr(devices, "LOOK_AGAIN", 0.05)
    assert not bench.run(lambda: bench.driver.devices.detach_nic("p-web", MAC, 0.2))
    assert 2 <= asked <= 6
    assert len(bench.run(lambda: observed(bench.driver)).nics) == 1


def test_a_fake_guest_may_not_let_go() -> None:
    drivers, driver = fake_driver()

    async def run() -> None:
        await driver.domains.start(XML)
        await driver.devices.attach_nic("p-web", NIC)
        await driver.devices.set_vcpus("p-web", 2)
        drivers.world.domains["p-web"].clings = True
        assert not await driver.devices.detach_nic("p-web", MAC, 0.01)
        with pytest.raises(DriverError, match="does not let go"):
            await driver.devices.set_vcpus("p-web", 1)
        assert len((await observed(driver)).nics) == 1
        assert list(drivers.world.bridges["p"]["br"].ports) == ["tap-1"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("function", "message", "call", "said"),
    [
        (
            "attachDeviceFlags",
            "internal error: No more available PCI slots",
            lambda driver: driver.devices.attach_nic("p-web", NIC),
            f"cannot attach the NIC {MAC} to the domain p-web: it has no free PCIe port",
        ),
        (
            "setVcpusFlags",
            "vcpu unplug request timed out",
            lambda driver: driver.devices.set_vcpus("p-web", 1),
            "cannot take CPUs from the domain p-web: its guest does not let go of them",
        ),
        (
            "attachDeviceFlags",
            "internal error: unable to execute QEMU command",
            lambda driver: driver.devices.attach_nic("p-web", NIC),
            "cannot attach a NIC to the domain p-web: unable to execute QEMU command",
        ),
    ],
)  # fmt: skip
def test_what_libvirt_refuses_is_explained(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    message: str,
    call: Callable[..., Any],
    said: str,
) -> None:
    bench.run(lambda: bench.driver.domains.start(XML), lambda: bench.driver.devices.set_vcpus("p-web", 2))
    monkeypatch.setattr(libvirt.virDomain, function, fails_with(libvirt.VIR_ERR_INTERNAL_ERROR, message))
    with pytest.raises(DriverError) as caught:
        bench.run(lambda: call(bench.driver))
    assert caught.value.message == said


def test_a_nic_without_a_mac_address_is_refused(bench: Bench) -> None:
    bench.start()
    with pytest.raises(DriverError, match="has no MAC address"):
        bench.run(lambda: bench.driver.devices.attach_nic("p-web", "<interface type='bridge'/>"))
    assert alive.taps(bench.domain()) == []


# -- events --------------------------------------------------------------------------------------------


async def follow_states(driver: Hypervisor, events: AsyncGenerator[DomainEvent]) -> None:
    """What holds for events, real or not."""

    async def come(*states: tuple[str, str | None]) -> None:
        for state, reason in states:
            event = await asyncio.wait_for(anext(events), 5)
            assert event == DomainEvent(name="p-web", guest="web", state=state, reason=reason)

    await driver.domains.start(XML)
    await come(("running", None))
    await driver.domains.suspend("p-web")
    await come(("paused", "by user"))
    await driver.domains.resume("p-web")
    await come(("running", None))
    await driver.domains.start(XML.replace('project="p"', 'project="q"').replace("p-web", "q-web"))
    await driver.domains.destroy("p-web")
    await come(("shut off", "destroyed"))
    await driver.domains.undefine("p-web")
    await come(("gone", None))
    await events.aclose()


def test_states_are_reported(bench: Bench) -> None:
    bench.run(lambda: follow_states(bench.driver, bench.driver.domains.events("p")))
    assert not bench.driver._connection._listeners


def test_so_are_those_of_fake_domains() -> None:
    _, driver = fake_driver()
    asyncio.run(follow_states(driver, driver.domains.events("p")))


def test_events_go_on_after_the_host_did_not_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "LOOK_AGAIN", 0.01)
    stats = libvirt.virConnect.getAllDomainStats
    fails = fails_with(libvirt.VIR_ERR_INTERNAL_ERROR, "busy")

    async def run() -> None:
        events = bench.driver.domains.events("p")
        await bench.driver.domains.start(XML)
        assert (await asyncio.wait_for(anext(events), 5)).state == "running"
        monkeypatch.setattr(libvirt.virConnect, "getAllDomainStats", fails)
        bench.driver._connection._on_close(None, 0, None)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.05)
        bench.domain().suspend()
        monkeypatch.setattr(libvirt.virConnect, "getAllDomainStats", stats)
        assert (await asyncio.wait_for(waiting, 5)).state == "paused"
        await events.aclose()

    asyncio.run(run())
