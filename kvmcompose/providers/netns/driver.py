"""Network namespaces of one host, through ip-netns(8), nsenter(1) and nft(8).

The host is not in the namespace: what a guest sends to its interface reaches neither the host nor another
network. The server enters it with a program that connects to the guest and copies bytes, as nobody.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.deployable import ManagementPort
from kvmcompose.core.names import management_prefix
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.netns.interface import FoundNamespace

#: Where ip-netns(8) keeps them.
_FOLDER = "/run/netns"
#: The only interface in a namespace.
_INSIDE = "eth0"
_TABLE = "kvm-compose"
#: Only replies pass. Nothing listens there either, and there is no second interface to forward to.
_FILTER = f"""\
add table inet {_TABLE}
delete table inet {_TABLE}
table inet {_TABLE} {{
  chain input {{ type filter hook input priority 0; policy drop; ct state established,related accept; }}
  chain forward {{ type filter hook forward priority 0; policy drop; }}
}}
"""
#: For each chain its hook, its policy, and the number of its rules, as ``nft -j`` shows them.
_CHAINS = {("input", "drop", 1), ("forward", "drop", 0)}
#: As names of files: a file system has no longer ones, and neither a slash nor an option is in one.
_NAME = re.compile(r"kvm-compose\.[a-z0-9-]{1,64}\.[A-Za-z0-9_-]{1,128}")
_LIST = f"""\
for path in {_FOLDER}/"$1"*; do
    [ ! -e "$path" ] || echo "${{path##*/}}"
done
"""
#: For each namespace its name, its interface, and its filter: three lines, of which two may be empty.
_OBSERVE = f"""\
for name do
    echo "$name"
    printf '%s\\n' "$(ip -n "$name" -json address show dev {_INSIDE} 2>/dev/null)"
    printf '%s\\n' "$(nsenter --net="{_FOLDER}/$name" -- nft -j list ruleset 2>/dev/null)"
done
"""
#: The first argument is the filter; each port has six. A file without a namespace behind it is what a crash
#: leaves. A namespace that lost its name lives on while a connection uses it, and its pair with it, which
#: makes room. A guest that is off is not waited for: two packets in three seconds are enough on one bridge.
_APPLY = f"""\
set -e
filter=$1
shift
while [ $# -gt 0 ]; do
    name=$1 port=$2 mac=$3 address=$4 mtu=$5 userspace=$6
    shift 6
    inside() {{ nsenter --net="{_FOLDER}/$name" -- "$@"; }}
    if ! inside true 2>/dev/null; then
        [ ! -e "{_FOLDER}/$name" ] || ip netns delete "$name"
        ip netns add "$name"
    fi
    inside sh -ec 'cd /proc/sys/net/ipv4
        echo 0 >ip_forward
        echo 1 >tcp_syn_retries
        [ ! -d ../ipv6 ] || echo 1 >../ipv6/conf/all/disable_ipv6'
    printf %s "$filter" | inside nft -f -
    if ! ip -n "$name" link show dev {_INSIDE} >/dev/null 2>&1; then
        [ -z "$(ip link show dev "$port" type veth 2>/dev/null)" ] ||
            ip link delete dev "$port" || [ ! -e "/sys/class/net/$port" ]
        ip link add name "$port" type veth peer name {_INSIDE} netns "$name"
    fi
    ip link set dev "$port" mtu "$mtu" up
    echo 1 >"/proc/sys/net/ipv4/conf/$port/arp_ignore"
    ip -n "$name" link set dev {_INSIDE} address "$mac" mtu "$mtu"
    ip -n "$name" -4 address flush dev {_INSIDE}
    ip -n "$name" address add "$address" dev {_INSIDE}
    [ "$userspace" = no ] || inside ethtool -K {_INSIDE} tx off >/dev/null
    ip -n "$name" link set dev {_INSIDE} up
done
"""
#: Connections through it end, or it would live on.
_REMOVE = f"""\
for name do
    [ -e "{_FOLDER}/$name" ] || continue
    ip -n "$name" link delete dev {_INSIDE} 2>/dev/null
    for pid in $(ip netns pids "$name" 2>/dev/null); do kill "$pid" 2>/dev/null; done
    ip netns delete "$name" || [ ! -e "{_FOLDER}/$name" ] || exit
done
"""
#: Prints a line once it is connected, else why not; then copies until either side has ended. bash
#: connects without another package (/dev/tcp in bash(1)). A process in the background has no standard input
#: unless it is given one.
_RELAY = """\
if { exec 3<>"/dev/tcp/$1/$2"; } 2>&1; then
    exec 2>/dev/null 4<&0
    echo kvm-compose: connected
    cat <&3 &
    cat <&4 >&3 &
    wait -n
    kill $(jobs -p)
fi
"""
#: How long a connection may take, in seconds: the relay gives up after three.
_CONNECT_SECONDS = 10.0
#: The line of the relay once it is connected, and the most that is printed before it, in bytes.
_READY = b"kvm-compose: connected\n"
_MOST_BEFORE = 1 << 14
_NOBODY = "65534"
_ERRORS = {
    "Connection refused": errno.ECONNREFUSED,
    "No route to host": errno.EHOSTUNREACH,
    "Connection timed out": errno.ETIMEDOUT,
    "Connection reset": errno.ECONNRESET,
    "Network is unreachable": errno.ENETUNREACH,
    "Network is down": errno.ENETUNREACH,
}


class _Address(msgspec.Struct, frozen=True):
    family: str = ""
    local: str = ""
    prefixlen: int = 0


class _Link(msgspec.Struct, frozen=True):
    address: str | None = None
    mtu: int | None = None
    flags: tuple[str, ...] = ()
    addr_info: tuple[_Address, ...] = ()


class Namespaces:
    """See ``ManagementPorts``."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def check(self) -> None:
        for argv in (["nft", "--version"], ["nsenter", "--version"], ["bash", "--version"]):
            await self._runner.run(argv)

    async def observe(self, project: str) -> Mapping[str, FoundNamespace]:
        listed = await self._runner.run(["sh", "-c", _LIST, "sh", management_prefix(project)])
        names = [name for name in listed.text.split() if _NAME.fullmatch(name)]
        if not names:  # of most projects: this needs no rights
            return {}
        done = await self._runner.run(["sh", "-c", _OBSERVE, "sh", *names], privileged=True)
        return parse_namespaces(done.text)

    async def apply(self, ports: Sequence[ManagementPort]) -> None:
        if ports:
            words = [word for port in ports for word in _words(port)]
            await self._runner.run(["sh", "-c", _APPLY, "sh", _FILTER, *words], privileged=True)

    async def remove(self, names: Sequence[str]) -> None:
        if names:
            checked = [_checked(_NAME, name) for name in names]
            await self._runner.run(["sh", "-c", _REMOVE, "sh", *checked], privileged=True)

    async def connect(self, namespace: str, address: str, port: int) -> socket.socket:
        path = f"{_FOLDER}/{_checked(_NAME, namespace)}"
        enter = ["nsenter", f"--net={path}", "--setgid", _NOBODY, "--setuid", _NOBODY, "--"]
        # started by sshd, bash would read root's .bashrc
        argv = [*enter, "bash", "--norc", "-c", _RELAY, "bash", address, str(port)]
        endpoint = await self._runner.attach(argv, privileged=True)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                said = await _connected(endpoint)
        except BaseException:
            endpoint.close()
            raise
        if said:
            endpoint.close()
            raise self._error(said, namespace)
        return endpoint

    def _error(self, said: str, namespace: str) -> Exception:
        number = next((number for text, number in _ERRORS.items() if text in said), None)
        if number is not None:
            return OSError(number, said)  # Python makes ConnectionRefusedError, TimeoutError of it
        if "No such file" in said and namespace in said:
            return DriverError(
                f"the management port {namespace} is not there on {self._runner.name}",
                hint="kvm-compose up creates it again",
            )
        return DriverError(f"cannot use the management port {namespace} on {self._runner.name}: {said}")


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise DriverError(f"invalid name of a network namespace: {text!r}")
    return text


def _words(port: ManagementPort) -> Iterator[str]:
    yield _checked(_NAME, port.namespace)
    yield from (port.name, port.mac, port.address, str(port.mtu), "yes" if port.userspace else "no")


async def _connected(endpoint: socket.socket) -> str:
    """Wait for the relay's line. Return "" once it has come, else what was printed last.

    The shell that sshd starts may print something before. Bytes are read one by one: those that follow the
    line are the guest's.
    """
    loop = asyncio.get_running_loop()
    printed = bytearray()
    while len(printed) < _MOST_BEFORE:
        byte = await loop.sock_recv(endpoint, 1)
        if not byte:
            break
        printed += byte
        if byte == b"\n" and printed.endswith(_READY):
            return ""
    lines = printed.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a message"


def parse_namespaces(output: str) -> dict[str, FoundNamespace]:
    """Parse what ``observe`` prints. Raises DriverError."""
    lines = iter(output.splitlines())
    found = {}
    try:
        for name, shown, ruleset in zip(lines, lines, lines, strict=True):
            links = msgspec.json.decode(shown or "[]", type=list[_Link])
            link = links[0] if links else _Link()
            found[name] = FoundNamespace(
                name=name,
                addresses=tuple(
                    f"{each.local}/{each.prefixlen}" for each in link.addr_info if each.family == "inet"
                ),
                mac=link.address,
                mtu=link.mtu,
                up="UP" in link.flags,
                firewall=_chains(msgspec.json.decode(ruleset or "{}").get("nftables", ())) == _CHAINS,
            )
    except (msgspec.DecodeError, ValueError, AttributeError, TypeError) as error:
        raise DriverError(f"ip or nft printed invalid output: {error}") from error
    return found


def _chains(objects: Iterable[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """Return the chains of all tables, with the number of their rules (libnftables-json(5))."""
    rules: dict[tuple[str, str], int] = {}
    chains = {}
    for each in objects:
        if "chain" in each:
            chain = each["chain"]
            chains[chain["table"], chain["name"]] = chain.get("hook", ""), chain.get("policy", "")
        elif "rule" in each:
            key = each["rule"]["table"], each["rule"]["chain"]
            rules[key] = rules.get(key, 0) + 1
    return {(*kind, rules.get(key, 0)) for key, kind in chains.items()}
