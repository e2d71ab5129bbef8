"""Keeps interfaces that belong to bridges in userspace out of the host's own IP.

The datapath of Open vSwitch in userspace (netdev) reads a copy of what arrives at an interface; Linux handles
the packet as well. Linux answers ARP requests for any of its addresses on any interface, so a guest that asks
for its gateway is answered by its own tap, too, with the tap's address, and earlier than by the gateway. What
it then sends arrives by the tap: ping and TCP work, but a DHCP and DNS server that serves another interface
ignores it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from kvmcompose.hosts.command import CommandRunner

#: Names that Linux gives to no interface (dev_valid_name() in net/core/dev.c) are left out, and a dot first.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,14}")
#: 1: answer only for addresses of the interface itself (arp_ignore in the kernel's ip-sysctl.rst).
_SCRIPT = """\
for interface do
    echo 1 >"/proc/sys/net/ipv4/conf/$interface/arp_ignore"
done
"""


#: In one command for all interfaces of the host: there may be thousands.
_SHOW = "cd /proc/sys/net/ipv4/conf && grep -lx 0 */arp_ignore"


async def answering(runner: CommandRunner, interfaces: Collection[str]) -> list[str]:
    """Return at which of these interfaces Linux answers ARP requests for any of its addresses."""
    if not interfaces:
        return []
    shown = await runner.run(["sh", "-c", _SHOW], check=False)  # grep fails where there is none
    found = {line.partition("/")[0] for line in shown.text.splitlines()}
    return sorted(found.intersection(interfaces))


async def leave_arp_to_bridges(runner: CommandRunner, interfaces: Sequence[str]) -> None:
    """Have these interfaces answer no ARP request; one that is gone is left out."""
    # the names are part of a path, and those of definitions may have been edited
    names = [each for each in interfaces if _NAME.fullmatch(each) and each not in ("all", "default")]
    if names:
        argv = ["sh", "-c", _SCRIPT, "sh", *names]
        await runner.run(argv, privileged=True, check=False)
