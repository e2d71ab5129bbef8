"""The transaction of a change, given what Open vSwitch has."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from recorder import Recorder
from test_driver_ovs import BRIDGES, commands

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import parse_database
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.interface import GuestPort, SwitchChange
from kvmcompose.providers.ovs.transaction import arguments_to_change

MARK = "external_ids:kvm-compose-project=p"
NOTED = 'external_ids:attached-mac="52:54:00:00:00:02"'
BR0 = SwitchBridge(
    name="p-br0", host="main", protocol="OpenFlow13,OpenFlow10", controller="tcp:127.0.0.1:6653"
)
TUNNEL = TunnelPort(host="main", bridge="p-br0", name="p-t", remote_ip="192.0.2.12", key=7)
GUEST = GuestPort(bridge="p-br0", name="p-tap0", mac="52:54:00:00:00:01")
VETH = VethPair(
    host="main", left="p-veth0", left_bridge="p-br0", right="r", right_bridge="lin", right_is_linux=True
)


def change(
    bridges: tuple[SwitchBridge, ...] = (),
    veths: tuple[VethPair, ...] = (),
    tunnels: tuple[TunnelPort, ...] = (),
    nics: tuple[NicPort, ...] = (),
    guests: tuple[GuestPort, ...] = (),
    removed_bridges: tuple[str, ...] = (),
    removed_ports: tuple[str, ...] = (),
    project: str = "p",
) -> SwitchChange:
    return SwitchChange(
        project=project,
        datapath_type="netdev",
        bridges=bridges,
        veths=veths,
        tunnels=tunnels,
        nics=nics,
        guests=guests,
        removed_bridges=removed_bridges,
        removed_ports=removed_ports,
    )


def transactions(wanted: SwitchChange) -> list[list[str]]:
    return [commands(each) for each in arguments_to_change(wanted, parse_database(BRIDGES))]


def test_what_is_as_it_should_be_needs_no_transaction() -> None:
    wanted = change((BR0,), (VETH,), (TUNNEL,), guests=(GUEST,), removed_ports=("gone",))
    assert transactions(wanted) == []
    machine = Recorder(("list Bridge", 0, BRIDGES, b""))
    asyncio.run(OvsSwitches(machine).change(wanted))
    assert len(machine.commands) == 1


def test_only_what_differs_of_a_bridge_is_set() -> None:
    plain = SwitchBridge(name="p-br0", host="main")
    assert transactions(change((plain,))) == [["set bridge p-br0 protocols=[]", "del-controller p-br0"]]
    other = SwitchBridge(name="p-br1", host="main", controller="tcp:192.0.2.1:6653")
    assert transactions(change((other,))) == [
        ["set bridge p-br1 fail_mode=standalone", "set-controller p-br1 tcp:192.0.2.1:6653"]
    ]


def test_everything_of_a_change_is_one_transaction_in_an_order_that_loses_no_port() -> None:
    wanted = change(
        bridges=(SwitchBridge(name="p-br2", host="main", protocol="OpenFlow13"),),
        veths=(VethPair(host="main", left="p-a", left_bridge="p-br1", right="p-b", right_bridge="p-br2"),),
        tunnels=(
            TunnelPort(host="main", bridge="p-br1", name="p-t", remote_ip="192.0.2.13", key=8),
            TunnelPort(host="main", bridge="p-br1", name="p-u", remote_ip="192.0.2.14", key=9),
        ),
        nics=(NicPort(host="main", bridge="p-br1", nic="eth1"),),
        guests=(
            GuestPort(bridge="p-br2", name="p-tap0", mac="52:54:00:00:00:01"),
            GuestPort(bridge="p-br1", name="p-tap1", mac="52:54:00:00:00:02"),
        ),
        removed_bridges=("p-br0", "gone"),
        removed_ports=("p-veth0", "gone"),
    )
    assert transactions(wanted) == [[
        "--may-exist add-br p-br2",
        f"set bridge p-br2 {MARK} datapath_type=netdev protocols=OpenFlow13 fail_mode=standalone",
        "remove bridge p-br0 ports 5",
        "add bridge p-br1 ports 5",
        "remove bridge p-br0 ports 4",
        "add bridge p-br2 ports 4",
        f"add-port p-br1 p-a {MARK}",
        f"add-port p-br2 p-b {MARK}",
        f"add-port p-br1 eth1 {MARK}",
        f"add-port p-br1 p-u {MARK}",
        "add-port p-br1 p-tap1",
        'set interface p-t type=geneve options={key="8",remote_ip="192.0.2.13"}',
        'set interface p-u type=geneve options={key="9",remote_ip="192.0.2.14"}',
        f"set interface p-tap1 {NOTED} external_ids:iface-status=active",
        "--if-exists del-port p-veth0",
        "--if-exists del-br p-br0",
    ]]  # fmt: skip


def test_unmarked_port_of_ours_is_marked() -> None:
    assert transactions(change(nics=(NicPort(host="main", bridge="p-br1", nic="bond"),))) == [
        [f"set port bond {MARK}"]
    ]


def test_port_to_replace_is_removed_in_a_transaction_of_its_own() -> None:
    assert transactions(change(veths=(VETH,), removed_ports=("p-veth0", "p-t"))) == [
        ["--if-exists del-port p-veth0"],
        [f"add-port p-br0 p-veth0 {MARK}", "--if-exists del-port p-t"],
    ]


def test_nothing_that_is_not_the_projects_is_removed() -> None:
    wanted = change(removed_bridges=("other", "p-br0"), removed_ports=("tap7", "p-veth0"))
    assert transactions(wanted) == [["--if-exists del-port p-veth0", "--if-exists del-br p-br0"]]
    assert transactions(change(removed_bridges=("p-br0",), removed_ports=("p-t",), project="q")) == []


def test_tap_of_the_guest_is_taken_back_from_another_bridge() -> None:
    tap = GuestPort(bridge="p-br0", name="tap7", mac="52:54:00:00:00:07")
    assert transactions(change(guests=(tap,))) == [
        ["remove bridge other ports 7", "add bridge p-br0 ports 7"]
    ]


def test_bridges_forget_where_a_guest_was_that_came() -> None:
    machine = Recorder(("list Bridge", 0, BRIDGES, b""))
    taps = [("p-tap0", "p-br1"), ("p-tap1", "p-br1")]
    guests = tuple(GuestPort(bridge=bridge, name=name, mac=GUEST.mac) for name, bridge in taps)
    asyncio.run(OvsSwitches(machine).change(change((BR0,), guests=guests)))
    assert [command[0] for command in machine.commands] == ["ovs-vsctl", "ovs-vsctl", "ovs-appctl"]
    assert machine.commands[-1][-2:] == ["fdb/flush", "p-br1"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (change((SwitchBridge(name="other", host="main"),)), "taken by other Open vSwitch bridges: other"),
        (
            change(nics=(NicPort(host="main", bridge="p-br0", nic="tap7"),)),
            "tap7 is a port of the bridge other, which is not the project's",
        ),
        (
            change(guests=(GuestPort(bridge="p-br0", name="tap7", mac="52:54:00:00:00:01"),)),
            "tap7 is a port of the bridge other",
        ),
        (
            change(guests=(GuestPort(bridge="other", name="p-tap0", mac="52:54:00:00:00:01"),)),
            "needs the bridge other, which the project does not have",
        ),
        (
            change(guests=(GuestPort(bridge="p-br1", name="p-tap0", mac=""),), removed_bridges=("p-br1",)),
            "needs the bridge p-br1, which the project does not have",
        ),
        (change((BR0,), project="q"), "taken by other Open vSwitch bridges: p-br0"),
    ],
)
def test_what_is_not_the_projects_is_refused(wanted: SwitchChange, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        transactions(wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        change(guests=(GuestPort(bridge="p-br0", name="x -- del-br p-br0", mac="52:54:00:00:00:01"),)),
        change(guests=(GuestPort(bridge="p-br0", name="p-tap9", mac='52" x=y'),)),
        change((SwitchBridge(name="p-br2", host="main", protocol="OpenFlow13 x=y"),)),
        change((SwitchBridge(name="p-br2", host="main", controller="-- del-br x"),)),
        change((SwitchBridge(name="--help", host="main"),)),
        change(tunnels=(TunnelPort(host="m", bridge="p-br0", name="t", remote_ip='1.2.3.4" x="', key=1),)),
    ],
)
def test_words_that_would_mean_something_else_are_refused(wanted: SwitchChange) -> None:
    with pytest.raises(DriverError, match=r"^invalid "):
        transactions(wanted)


def test_a_row_that_was_made_again_gets_the_ids_of_libvirt() -> None:
    nic, domain = "0a0b0c0d-0000-4000-8000-000000000001", "0a0b0c0d-0000-4000-8000-000000000002"
    guest = GuestPort(bridge="p-br0", name="p-tap0", mac="52:54:00:00:00:01", interface_id=nic, vm_id=domain)
    ((command,),) = transactions(change(guests=(guest,)))
    assert 'set interface p-tap0 external_ids:attached-mac="52:54:00:00:00:01"' in command
    assert f'external_ids:iface-id="{nic}" external_ids:vm-id="{domain}"' in command
    bad = msgspec.structs.replace(guest, interface_id='x" -- del-br p-br0')
    with pytest.raises(DriverError, match="UUID"):
        transactions(change(guests=(bad,)))
