"""The network of a testbed: on each host its bridges, links and tunnels, on one the NAT network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Mapping

import msgspec

from kvmcompose.core.deployable import LibvirtNetwork, TunnelPort
from kvmcompose.core.names import first_few
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError, SubnetTakenError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.ovs.interface import SwitchPlan
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import network_xml
from kvmcompose.server.orchestrator.stages import Job, shielded, side_by_side, together
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

STAGE = "network"
#: RFC 1918, and what RFC 6598, RFC 2544 and RFC 5737 set apart: nobody out there is reached by these.
_FOR_GUESTS = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
    )
)  # fmt: skip


class NetworkSetup:
    """What one ``up`` does to the network."""

    def __init__(
        self, context: Context, testbed: LoadedTestbed, log: ActionLog, hosts: Mapping[str, HostDrivers]
    ) -> None:
        self._context = context
        self._testbed = testbed
        self._log = log
        self._hosts = hosts
        #: Addresses of hosts that the configuration has names of.
        self._addresses: dict[str, str] = {}

    # -- before anything is changed

    async def check(self, name: str, host: HostDrivers) -> None:
        """Raises DriverError for what is in the way on a host."""
        for tunnel in self._testbed.network_plan.tunnels:
            if tunnel.host == name:
                self._addresses[tunnel.remote_ip] = await _address(tunnel.remote_ip)
        plan = self._plan(name)
        await _refuse_foreign(host, plan)
        await self._refuse_taken(name, host, plan)
        if self._testbed.network_plan.network.host == name and not self._context.owner.is_admin:
            await self._check_subnet(host)

    async def _refuse_taken(self, name: str, host: HostDrivers, plan: SwitchPlan) -> None:
        """Names of interfaces are short: two projects may come to the same one."""
        ports = [end for veth in plan.veths for end in (veth.left, veth.right)]
        ports += [tunnel.name for tunnel in plan.tunnels]
        for guest in self._testbed.guests.values():
            if guest.state.testbed_host == name:
                ports += [nic.target for nic in guest.state.interfaces]
        taken = await host.switches.foreign_ports(plan.project, ports)
        if taken:
            raise DriverError(
                f"interfaces with these names are on other bridges: {first_few(taken)}",
                hint="give the project another name: --project-name",
            )

    async def _check_subnet(self, host: HostDrivers) -> None:
        """What the host sends to the subnet goes to guests: for a member it takes nobody's place."""
        network = self._testbed.network_plan.network
        subnet = ipaddress.IPv4Network(network.subnet)
        hint = _another_subnet(network)
        if not any(subnet.subnet_of(each) for each in _FOR_GUESTS):
            raise DriverError(
                f"{subnet} is not a private subnet, and only an administrator's testbed may use another",
                hint=hint,
            )
        for each in await host.links.attached():
            if each.interface != network.bridge and subnet.overlaps(each.subnet):
                raise DriverError(
                    f"the subnet {subnet} overlaps {each.subnet}, which is reached by {each.interface}",
                    hint=hint,
                )

    async def is_complete(self) -> bool:
        """Whether everything is there."""
        found = await side_by_side(self._is_complete(name, host) for name, host in self._hosts.items())
        return all(found)

    async def _is_complete(self, name: str, host: HostDrivers) -> bool:
        network = self._testbed.network_plan.network
        if network.host == name and not (await host.hypervisor.networks(self._context.project)).get(
            network.name
        ):
            return False
        plan = self._plan(name)
        bridges = await host.switches.bridges(self._context.project)
        wanted = {bridge.name: set[str]() for bridge in plan.bridges}
        for veth in plan.veths:
            wanted[veth.left_bridge].add(veth.left)
            if not veth.right_is_linux:
                wanted[veth.right_bridge].add(veth.right)
        for tunnel in plan.tunnels:
            wanted[tunnel.bridge].add(tunnel.name)
        if not all(bridge in bridges and ports <= set(bridges[bridge]) for bridge, ports in wanted.items()):
            return False
        ends = [end for veth in plan.veths for end in (veth.left, veth.right)]
        return await host.links.present(ends) == frozenset(ends)

    # -- the stage

    async def bring_up(self, domains: Collection[str]) -> bool:
        """Make what lacks; whether all of it is there. ``domains`` are those that hosts have already."""
        jobs = [self._job(name, host, domains) for name, host in self._hosts.items()]
        return all(await together(jobs, limit=len(jobs)))

    def _job(self, name: str, host: HostDrivers, domains: Collection[str]) -> Job:
        network = self._testbed.network_plan.network
        plan = self._plan(name)

        async def job() -> None:
            if network.host == name:
                with self._log.step(STAGE, f"network:{network.name}", host=name) as step:
                    await shielded(self._start(host, domains))
                    step.say(f"network {network.name} is active: {network.subnet} on {network.bridge}")
            with self._log.step(STAGE, "links", host=name):
                up = [nic.nic for nic in plan.nics]
                await shielded(host.links.apply(plan.veths, up=up, mtu=self._testbed.network_plan.mtu))
            with self._log.step(STAGE, "bridges", host=name) as step:
                await _refuse_foreign(host, plan)  # the check may have been long ago
                await shielded(host.switches.apply(plan))
                step.say(f"bridges: {', '.join(bridge.name for bridge in plan.bridges) or 'none'}")

        return job

    async def _start(self, host: HostDrivers, domains: Collection[str]) -> None:
        """Create a changed network again while no guest runs."""
        network = self._testbed.network_plan.network
        deployed = self._context.deployed
        changed = deployed is not None and deployed.files.get(network.xml) != self._testbed.digests.get(
            network.xml
        )
        if changed and not domains:
            await host.hypervisor.remove_network(network.name)
        try:
            await host.hypervisor.start_network(await in_thread(network_xml, self._context, self._testbed))
        except SubnetTakenError as error:
            error.hint = f"{error.hint}, or {_another_subnet(network)}"
            raise

    def _plan(self, name: str) -> SwitchPlan:
        network_plan = self._testbed.network_plan
        return SwitchPlan(
            project=self._context.project,
            datapath_type=self._testbed.state.testbed_hosts[name].datapath_type,
            bridges=tuple(each for each in network_plan.bridges if each.host == name),
            veths=tuple(each for each in network_plan.veths if each.host == name),
            tunnels=tuple(self._by_address(each) for each in network_plan.tunnels if each.host == name),
            nics=tuple(each for each in network_plan.nics if each.host == name),
        )

    def _by_address(self, tunnel: TunnelPort) -> TunnelPort:
        address = self._addresses.get(tunnel.remote_ip, tunnel.remote_ip)
        return msgspec.structs.replace(tunnel, remote_ip=address)


async def _refuse_foreign(host: HostDrivers, plan: SwitchPlan) -> None:
    foreign = await host.switches.foreign(plan)
    if foreign:
        raise DriverError(
            f"names are taken by other Open vSwitch bridges: {', '.join(foreign)}",
            hint="remove them (ovs-vsctl del-br NAME), or give the project another name: --project-name",
        )


def _another_subnet(network: LibvirtNetwork) -> str:
    """How to give the guests of the external bridge another subnet, as the end of a hint."""
    if network.subnet_is_derived:
        return "rename this project (--project-name): its subnet is derived from its name"
    return "give the guests on the external bridge an `ip` in another subnet, or none: theirs decides it"


async def _address(host: str) -> str:
    """The IPv4 address of a host that may be given by name: Open vSwitch takes none. Raises DriverError."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except OSError as error:
        raise DriverError(
            f"there is no address for the host {host}: {error.strerror}",
            hint="give its address in kvm-compose-config.json (ip): tunnels need it",
        ) from error
    return str(found[0][4][0])
