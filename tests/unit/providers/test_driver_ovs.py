"""What is asked of ovs-vsctl, and how its answers are read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from recorder import Recorder

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import Database, parse_database
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.interface import FoundBridge, FoundPort, SwitchChange
from kvmcompose.providers.ovs.transaction import arguments_to_change

PLAN = SwitchChange(
    project="p",
    datapath_type="netdev",
    bridges=(
        SwitchBridge(name="p-br0", host="main", protocol="OpenFlow13", controller="tcp:127.0.0.1:6653"),
        SwitchBridge(name="p-br1", host="main"),
    ),
    veths=(
        VethPair(
            host="main",
            left="p-veth0",
            left_bridge="p-br0",
            right="p-veth1",
            right_bridge="p-prjbr0",
            right_is_linux=True,
        ),
        VethPair(host="main", left="p-a", left_bridge="p-br0", right="p-b", right_bridge="p-br1"),
    ),
    tunnels=(TunnelPort(host="main", bridge="p-br1", name="p-t", remote_ip="192.0.2.12", key=7),),
    nics=(NicPort(host="main", bridge="p-br1", nic="eth1"),),
)

BRIDGES = b"""\
{"data":[\
["p-br0",["map",[["kvm-compose-project","p"]]],"netdev","standalone",\
["set",["OpenFlow13","OpenFlow10"]],["uuid","c1"],\
["set",[["uuid","1"],["uuid","2"],["uuid","4"],["uuid","5"],["uuid","6"]]]],\
["p-br1",["map",[["kvm-compose-project","p"]]],"netdev",["set",[]],["set",[]],\
["set",[["uuid","c2"],["uuid","c3"]]],["set",[["uuid","8"],["uuid","9"]]]],\
["other",["map",[]],"system",["set",[]],"OpenFlow10",["set",[]],["set",[["uuid","3"],["uuid","7"]]]]],\
"headings":["name","external_ids","datapath_type","fail_mode","protocols","controller","ports"]}
{"data":[\
[["uuid","1"],"p-br0",["uuid","i1"],["map",[]]],\
[["uuid","2"],"p-veth0",["uuid","i2"],["map",[["kvm-compose-project","p"]]]],\
[["uuid","3"],"other",["uuid","i3"],["map",[]]],\
[["uuid","4"],"p-tap0",["uuid","i4"],["map",[]]],\
[["uuid","5"],"p-t",["uuid","i5"],["map",[["kvm-compose-project","p"]]]],\
[["uuid","6"],"cap-1",["uuid","i6"],["map",[["kvm-compose-capture","p-br0"],["kvm-compose-project","p"]]]],\
[["uuid","7"],"tap7",["uuid","i7"],["map",[]]],\
[["uuid","8"],"p-br1",["uuid","i8"],["map",[]]],\
[["uuid","9"],"bond",["set",[["uuid","i9"],["uuid","i10"]]],["map",[]]]],\
"headings":["_uuid","name","interfaces","external_ids"]}
{"data":[\
[["uuid","i1"],"internal",["map",[]],["map",[]],["set",[]]],\
[["uuid","i2"],"",["map",[]],["map",[]],"could not open network device p-veth0 (No such device)"],\
[["uuid","i3"],"internal",["map",[]],["map",[]],["set",[]]],\
[["uuid","i4"],"",["map",[]],["map",[["attached-mac","52:54:00:00:00:01"]]],["set",[]]],\
[["uuid","i5"],"geneve",["map",[["key","7"],["remote_ip","192.0.2.12"]]],["map",[]],["set",[]]],\
[["uuid","i6"],"internal",["map",[]],["map",[]],["set",[]]],\
[["uuid","i7"],"",["map",[]],["map",[["attached-mac","52:54:00:00:00:07"]]],["set",[]]],\
[["uuid","i8"],"internal",["map",[]],["map",[]],["set",[]]],\
[["uuid","i9"],"",["map",[]],["map",[]],["set",[]]]],\
"headings":["_uuid","type","options","external_ids","error"]}
{"data":[[["uuid","c1"],"tcp:127.0.0.1:6653"],[["uuid","c2"],"ssl:[::1]:2"],[["uuid","c3"],"ptcp:1"]],\
"headings":["_uuid","target"]}
"""


#: A database without any bridge, and what ovs-vsctl prints of it.
EMPTY = Database({}, {}, {})
NOTHING = b'{"data":[],"headings":[]}\n' * 4


BRIDGE = SwitchBridge(name="b", host="main")


def of_bridge(**named: Any) -> SwitchChange:
    return SwitchChange(project="p", datapath_type="system", **named)


def commands(arguments: list[str]) -> list[str]:
    return [command.strip() for command in " ".join(arguments).split("--", 1)[1].split(" -- ")]


def test_what_is_missing_is_created_in_one_transaction() -> None:
    mark = "external_ids:kvm-compose-project=p"
    (arguments,) = arguments_to_change(PLAN, EMPTY)
    assert commands(arguments) == [
        "--may-exist add-br p-br0",
        "--may-exist add-br p-br1",
        f"set bridge p-br0 {mark} datapath_type=netdev protocols=OpenFlow13 fail_mode=standalone",
        f"set bridge p-br1 {mark} datapath_type=netdev fail_mode=standalone",
        "set-controller p-br0 tcp:127.0.0.1:6653",
        f"add-port p-br0 p-veth0 {mark}",
        f"add-port p-br0 p-a {mark}",
        f"add-port p-br1 p-b {mark}",
        f"add-port p-br1 eth1 {mark}",
        f"add-port p-br1 p-t {mark}",
        'set interface p-t type=geneve options={key="7",remote_ip="192.0.2.12"}',
    ]


def test_ends_towards_linux_compute_checksums_for_userspace_bridges() -> None:
    machine = Recorder(("list Bridge", 0, NOTHING, b""))
    asyncio.run(OvsSwitches(machine).change(PLAN))
    assert [command[0] for command in machine.commands] == ["ovs-vsctl", "ethtool", "sh", "ovs-vsctl"]
    # the other ends are of bridges, and must not answer for the host
    assert "arp_ignore" in machine.commands[2][2]
    assert machine.commands[2][4:] == ["p-veth0", "p-a", "p-b"]
    assert machine.commands[1] == ["ethtool", "-K", "p-veth1", "tx", "off"]
    machine = Recorder(("list Bridge", 0, NOTHING, b""))
    in_the_kernel = SwitchChange(
        project="p", datapath_type="system", bridges=PLAN.bridges, veths=PLAN.veths[1:]
    )
    asyncio.run(OvsSwitches(machine).change(in_the_kernel))
    assert [command[0] for command in machine.commands] == ["ovs-vsctl", "ovs-vsctl"]


@pytest.mark.parametrize(
    "change",
    [
        SwitchChange(project="p q", datapath_type="system"),
        SwitchChange(project="p", datapath_type="dpdk"),
        SwitchChange(
            project="p", datapath_type="system", bridges=(SwitchBridge(name="--help", host="main"),)
        ),
        SwitchChange(
            project="p", datapath_type="system", bridges=(SwitchBridge(name="a" * 16, host="main"),)
        ),
        of_bridge(
            bridges=(SwitchBridge(name="b", host="main", protocol="OpenFlow13 other_config:x=y"),),
        ),
        of_bridge(
            bridges=(SwitchBridge(name="b", host="main", controller="-- del-br x"),),
        ),
        of_bridge(
            bridges=(BRIDGE,),
            tunnels=(TunnelPort(host="main", bridge="b", name="t", remote_ip='1.2.3.4" x="y', key=1),),
        ),
        SwitchChange(
            project="p", datapath_type="system", nics=(NicPort(host="main", bridge="b", nic="a b"),)
        ),
    ],
)
def test_words_that_would_mean_something_else_are_refused(change: SwitchChange) -> None:
    with pytest.raises(DriverError, match=r"^invalid |unknown datapath_type"):
        arguments_to_change(change, EMPTY)


def test_bridges_are_recognised_by_their_mark() -> None:
    switches = OvsSwitches(Recorder(("list Bridge", 0, BRIDGES, b"")))
    assert asyncio.run(switches.observe("p")).keys() == {"p-br0", "p-br1"}
    assert asyncio.run(switches.observe("q")) == {}
    plan = SwitchChange(
        project="p",
        datapath_type="system",
        bridges=tuple(SwitchBridge(name=name, host="main") for name in ("p-br0", "other", "new")),
    )
    assert asyncio.run(switches.foreign(plan)) == ["other"]


def test_bridges_are_observed_with_their_ports_in_one_command() -> None:
    machine = Recorder(("list Bridge", 0, BRIDGES, b""))
    assert asyncio.run(OvsSwitches(machine).observe("p")) == {
        "p-br0": FoundBridge(
            name="p-br0",
            datapath_type="netdev",
            protocol="OpenFlow10,OpenFlow13",
            controller="tcp:127.0.0.1:6653",
            fail_mode="standalone",
            ports=(
                FoundPort(
                    name="p-t",
                    type="geneve",
                    options={"key": "7", "remote_ip": "192.0.2.12"},
                    marked=True,
                ),
                FoundPort(name="p-tap0", mac="52:54:00:00:00:01"),
                FoundPort(
                    name="p-veth0",
                    marked=True,
                    error="could not open network device p-veth0 (No such device)",
                ),
            ),
        ),
        "p-br1": FoundBridge(
            name="p-br1",
            datapath_type="netdev",
            controller="ptcp:1 ssl:[::1]:2",
            ports=(FoundPort(name="bond"),),
        ),
    }
    assert len(machine.commands) == 1


def test_removal_is_one_transaction() -> None:
    machine = Recorder()
    asyncio.run(OvsSwitches(machine).remove([]))
    assert machine.commands == []
    asyncio.run(OvsSwitches(machine).remove(["p-br0", "p-br1"]))
    (command,) = machine.commands
    assert machine.privileged == [True]
    assert command[2:] == ["--", "--if-exists", "del-br", "p-br0", "--", "--if-exists", "del-br", "p-br1"]


def test_port_that_cannot_be_set_up_is_an_error_although_the_status_is_none() -> None:
    said = (
        b"ovs-vsctl: Error detected while setting up 'p-a': could not open network device p-a"
        b" (No such device).  See ovs-vswitchd log for details.\n"
    )
    switches = OvsSwitches(Recorder(("list Bridge", 0, NOTHING, b""), ("ovs-vsctl", 0, b"", said)))
    with pytest.raises(DriverError, match=r"cannot set up the port p-a: could not open network device p-a"):
        asyncio.run(switches.change(PLAN))


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (1, b"ovs-vsctl: unix:/run/openvswitch/db.sock: database connection failed (x)\n", "failed"),
        (142, b"2026|00002|fatal_signal|WARN|terminating with signal 14 (Alarm clock)\n", "does not answer"),
        (1, b"ovs-vsctl: cannot create a port named p-a because p-a already exists on bridge x\n",
         "already exists on bridge x"),
    ],
)  # fmt: skip
def test_failures_say_what_is_wrong(status: int, said: bytes, message: str) -> None:
    switches = OvsSwitches(Recorder(("ovs-vsctl", status, b"", said)))
    with pytest.raises(DriverError, match=message) as caught:
        asyncio.run(switches.remove(["p-br0"]))
    assert caught.value.hint


def test_other_words_than_tables_are_an_error() -> None:
    cut = BRIDGES.replace(b'"fail_mode",', b"")
    for output in (b"", b"{}", b"[]\n[]\n[]\n[]\n", BRIDGES + BRIDGES, cut):
        with pytest.raises(DriverError, match="invalid output"):
            parse_database(output)


@pytest.mark.parametrize("silent", ["ovs-vsctl", "ovs-appctl"])
def test_database_and_switch_are_both_asked_whether_they_work(silent: str) -> None:
    asyncio.run(OvsSwitches(Recorder()).check())
    with pytest.raises(DriverError, match=f"{silent} failed"):
        asyncio.run(OvsSwitches(Recorder((silent, 1, b"", b"no"))).check())


def test_interfaces_in_bridges_of_others_are_named() -> None:
    switches = OvsSwitches(Recorder(("list Bridge", 0, BRIDGES, b"")))
    assert asyncio.run(switches.foreign_ports("p", ["other", "p-veth0", "new"])) == ["other"]
    assert asyncio.run(switches.foreign_ports("q", ["p-veth0", "p-br0"])) == ["p-br0", "p-veth0"]


def test_what_failed_as_root_is_shown_with_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    switches = OvsSwitches(Recorder(("ovs-vsctl", 1, b"", b"no")))
    with pytest.raises(DriverError) as caught:
        asyncio.run(switches.remove(["p-br0"]))
    assert "sudo ovs-vsctl" in str(caught.value.hint)
