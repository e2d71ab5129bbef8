"""Whether a host has the emulators, the firmware and the TPMs that its guests need."""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.names import first_few
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.testbed import LoadedGuest

#: Debian's packages, by architecture.
_EMULATOR = {"aarch64": "qemu-system-arm", "x86_64": "qemu-system-x86"}
_FIRMWARE = {"aarch64": "qemu-efi-aarch64", "x86_64": "ovmf"}

_BY_9P = "give the share driver: 9p"


async def check(work: Work, host: HostDrivers) -> None:
    """Raise DriverError for what guests of a host need and the host lacks.

    Guests that every host can run are not asked for.
    """
    needing: dict[DomainNeed, list[LoadedGuest]] = {}
    for guest in work.testbed.by_host.get(host.name, ()):
        if guest.domain is not None and guest.is_started:
            need = _need(guest, guest.domain)
            own = work.testbed.state.testbed_hosts[host.name].arch
            if need.arch != own or need.uefi or need.tpm or need.virtiofs:
                needing.setdefault(need, []).append(guest)
    for need, guests in sorted(needing.items()):
        has = await host.hypervisor.capabilities(need)
        for what, hint in _lacking(need, has):
            names = first_few([guest.name for guest in guests])
            raise DriverError(
                f"{what}, which {names} {'needs' if len(guests) == 1 else 'need'}",
                hint=f"on {host.name}: {hint}",
            )


def _need(guest: LoadedGuest, run: DomainGuest) -> DomainNeed:
    return DomainNeed(
        arch=run.arch,
        machine="virt" if run.arch == "aarch64" else "q35",
        virt_type=guest.state.virt_type,
        uefi=run.nvram is not None,
        secure_boot=run.secure_boot,
        tpm=run.tpm,
        virtiofs=any(each.virtiofs for each in run.mounts),
        readonly_virtiofs=any(each.virtiofs and each.read_only for each in run.mounts),
    )


def _lacking(need: DomainNeed, has: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield what is missing, and what to do."""
    if has.reason:
        yield f"QEMU for {need.arch} cannot be used ({has.reason})", _install(_EMULATOR[need.arch])
        return
    if need.uefi and not has.uefi:
        yield f"there is no UEFI firmware for {need.arch}", _install(_FIRMWARE[need.arch])
    elif need.secure_boot and not has.secure_boot:
        yield f"there is no UEFI firmware with secure boot for {need.arch}", _install(_FIRMWARE[need.arch])
    if need.tpm and not has.tpm:
        yield "there is no swtpm, or it lacks its tools", _install("swtpm swtpm-tools")
    if need.virtiofs and not has.virtiofs:
        # since Debian 13 it is a package of its own
        yield "there is no virtiofsd", f"{_install('virtiofsd')} (on Debian 12: qemu-system-common); {_BY_9P}"
    elif need.readonly_virtiofs and not has.readonly_virtiofs:
        yield "libvirt before version 11 shares no folder read-only by virtiofs", _BY_9P


def _install(packages: str) -> str:
    return f"sudo apt-get install --no-install-recommends {packages}"
