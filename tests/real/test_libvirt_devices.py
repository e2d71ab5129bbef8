"""What a real libvirt changes in running guests, what it tells of them, and what was changed by hand."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import driven
import pytest
from driven import Up, assert_as_before, brought_up, seen_on_the_host
from test_drivers_libvirt import DOMAIN, kill_libvirtd, pid_in, start_libvirtd, virsh

from hosts import TestHost
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.interface.domains import DomainEvent, ObservedDomain

pytestmark = pytest.mark.real

MAC = "52:54:00:00:00:99"
NIC = f"""<interface type="bridge"><source bridge="virt-br0"/><virtualport type="openvswitch"/>
<mac address="{MAC.upper()}"/><target dev="virt-hot-1"/><model type="virtio"/></interface>"""


@pytest.fixture
def project(tmp_path: Path, micro_image: Path, ssh_key: Path) -> Path:
    """One guest on one bridge."""
    return driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0"})


def domain_of(up: Up) -> str:
    run = up.testbed.guests["one"].run
    assert run
    return up.testbed.read(run.domain_xml)


async def observed(up: Up) -> ObservedDomain:
    return (await up.host.hypervisor.domains.observe("virt"))[DOMAIN]


def shell(script: str) -> str:
    argv = ["sh", "-ec", script]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


# -- memory, processors, NICs --------------------------------------------------------------------------


async def grow_and_shrink(folder: str) -> None:
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        xml = domain_of(up).replace('<memory unit="MiB">128<', '<memory unit="MiB">256<')
        xml = xml.replace("<vcpu>1<", '<currentMemory unit="MiB">160</currentMemory><vcpu current="1">2<')
        with pytest.raises(DriverError, match="there is no domain"):
            await hypervisor.devices.set_memory(DOMAIN, 200)
        await hypervisor.domains.define(xml)
        with pytest.raises(DriverError, match="it is off"):
            await hypervisor.devices.set_memory(DOMAIN, 200)
        await hypervisor.domains.start(xml)
        await up.start("one")
        for mib in (240, 140):
            await hypervisor.devices.set_memory(DOMAIN, mib)
            async with asyncio.timeout(60):  # the balloon inflates as the guest gives memory away
                while (await observed(up)).memory_mb != mib:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.5)
            assert f"<currentMemory unit='KiB'>{mib << 10}<" in virsh("dumpxml", DOMAIN, "--inactive")
        _, (line,) = await up.run("one", "grep", "MemTotal", "/proc/meminfo")
        assert int(line.split()[1]) < 140 << 10
        with pytest.raises(DriverError, match=r"cannot give 300 MiB .* with at most 256 MiB"):
            await hypervisor.devices.set_memory(DOMAIN, 300)

        for _ in range(2):
            await hypervisor.devices.set_vcpus(DOMAIN, 2)
            assert (await observed(up)).cpus == 2
        _, lines = await up.run("one", "sh", "-c", "ls -d /sys/devices/system/cpu/cpu[0-9]*")
        assert len(lines) == 2
        with pytest.raises(DriverError, match=r"cannot give 3 CPUs .* with at most 2"):
            await hypervisor.devices.set_vcpus(DOMAIN, 3)
        assert not (await observed(up)).edited
        await hypervisor.domains.destroy(DOMAIN)
        assert ((await observed(up)).memory_mb, (await observed(up)).cpus) == (140, 2)


def test_memory_and_processors_of_a_running_guest(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, grow_and_shrink, folder=project)


async def nics_come_and_go(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        await up.start("one")
        for _ in range(2):
            await hypervisor.devices.attach_nic(DOMAIN, NIC)
            found = await observed(up)
            assert (MAC, "virt-hot-1", "virt-br0") in [
                (nic.mac, nic.target, nic.source) for nic in found.nics
            ]
            assert (len(found.nics), found.edited) == (2, False)
        assert MAC in virsh("dumpxml", DOMAIN, "--inactive")
        assert "virt-hot-1" in shell("ovs-vsctl list-ports virt-br0")
        _, (count,) = await up.run("one", "sh", "-c", f"grep -l {MAC} /sys/class/net/*/address | wc -l")
        assert count == "1"
        for _ in range(2):
            assert await hypervisor.devices.detach_nic(DOMAIN, MAC, 30)
            assert (len((await observed(up)).nics), (await observed(up)).edited) == (1, False)
        assert MAC not in virsh("dumpxml", DOMAIN, "--inactive")
        assert "virt-hot-1" not in shell("ovs-vsctl list-ports virt-br0")

        # a guest that does not answer keeps it
        await hypervisor.devices.attach_nic(DOMAIN, NIC)
        await hypervisor.domains.suspend(DOMAIN)
        assert not await hypervisor.devices.detach_nic(DOMAIN, MAC, 1)
        assert len((await observed(up)).nics) == 2
        assert MAC in virsh("dumpxml", DOMAIN, "--inactive")
        await hypervisor.domains.resume(DOMAIN)
        assert await hypervisor.devices.detach_nic(DOMAIN, MAC, 30)

        async def attach_many() -> None:
            for number in range(16):
                nic = NIC.replace(":99", f":{number:02}").replace("virt-hot-1", f"virt-hot-{number}")
                await hypervisor.devices.attach_nic(DOMAIN, nic)

        with pytest.raises(DriverError, match="it has no free PCIe port"):
            await attach_many()
        assert len((await observed(up)).nics) > 3
    assert_as_before(before)


def test_nics_of_a_running_guest(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, nics_come_and_go, folder=project)


# -- by hand -------------------------------------------------------------------------------------------


async def edits_by_hand_are_seen(folder: str) -> None:
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        model = re.sub(r"<cpu [^>]*/>", '<cpu mode="host-model"/>', domain_of(up))
        for xml in (model, domain_of(up)):
            await hypervisor.domains.define(xml, "first")
            assert not (await observed(up)).edited
            await hypervisor.domains.start(xml, "first")
            assert not (await observed(up)).edited
            kill_libvirtd()
            start_libvirtd()
            found = await observed(up)
            assert (found.edited, found.made, found.defined) == (False, "first", "first")
            await hypervisor.snapshots.create(DOMAIN, "running")
            await hypervisor.domains.stamp(DOMAIN, "stamped")
            await hypervisor.domains.define(xml, "second")
            found = await observed(up)
            assert (found.edited, found.made, found.defined) == (False, "stamped", "second")
            await hypervisor.snapshots.restore(DOMAIN, "running")
            assert not (await observed(up)).edited
            await hypervisor.domains.destroy(DOMAIN)
            await hypervisor.snapshots.create(DOMAIN, "off")
            await hypervisor.snapshots.restore(DOMAIN, "off")
            assert not (await observed(up)).edited
            for name in ("running", "off"):
                await hypervisor.snapshots.delete(DOMAIN, name)
            assert not (await observed(up)).edited

        # the definition of a guest that is off, and of one that runs
        for power in (False, True):
            if power:
                await hypervisor.domains.start(domain_of(up))
            virsh("setmaxmem", DOMAIN, "200M", "--config")
            assert (await observed(up)).edited
            # what is changed alive does not hide it
            if power:
                await hypervisor.devices.attach_nic(DOMAIN, NIC)
                assert (await observed(up)).edited
            await hypervisor.domains.stamp(DOMAIN, "still")
            assert (await observed(up)).edited
            await hypervisor.domains.define(domain_of(up), "again")
            assert not (await observed(up)).edited

        # devices of the running guest: it has a NIC more, and a disk less
        assert [nic.mac for nic in (await observed(up)).nics][1:] == [MAC]
        assert (await observed(up)).disks == ("vda", "vdb")
        await up.start("one")
        virsh("detach-disk", DOMAIN, "vdb", "--live")
        for _ in range(50):
            if (await observed(up)).disks == ("vda",):
                break
            await asyncio.sleep(0.2)
        found = await observed(up)
        assert (found.disks, found.edited) == (("vda",), False)


def test_what_was_changed_by_hand_is_seen(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, edits_by_hand_are_seen, folder=project)


# -- events --------------------------------------------------------------------------------------------


async def states_are_reported(folder: str) -> None:
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        events: AsyncGenerator[DomainEvent] = hypervisor.domains.events("virt")

        async def follow(*wanted: tuple[str, str | None]) -> None:
            """Read events up to the last of these states, which come in this order."""
            left = list(wanted)
            async with asyncio.timeout(30):
                while left:
                    event = await anext(events)
                    assert (event.name, event.guest) == (DOMAIN, "one")
                    if (event.state, event.reason) == left[0]:
                        del left[0]

        await hypervisor.domains.define(domain_of(up))
        await follow(("shut off", None))
        await hypervisor.domains.start(domain_of(up))
        await follow(("running", None))
        virsh("suspend", DOMAIN)
        await follow(("paused", "by user"))
        await hypervisor.domains.resume(DOMAIN)
        await follow(("running", None))

        # what happens while libvirtd is away
        following = asyncio.create_task(follow(("shut off", "crashed"), ("running", None)))
        await asyncio.sleep(0.5)
        pid = pid_in(f"/run/libvirt/qemu/{DOMAIN}.pid")
        kill_libvirtd()
        shell(f"kill -KILL {pid}; sleep 1")
        start_libvirtd()
        await asyncio.sleep(3)
        virsh("start", DOMAIN)
        await following
        await hypervisor.domains.destroy(DOMAIN)
        await follow(("shut off", "destroyed"))
        await hypervisor.domains.undefine(DOMAIN)
        await follow(("gone", None))
        await events.aclose()


def test_states_are_reported(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, states_are_reported, folder=project)


# -- DNS of a guest that was off -----------------------------------------------------------------------


async def dns_after_power_off(folder: str) -> None:
    """The gateway that a guest asks for is the network's bridge, not its own tap or the end of a pair."""
    async with brought_up(folder) as up:
        mac = shell(f"cat /sys/class/net/{up.testbed.network_plan.network.bridge}/address").strip()
        question = "sudo -n ip neigh flush dev eth0; nslookup virt-one.virt; ip neigh"
        await up.start("one", "two")
        for name in ("one", "two"):
            await up.run(name, "sh", "-c", "(sleep 1; sudo -n poweroff) >/dev/null 2>&1 &")
            await up.host.hypervisor.domains.wait_off(f"virt-{name}")
            await up.start(name)
            for _ in range(2):
                status, lines = await up.run(name, "sh", "-c", question)
                assert mac in "\n".join(lines)
                assert f"Address: {up.testbed.guests['one'].address}" in lines
                assert status == 0


@pytest.mark.long_only  # tests/real/test_converge.py has such a guest find others by name after `up`
def test_dns_of_guests_that_were_powered_off_from_inside(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    two = driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0", "two": "br1"})
    driven.inside(real_host, dns_after_power_off, folder=two)
