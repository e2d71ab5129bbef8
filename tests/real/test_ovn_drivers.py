"""OVN's databases and chassis on two hosts, by the drivers alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from driven import inside

from hosts import TestHost, TestHosts
from hosts import ovn as daemons
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.core.ovn_hosts import ChassisSpec, Identity, Outside
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.ovn.central import OvnCentral
from kvmcompose.providers.ovn.driver import OvnNorthbound
from kvmcompose.providers.ovn.interface import RowChange, RowOwner
from kvmcompose.providers.ovn.session import Tls
from kvmcompose.providers.ovs.chassis import OvsChassis
from kvmcompose.providers.ovs.driver import run_ovs
from kvmcompose.providers.ovs.outside import OvsOutsides

pytestmark = pytest.mark.real

MARK = RowOwner("lab", "here")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("ovn"), tunnels=True, ovn=True) as hosts:
        yield hosts


def switch(name: str = "sw") -> RowRef:
    return RowRef("Logical_Switch", name)


def port(name: str, mac: str, ip: str, parent: str = "sw") -> Row:
    ref = RowRef("Logical_Switch_Port", name)
    return Row(
        ref=ref,
        columns={
            "name": str(ref.uuid("lab")),
            "addresses": (f"{mac} {ip}",),
            "port_security": (f"{mac} {ip}",),
        },
        parent=switch(parent),
        parent_column="ports",
    )


ROWS = (
    Row(ref=switch(), columns={"name": "lab-sw"}),
    port("a", "02:00:00:00:00:0a", "10.7.0.10"),
    port("b", "02:00:00:00:00:0b", "10.7.0.11"),
)


def spec(host: str, ip: str, remote: str, *, keys: bool = False) -> ChassisSpec:
    return ChassisSpec(
        name=host,
        remote=remote,
        encap_ip=ip,
        encap_type="geneve",
        bridge="br-int",
        datapath_type="netdev",
        keys=keys,
    )


def plug(host: TestHost, row: Row, ip: str, mac: str) -> None:
    """A guest: an internal port of br-int in a network namespace."""
    name = f"g-{row.ref.name}"
    host.run([
        "ovs-vsctl", "--", "--may-exist", "add-port", "br-int", name, "--", "set", "interface", name,
        "type=internal", f"external_ids:iface-id={row.columns['name']}",
    ])  # fmt: skip
    host.run(["ip", "netns", "add", name])
    host.run(["ip", "link", "set", name, "netns", name, "address", mac])
    for argv in (
        ["ip", "address", "add", f"{ip}/24", "dev", name],
        ["ip", "link", "set", name, "mtu", "1400", "up"],
        ["ethtool", "-K", name, "tx", "off"],
    ):
        host.run(["ip", "netns", "exec", name, *argv])


def pings(host: TestHost, name: str, target: str, count: int = 1) -> bool:
    argv = ["ip", "netns", "exec", f"g-{name}", "ping", "-c", str(count), "-W1", "-i0.2", target]
    return host.run(argv, check=False).returncode == 0


async def join_main(ip: str) -> None:
    ovn = OvnNorthbound()
    runner = LocalRunner("h1")
    central = OvnCentral(runner, ovn.south)
    await central.open("lab", ip)
    await central.open("lab", ip)  # the same again
    found = await central.observe()
    assert (found.addresses, found.users, found.foreign, found.open_to_all) == ((ip,), {"lab"}, "", ())
    other = await central.identity("h2")
    texts = {"key": other.key, "crt": other.certificate, "ca": other.ca}
    for end, text in texts.items():
        await runner.run(["tee", f"/run/h2.{end}"], stdin=text.encode())
    await OvsChassis(runner).join("lab", spec("h1", ip, "unix:/run/ovn/ovnsb_db.sock"))
    await ovn.close()


async def join_other(ip: str, main: str, key: str, certificate: str, ca: str) -> None:
    identity = Identity(key=key, certificate=certificate, ca=ca)
    chassis = OvsChassis(LocalRunner("h2"))
    wanted = spec("h2", ip, f"ssl:{main}:6642", keys=True)
    await chassis.join("lab", wanted, identity)
    found = await chassis.observe()
    assert (found.name, found.remote, found.users, found.has_identity) == ("h2", wanted.remote, {"lab"}, True)
    assert "system-id" not in found.made  # it was there


async def bring_in() -> None:
    ovn = OvnNorthbound()
    number = await ovn.change(RowChange(mark=MARK, put=ROWS))
    await ovn.in_force(number, {"h1": "h1", "h2": "two"}, 20)
    found = await ovn.observe(MARK)
    assert found.rows.keys() == {row.ref for row in ROWS}
    assert await ovn.change(RowChange(mark=MARK, put=ROWS)) == number  # nothing differs, nothing is done
    with pytest.raises(DriverError, match="no chassis for three"):
        await ovn.in_force(number, {"h1": "h1", "h3": "three"}, 0.3)
    with pytest.raises(DriverError, match="belongs to the project lab of another main host: here"):
        await ovn.change(RowChange(mark=RowOwner("lab", "elsewhere"), put=ROWS[:1]))
    bad = Row(ref=RowRef("ACL", "x"), columns={"direction": "up"}, parent=switch(), parent_column="acls")
    with pytest.raises(DriverError, match="refuses the change: constraint violation: up is not one of"):
        await ovn.change(RowChange(mark=MARK, put=(bad,)))
    await ovn.close()


async def put_rule(action: str) -> None:
    rule = Row(
        ref=RowRef("ACL", "no-ping"),
        columns={"direction": "to-lport", "priority": 1000, "match": "icmp4", "action": action},
        parent=switch(),
        parent_column="acls",
    )
    ovn = OvnNorthbound()
    number = await ovn.change(RowChange(mark=MARK, put=(rule,)))
    await ovn.in_force(number, {"h1": "h1", "h2": "h2"}, 20)
    await ovn.close()


def test_two_hosts_become_chassis_and_guests_on_both_reach_each_other(hosts: TestHosts) -> None:
    one, two = hosts
    inside(one, join_main, ip=one.address)
    texts = {name: one.run(["cat", f"/run/h2.{end}"]).stdout for name, end in
             (("key", "key"), ("certificate", "crt"), ("ca", "ca"))}  # fmt: skip
    inside(two, join_other, ip=two.address, main=one.address, **texts)
    inside(one, bring_in)
    plug(one, ROWS[1], "10.7.0.10", "02:00:00:00:00:0a")
    plug(two, ROWS[2], "10.7.0.11", "02:00:00:00:00:0b")
    assert pings(one, "a", "10.7.0.11", 10)


def test_a_rule_is_in_force_at_once_on_both_hosts(hosts: TestHosts) -> None:
    one, two = hosts
    inside(one, put_rule, action="drop")
    assert not pings(one, "a", "10.7.0.11")
    assert not pings(two, "b", "10.7.0.10")
    inside(one, put_rule, action="allow-related")
    assert pings(one, "a", "10.7.0.11")
    assert pings(two, "b", "10.7.0.10")


async def nobody_compiles() -> None:
    ovn = OvnNorthbound()
    number = await ovn.change(RowChange(mark=MARK, put=(port("c", "02:00:00:00:00:0c", "10.7.0.12"),)))
    with pytest.raises(DriverError, match="ovn-northd has not carried the change to the southbound database"):
        await ovn.in_force(number, {"h1": "h1"}, 0.5)
    await ovn.close()


async def lags(name: str) -> None:
    ovn = OvnNorthbound()
    number = await ovn.change(RowChange(mark=MARK, put=(port("d", "02:00:00:00:00:0d", "10.7.0.13"),)))
    await ovn.in_force(number, {"h1": "h1"}, 20)
    assert set(await ovn.lagging(number, ["h1", name])) == {name}
    with pytest.raises(DriverError, match=f"ovn-controller on {name} has not carried out the change"):
        await ovn.in_force(number, {"h1": "h1", name: name}, 0.5)
    await ovn.close()


async def catches_up() -> None:
    ovn = OvnNorthbound()
    number = await ovn.change(RowChange(mark=MARK, put=(port("e", "02:00:00:00:00:0e", "10.7.0.14"),)))
    await ovn.in_force(number, {"h1": "h1", "h2": "h2"}, 30)
    await ovn.close()


def kill(host: TestHost, daemon: str) -> None:
    host.run(["sh", "-c", f"kill -9 $(cat /run/ovn/{daemon}.pid)"])


def restart(host: TestHost, daemon: str) -> None:
    code = f"from pathlib import Path; from hosts import ovn; ovn.start_{daemon}(Path({str(host.folder)!r}))"
    host.run([sys.executable, "-c", code], env={"PYTHONPATH": str(Path(__file__).parent.parent)})


def test_what_does_not_run_is_named_and_guests_do_not_need_it(hosts: TestHosts) -> None:
    one, two = hosts
    kill(one, "ovn-northd")
    inside(one, nobody_compiles)
    assert pings(one, "a", "10.7.0.11")
    restart(one, "northd")
    kill(two, "ovn-controller")
    inside(one, lags, name="h2")
    assert pings(one, "a", "10.7.0.11")
    restart(two, "controller")
    inside(one, catches_up)


def test_a_host_is_a_chassis_again_after_a_reboot(hosts: TestHosts) -> None:
    one, two = hosts
    two.run(["ip", "netns", "delete", "g-b"])
    two.reboot()
    inside(one, catches_up)
    plug(two, ROWS[2], "10.7.0.11", "02:00:00:00:00:0b")
    assert pings(two, "b", "10.7.0.10", 10)


async def reach_by_tls(ip: str) -> None:
    runner = LocalRunner("h1")
    keys = [f"/var/lib/kvm-compose/.ovn/central/{each}.pem" for each in ("key", "certificate", "ca")]
    await runner.run(["ovn-nbctl", "set-ssl", *keys])
    await runner.run(["ovn-nbctl", "set-connection", "pssl:6641:127.0.0.1"])
    northbound, southbound = "ssl:127.0.0.1:9,ssl:127.0.0.1:6641", f"ssl:{ip}:6642"
    ovn = OvnNorthbound(northbound, southbound, Tls(*map(Path, keys)))
    assert (await ovn.observe(MARK)).rows.keys() >= {row.ref for row in ROWS}
    await ovn.check()
    await ovn.close()
    other = OvnNorthbound("ssl:127.0.0.1:9", southbound, Tls(*map(Path, keys)))
    with pytest.raises(DriverError, match=r"does not answer: no TLS connection \(ssl:127.0.0.1:9\)"):
        await other.check()
    without = OvnNorthbound(northbound, southbound)
    with pytest.raises(DriverError, match="needs keys"):
        await without.check()
    for each in ("del-connection", "del-ssl"):
        await runner.run(["ovn-nbctl", each])


def test_databases_are_reached_by_tls_at_the_member_that_answers(hosts: TestHosts) -> None:
    inside(hosts[0], reach_by_tls, ip=hosts[0].address)


async def survive_the_database(folder: str) -> None:
    ovn = OvnNorthbound()
    before = await ovn.observe(MARK)
    await LocalRunner("h1").run(["sh", "-c", "kill -9 $(cat /run/ovn/ovnnb_db.pid)"])
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    with pytest.raises(DriverError, match="northbound database does not answer: Connection refused"):
        await ovn.observe(MARK)
    assert time.monotonic() - begun < 10
    daemons.start_database("nb", Path(folder))
    assert await ovn.observe(MARK) == before
    rows = [
        port(f"many-{number}", f"02:00:00:00:01:{number:02x}", f"10.7.0.{number}") for number in range(20)
    ]
    await asyncio.gather(*(ovn.change(RowChange(mark=MARK, put=(row,))) for row in rows))
    assert len((await ovn.observe(MARK)).rows) == len(before.rows) + 20
    await ovn.close()


def test_a_database_that_is_killed_is_said_at_once_and_used_when_it_is_back(hosts: TestHosts) -> None:
    inside(hosts[0], survive_the_database, folder=hosts[0].folder)


async def foreign_settings() -> None:
    chassis = OvsChassis(LocalRunner("h2"))
    with pytest.raises(DriverError, match=r"h2 is a chassis of another OVN: ovn-remote is ssl:\S+ for lab"):
        await chassis.join("other", spec("h2", "192.0.2.12", "ssl:198.51.100.1:6642"))
    assert (await chassis.observe()).users == {"lab"}


async def leave_other() -> None:
    chassis = OvsChassis(LocalRunner("h2"))
    await chassis.leave("lab")
    found = await chassis.observe()
    assert (found.name, found.remote, found.users, found.made, found.has_identity) == (
        "h2", "", frozenset(), frozenset(), False,
    )  # fmt: skip


async def leave_main() -> None:
    ovn = OvnNorthbound()
    runner = LocalRunner("h1")
    found = await ovn.observe(MARK)
    await ovn.change(RowChange(mark=MARK, removed=tuple(found.rows)))
    assert (await ovn.observe(MARK)).rows == {}
    await OvsChassis(runner).leave("lab")
    central = OvnCentral(runner, ovn.south)
    await central.close("lab")
    left = await central.observe()
    assert (left.addresses, left.users, left.has_keys) == ((), frozenset(), False)
    await ovn.close()


def test_nothing_is_left(hosts: TestHosts) -> None:
    one, two = hosts
    inside(two, foreign_settings)
    inside(two, leave_other)
    inside(one, leave_main)
    for host in hosts:
        assert host.run(["ls", "-A", "/var/lib/kvm-compose"]).stdout == ""
    assert one.run(["ovn-nbctl", "show"]).stdout == ""


OUTSIDE = Outside(network="lab.public", bridge="lab-ex", address="172.16.9.1/24", datapath_type="netdev")


async def go_out() -> None:
    outsides = OvsOutsides(LocalRunner("h1"))
    await outsides.create("lab", OUTSIDE)
    (found,) = await outsides.observe("lab")
    assert (found.spec, found.wrong) == (OUTSIDE, "")
    await outsides.create("lab", OUTSIDE)
    other = msgspec.structs.replace(OUTSIDE, network="more", bridge="other-ex")
    with pytest.raises(DriverError, match=r"the subnet 172\.16\.9\.0/24 overlaps .* is reached by lab-ex"):
        await outsides.create("other", other)
    with pytest.raises(DriverError, match=r"has the bridge lab-ex for the network lab\.public"):
        await outsides.check("other", msgspec.structs.replace(OUTSIDE, bridge="other-ex"))
    # the bridge serves both projects, and goes with the last one
    await outsides.create("other", OUTSIDE)
    await outsides.remove("lab", "lab-ex")
    assert await outsides.observe("lab") == []
    (found,) = await outsides.observe("other")
    assert (found.spec, found.wrong, await outsides.users("lab-ex")) == (
        OUTSIDE, "", {"other": OUTSIDE.network},
    )  # fmt: skip
    await outsides.remove("other", "lab-ex")
    assert await outsides.observe("other") == []
    # one that is there already is used as it is, and stays
    kept = msgspec.structs.replace(OUTSIDE, bridge="br-phy")
    await outsides.create("lab", kept)
    (found,) = await outsides.observe("lab")
    assert (found.spec, found.wrong) == (kept, "")
    await outsides.remove("lab", "br-phy")
    assert await outsides.observe("lab") == []
    # not without a config that names it
    await run_ovs(LocalRunner("h1"), ["ovs-vsctl", "--", "add-br", "br-ex"])
    usual = Outside(network="public", bridge="br-ex", address="172.16.1.1/24", datapath_type="netdev")
    with pytest.raises(DriverError, match="a bridge br-ex that kvm-compose has not made"):
        await outsides.create("lab", usual)
    await run_ovs(LocalRunner("h1"), ["ovs-vsctl", "--", "del-br", "br-ex"])


def test_the_way_out_is_a_bridge_and_rules(hosts: TestHosts) -> None:
    one = hosts[0]
    before = one.run(["nft", "list", "ruleset"]).stdout
    inside(one, go_out)
    assert one.run(["nft", "list", "ruleset"]).stdout == before
