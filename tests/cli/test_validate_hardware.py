"""Keys of a guest's hardware that are wrong, or contradict each other: the code, the path and the words."""

from __future__ import annotations

import pytest

from golden.bench import Bench, new_bench

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 4
      memory_mb: 512
      %s
      libvirt_type:
        cloud_image: {name: debian_12}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""

#: With a type, as to find it out takes seconds.
CONFIG = """\
{"testbed_host_ssh_config": {"alpha": {
  "ip": "192.0.2.11", "user": "u", "is_main_host": true, "virt_type": "kvm"
}}}
"""

_CONFLICT = "hardware-conflict"

#: The line of the YAML; code, path below the section, and a part of the message.
WRONG = {
    "machine type of nobody": ("machine: isapc", "bad-value", "machine", "q35, pc"),
    "machine type of Arm": ("machine: virt-7.2", _CONFLICT, "machine", "another architecture"),
    "machine type with a quote": ("machine: 'pc-q35-\"/>'", "bad-value", "machine", "q35, pc"),
    "custom without a model": ("cpu: {mode: custom}", _CONFLICT, "cpu.mode", "without a model"),
    "model of the host": ("cpu: {mode: maximum, model: EPYC}", _CONFLICT, "cpu.model", "leave 'mode' out"),
    "model with a tag": ("cpu: {model: '<EPYC/>'}", "bad-value", "cpu.model", "name of a CPU model"),
    "empty cpu": ("cpu: {}", "too-few", "cpu", "{model: Skylake-Client"),
    "cores where topology belongs": ("cpu: {cores: 4}", "unknown-key", "cpu.cores", "topology: {cores"),
    "topology of others": ("cpu: {topology: {cores: 3}}", _CONFLICT, "cpu.topology", "4, as cpus or"),
    "policy of nobody": ("cpu: {features: {vmx: yes}}", "bad-value", "cpu.features.vmx", "require"),
    "bad feature": ("cpu: {features: {'v x': require}}", "bad-name", "cpu.features.v x", "a feature"),
    "Windows on Arm": ("arch: aarch64\n      hyperv: true", _CONFLICT, "hyperv", "aarch64"),
    "CPU of a PC on Arm": ("arch: aarch64\n      cpu: {model: Nehalem}", _CONFLICT, "cpu.model", "of x86_64"),
    "CPU of Arm on a PC": ("cpu: {model: cortex-a72}", _CONFLICT, "cpu.model", "of aarch64"),
    "screen of a PC on Arm": ("arch: aarch64\n      video: vga", _CONFLICT, "video", "aarch64"),
    "nodes with less memory": (
        "numa: [{cpus: 0-3, memory_mb: 256}]", _CONFLICT, "numa", "512 MiB, as memory_mb",
    ),
    "CPU that is not there": (
        "numa: [{cpus: 0-4, memory_mb: 512}]", _CONFLICT, "numa[0].cpus", "at most 3",
    ),
    "CPU in two nodes": (
        "numa: [{cpus: 0-3, memory_mb: 256}, {cpus: 3, memory_mb: 256}]",
        _CONFLICT,
        "numa[1].cpus",
        "processor 3",
    ),
    "CPU in no node": ("numa: [{cpus: 1-3, memory_mb: 512}]", _CONFLICT, "numa", "in no node"),
    "range that ends before it begins": (
        "numa: [{cpus: 3-0, memory_mb: 512}]", _CONFLICT, "numa[0].cpus", "no range",
    ),
    "huge range": ("numa: [{cpus: 0-999, memory_mb: 512}]", _CONFLICT, "numa[0].cpus", "at most 3"),
    "words as a range": ("numa: [{cpus: all, memory_mb: 512}]", "bad-value", "numa[0].cpus", "0-3,8"),
    "half a huge page": ("hugepages: 1G", _CONFLICT, "hugepages", "multiple of 1024 MiB"),
    "pages of no size": ("hugepages: 4K", "bad-value", "hugepages", "2M"),
    "boot from a CD-ROM": ("boot: [cdrom, disk]", _CONFLICT, "boot[0]", "disk, network"),
    "boot twice": ("boot: [disk, disk]", "bad-value", "boot", "each of them once"),
    "clock of nobody": ("clock: gmt", "bad-value", "clock", "localtime"),
    "two clocks": ("clock: {timezone: UTC, offset_seconds: 1}", "too-many", "clock.offset_seconds", ""),
    "time zone as a path": ("clock: {timezone: ../../passwd}", "bad-value", "clock.timezone", "Europe/B"),
    "VNC without a device": ("graphics: vnc\n      video: none", _CONFLICT, "video", "there is none"),
    "video of nobody": ("video: voodoo", "bad-value", "video", "{model: qxl"),
    "memory of virtio": ("video: {model: virtio, vram_mb: 16}", _CONFLICT, "video.vram_mb", "no size"),
    "odd memory": ("video: {model: qxl, vram_mb: 24}", "bad-value", "video.vram_mb", "power of two"),
    "little memory of bochs": ("video: {model: bochs, vram_mb: 1}", _CONFLICT, "video.vram_mb", "4, 8"),
    "two heads of vga": ("video: {model: vga, heads: 2}", _CONFLICT, "video.heads", "one screen"),
    "USB sound without USB": ("usb: none\n      sound: usb", _CONFLICT, "sound", "usb is none"),
    "watchdog of nobody": ("watchdog: itco", "bad-value", "watchdog", "i6300esb"),
    "action of nobody": ("watchdog: {model: ib700, action: dump}", "bad-value", "watchdog.action", "off"),
    "no domain": ("host_devices: [{pci: '03:00.0'}]", "bad-value", "host_devices[0].pci", "lspci -D"),
    "device as an option": (
        "host_devices: [{usb: '046d:c52b,id=x'}]", "bad-value", "host_devices[0].usb", "lsusb",
    ),
    "device of both kinds": (
        "host_devices: [{pci: 0000:03:00.0, usb: 046d:c52b}]", "too-many", "host_devices[0].usb", "",
    ),
    "USB device without USB": (
        "usb: none\n      host_devices: [{usb: 046d:c52b}]", _CONFLICT, "host_devices[0].usb", "usb is none",
    ),
    "device twice": (
        "host_devices: [{usb: 046d:c52b}, {usb: 046d:c52b}]", _CONFLICT, "host_devices[1]", "same device",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return new_bench(tmp_path_factory.mktemp("hardware"), "lab", {"kvm-compose-config.json": CONFIG})


@pytest.mark.parametrize("case", WRONG)
def test_wrong_hardware_is_refused_at_its_line(bench: Bench, case: str) -> None:
    line, code, path, words = WRONG[case]
    bench.write("kvm-compose.yaml", YAML % line)
    ran = bench.run("validate", "--json")
    assert ran.status == 2
    # the catalogue has images for x86_64 only
    (problem,) = (each for each in ran.json["problems"] if not each["path"].endswith("cloud_image.name"))
    assert (problem["code"], problem["path"]) == (code, f"machines[0].libvirt.{path}"), ran.said
    assert problem["location"]["line"] in (7, 8), ran.said
    assert any(words in (problem.get(key) or "") for key in ("message", "found", "wanted", "hint")), ran.said


def test_max_cpus_and_max_memory_are_what_topology_and_nodes_add_up_to(bench: Bench) -> None:
    most = "max_cpus: 8\n      max_memory_mb: 1024\n      "
    nodes = "numa: [{cpus: 0-3, memory_mb: 512}, {cpus: '4,5,6-7', memory_mb: 512}]"
    right = f"{most}hugepages: 1G\n      cpu: {{topology: {{sockets: 2, cores: 4}}}}\n      "
    bench.write("kvm-compose.yaml", YAML % (right + nodes.replace("512", "1024", 1).replace("512", "1024")))
    assert [each[2] for each in bench.problems()] == ["machines[0].libvirt.numa"]
    bench.write("kvm-compose.yaml", YAML % (right.replace("1G", "2M") + nodes))
    assert bench.problems() == []


def test_a_machine_with_a_device_of_the_host_has_no_clones(bench: Bench) -> None:
    scaled = YAML.replace("    interfaces: [{bridge: br0}]\n", "").replace(
        "%s",
        "host_devices: [{usb: 046d:c52b}]\n"
        "      scaling: {count: 1, interfaces: [{bridge: br0, clones: [0]}]}",
    )
    bench.write("kvm-compose.yaml", scaled)
    assert [each[::2] for each in bench.problems()] == [("cannot-scale", "machines[0].libvirt.host_devices")]
