"""Bridges, ports and links change while they are in use."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import driven
import msgspec
import pytest
from driven import Up, assert_as_before, brought_up, plan_of, seen_on_the_host
from test_drivers_host import ENDS, EXTERNAL, JOINT, PLAN, error_of, printed

from hosts import TestHost
from kvmcompose.core.deployable import SwitchBridge, VethPair
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.iplink.driver import IpLinks
from kvmcompose.providers.iplink.interface import FoundLink
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.interface import (
    FAIL_MODE,
    FoundBridge,
    FoundPort,
    GuestPort,
    SwitchChange,
    tunnel_options,
)

pytestmark = pytest.mark.real


class CountingRunner(LocalRunner):
    """Notes the programs that run."""

    def __init__(self) -> None:
        super().__init__("main")
        self.programs: list[str] = []

    async def run(self, argv: list[str], **options: object) -> Completed:  # type: ignore[override]
        self.programs.append(argv[0])
        return await super().run(argv, **options)  # type: ignore[arg-type]


def changed(**named: object) -> SwitchChange:
    return SwitchChange(project="t-net", datapath_type="netdev", **named)  # type: ignore[arg-type]


async def as_wanted(switches: OvsSwitches) -> dict[str, FoundBridge]:
    """What is observed of the whole plan, which is checked."""
    found = dict(await switches.observe("t-net"))
    assert found == {
        "t-br0": FoundBridge(
            name="t-br0",
            datapath_type="netdev",
            protocol="OpenFlow13",
            controller="tcp:127.0.0.1:6653",
            fail_mode=FAIL_MODE,
            ports=(FoundPort(name="t-a", marked=True), FoundPort(name="t-veth0", marked=True)),
        ),
        "t-br1": FoundBridge(
            name="t-br1",
            datapath_type="netdev",
            fail_mode=FAIL_MODE,
            ports=(
                FoundPort(name="t-b", marked=True),
                FoundPort(name="t-nic", marked=True),
                FoundPort(
                    name="t-tunnel", type="geneve", options=tunnel_options(PLAN.tunnels[0]), marked=True
                ),
            ),
        ),
    }
    return found


async def network_changes() -> None:
    machine = CountingRunner()
    switches, links = OvsSwitches(machine), IpLinks(machine)
    before = seen_on_the_host()
    printed("ip", "link", "add", "t-lin", "type", "bridge")
    printed("ip", "link", "add", "t-nic", "type", "veth", "peer", "name", "t-far")
    whole = changed(bridges=PLAN.bridges, veths=PLAN.veths, tunnels=PLAN.tunnels, nics=PLAN.nics)
    try:
        await links.apply(PLAN.veths, up=["t-nic"], mtu=1442)
        for _ in range(2):  # a change creates as well; the second time there is nothing to do
            machine.programs.clear()
            await switches.change(whole)
        assert machine.programs == ["ovs-vsctl"]
        machine.programs.clear()
        await as_wanted(switches)
        assert machine.programs == ["ovs-vsctl"]

        await changes_by_hand(switches, whole)
        await single_things(switches)
        await switches.change(whole)
        await as_wanted(switches)
        await links_made_again(switches, links, machine)
        await not_ours(switches)
    finally:
        await links.remove(ENDS)
        await switches.remove(["t-br0", "t-br1", "t-br2"])
        printed("ip", "link", "del", "t-lin")
        printed("ip", "link", "del", "t-nic")
    assert_as_before(before)


async def changes_by_hand(switches: OvsSwitches, whole: SwitchChange) -> None:
    """Everything that a user can change with ovs-vsctl is seen, and set again."""
    connection = printed("ovs-vsctl", "get", "bridge", "t-br0", "controller")
    for command in (
        ["set-controller", "t-br1", "tcp:127.0.0.1:1", "tcp:127.0.0.1:2"],
        ["set", "bridge", "t-br1", "protocols=OpenFlow10", "fail_mode=secure"],
        ["set", "interface", "t-tunnel", "options:remote_ip=192.0.2.98", "options:csum=true"],
        ["set", "interface", "t-tunnel", "options:key=78"],
        ["del-port", "t-veth0"],
        ["--", "del-port", "t-nic", "--", "add-port", "t-br0", "t-nic"],
        ["--", "del-port", "t-tunnel", "--", "add-port", "t-br0", "t-tunnel"],
        ["del-br", "t-br1"],
    ):
        printed("ovs-vsctl", *command)
        with pytest.raises(AssertionError):
            await as_wanted(switches)
        await switches.change(whole)
        await as_wanted(switches)
    # a controller that stays keeps its connection
    assert printed("ovs-vsctl", "get", "bridge", "t-br0", "controller") == connection


async def single_things(switches: OvsSwitches) -> None:
    """A bridge and its ports go, others come, in one transaction; a moved port keeps what it has."""
    printed("ovs-vsctl", "set", "port", "t-a", "tag=7")
    joint = msgspec.structs.replace(JOINT, left_bridge="t-br2")
    await switches.change(
        changed(
            bridges=(SwitchBridge(name="t-br2", host="main"),),
            veths=(joint,),
            removed_bridges=("t-br0",),
            removed_ports=("t-nic", "t-none"),
        )
    )
    found = await switches.observe("t-net")
    assert {name: [port.name for port in bridge.ports] for name, bridge in found.items()} == {
        "t-br1": ["t-b", "t-tunnel"],
        "t-br2": ["t-a"],
    }
    assert printed("ovs-vsctl", "get", "port", "t-a", "tag").strip() == "7"
    assert "t-veth0" not in printed("ovs-vsctl", "list-ports", "t-br2")
    await switches.change(changed(bridges=PLAN.bridges[:1], veths=(JOINT,), removed_bridges=("t-br2",)))
    printed("ovs-vsctl", "clear", "port", "t-a", "tag")


async def links_made_again(switches: OvsSwitches, links: IpLinks, machine: CountingRunner) -> None:
    """A pair that was deleted by hand is missing; made again, its port is dead until it is replaced."""
    fine = {
        "t-veth0": FoundLink(up=True, mtu=1442, peer="t-veth1", attached=True),
        "t-veth1": FoundLink(up=True, mtu=1442, peer="t-veth0", master="t-lin", attached=True),
    }
    names = [EXTERNAL.left, EXTERNAL.right, "t-none"]
    machine.programs.clear()
    assert await links.observe(names) == fine
    assert machine.programs == ["ip"]
    printed("ip", "link", "add", "t-other", "type", "bridge")
    for command in (
        ["set", "t-veth0", "down"],
        ["set", "t-veth0", "mtu", "1400"],
        ["set", "t-veth1", "nomaster"],
        ["set", "t-veth1", "master", "t-other"],
    ):
        printed("ip", "link", *command)
        assert await links.observe(names) != fine
        await links.apply(PLAN.veths, up=[], mtu=1442)
        assert await links.observe(names) == fine
    printed("ip", "link", "del", "t-other")

    printed("ip", "link", "del", "t-veth0")
    assert await links.observe(names) == {}
    await links.apply(PLAN.veths, up=[], mtu=1442)
    await switches.change(changed(veths=(EXTERNAL,)))
    await as_wanted(switches)  # the database does not tell
    assert not (await links.observe(names))["t-veth0"].attached
    await switches.change(changed(veths=(EXTERNAL,), removed_ports=("t-veth0",)))
    assert await links.observe(names) == fine
    await as_wanted(switches)
    await links.remove(["t-a"])  # single pairs
    assert await links.observe([*names, "t-a", "t-b"]) == fine
    await links.apply(PLAN.veths, up=[], mtu=1442)
    await switches.change(changed(veths=(JOINT,), removed_ports=("t-a", "t-b")))
    assert (await links.observe(["t-b"]))["t-b"].attached


async def not_ours(switches: OvsSwitches) -> None:
    printed("ovs-vsctl", "add-br", "t-other", "--", "set", "bridge", "t-other", "datapath_type=netdev")
    printed("ip", "link", "add", "t-x", "type", "veth", "peer", "name", "t-y")
    printed("ovs-vsctl", "add-port", "t-other", "t-x")
    shown = printed("ovs-vsctl", "show")
    try:
        await switches.change(changed(removed_bridges=("t-other",), removed_ports=("t-x", "t-other")))
        theirs = VethPair(host="main", left="t-x", left_bridge="t-br0", right="t-y", right_bridge="t-br1")
        for wanted in (
            changed(bridges=(SwitchBridge(name="t-other", host="main"),)),
            changed(veths=(theirs,)),
            changed(guests=(GuestPort(bridge="t-br0", name="t-x", mac="52:54:00:00:00:01"),)),
        ):
            assert "t-other" in (await error_of(switches.change(wanted))).message
        assert printed("ovs-vsctl", "show") == shown
    finally:
        printed("ovs-vsctl", "del-br", "t-other")
        printed("ip", "link", "del", "t-x")


def test_bridges_ports_and_pairs_change_one_by_one(real_host: TestHost) -> None:
    driven.inside(real_host, network_changes)


# -- ports of running guests ---------------------------------------------------------------------------

#: Pings per second, and how many may be lost while a port moves: the switch is without it for some ms.
RATE, MOST_LOST = 10, 1


async def pinging(up: Up, name: str, target: str, seconds: int) -> int:
    """Ping from a guest, and return how many packets were lost."""
    count = seconds * RATE
    status, lines = await up.run("left", "ping", "-c", str(count), "-i", str(1 / RATE), "-W", "1", target)
    found = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", "\n".join(lines))
    assert found, (name, status, lines)
    return int(found[1]) - int(found[2])


def carrier(tap: str) -> str:
    return Path(f"/sys/class/net/{tap}/carrier_changes").read_text() + printed(
        "ip", "-br", "link", "show", tap
    )


def noted(tap: str) -> str:
    return printed("ovs-vsctl", "get", "interface", tap, "external_ids")


def taps(bridge: FoundBridge) -> list[tuple[str, str | None]]:
    return [(port.name, port.mac) for port in bridge.ports]


async def guest_moves(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        await up.start("left", "right")
        switches, testbed, plan = up.host.switches, up.testbed, plan_of(up.testbed)
        (nic,) = testbed.guests["left"].state.interfaces
        right = testbed.guests["right"].address or ""
        names = {bridge.segment: bridge.name for bridge in plan.bridges}
        home, away = names["br0"], names["br1"]
        found = (await switches.observe(testbed.project))[home]
        assert (nic.target, nic.mac) in taps(found)
        link, notes, ports = carrier(nic.target), noted(nic.target), seen_on_the_host()["ports"]
        assert all(key in notes for key in ("attached-mac", "iface-id", "vm-id"))

        def change(bridge: str, *, bridges: bool = False) -> SwitchChange:
            return SwitchChange(
                project=testbed.project,
                datapath_type=plan.datapath_type,
                bridges=plan.bridges if bridges else (),
                veths=plan.veths if bridges else (),
                guests=(GuestPort(bridge=bridge, name=nic.target, mac=nic.mac),),
            )

        # there and back, while it pings
        task = asyncio.create_task(pinging(up, "left", right, 6))
        moves = (away, home, away, home)
        for bridge in moves:
            await asyncio.sleep(1)
            await switches.change(change(bridge))
            there = (await switches.observe(testbed.project))[bridge]
            assert (nic.target, nic.mac) in taps(there)
        lost = await task
        assert lost <= MOST_LOST * len(moves), lost
        assert (carrier(nic.target), noted(nic.target)) == (link, notes)
        assert seen_on_the_host()["ports"] == ports

        # the bridge is deleted by hand: the guest is cut off until its port is put back
        printed("ovs-vsctl", "del-br", home)
        assert home not in await switches.observe(testbed.project)
        for _ in range(2):
            await switches.change(change(home, bridges=True))
        await up.host.links.apply([], up=[home], mtu=testbed.network_plan.mtu)
        assert await pinging(up, "left", right, 2) <= MOST_LOST
        assert carrier(nic.target) == link
        assert nic.mac in noted(nic.target)
        assert (nic.target, nic.mac) in taps((await switches.observe(testbed.project))[home])

        # moved by hand to another bridge, not ours: taken back, as it has the MAC address of the guest
        printed("ovs-vsctl", "add-br", "t-else", "--", "set", "bridge", "t-else", "datapath_type=netdev")
        await switches.change(change(away))
        row = printed("ovs-vsctl", "get", "port", nic.target, "_uuid").strip()
        printed("ovs-vsctl", "--", "remove", "bridge", away, "ports", row, "--", "add", "bridge", "t-else",
                "ports", row)  # fmt: skip
        await switches.change(change(away))
        assert printed("ovs-vsctl", "port-to-br", nic.target).strip() == away
        printed("ovs-vsctl", "del-br", "t-else")

        # libvirt removes the port of a domain that ends, wherever it is
        await up.host.hypervisor.domains.destroy(f"{testbed.project}-left")
        assert nic.target not in printed("ovs-vsctl", "list-ports", away)
    assert_as_before(before)


def test_port_of_a_running_guest_moves_and_comes_back(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    folder = tmp_path / "moving"
    project = driven.make_project(folder, micro_image, ssh_key, {"left": "br0", "right": "br1"})
    driven.inside(real_host, guest_moves, folder=project)


async def many_ports() -> None:
    """Moving hundreds of ports is one transaction."""
    count = 400
    switches = OvsSwitches(LocalRunner("main"))
    bridges = (SwitchBridge(name="t-m0", host="main"), SwitchBridge(name="t-m1", host="main"))
    macs = [f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}" for number in range(count)]
    try:
        await switches.change(changed(bridges=bridges))
        # ports without an interface: the switch reports that, and the database has them
        words = [word for number in range(count) for word in ("--", "add-port", "t-m0", f"t-p{number}")]
        printed("ovs-vsctl", "--no-wait", *words)
        ports = tuple(
            GuestPort(bridge="t-m1", name=f"t-p{number}", mac=mac) for number, mac in enumerate(macs)
        )
        await switches.change(changed(guests=ports))
        found = await switches.observe("t-net")
        assert (len(found["t-m0"].ports), len(found["t-m1"].ports)) == (0, count)
        assert {port.mac for port in found["t-m1"].ports} == set(macs)
    finally:
        await switches.remove(["t-m0", "t-m1"])


def test_hundreds_of_ports_move_at_once(real_host: TestHost) -> None:
    driven.inside(real_host, many_ports)
