"""Open vSwitch through ovs-vsctl(8): each call that changes something is one transaction.

Bridges with a controller have fail mode ``standalone``, like those without one: they work as plain switches
while no controller answers.

Bridges in userspace forward packets unchanged. Linux leaves checksums to the hardware, and a veth pair has
none: TCP and UDP packets that this host sends into such a bridge would arrive without a checksum and be
dropped. So checksum offloading is turned off at the Linux ends of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.deployable import SwitchBridge
from kvmcompose.hosts.command import CommandRunner, Completed, failure
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.interface import SwitchPlan

#: The key in ``external_ids`` of a bridge or port that holds the project's name.
PROJECT_KEY = "kvm-compose-project"

_SECONDS = 20
VSCTL = ("ovs-vsctl", f"--timeout={_SECONDS}")
_ALARM = {-14, 142}  # how ovs-vsctl exits after its timeout: by SIGALRM
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PROTOCOLS = re.compile(r"OpenFlow1[0-5](,OpenFlow1[0-5])*")
_CONTROLLER = re.compile(r"p?(tcp|ssl|unix):[^\s,\"]*")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")
_PORT_ERROR = re.compile(r"Error detected while setting up '([^']*)': (.*)")


class OvsSwitches:
    """Open vSwitch on one host."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def check(self) -> None:
        """Query the database and the switch itself."""
        await run_ovs(self._runner, [*VSCTL, "get", "Open_vSwitch", ".", "_uuid"])
        await run_ovs(self._runner, ["ovs-appctl", "--timeout=5", "-t", "ovs-vswitchd", "version"])

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        wanted = {bridge.name for bridge in plan.bridges}
        owners, _ = await self._list()
        return sorted(name for name in wanted & owners.keys() if owners[name] != plan.project)

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        owners, found = await self._list()
        others = {port for name in found if owners[name] != project for port in (name, *found[name])}
        return sorted(others & set(ports))

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        owners, ports = await self._list()
        return {name: ports[name] for name, owner in sorted(owners.items()) if owner == project}

    async def apply(self, plan: SwitchPlan) -> None:
        arguments = arguments_to_apply(plan)
        if not arguments:
            return
        if plan.datapath_type == "netdev":
            for end in (pair.right for pair in plan.veths if pair.right_is_linux):
                await self._runner.run(["ethtool", "-K", end, "tx", "off"], privileged=True)
        check_ports(await run_ovs(self._runner, [*VSCTL, *arguments]), self._runner.name)

    async def remove(self, names: Sequence[str]) -> None:
        arguments: list[str] = []
        for name in names:
            arguments += ["--", "--if-exists", "del-br", _checked(_NAME, name, "bridge")]
        if arguments:
            await run_ovs(self._runner, [*VSCTL, *arguments])

    async def _list(self) -> tuple[dict[str, str | None], dict[str, list[str]]]:
        """Return each bridge's project, if any, and its ports."""
        done = await run_ovs(self._runner, [
            *VSCTL, "--format=json",
            "--", "--columns=name,external_ids,ports", "list", "Bridge",
            "--", "--columns=_uuid,name", "list", "Port",
        ])  # fmt: skip
        return parse_bridges(done.stdout)


async def run_ovs(runner: CommandRunner, argv: Sequence[str]) -> Completed:
    """Run a program of Open vSwitch. Raises DriverError."""
    done = await runner.run(argv, seconds=_SECONDS + 5, privileged=True, check=False)
    if done.status == 0:
        return done
    if done.status in _ALARM:
        raise DriverError(
            f"ovs-vswitchd on {runner.name} does not answer ({argv[0]} timed out)",
            hint="is it running? sudo systemctl restart openvswitch-switch",
        )
    error = failure(argv, done, runner.name, privileged=True)
    if "database connection failed" in done.complaint:
        error.hint = "sudo systemctl enable --now openvswitch-switch"
    raise error


def check_ports(done: Completed, host: str) -> None:
    """Raise DriverError for a transaction that was committed, but that the switch could not carry out."""
    found = _PORT_ERROR.search(done.stderr.decode(errors="replace"))
    if found:
        raise DriverError(
            f"Open vSwitch on {host} cannot set up the port {found[1]}: {found[2]}",
            hint=f"ip link show dev {found[1]}; ovs-vsctl show",
        )


def arguments_to_apply(plan: SwitchPlan) -> list[str]:
    """Return the arguments of ``ovs-vsctl``. Raises DriverError for values that it would misinterpret."""
    mark = project_mark(plan.project)
    datapath = plan.datapath_type
    if datapath not in ("system", "netdev"):
        raise DriverError(f"unknown datapath_type {datapath!r} (it is system or netdev)")
    arguments: list[str] = []
    for bridge in plan.bridges:
        arguments += _bridge(bridge, datapath, mark)
    ports: list[tuple[str, str]] = []
    for pair in plan.veths:
        ports.append((pair.left_bridge, pair.left))
        if not pair.right_is_linux:
            ports.append((pair.right_bridge, pair.right))
    ports += [(nic.bridge, nic.nic) for nic in plan.nics]
    for bridge_name, port in ports:
        arguments += _port(bridge_name, port, mark)
    for tunnel in plan.tunnels:
        remote = _checked(_ADDRESS, tunnel.remote_ip, "tunnel's remote address")
        arguments += _port(tunnel.bridge, tunnel.name, mark)
        arguments += [
            "--", "set", "interface", tunnel.name, "type=geneve",
            f'options:remote_ip="{remote}"', f"options:key={tunnel.key:d}",
        ]  # fmt: skip
    return arguments


def project_mark(project: str) -> str:
    """Return the column that marks a row of the database as the project's."""
    return f"external_ids:{PROJECT_KEY}={_checked(_PROJECT, project, 'project')}"


def _bridge(bridge: SwitchBridge, datapath: str, mark: str) -> list[str]:
    name = _checked(_NAME, bridge.name, "bridge")
    protocols = _checked(_PROTOCOLS, bridge.protocol, "protocol") if bridge.protocol else "[]"
    arguments = [
        "--", "--may-exist", "add-br", name,
        "--", "set", "bridge", name,
        f"datapath_type={datapath}", f"protocols={protocols}", "fail_mode=standalone", mark,
    ]  # fmt: skip
    if bridge.controller:
        controller = _checked(_CONTROLLER, bridge.controller, "controller")
        return [*arguments, "--", "set-controller", name, controller]
    return [*arguments, "--", "del-controller", name]


def _port(bridge: str, port: str, mark: str) -> list[str]:
    bridge, port = _checked(_NAME, bridge, "bridge"), _checked(_NAME, port, "port")
    return ["--", "--may-exist", "add-port", bridge, port, "--", "set", "port", port, mark]


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise DriverError(f"invalid {what} for Open vSwitch: {text!r}")
    return text


class OvsdbTable(msgspec.Struct, frozen=True):
    """A table that ``ovs-vsctl --format=json list`` prints (values as in RFC 7047, section 5.1)."""

    headings: tuple[str, ...]
    data: tuple[tuple[Any, ...], ...]

    def rows(self) -> Iterable[dict[str, Any]]:
        return (dict(zip(self.headings, row, strict=True)) for row in self.data)


def parse_bridges(output: bytes) -> tuple[dict[str, str | None], dict[str, list[str]]]:
    """Parse two tables, bridges and ports: return each bridge's project and the names of its ports.

    The local port of each bridge, which has the bridge's name, is left out.
    """
    try:
        bridges, ports = (
            msgspec.json.decode(line, type=OvsdbTable) for line in output.splitlines() if line.strip()
        )
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error
    names = {row["_uuid"][1]: row["name"] for row in ports.rows()}
    owners: dict[str, str | None] = {}
    found: dict[str, list[str]] = {}
    for row in bridges.rows():
        name = row["name"]
        owners[name] = dict(row["external_ids"][1]).get(PROJECT_KEY)
        found[name] = sorted(
            names[uuid] for uuid in _uuids(row["ports"]) if names.get(uuid) not in (None, name)
        )
    return owners, found


def _uuids(value: Any) -> Iterable[str]:
    """A column holds one reference by itself, none or several as a set."""
    kind, content = value
    return [each[1] for each in content] if kind == "set" else [content]
