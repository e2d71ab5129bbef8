"""Each kind of element of a logical network across two real hosts, and each edit of it, judged by packets.

One testbed for all tests, in the order of the file. A guest pings another one through the router and a tunnel
all the time, and no edit names the two: they are the same processes until a host is rebooted,
and lose no ping while edits are made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from element_lab import FIELDS, LEASED, PORTS, Elements, connections, filled, pings, wait_for_ping
from kvm import inventory
from logical_lab import LogicalLab, assert_nothing_left
from running_lab import Lab
from test_harness import crash_open_vswitch
from test_ovn_drivers import kill, restart

from hosts import TestHosts

pytestmark = [pytest.mark.real, pytest.mark.long_only]

#: A switch with its port of the router and an interface of the second host.
SWITCH = (
    "new: {subnet: 10.66.3.0/24, ports: [{name: there, chassis: two, "
    'internal: {ip: 10.66.3.2, mac: "02:00:00:00:00:04"}}]}'
)
PORT = '- {name: to-new, switch: new, gateway_ip: %s/24, mac: "02:00:00:00:01:%s"}'
#: What a rule of each action does to a connection.
ACTIONS = {
    "allow-related": "open", "allow-stateless": "open", "allow": "open", "drop": "silent",
    "reject": "refused",
}  # fmt: skip
WAYS = ("from-lport", "to-lport")
#: Ask for an address by DHCP, and do nothing with it.
LEASE = ("sudo", "-n", "sh", "-c", "udhcpc -i eth0 -n -q -s /bin/true 2>&1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, micro_image: Path, ssh_key: Path) -> Iterator[Elements]:
    root = tmp_path_factory.mktemp("el")
    shutil.copy(ssh_key, root / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), root / "key.pub")
    (root / "micro.qcow2").symlink_to(micro_image)
    with TestHosts(2, directory=root / "hosts", ssh=True, tunnels=True, ovn=True) as hosts:
        lab = Elements(hosts, 2, root, "elem", filled(FIELDS))
        lab.start()
        try:
            yield lab
        finally:
            lab.stop()


@pytest.fixture(autouse=True)
def _repaired(lab: Elements) -> None:
    """A test in which Open vSwitch aborts fails, those after it need not."""
    if lab.switches() != lab.running:
        lab.fields["acl"] = "{}"
        lab.project.write("kvm-compose.yaml", filled(lab.fields))
        lab.repair()


def test_every_element_carries_packets_across_hosts(lab: Elements) -> None:
    one, two = lab.hosts
    lab.reaches("left", {"right", "leased", "10.66.2.2", "172.16.1.1"})
    for name in ("right", "right.elem", "leased"):
        assert lab.resolves("left", name)
    lab.reaches("leased", {"left", "right", "10.66.1.2", "172.16.1.1"})
    lab.reaches("left", {"fd66:2::10", "fd66:2::2"}, {"fd66:2::99"}, "-6")
    for host, address in (
        (one, "10.66.1.10"),
        (one, "10.66.2.10"),
        (two, "10.66.1.10"),
        (one, "172.16.1.201"),
    ):
        wait_for_ping(host, address)
    assert lab.peer("left", "10.66.2.2") == "10.66.1.10"  # not translated between switches
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    assert connections(one, "172.16.1.201", 22) == ["open"]
    lease = lab.project.inside("leased", *LEASE)
    assert f"lease of {lab.pings.addresses('leased')[0]} obtained" in lease


def test_a_switch_with_a_port_of_the_router(lab: Elements) -> None:
    one = lab.hosts[0]
    lab.edit(switch=SWITCH, port=PORT % ("10.66.3.1", "04"))
    wait_for_ping(one, "10.66.3.2")
    lab.edit(port=PORT % ("10.66.3.254", "05"))
    assert not pings(one, "10.66.3.1")
    wait_for_ping(one, "10.66.3.2")
    lab.edit(switch="", port="")
    assert not pings(one, "10.66.3.2")


def test_ports_of_hosts_and_of_provider_networks(lab: Elements) -> None:
    one, two = lab.hosts
    lab.edit(near="10.66.1.3")
    one.run(["ip", "route", "replace", "10.66.2.0/23", "via", "10.66.1.1"])
    wait_for_ping(two, "10.66.1.3")
    assert not pings(two, "10.66.1.2")
    lab.edit(localnet="uplink", near="10.66.1.2")
    one.run(["ip", "route", "replace", "10.66.2.0/23", "via", "10.66.1.1"])
    wait_for_ping(one, "172.16.1.201")
    wait_for_ping(one, "10.66.2.2")


def test_the_gateway_moves_to_another_host(lab: Elements) -> None:
    one, two = lab.hosts
    lab.edit(gateway="two")
    wait_for_ping(two, "172.16.1.201")
    assert "br-ex" not in one.run(["ovs-vsctl", "list-br"]).stdout.split()
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    lab.edit(gateway="one")
    wait_for_ping(one, "172.16.1.201")
    assert "br-ex" not in two.run(["ovs-vsctl", "list-br"]).stdout.split()


def test_static_routes(lab: Elements) -> None:
    one, two = lab.hosts
    two.run(["ip", "address", "add", "10.99.0.1/32", "dev", "lo"])
    one.run(["ip", "route", "replace", "10.99.0.0/24", "via", "10.66.1.1"])
    assert not pings(one, "10.99.0.1")
    lab.edit(route="- {prefix: 10.99.0.0/24, nexthop: 10.66.2.2}")
    wait_for_ping(one, "10.99.0.1")
    lab.edit(route="- {prefix: 10.99.0.0/24, nexthop: 10.66.2.10}")  # a guest that does not forward
    assert not pings(one, "10.99.0.1")
    lab.edit(route="")
    assert not pings(one, "10.99.0.1")


def test_translated_addresses(lab: Elements) -> None:
    one = lab.hosts[0]
    lab.edit(snat="172.16.1.210")
    assert lab.peer("left", "172.16.1.1") == "172.16.1.210"
    lab.edit(snat="172.16.1.200", dnat="172.16.1.202")
    wait_for_ping(one, "172.16.1.202")
    assert not pings(one, "172.16.1.201")
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    lab.edit(dnat="172.16.1.201")


def test_excluded_addresses_of_dhcp(lab: Elements) -> None:
    address = lab.pings.addresses("leased")[0]
    assert int(address.rpartition(".")[2]) > 20
    lab.edit(excluded="10.66.1.19")  # the guest's address is outside both
    lease = lab.project.inside("leased", *LEASE)
    assert f"lease of {address} obtained" in lease


@pytest.mark.parametrize("switch", ["lan", "far"])
def test_each_action_of_rules(lab: Elements, switch: str) -> None:
    """From the port where packets enter, and to the one where they leave."""
    direction, back = WAYS if switch == "lan" else reversed(WAYS)
    for first in (0, 2):
        ports = [PORTS[(number + first) % len(PORTS)] for number in range(len(PORTS))]
        found = ", ".join(
            f"{{direction: {direction}, priority: 1000, match: tcp.dst == {port}, action: {action}}}"
            for port, action in zip(ports, ACTIONS, strict=True)
        )
        stateless = ports[list(ACTIONS).index("allow-stateless")]  # needs a rule for replies
        reply = f"direction: {back}, priority: 1000, match: tcp.src == {stateless}, action: allow-stateless"
        found = f"{found}, {{{reply}}}"
        lab.edit(acl=f"{{switches: {{{switch}: [{found}]}}}}")
        assert connections(lab.hosts[0], "10.66.2.2", *ports) == list(ACTIONS.values())
    lab.edit(acl="{}")
    assert connections(lab.hosts[0], "10.66.2.2", *PORTS) == ["open"] * len(PORTS)


def test_what_no_rule_allows_is_dropped_and_replies_pass(lab: Elements) -> None:
    one, two = lab.hosts
    ping = "{{direction: {}, priority: 500, match: icmp4, action: allow-related}}"
    rule = "{{direction: {}, priority: 600, match: ip4.src == {} && tcp, action: allow-related}}"

    def acl(source: str) -> str:
        lists = ", ".join(
            f"{switch}: [{', '.join(each.format(way, source) for way in WAYS for each in (ping, rule))}]"
            for switch in ("lan", "far")
        )
        return f"{{apply_deny_all: true, switches: {{{lists}}}}}"

    lab.edit(acl=acl("10.66.1.0/24"))
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["open"] * 2
    assert connections(two, "10.66.1.2", *PORTS[:2]) == ["silent"] * 2
    assert connections(two, "10.66.1.10", 22) == ["silent"]
    lab.edit(acl=acl("10.66.2.0/24"))
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["silent"] * 2
    assert connections(two, "10.66.1.2", *PORTS[:2]) == ["open"] * 2
    assert connections(two, "10.66.1.10", 22) == ["open"]
    lab.reaches("left", {"right"}, {"fd66:2::10"})  # ARP and DNS aside, all that has no rule is dropped
    lab.edit(acl="{}")
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["open"] * 2


def test_names_follow_guests(lab: Elements) -> None:
    lab.edit(leased="renamed")  # it has an id
    lab.reaches("left", {"renamed"})
    assert lab.resolves("left", "renamed")
    assert not lab.resolves("left", "leased.elem")


def test_another_interface(lab: Elements) -> None:
    """It is plugged in while the guest runs, which learns its address at the next start."""
    second = '{switch: far, ip: 10.66.2.20, mac: "02:00:00:00:00:0d"}'
    lab.edit(nics=f"{LEASED}, {second}")
    by_hand = "ip link set eth1 up && ip address add 10.66.2.20/24 dev eth1"
    lab.project.inside("renamed", "sudo", "-n", "sh", "-c", by_hand)
    lab.reaches("right", {"10.66.2.20"})
    lab.edit(nics=LEASED)
    lab.reaches("right", (), {"10.66.2.20"})
    assert "eth1" not in lab.project.inside("renamed", "ls", "/sys/class/net")


def test_northd_is_killed(lab: Elements) -> None:
    one = lab.hosts[0]
    rule = "{direction: to-lport, priority: 1000, match: tcp.dst == 8001, action: reject}"
    kill(one, "ovn-northd")
    lab.project.write("kvm-compose.yaml", filled(lab.fields | {"acl": f"{{switches: {{far: [{rule}]}}}}"}))
    assert "ovn-northd" in lab.project.run("up", status=1, timeout=900).stderr
    assert connections(one, "10.66.2.2", PORTS[0]) == ["open"]
    restart(one, "northd")
    lab.edit(acl=f"{{switches: {{far: [{rule}]}}}}")
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["refused", "open"]


def test_a_controller_is_killed(lab: Elements) -> None:
    one, two = lab.hosts
    kill(two, "ovn-controller")
    lab.project.write("kvm-compose.yaml", filled(lab.fields | {"acl": "{}"}))
    assert "ovn-controller does not run on two" in lab.project.run("up", status=3, timeout=900).stderr
    # the rule holds on, but what is rejected is answered by ovn-controller itself
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["silent", "open"]
    restart(two, "controller")
    lab.edit(acl="{}")
    assert connections(one, "10.66.2.2", *PORTS[:2]) == ["open", "open"]


def test_open_vswitch_aborts_and_is_started_again(lab: Elements) -> None:
    before = lab.processes()
    for host in lab.hosts:
        crash_open_vswitch(host)
        wait_for_ping(lab.hosts[0], lab.hosts[1].address)
        lab.recovered()
    assert lab.processes() == before


def test_a_host_is_rebooted(lab: Elements) -> None:
    lab.hosts[1].reboot()
    lab.repair()


def test_another_testbed_is_left_alone_and_nothing_stays(lab: Elements) -> None:
    """A second testbed has the names, subnets and addresses of the first one, apart from those outside."""
    one = lab.hosts[0]
    text = re.sub(r" +ports:\n +- {name: (near|away).*\n", "", filled(FIELDS))
    text = re.sub(r" +- {nat_type: dnat.*\n", "", text)
    text = text.replace("172.16.1.200", "172.16.1.220").replace("02:00:00:00:01:03", "02:00:00:00:02:03")
    other = LogicalLab(lab.all_hosts, 2, lab.project.root, "other", text)
    other.project.run("up", timeout=900)
    other.reaches("left", {"right", "leased", "172.16.1.1"}, {"10.66.1.2", "10.66.2.2"})
    assert other.resolves("left", "right.other")
    assert not other.resolves("left", "right.elem")
    lab.reaches("left", {"right", lab.fields["leased"], "10.66.2.2", "172.16.1.1"})
    running = other.processes()
    pings = Lab(other.project, other.hosts)
    pings.start_pings()
    lab.stop()
    lab.project.run("down", "--purge", "--timeout", "0")
    assert pings.lost_pings() <= pings.tolerated
    assert other.processes() == running
    assert other.differences() == []
    rows = one.run(["ovsdb-client", "dump", "unix:/run/ovn/ovnnb_db.sock"]).stdout
    assert "other" in rows
    assert not re.search(r"\belem\b", rows), rows
    for host in lab.hosts:
        left = " ".join(word for words in inventory(host).values() for word in words)
        assert not re.search(r"\belem\b", left), left
        assert host.run(["ls", "/run/netns"]).stdout.split() == [
            f"kvm-compose.other.{switch}" for switch in (["lan"] if host is one else ["far", "lan"])
        ]
    other.project.run("down", "--purge", "--timeout", "0")
    assert_nothing_left(lab.hosts, lab.before)
