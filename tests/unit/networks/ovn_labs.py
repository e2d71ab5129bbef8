"""Testbeds on logical switches for tests, in the form of the existing system's files."""

from __future__ import annotations

from golden.memory import MemoryFiles, compile_text, hosts
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.core.image_lock import LOCK_PATH
from kvmcompose.core.project import FileKind
from kvmcompose.pipeline.compile import Compiled


class AnyFiles(MemoryFiles):
    """Everything that a YAML names is there."""

    def kind(self, path: str) -> FileKind:
        return FileKind.MISSING if path == LOCK_PATH else FileKind.FILE

    def image_names(self) -> tuple[str, ...]:
        return ("debian_12", "ubuntu_20_04")


CLOUD = "libvirt: {cpus: 2, memory_mb: 2048, libvirt_type: {cloud_image: {name: ubuntu_20_04}}}"
SW0 = '{name: lr0-sw0, mac: "00:00:00:00:ff:01", gateway_ip: 10.0.0.1/24, switch: sw0}'
SW1 = '{name: lr0-sw1, mac: "00:00:00:00:ff:02", gateway_ip: 10.0.1.1/24, switch: sw1}'
PUBLIC = (
    '{name: lr0-public, mac: "00:00:20:20:12:13", gateway_ip: 172.16.1.200/24, switch: public, '
    "set_gateway_chassis: master}"
)
DEFAULT = "{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}"
SNAT = "{nat_type: snat, external_ip: 172.16.1.200, logical_ip: 10.0.0.0/16}"
WEB_RULE = (
    "{switches: {sw0: [{direction: to-lport, priority: 100, match: tcp.dst == 80, action: allow-related}]}}"
)
DHCP = "[{switch: sw0, exclude_ips: {from: 10.0.0.1, to: 10.0.0.20}}]"


def machine(name: str, last: int, ip: str | None = None, *, body: str = CLOUD) -> str:
    """Return a machine on ``sw0``, with its interface as a mapping. ``last`` ends its MAC address."""
    ip = ip or f"10.0.0.{last + 9}"
    return (
        f"  - name: {name}\n"
        f'    network: {{switch: sw0, gateway: 10.0.0.1, mac: "00:00:00:00:00:{last:02x}", ip: {ip}}}\n'
        f"    {body}\n"
    )


def lab(
    machines: str,
    *,
    ports: tuple[str, ...] = (SW0, PUBLIC),
    routes: tuple[str, ...] = (DEFAULT,),
    nat: tuple[str, ...] = (SNAT,),
    dhcp: str = "[]",
    switches: str = "sw0: {subnet: 10.0.0.0/24}",
    acl: str = "{}",
    more: str = "",
) -> str:
    """Return a testbed with one router ``lr0`` and the provider network ``public``."""
    return f"""\
machines:
{machines}network:
  ovn:
    switches:
      {switches}
      public:
        subnet: 172.16.1.0/24
        ports: [{{name: ls-public, localnet: {{network_name: public}}}}]
    routers:
      lr0:
        ports: [{", ".join(ports)}]
        static_routes: [{", ".join(routes)}]
        nat: [{", ".join(nat)}]
        dhcp: {dhcp}
      {more}
    acl: {acl}
"""


def compiled(text: str, count: int = 2) -> Compiled:
    """Compile a testbed for some hosts, of which the first is the main host."""
    return compile_text(text, files=AnyFiles(), on=hosts(count))


def problems(text: str, count: int = 2) -> tuple[Problem, ...]:
    """Return errors and warnings of a testbed."""
    try:
        return compiled(text, count).warnings
    except InputError as error:
        return error.problems


def codes(text: str, count: int = 2) -> list[tuple[str, str]]:
    """Return the code and the path of each problem."""
    return [(each.code, each.path) for each in problems(text, count)]
