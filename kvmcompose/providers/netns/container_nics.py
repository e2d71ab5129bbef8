"""NICs of containers: veth pairs from the host into the network namespaces of their processes.

The pair's end on the host becomes a port of a bridge by ``Switches``, like the tap of a virtual machine. The
kernel removes the pair with the namespace, when the container ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_interface
from typing import Any, Protocol

import msgspec

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError

#: Linux: IFNAMSIZ is 16 with the closing zero. No white space and no option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_ID = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"[0-9a-f.:]+(/[0-9]{1,3})?")
_IPV6 = 6
#: Opens the namespace as descriptor 3, and then makes sure that the process is still the container's: a
#: container may have ended meanwhile, and its process ID be another one's, even of the host. It is the
#: container's if its control group, or the engine's program that watches it, names the container. No file in
#: a container is used. The shell does what it can itself: of a hundred containers, processes are what costs.
_ENTER = """\
enter() {
    command exec 3<&-
    { command exec 3<"/proc/$1/ns/net"; } 2>/dev/null || return
    is_of "$1" "$2" || return
    [ ! /proc/self/fd/3 -ef /proc/self/ns/net ]
}
is_of() {
    while read -r line; do
        case "$line" in *"$2"*) return 0;; esac
    done 2>/dev/null <"/proc/$1/cgroup"
    while read -r key value; do
        [ "$key" != PPid: ] || break
    done 2>/dev/null <"/proc/$1/status"
    grep -qsF "$2" "/proc/$value/cmdline"
}
inside() { nsenter --net=/proc/self/fd/3 -- "$@"; }
"""
#: Arguments: a process and an ID for each container. Prints two lines for each: its interfaces, its default
#: routes of all tables and families. A container that has ended has none.
_OBSERVE = f"""\
{_ENTER}
while [ $# -gt 0 ]; do
    if enter "$1" "$2"; then
        inside ip -json -details -batch - <<END
address show
route show table all default
END
    else
        printf '[]\\n[]\\n'
    fi
    shift 2
done
"""
#: Written on both ends of a pair (ifalias): an interface without it is not replaced.
_MARK = "kvm-compose container"
#: Arguments: nine for each NIC; the last are commands of ip(8) that set up the end in the container. The
#: host takes no part in the network of the pair: it answers neither ARP nor IPv6. The end in the container is
#: set up last, so that what is half done is seen as such. What is to be deleted may go by itself meanwhile,
#: with a container that ends.
_APPLY = f"""\
set -e
{_ENTER}
fail() {{ echo "kvm-compose: $*" >&2; exit 1; }}
while [ $# -gt 0 ]; do
    pid=$1 id=$2 end=$3 name=$4 mtu=$5 link=$6 ipv6=$7 userspace=$8 commands=$9
    shift 9
    enter "$pid" "$id" || fail "ended $id"
    there=$(inside ip -json -details link show dev "$name" 2>/dev/null) || there=
    peer=${{there#*'"link_index":'}}
    peer=${{peer%%[!0-9]*}}
    {{ read -r index <"/sys/class/net/$end/ifindex"; }} 2>/dev/null || index=
    if [ -z "$index" ] || [ "$index" != "$peer" ]; then
        if [ -n "$index" ]; then
            [ "$(cat "/sys/class/net/$end/ifalias")" = "{_MARK}" ] || fail "taken $end on the host"
            ip link delete dev "$end" || [ ! -e "/sys/class/net/$end" ]
        fi
        if [ -n "$there" ] && inside ip link show dev "$name" >/dev/null 2>&1; then
            case "$there" in *"{_MARK}"*) ;; *) fail "taken $name in the container";; esac
            inside ip link delete dev "$name" || ! inside ip link show dev "$name" >/dev/null 2>&1
        fi
        ip -batch - <<END
link add name $end type veth peer name $name netns /proc/self/fd/3
link set dev $end alias "{_MARK}"
END
    fi
    echo 1 >"/proc/sys/net/ipv4/conf/$end/arp_ignore"
    [ ! -d /proc/sys/net/ipv6 ] || echo 1 >"/proc/sys/net/ipv6/conf/$end/disable_ipv6"
    ip link set dev "$end" mtu "$mtu" "$link"
    [ "$ipv6" = no ] || inside sh -ec '
        echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        echo 0 >"/proc/sys/net/ipv6/conf/$1/disable_ipv6"
    ' sh "$name"
    [ "$userspace" = no ] || inside ethtool -K "$name" tx off >/dev/null
    inside ip -batch - <<END
$commands
END
done
"""
#: Arguments: ends on the host. Any of them may be gone, or go with its container meanwhile.
_REMOVE = """\
for end do echo "link delete dev $end"; done | ip -force -batch - && exit
for end do [ ! -e "/sys/class/net/$end" ] || exit 1; done
"""


class ContainerPlace(msgspec.Struct, frozen=True):
    """A running container: its ID and its first process on the host."""

    id: str
    pid: int


class ContainerNic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC of a container. ``end`` is the interface on the host, ``name`` the one in the container.

    ``addresses`` have the lengths of their prefixes; ``gateways`` are the default routes, one for each family
    at most. ``mtu`` in bytes. ``link`` is ``up``, or ``down`` for one without carrier. ``userspace``: the
    datapath computes no checksums.
    """

    end: str
    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    userspace: bool = False
    link: str = "up"


class FoundNic(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An interface in a container. ``end`` is the other end of its pair, "" where that is not on the host.

    ``link`` is ``down`` if it has no carrier.
    """

    name: str
    end: str
    mac: str
    mtu: int
    up: bool
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    link: str = "up"


class ContainerNics(Protocol):
    """The NICs of containers on one host."""

    async def observe(self, containers: Mapping[str, ContainerPlace]) -> Mapping[str, tuple[FoundNic, ...]]:
        """Return the NICs in containers, by the keys given, in two commands, whatever the number.

        A container that has ended has none.
        """

    async def apply(self, nics: Sequence[tuple[ContainerPlace, ContainerNic]]) -> None:
        """Create pairs, or set what differs, in one command.

        Raises DriverError for a container that has ended; NICs before it may be done.
        """

    async def remove(self, ends: Sequence[str]) -> None:
        """Remove pairs by their ends on the host."""


class VethNics:
    """See ``ContainerNics``: ip(8), nsenter(1)."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def observe(self, containers: Mapping[str, ContainerPlace]) -> Mapping[str, tuple[FoundNic, ...]]:
        if not containers:
            return {}
        words = [word for place in containers.values() for word in _place(place)]
        done = await self._runner.run(["sh", "-c", _OBSERVE, "sh", *words], privileged=True)
        here = await self._runner.run(["ip", "-json", "link", "show"])
        return dict(zip(containers, parse_nics(done.stdout, here.stdout), strict=True))

    async def apply(self, nics: Sequence[tuple[ContainerPlace, ContainerNic]]) -> None:
        if not nics:
            return
        words = [word for place, nic in nics for word in (*_place(place), *_words(nic))]
        done = await self._runner.run(["sh", "-c", _APPLY, "sh", *words], privileged=True, check=False)
        if done.status == 0:
            return
        complaints = done.stderr.decode(errors="replace")
        # of several commands, ip(8) says last which one failed
        said = [each for each in complaints.splitlines() if not each.startswith("Command failed")]
        reason = said[-1] if said else done.complaint
        where = f"on {self._runner.name}"
        if ended := re.search(r"kvm-compose: ended ([0-9a-f]{12})", complaints):
            raise DriverError(f"the container {ended[1]} {where} has ended: it has no network to join")
        if taken := re.search(r"kvm-compose: taken (\S+) (on the host|in the container)", complaints):
            raise DriverError(
                f"there already is an interface {taken[1]} {taken[2]} ({self._runner.name}),"
                " which is not the NIC of a container",
                hint="remove or rename it; a container whose engine connects it to a network has one",
            )
        raise DriverError(f"cannot create the NIC of a container {where}: {reason}")

    async def remove(self, ends: Sequence[str]) -> None:
        if not ends:
            return
        names = [_checked(_NAME, end) for end in ends]
        done = await self._runner.run(["sh", "-c", _REMOVE, "sh", *names], privileged=True, check=False)
        if done.status != 0:
            raise DriverError(f"cannot remove NICs of containers on {self._runner.name}: {done.complaint}")


def parse_nics(inside: bytes, here: bytes) -> list[tuple[FoundNic, ...]]:
    """Parse what ``observe`` prints: for each container its NICs. Raises DriverError."""
    try:
        ends = {
            (each["ifindex"], each.get("link_index", 0)): each["ifname"]
            for each in msgspec.json.decode(here or b"[]")
        }
        lines = iter(line for line in inside.splitlines() if line.strip())
        return [
            tuple(_nics(msgspec.json.decode(links), msgspec.json.decode(routes), ends))
            for links, routes in zip(lines, lines, strict=True)
        ]
    except (msgspec.DecodeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise DriverError(f"ip printed invalid output: {error}") from error


def _nics(
    links: Sequence[dict[str, Any]],
    routes: Sequence[dict[str, Any]],
    ends: Mapping[tuple[int, int], str],
) -> Iterator[FoundNic]:
    gateways: dict[str, list[str]] = {}
    for route in routes:
        if "gateway" in route and route.get("table", "main") == "main":
            gateways.setdefault(route.get("dev", ""), []).append(route["gateway"])
    for link in links:
        if not link or link.get("linkinfo", {}).get("info_kind") != "veth":
            continue
        addresses = (each for each in link.get("addr_info", ()) if each.get("scope") == "global")
        yield FoundNic(
            name=link["ifname"],
            end=ends.get((link.get("link_index", 0), link.get("ifindex", 0)), ""),
            mac=link.get("address", ""),
            mtu=link.get("mtu", 0),
            up="UP" in link.get("flags", ()),
            addresses=tuple(f"{each['local']}/{each['prefixlen']}" for each in addresses),
            gateways=tuple(gateways.get(link["ifname"], ())),
            # of an interface that is off, nothing is known
            link="down" if "NO-CARRIER" in link.get("flags", ()) else "up",
        )


def _place(place: ContainerPlace) -> tuple[str, str]:
    return str(int(place.pid)), _checked(_ID, place.id)


def _words(nic: ContainerNic) -> Iterator[str]:
    yield _checked(_NAME, nic.end)
    yield _checked(_NAME, nic.name)
    yield str(int(nic.mtu))
    yield "down" if nic.link == "down" else "up"
    yield "yes" if any(ip_interface(each).version == _IPV6 for each in nic.addresses) else "no"
    yield "yes" if nic.userspace else "no"
    yield "\n".join(_commands(nic, _checked(_NAME, nic.name)))


def _commands(nic: ContainerNic, name: str) -> Iterator[str]:
    """Yield the commands of ip(8) that set up the end in the container."""
    yield "link set dev lo up"
    yield f'link set dev {name} alias "{_MARK}"'
    yield f"link set dev {name} address {_checked(_MAC, nic.mac.lower())} mtu {int(nic.mtu)}"
    yield f"address flush dev {name} scope global"
    for address in map(ip_interface, nic.addresses):
        yield (
            f"address add {_checked(_ADDRESS, str(address))} dev {name}"
            f"{' nodad' if address.version == _IPV6 else ''}"
        )
    yield f"link set dev {name} up"
    for gateway in nic.gateways:
        router = _checked(_ADDRESS, str(ip_interface(gateway).ip))
        yield f"route replace default via {router} dev {name}"


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise DriverError(f"invalid for the NIC of a container: {text!r}")
    return text
