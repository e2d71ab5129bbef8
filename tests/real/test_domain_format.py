"""An upgrade moves no device of a guest to another PCI address; a running guest has room for interfaces."""

from __future__ import annotations

import asyncio
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import driven
import pytest
from driven import assert_as_before, brought_up, seen_on_the_host

from hosts import TestHost

pytestmark = pytest.mark.real

#: The XML of guests of the golden cases, as version 0.1 made it: <case>.<guest>.xml.
BEFORE = Path(__file__).parent / "domains_0_1"
GUESTS = (
    "addresses.router",
    "base-one-host.server",
    "clones-one-host.disk-0",
    "disks.cdrom",
    "disks.installer",
)
GOLDEN = Path(__file__).parent.parent / "golden"
AGENT = "org.qemu.guest_agent.0"


def devices(host: TestHost, xml: Path) -> dict[tuple[str | None, ...], str]:
    """Return the PCI addresses that libvirt gives to the devices of a domain."""
    name = ET.parse(xml).findtext("name")  # noqa: S314 - ours
    assert name
    host.virsh("define", str(xml))
    try:
        domain = ET.fromstring(host.virsh("dumpxml", name).stdout)  # noqa: S314 - libvirt's own output
    finally:
        host.virsh("undefine", name)
    found = {}
    for device in domain.iterfind("devices/*"):
        address = device.find("address[@type='pci']")
        if address is not None:
            ends = [each.get(key) for each in device.iter() for key in ("dev", "index") if each.get(key)]
            place = ":".join(address.attrib[key] for key in ("bus", "slot", "function"))
            found[device.tag, device.get("type"), device.get("model"), *ends] = place
    return found


@pytest.mark.parametrize("name", GUESTS)
def test_an_upgrade_moves_no_device(real_host: TestHost, name: str) -> None:
    before = BEFORE / f"{name}.xml"
    case, guest = name.split(".")
    after = GOLDEN / case / "expected" / "artefacts" / f"{guest}-domain.xml"
    old, new = devices(real_host, before), devices(real_host, after)
    assert {device: new.get(device) for device in old} == old
    added = {device for device in new if device not in old}
    assert {device[:3] for device in added} == {
        ("controller", "pci", "pcie-root-port"),
        ("controller", "virtio-serial", None),
    }


def virsh(*argv: str) -> str:
    command = ["virsh", "-q", "-c", "qemu:///system", *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def interfaces_are_plugged_in(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        await up.start("one")
        domain = ET.fromstring(virsh("dumpxml", "virt-one"))  # noqa: S314 - libvirt's own output
        channel = domain.find("devices/channel/target")
        assert channel is not None
        assert channel.get("name") == AGENT
        for _ in range(4):
            virsh("attach-interface", "virt-one", "network", "virt-network", "--model", "virtio", "--live")
        lines: list[str] = []
        for _ in range(50):
            _, lines = await up.run("one", "ls", "/sys/class/net")
            if len(lines) == 6:
                break
            await asyncio.sleep(0.2)
        assert sorted(lines) == ["eth0", "eth1", "eth2", "eth3", "eth4", "lo"]
    assert_as_before(before)


def test_four_interfaces_can_be_plugged_in(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    project = driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0"})
    driven.inside(real_host, interfaces_are_plugged_in, folder=project)


async def it_grows(folder: str) -> None:
    async def seen(what: str) -> int:
        _, lines = await up.run("one", *what.split())
        return next(int(word) for word in lines[0].split() if word.isdigit())

    async def reaches(what: str, least: int, most: int) -> None:
        found = -1
        for _ in range(100):
            found = await seen(what)
            if least <= found <= most:
                return
            await asyncio.sleep(0.2)
        raise AssertionError((what, found, least, most))

    memory, cpus = "grep MemTotal: /proc/meminfo", "grep -c ^processor /proc/cpuinfo"
    async with brought_up(folder) as up:
        await up.start("one")
        await reaches(memory, 90_000, 128 * 1024)
        await reaches(cpus, 1, 1)
        virsh("setmem", "virt-one", "256M", "--live")
        await reaches(memory, 220_000, 256 * 1024)
        virsh("setmem", "virt-one", "192M", "--live")
        await reaches(memory, 150_000, 192 * 1024)
        virsh("setvcpus", "virt-one", "2", "--live")
        # many systems with udev do this by themselves
        await up.run("one", "sudo", "-n", "sh", "-c", "echo 1 >/sys/devices/system/cpu/cpu1/online")
        await reaches(cpus, 2, 2)


def test_a_guest_grows_while_it_runs(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    project = driven.make_project(
        tmp_path / "virt", micro_image, ssh_key, {"one": "br0"}, also="max_cpus: 2\n      max_memory_mb: 256"
    )
    driven.inside(real_host, it_grows, folder=project)
