"""Hardware of guests: what a host has not is said before anything starts, and an edit restarts the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.providers.libvirt.fake import FakeHypervisor
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed

if TYPE_CHECKING:
    from conftest import Lab

DB = "interfaces: [{bridge: br1}]\n    libvirt: {cpus: 1, memory_mb: 128, "

#: A host without KVM, spice, qxl and an IOMMU, with 63 huge pages of 2 MiB.
POOR = Capabilities(
    cpu_modes=frozenset({"host-model", "maximum", "custom"}),
    cpu_models={"Skylake-Client": True, "EPYC": False},
    graphics=frozenset({"vnc"}),
    videos=frozenset({"vga", "virtio"}),
    free_pages=63,
    pci=False,
)
REFUSED = {
    "cpu: {mode: host-passthrough}": "cpu.mode host-passthrough is not possible without KVM: db",
    "cpu: {model: Skylake-Klient}": "libvirt knows no cpu.model Skylake-Klient: db",
    "graphics: spice": "QEMU has no graphics spice: db",
    "graphics: vnc, video: qxl": "QEMU has no video qxl: db",
    "hugepages: 2M": "63 huge pages of 2048 KiB are free, and 64 are needed: db",
    "host_devices: [{pci: 0000:03:00.0}]": "PCI devices of the host need an IOMMU, and none is on: db",
}
HINTS = {
    "cpu: {model: Skylake-Klient}": "did you mean Skylake-Client?",
    "graphics: spice": "on one: sudo apt-get install --no-install-recommends qemu-system-modules-spice",
    "graphics: vnc, video: qxl": "it has vga, virtio",
}


def poor(monkeypatch: pytest.MonkeyPatch, has: Capabilities = POOR) -> list[DomainNeed]:
    asked: list[DomainNeed] = []

    async def capabilities(_self: FakeHypervisor, need: DomainNeed) -> Capabilities:
        asked.append(need)
        return has

    monkeypatch.setattr(FakeHypervisor, "capabilities", capabilities)
    return asked


@pytest.mark.parametrize("keys", REFUSED)
def test_what_the_host_has_not_is_refused_by_name(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    poor(monkeypatch)
    lab.edit(DB, f"{DB}{keys}, ")
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    (fault,) = action.faults
    assert fault.message.endswith(REFUSED[keys])
    assert HINTS.get(keys, "") in (fault.hint or "")
    assert not lab.world.domains


def test_a_machine_type_that_qemu_does_not_know_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = poor(monkeypatch, Capabilities(reason="the machine 'pc-q35-99' is not supported"))
    lab.edit(DB, f"{DB}machine: pc-q35-99, ")
    (fault,) = lab.do(Up()).faults
    assert "machine pc-q35-99 is not possible (the machine 'pc-q35-99' is not supported): db" in fault.message
    assert [(each.arch, each.machine, each.virt_type) for each in asked] == [("x86_64", "pc-q35-99", "qemu")]


def test_of_usual_guests_nothing_is_asked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = poor(monkeypatch)
    lab.edit(DB, f"{DB}watchdog: i6300esb, rng: none, usb: none, clock: localtime, boot: [disk], ")
    lab.must(Up())
    assert asked == []


def test_a_model_lacks_features_only_where_the_host_s_own_cpu_runs_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor(monkeypatch)
    lab.edit(DB, f"{DB}cpu: {{model: EPYC}}, ")
    lab.must(Up())
    lab.must(Down())
    lab.bench.edit('"virt_type": "qemu"', '"virt_type": "kvm"', "kvm-compose-config.json")
    lab.bench.generate()
    (fault,) = lab.do(Up()).faults
    assert fault.message.endswith("the CPU of the host lacks features of cpu.model EPYC: db")


def test_pages_of_a_guest_that_runs_are_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.must(Up())
    lab.edit(DB, f"{DB}hugepages: 2M, ")
    poor(monkeypatch)
    (fault,) = lab.do(Up()).faults
    assert "64 are needed: db" in fault.message
    monkeypatch.undo()
    lab.must(Up())
    poor(monkeypatch)
    lab.edit("hugepages: 2M, ", "hugepages: 2M, rng: none, ")
    lab.must(Up())


def test_all_that_a_host_has_not_is_said_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    poor(monkeypatch)
    lab.edit(DB, f"{DB}graphics: spice, video: qxl, hugepages: 2M, ")
    assert len(lab.do(Up()).faults) == 3


#: Keys, and the beginning of the reason.
EDITS = {
    "machine: pc": "machine: ",
    "cpu: {features: {vmx: disable}}": "cpu: ",
    "numa: [{cpus: 0, memory_mb: 128}]": "numa",
    "boot: [network, disk]": "boot: ",
    "clock: localtime": "clock: ",
    "graphics: vnc": "graphics: ",
    "sound: ich9": "sound: ",
    "usb: none": "usb: ",
    "watchdog: {model: ib700, action: none}": "watchdog: ",
    "watchdog: {model: ib700, action: pause}": "watchdog.action: none -> pause",
    "rng: none": "rng: ",
}


def test_a_guest_restarts_for_other_hardware(lab: Lab) -> None:
    lab.must(Up())
    last = DB
    for keys, why in EDITS.items():
        before = {name: each.started for name, each in lab.world.domains.items()}
        lab.edit(last, f"{DB}{keys}, ")
        last = f"{DB}{keys}, "
        text = lab.text(lab.must(Up()))
        again = {name for name, each in lab.world.domains.items() if each.started != before[name]}
        assert again == {"lab-db"}, keys
        (said,) = [line for line in text.splitlines() if line.startswith("guest db: restart: ")]
        assert why in said
