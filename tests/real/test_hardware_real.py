"""Guests boot with the hardware that the YAML says, as their kernels see it; what libvirt says of a host."""

from __future__ import annotations

import re
import time
from pathlib import Path

import driven
import pytest
from driven import Up, brought_up

from hosts import TestHost
from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import DomainNeed

pytestmark = pytest.mark.real

_NEW = """\
max_cpus: 4
      cpu:
        model: Skylake-Client
        topology: {sockets: 2, cores: 2}
        features: {avx: disable}
      numa: [{cpus: '0,2', memory_mb: 64}, {cpus: '1,3', memory_mb: 64}]
      graphics: vnc
      video: {model: virtio, heads: 2}
      sound: ich9
      usb: qemu-xhci
      watchdog: {model: i6300esb, action: none}
      rng: none
      clock: {offset_seconds: 864000}
"""
_OLD = """\
machine: pc
      cpu: {model: qemu64}
      graphics: spice
      video: cirrus
      usb: none
      watchdog: ib700
      boot: [disk, network]
"""
#: PCI devices by vendor and device.
_VIRTIO_VGA, _VIRTIO_RNG, _WATCHDOG, _ICH9_SOUND = "1af4:1050", "1af4:1044", "8086:25ab", "8086:293e"
_XHCI, _Q35, _I440FX, _CIRRUS, _VIRTIO_RNG_PC = (
    "1b36:000d",
    "8086:29c0",
    "8086:1237",
    "1013:00b8",
    "1af4:1005",
)


async def pci_devices(up: Up, guest: str) -> set[str]:
    script = "for each in /sys/bus/pci/devices/*; do echo $(cat $each/vendor $each/device); done"
    _, lines = await up.run(guest, "sh", "-c", script)
    return {re.sub("0x(....) 0x(....)", r"\1:\2", line) for line in lines}


async def libvirt_tells(host: HostDrivers) -> None:
    def need(machine: str = "q35", **hardware: int) -> DomainNeed:
        wanted = HardwareNeed(**hardware)  # type: ignore[arg-type]
        return DomainNeed(arch="x86_64", machine=machine, virt_type="qemu", hardware=wanted)

    has = await host.hypervisor.capabilities(need(hugepages_kib=2048))
    assert has.cpu_modes == {"host-model", "maximum", "custom"}  # host-passthrough is for KVM
    assert has.cpu_models["qemu64"]
    assert "vnc" in has.graphics
    assert {"vga", "virtio", "none"} <= has.videos
    assert has.free_pages is not None
    assert (await host.hypervisor.capabilities(need(hugepages_kib=64))).free_pages is None
    unknown = await host.hypervisor.capabilities(need("pc-q35-99.9"))
    assert "pc-q35-99.9" in unknown.reason


async def guests_see_it(folder: str) -> None:
    async with brought_up(folder) as up:
        await libvirt_tells(up.host)
        await up.start("new", "old")

        found = await pci_devices(up, "new")
        assert {_Q35, _VIRTIO_VGA, _WATCHDOG, _ICH9_SOUND, _XHCI} <= found
        assert _VIRTIO_RNG not in found
        _, lines = await up.run("new", "cat", "/proc/cpuinfo")
        cpu = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
        assert "Skylake" in cpu["model name"]
        assert cpu["cpu cores"] == "1"  # of the two of its socket, one is there
        assert "avx" not in cpu["flags"].split()
        _, lines = await up.run("new", "cat", "/sys/devices/system/node/possible")
        assert lines == ["0-1"]
        _, lines = await up.run("new", "date", "+%s")
        assert 863_000 < int(lines[0]) - time.time() < 865_000
        screen = await up.host.hypervisor.consoles.screen("virt-new")
        assert screen is not None
        assert (screen.kind, screen.address, screen.port > 0) == ("vnc", "127.0.0.1", True)

        found = await pci_devices(up, "old")
        assert {_I440FX, _CIRRUS, _VIRTIO_RNG_PC} <= found
        assert _Q35 not in found
        _, lines = await up.run("old", "cat", "/proc/cpuinfo")
        assert any("QEMU Virtual CPU" in line for line in lines)
        screen = await up.host.hypervisor.consoles.screen("virt-old")
        assert screen is not None
        assert (screen.kind, screen.address, screen.port > 0) == ("spice", "127.0.0.1", True)

        # with a bus of 32 slots as with ports: an interface can be plugged in
        nic = "<source network='virt-network'/><mac address='52:54:00:00:00:77'/><model type='virtio'/>"
        await up.host.hypervisor.devices.attach_nic(
            "virt-old", f"<interface type='network'>{nic}</interface>"
        )


def test_guests_boot_with_the_hardware_of_the_yaml(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    project = driven.make_project(
        tmp_path / "virt", micro_image, ssh_key, {"new": "br0", "old": "br0"}, also={"new": _NEW, "old": _OLD}
    )
    driven.inside(real_host, guests_see_it, folder=project)
