"""Whether a host has the hardware that its guests are to have."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence

from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed
from kvmcompose.server.orchestrator.resources._domain_spec import OFF
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.testbed import LoadedGuest

#: Debian's package with QEMU's spice.
_SPICE = "sudo apt-get install --no-install-recommends qemu-system-modules-spice"
_CLOSE = 3


async def check(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Raise DriverError for hardware that guests of a host are to have and the host has not.

    Guests with what every host has are not asked for.
    """
    needing: dict[DomainNeed, list[LoadedGuest]] = {}
    for guest in work.testbed.by_host.get(host.name, ()):
        run = guest.domain
        if run is not None and guest.is_started and run.hardware != HardwareNeed():
            machine = run.hardware.machine or ("virt" if run.arch == "aarch64" else "q35")
            virt_type = guest.state.virt_type
            need = DomainNeed(arch=run.arch, machine=machine, virt_type=virt_type, hardware=run.hardware)
            needing.setdefault(need, []).append(guest)
    running = {each.guest for each in changes if each.found is not None and each.found.state not in OFF}
    starting = {each.guest for each in changes} - running
    pages: dict[int, int] = {}
    for need, guests in sorted(needing.items()):
        has = await host.hypervisor.capabilities(need)
        names = first_few([guest.name for guest in guests])
        for what, hint in _lacking(need, has, host.name):
            raise DriverError(f"{what}: {names}", hint=hint)
        size = need.hardware.hugepages_kib
        if size:
            wanted = _mib([guest for guest in guests if guest.name in starting]) * 1024 // size
            pages[size] = pages.get(size, 0) + wanted
            if pages[size] > (has.free_pages or 0):
                raise DriverError(
                    f"{has.free_pages or 0} huge pages of {size} KiB are free, and {pages[size]} are needed"
                    f" for hugepages: {names}",
                    hint=f"set more aside on {host.name}: sysctl vm.nr_hugepages (of the default size), or "
                    f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages",
                )


def _mib(guests: Collection[LoadedGuest]) -> int:
    return sum(guest.domain.most_memory_mb for guest in guests if guest.domain is not None)


def _lacking(need: DomainNeed, has: Capabilities, host: str) -> Iterator[tuple[str, str | None]]:
    """Yield what the host lacks, in the words of the YAML, each with a hint."""
    wanted = need.hardware
    if has.reason:
        program = f"qemu-system-{need.arch}"
        what = f"machine {wanted.machine} is not possible" if wanted.machine else f"{program} cannot be used"
        hint = f"on {host}, `{program} -machine help` lists the machine types" if wanted.machine else None
        yield f"{what} ({has.reason})", hint
        return
    if wanted.cpu_mode and has.cpu_modes and wanted.cpu_mode not in has.cpu_modes:
        why = " without KVM" if need.virt_type == "qemu" else ""
        yield (
            f"cpu.mode {wanted.cpu_mode} is not possible{why}",
            "without cpu.mode, a guest has the best that there is",
        )
    if wanted.cpu_model and has.cpu_models:
        yield from _lacking_model(wanted.cpu_model, need, has)
    if wanted.graphics and has.graphics and wanted.graphics not in has.graphics:
        hint = f"on {host}: {_SPICE}" if wanted.graphics == "spice" else None
        yield f"QEMU has no graphics {wanted.graphics}", hint
    if wanted.video and wanted.video != "none" and has.videos and wanted.video not in has.videos:
        yield f"QEMU has no video {wanted.video}", f"it has {', '.join(sorted(has.videos))}"
    if wanted.hugepages_kib and has.free_pages is None:
        yield (
            f"there are no huge pages of {wanted.hugepages_kib} KiB",
            f"on {host}: grep Hugepagesize /proc/meminfo",
        )
    if wanted.pci and not has.pci:
        hint = f"on {host}: switch it on in the firmware, and start the kernel with intel_iommu=on"
        yield "PCI devices of the host need an IOMMU, and none is on", hint


def _lacking_model(model: str, need: DomainNeed, has: Capabilities) -> Iterator[tuple[str, str | None]]:
    command = f"virsh domcapabilities --arch {need.arch} --virttype {need.virt_type}"
    if model not in has.cpu_models:
        near = difflib.get_close_matches(model, has.cpu_models, _CLOSE)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{command} lists those that it knows"
        yield f"libvirt knows no cpu.model {model}", hint
    elif not has.cpu_models[model]:
        yield (
            f"the CPU of the host lacks features of cpu.model {model}",
            f"{command} lists the models that can be used",
        )
