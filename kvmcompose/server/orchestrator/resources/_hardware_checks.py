"""Whether a host has the hardware that its guests are to have."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterator, Sequence

from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed
from kvmcompose.server.orchestrator.resources._domain_spec import OFF, DomainSpec
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedGuest

#: Debian's package with QEMU's spice.
_SPICE = "sudo apt-get install --no-install-recommends qemu-system-modules-spice"
_CLOSE = 3
_MEMORY = ("memory_mb", "max_memory_mb")


async def refusals(work: Work, changes: Sequence[Change]) -> list[Refusal]:
    """Return the hardware that guests are to have and their hosts have not.

    Of guests with what every host has, hosts are not asked.
    """
    found: list[Refusal] = []

    async def on_host(host: HostDrivers) -> None:
        found.extend(
            [(f"{host.name}: {what}", hint) async for what, hint in _lacking_on(work, host, changes)]
        )

    failed = await work.on_hosts(on_host)
    return [*failed, *sorted(found, key=str)]


async def _lacking_on(
    work: Work, host: HostDrivers, changes: Sequence[Change]
) -> AsyncIterator[tuple[str, str | None]]:
    """Yield what a host has not, each with the guests that are to have it, and a hint."""
    needing: dict[DomainNeed, list[LoadedGuest]] = {}
    for guest in work.testbed.by_host.get(host.name, ()):
        run = guest.domain
        if run is not None and guest.is_started and run.hardware != HardwareNeed():
            machine = run.hardware.machine or ("virt" if run.arch == "aarch64" else "q35")
            virt_type = guest.state.virt_type
            need = DomainNeed(arch=run.arch, machine=machine, virt_type=virt_type, hardware=run.hardware)
            needing.setdefault(need, []).append(guest)
    free: dict[int, int] = {}
    with_pages: dict[int, list[LoadedGuest]] = {}
    for need, guests in sorted(needing.items()):
        has = await host.hypervisor.capabilities(need)
        for what, hint in _lacking(need, has, host.name):
            yield f"{what}: {first_few([guest.name for guest in guests])}", hint
        if has.free_pages is not None and need.hardware.hugepages_kib:
            free[need.hardware.hugepages_kib] = has.free_pages
            with_pages.setdefault(need.hardware.hugepages_kib, []).extend(guests)
    by_guest = {each.guest: each for each in changes}
    for size, guests in with_pages.items():
        starting = [guest for guest in guests if guest.name in by_guest]
        wanted = sum(_more_mib(guest, by_guest[guest.name]) for guest in starting) * 1024 // size
        if wanted > free[size]:
            names = first_few([guest.name for guest in starting])
            what = f"{free[size]} huge pages of {size} KiB are free, and {wanted} are needed: {names}"
            path = f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages"
            yield what, f"on {host.name}, set more aside: {path}"


def _more_mib(guest: LoadedGuest, change: Change) -> int:
    """Return how much more memory (MiB) in huge pages a guest is to have than it has while it runs."""
    run, found = guest.domain, change.found
    wanted = run.most_memory_mb if run is not None else 0
    made: DomainSpec | None = found.spec if found is not None and found.state not in OFF else None
    before = made.guest.get("libvirt") if made is not None else None
    if not isinstance(before, dict) or "hugepages" not in before:
        return wanted
    # what was stored in the domain may have been edited
    sizes = [each for key in _MEMORY if isinstance(each := before.get(key), int)]
    return max(0, wanted - max(sizes, default=0))


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
    elif not has.cpu_models[model] and need.virt_type == "kvm":  # QEMU emulates it without these features
        yield (
            f"the CPU of the host lacks features of cpu.model {model}",
            f"{command} lists the models that can be used",
        )
