"""Open vSwitch through ovs-vsctl(8): each call that changes something is one transaction.

Bridges with a controller have fail mode ``standalone``, like those without one: they work as plain switches
while no controller answers.

Bridges in userspace forward packets unchanged. Linux leaves checksums to the hardware, and a veth pair has
none: TCP and UDP packets that this host sends into such a bridge would arrive without a checksum and be
dropped. So checksum offloading is turned off at the Linux ends of pairs. And what arrives at an interface of
such a bridge arrives at the host, too: see ``hosts.arp``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from kvmcompose.hosts.arp import leave_arp_to_bridges
from kvmcompose.hosts.command import CommandRunner, Completed, failure
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import LIST_ALL, Database, parse_database
from kvmcompose.providers.ovs.interface import FoundBridge, SwitchChange, SwitchPlan
from kvmcompose.providers.ovs.transaction import (
    arguments_to_change,
    arguments_to_remove,
    bridges_moved_to,
)

_SECONDS = 20
VSCTL = ("ovs-vsctl", f"--timeout={_SECONDS}")
_ALARM = {-14, 142}  # how ovs-vsctl exits after its timeout: by SIGALRM
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
        owners = (await self._read()).owners
        return sorted(name for name in wanted & owners.keys() if owners[name] != plan.project)

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        found = await self._read()
        others = {name for name, owner in found.owners.items() if owner != project}
        others |= {name for name, row in found.ports.items() if row.bridge in others}
        return sorted(others & set(ports))

    async def observe(self, project: str, also: Collection[str] = ()) -> Mapping[str, FoundBridge]:
        return (await self._read()).of(project, also)

    async def change(self, change: SwitchChange) -> None:
        found = await self._read()
        calls = arguments_to_change(change, found)
        if calls:
            await self._prepare_pairs(change)
        for arguments in calls:
            await self._commit(arguments)
        for bridge in bridges_moved_to(change, found):
            await self._relearn(bridge)

    async def remove(self, names: Sequence[str]) -> None:
        arguments = arguments_to_remove(names)
        if arguments:
            await self._commit(arguments)

    async def _prepare_pairs(self, plan: SwitchPlan) -> None:
        """For bridges in userspace, let Linux ends of pairs compute checksums, and others answer no ARP."""
        if plan.datapath_type != "netdev":
            return
        for end in (pair.right for pair in plan.veths if pair.right_is_linux):
            await self._runner.run(["ethtool", "-K", end, "tx", "off"], privileged=True)
        ends = ((pair.left,) if pair.right_is_linux else (pair.left, pair.right) for pair in plan.veths)
        await leave_arp_to_bridges(self._runner, [end for each in ends for end in each])

    async def _relearn(self, bridge: str) -> None:
        """Let a bridge forget where MAC addresses are.

        It would go on sending to a guest's old port for up to half a second, until ovs-vswitchd compares its
        flows with what it has learned meanwhile.
        """
        argv = ["ovs-appctl", "--timeout=5", "-t", "ovs-vswitchd", "fdb/flush", bridge]
        await self._runner.run(argv, privileged=True, check=False)

    async def _read(self) -> Database:
        return parse_database((await run_ovs(self._runner, [*VSCTL, *LIST_ALL])).stdout)

    async def _commit(self, arguments: Iterable[str]) -> None:
        check_ports(await run_ovs(self._runner, [*VSCTL, *arguments]), self._runner.name)


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
