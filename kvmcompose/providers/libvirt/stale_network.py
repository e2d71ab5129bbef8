"""What a libvirtd that is killed while it starts or stops a network leaves behind, and forgets.

A Linux bridge, the DHCP server on it, and packet filter rules (libvirt up to 10 creates them with iptables,
in chains whose names begin with ``LIBVIRT_``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

import msgspec

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.network_definitions import NetworkRemains


class _Interface(msgspec.Struct, frozen=True):
    """A network interface as ``ip -json link show`` prints it; old versions print ``{}`` for one left out."""

    ifname: str = ""
    address: str = ""


async def clear(runner: CommandRunner, remains: NetworkRemains) -> bool:
    """Remove everything; return whether there was anything.

    The bridge is recognised by its MAC address, which is derived from the network's name.
    """
    shown = await runner.run(["ip", "-json", "link", "show", "type", "bridge"])
    if _Interface(remains.bridge, remains.mac) not in _interfaces(shown.stdout):
        return False
    # [/]: does not match pkill itself
    server = f"--conf-file=[/]var/lib/libvirt/dnsmasq/{re.escape(remains.network)}\\.conf"
    await runner.run(["pkill", "-KILL", "-f", "--", server], privileged=True, check=False)
    await _remove_rules(runner, remains)
    await runner.run(["ip", "link", "delete", "dev", remains.bridge], privileged=True)
    return True


def _interfaces(output: bytes) -> list[_Interface]:
    try:
        return msgspec.json.decode(output or b"[]", type=list[_Interface])
    except msgspec.DecodeError as error:
        raise DriverError(f"ip -json link show printed invalid output: {error}") from error


async def _remove_rules(runner: CommandRunner, remains: NetworkRemains) -> None:
    try:
        saved = await runner.run(["iptables-save"], privileged=True, check=False)
    except DriverError:  # not installed: libvirt has created no rules with it
        return
    script = "".join(f"{line}\n" for line in rules_to_remove(saved.stdout.decode(errors="replace"), remains))
    if script:
        await runner.run(["iptables-restore", "--noflush"], stdin=script.encode(), privileged=True)


def rules_to_remove(saved: str, remains: NetworkRemains) -> Iterator[str]:
    """Turn ``iptables-save`` output into ``iptables-restore`` input that removes the network's rules.

    They name its bridge or its subnet, in libvirt's chains.
    """
    ours = {remains.bridge}
    if remains.address:
        ours.add(str(ipaddress.ip_interface(remains.address).network))
    table: list[str] = []
    for line in saved.splitlines():
        words = line.split()
        if line.startswith("*"):
            table = [line]
        elif line.startswith("-A LIBVIRT_") and ours & set(words):
            table.append(f"-D {line.removeprefix('-A ')}")
        elif line == "COMMIT" and len(table) > 1:
            yield from (*table, line)
