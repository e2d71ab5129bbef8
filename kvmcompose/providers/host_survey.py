"""Check the requirements of ``up`` on another testbed host, over the connection that ``up`` uses."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import PurePosixPath
from typing import Literal

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.model import PROJECTS_ROOT, Host
from kvmcompose.effects.capabilities import BOOT_SECTOR, PROBE_SECONDS, PROBE_SUCCEEDED, QEMU, probe_command
from kvmcompose.effects.survey import ENOUGH_SPACE, Finding
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.ovs.chassis import HostChassis
from kvmcompose.providers.ovs.interface import Switches

#: Programs with their packages (Debian's), the option that prints a version, and what needs them.
_PROGRAMS: tuple[tuple[str, str, str, Literal["up", "extras"]], ...] = (
    ("qemu-img", "qemu-utils", "--version", "up"),
    (QEMU, "qemu-system-x86", "--version", "up"),
    ("ovs-vsctl", "openvswitch-switch", "--version", "up"),
    ("ip", "iproute2", "-V", "up"),
    ("ethtool", "ethtool", "--version", "up"),
    ("nft", "nftables", "--version", "extras"),
    ("tcpdump", "tcpdump", "--version", "extras"),
)
#: Arguments: pairs of a program and its option. Prints a line for each: the version, or nothing without it.
_VERSIONS = """\
while [ $# -gt 0 ]; do
    version=
    if command -v "$1" >/dev/null; then version=$("$1" "$2" 2>&1 | head -n 1); version=${version:-found}; fi
    printf '%s\\n' "$version"
    shift 2
done
"""
#: Prints the free space, in KiB, of the file system that a folder is on, or will be.
_FREE = """\
folder=$1
until [ -d "$folder" ]; do folder=$(dirname -- "$folder"); done
df -Pk -- "$folder" | tail -n 1
"""
#: Runs the command with a file that has the content of standard input, and removes it.
_WITH_DISK = """\
disk=$(mktemp) || exit
trap 'rm -f -- "$disk"' EXIT
cat >"$disk" && "$@" -drive "file=$disk,format=raw" </dev/null
"""
#: The longest answer of a host that is shown, in characters.
_LONGEST = 200


async def survey_host(
    host: Host, runner: CommandRunner, hypervisor: Hypervisor, switches: Switches, chassis: HostChassis
) -> list[Finding]:
    """Check everything; a host that cannot be reached has one finding."""
    try:
        await runner.reach()
    except KvmComposeError as error:
        return [_bad("connection", error)]
    found = [Finding(name="connection", ok=True, detail=f"SSH, {host.ip}", needed_for="up")]
    try:
        await runner.run(["true"], privileged=True)
    except KvmComposeError as error:  # nothing else can be checked without it
        return [*found, _bad("rights", error)]
    found.append(Finding(name="rights", ok=True, detail="root", needed_for="up"))
    found += [each async for each in _programs(runner)]
    checks: dict[str, Callable[[], Awaitable[Finding]]] = {
        "KVM": lambda: _kvm(host, runner),
        "libvirt": lambda: _libvirt(hypervisor),
        "Open vSwitch": lambda: _open_vswitch(switches),
        "OVN controller": lambda: _ovn(host, runner, chassis),
        "disk space": lambda: _space(runner),
    }
    for name, check in checks.items():
        try:
            found.append(await check())
        except (KvmComposeError, ValueError) as error:
            found.append(_bad(name, error))
    return found


def _bad(name: str, error: Exception) -> Finding:
    if isinstance(error, KvmComposeError):
        return Finding(name=name, ok=False, detail=error.message, needed_for="up", mend=error.hint)
    return Finding(name=name, ok=False, detail=f"an unexpected answer: {error}"[:_LONGEST], needed_for="up")


async def _programs(runner: CommandRunner) -> AsyncIterator[Finding]:
    pairs = [word for name, _, option, _ in _PROGRAMS for word in (name, option)]
    try:
        done = await runner.run(["sh", "-c", _VERSIONS, "sh", *pairs])
    except KvmComposeError as error:
        yield _bad("programs", error)
        return
    lines = [*done.text.splitlines(), *[""] * len(_PROGRAMS)]
    for (name, package, _, needed_for), version in zip(_PROGRAMS, lines, strict=False):
        yield Finding(
            name=name,
            ok=bool(version),
            detail=version[:_LONGEST] or "not installed",
            needed_for=needed_for,
            mend=None if version else f"sudo apt-get install --no-install-recommends {package}",
        )


async def _kvm(host: Host, runner: CommandRunner) -> Finding:
    wanted = host.virt_type == "kvm"
    argv = ["sh", "-c", _WITH_DISK, "sh", *probe_command("kvm")]
    try:
        done = await runner.run(argv, stdin=BOOT_SECTOR, seconds=PROBE_SECONDS, privileged=True, check=False)
    except KvmComposeError:
        works, detail = False, f"a guest did not finish within {PROBE_SECONDS:g} s"
    else:
        works = done.status == PROBE_SUCCEEDED
        detail = "a guest was booted under kvm" if works else done.complaint[:_LONGEST]
    return Finding(
        name="KVM",
        ok=works,
        detail=detail if works or wanted else f"{detail}; guests are emulated, which is slower",
        needed_for="up" if wanted else "extras",
        mend=None
        if works
        else "switch virtualisation on in the firmware (or nested virtualisation), or emulate:"
        f' "virt_type": "qemu" for {host.name} in the config',
    )


async def _libvirt(hypervisor: Hypervisor) -> Finding:
    facts = await hypervisor.facts()
    detail = f"{facts.version}; {facts.cpus} CPUs, {facts.memory_mb} MiB"
    return Finding(name="libvirt", ok=True, detail=detail, needed_for="up")


async def _open_vswitch(switches: Switches) -> Finding:
    await switches.check()
    return Finding(name="Open vSwitch", ok=True, detail="database and switch answer", needed_for="up")


async def _ovn(host: Host, runner: CommandRunner, chassis: HostChassis) -> Finding:
    """Check what networks of OVN require: the daemon, no other OVN, the address where tunnels end."""
    needs = "networks of OVN"
    name = "OVN controller"
    try:
        await chassis.check()
        found = await chassis.observe()
    except KvmComposeError as error:
        return Finding(
            name=name, ok=False, detail=f"{error.message} ({needs})", needed_for="extras", mend=error.hint
        )
    if found.remote and "ovn-remote" not in found.made:
        return Finding(
            name=name,
            ok=False,
            detail=f"a chassis of another OVN: {found.remote} ({needs})",
            needed_for="extras",
            mend="ovn_northbound and ovn_southbound in kvm-compose-config.json, to use that OVN",
        )
    end = host.chassis.encap_ip or host.ip
    addresses = await runner.run(["ip", "-json", "address", "show", "to", end], check=False)
    if f'"{end}"' not in addresses.text:
        return Finding(
            name=name,
            ok=False,
            detail=f"no interface has the address {end}, where tunnels end ({needs})",
            needed_for="extras",
            mend=f"set `encap_ip` of {host.name}'s `ovn` in kvm-compose-config.json",
        )
    key = f", its TLS key ends on {found.expires}" if found.expires else ""
    detail = f"runs, tunnels end at {end}{key} ({needs})"
    return Finding(name=name, ok=True, detail=detail, needed_for="extras")


async def _space(runner: CommandRunner) -> Finding:
    folder = PurePosixPath(PROJECTS_ROOT)
    done = await runner.run(["sh", "-c", _FREE, "sh", str(folder)])
    free = int(done.text.split()[3]) * 1024 if len(done.text.split()) > 3 else int("")  # noqa: PLR2004
    ok = free >= ENOUGH_SPACE
    return Finding(
        name="disk space",
        ok=ok,
        detail=f"{free / 2**30:.1f} GiB free for images and disks in {folder}",
        needed_for="up",
        mend=None if ok else f"see what is there: sudo du -sh {shlex.quote(str(folder))}/*",
    )
