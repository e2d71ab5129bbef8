"""Domains and networks, with libvirt's own test driver: in this process, without a daemon."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import libvirt
import pytest
from libvirt_bench import THEIRS, Bench, fails_with, network_xml

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import domains


def test_a_domain_is_defined_and_started_once(bench: Bench) -> None:
    bench.start()
    assert bench.states == {"p-web": "running"}
    number, uuid = bench.domain().ID(), bench.domain().UUIDString()
    bench.start(vcpus=2)  # it runs, and is left as it is
    assert (bench.domain().ID(), bench.domain().maxVcpus()) == (number, 1)
    bench.domain().destroy()
    assert bench.states == {"p-web": "shut off"}
    bench.start(vcpus=2)
    assert (bench.domain().UUIDString(), bench.domain().maxVcpus()) == (uuid, 2)
    assert bench.states == {"p-web": "running"}


def test_domains_of_others_are_neither_listed_nor_touched(bench: Bench) -> None:
    bench.start(name="q-web", project="q")
    bench.start()
    assert list(bench.states) == ["p-web"]
    names = ["p-web", "q-web", THEIRS, "p-new"]
    bench.run(lambda: bench.driver.networks.start(network_xml()))
    found = bench.run(lambda: bench.driver.foreign("p", names, ["p-network", "default", "p-new"]))
    assert found == ["domain q-web", f"domain {THEIRS}", "network default"]
    for name, whose in (("q-web", "of the project q"), (THEIRS, "that kvm-compose did not create")):
        with pytest.raises(DriverError, match=f"domain {name} {whose}") as caught:
            bench.start(name=name)
        assert f"virsh dumpxml {name};" in str(caught.value.hint)
    with pytest.raises(DriverError, match="does not name its project"):
        bench.start(name="p-lost", project=None)


def test_how_long_a_guest_is_up_and_what_it_uses(bench: Bench) -> None:
    bench.start()
    bench.start(name="p-off")
    bench.domain("p-off").destroy()
    bench.machine.answers = (
        ("ps", 0, b"  7   42 /usr/bin/qemu-system-x86_64 -name guest=p-web,debug-threads=on\n", b""),
    )
    states = bench.run(lambda: bench.driver.domains.states("p"))
    web = states["p-web"]
    assert (web.boot, web.uptime, web.cpu_seconds) == ("7", 42, 0)
    assert (states["p-off"].uptime, states["p-off"].cpu_seconds, states["p-off"].guest) == (None, None, "off")


@pytest.mark.parametrize(
    ("stats", "used"),
    [
        ({}, None),
        ({"balloon.available": 110000, "balloon.unused": 61000, "balloon.usable": 70000}, 39),
        ({"balloon.available": 110000, "balloon.unused": 61000}, 47),
        ({"balloon.available": 110000}, None),
        ({"balloon.available": 0, "balloon.usable": 0}, None),
    ],
)
def test_what_a_guest_uses_is_what_it_reports(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stats: dict[str, int], used: int | None
) -> None:
    bench.start()
    running = {"state.state": libvirt.VIR_DOMAIN_RUNNING, "balloon.rss": 356 << 10, **stats}
    monkeypatch.setattr(libvirt.virConnect, "getAllDomainStats", lambda *_: [(bench.domain(), running)])
    (found,) = bench.run(lambda: bench.driver.domains.states("p")).values()
    assert (found.memory_mb, found.used_mb) == (356, used)


def test_a_guest_that_hears_the_button_is_off_soon(bench: Bench) -> None:
    bench.start()
    assert bench.run(lambda: bench.driver.domains.shut_down("p-web", 10))
    assert bench.states == {"p-web": "shut off"}
    assert bench.run(lambda: bench.driver.domains.shut_down("p-gone", 10))
    bench.run(lambda: bench.driver.domains.wait_off("p-web"), lambda: bench.driver.domains.wait_off("p-gone"))


def test_a_guest_that_does_not_is_asked_again_and_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()
    pressed = 0

    def deaf(_domain: libvirt.virDomain) -> None:
        nonlocal pressed
        pressed += 1

    monkeypatch.setattr(libvirt.virDomain, "shutdown", deaf)
    monkeypatch.setattr(domains, "LOOK_AGAIN", 0.02)
    assert not bench.run(lambda: bench.driver.domains.shut_down("p-web", 0.5))
    assert 2 <= pressed <= 26
    assert bench.states == {"p-web": "running"}


def test_a_guest_that_goes_while_it_is_looked_at_is_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()
    gone = fails_with(libvirt.VIR_ERR_NO_DOMAIN, "no domain", libvirt.VIR_FROM_TEST)
    monkeypatch.setattr(libvirt.virDomain, "isActive", gone)
    assert bench.run(lambda: bench.driver.domains.shut_down("p-web", 5))
    bench.run(lambda: bench.driver.domains.wait_off("p-web"))


def test_an_end_is_noticed_when_it_comes(bench: Bench) -> None:
    """Long before anybody would look again."""
    bench.start()

    async def run() -> None:
        waiting = asyncio.create_task(bench.driver.domains.wait_off("p-web"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await bench.driver.domains.destroy("p-web")
        await asyncio.wait_for(waiting, domains.LOOK_AGAIN / 2)

    asyncio.run(run())


def test_a_domain_is_switched_off_and_forgotten(bench: Bench) -> None:
    bench.start()
    with pytest.raises(DriverError, match="cannot undefine the domain p-web"):
        bench.run(lambda: bench.driver.domains.undefine("p-web"))
    assert bench.removed == []
    for _ in range(2):
        bench.run(lambda: bench.driver.domains.destroy("p-web"))
        assert bench.states == {"p-web": "shut off"}
    for _ in range(2):
        bench.run(lambda: bench.driver.domains.undefine("p-web"))
        assert bench.states == {}
    assert bench.removed == ["/run/libvirt/qemu/p-web.xml", "/run/libvirt/qemu/p-web.pid"] * 2
    bench.run(lambda: bench.driver.domains.destroy("p-gone"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b"])
def test_no_name_leads_to_files_elsewhere(bench: Bench, name: str) -> None:
    bench.run(lambda: bench.driver.domains.undefine(name), lambda: bench.driver.networks.remove(name))
    assert bench.removed == []


def starting_up(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """Have every domain look so often as if its start went on."""
    state = libvirt.virDomain.state
    left = looks

    def pretend(domain: libvirt.virDomain) -> Any:
        nonlocal left
        left -= 1
        about = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]
        return about if left >= 0 else state(domain)

    monkeypatch.setattr(libvirt.virDomain, "state", pretend)
    monkeypatch.setattr(domains, "_START_LOOK_SECONDS", 0.01)


def test_a_start_of_a_libvirtd_that_died_is_cleared_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting_up(monkeypatch, 3)
    bench.start()
    assert bench.states == {"p-web": "running"}
    clearing = [argv for argv in bench.machine.commands if argv[0] == "setsid"]
    assert len(clearing) == 3
    assert all(bench.machine.privileged[: len(clearing)])


def test_a_start_that_never_ends_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_START_SECONDS", 0.05)
    destroyed: list[str] = []
    destroy = libvirt.virDomain.destroy

    def note(domain: libvirt.virDomain) -> Any:
        destroyed.append(domain.name())
        monkeypatch.undo()
        return destroy(domain)

    bench.start()
    starting_up(monkeypatch, 10_000)
    monkeypatch.setattr(libvirt.virDomain, "destroy", note)
    monkeypatch.setattr(libvirt, "open", lambda uri: bench.connection)
    bench.start()
    assert destroyed == ["p-web"]
    assert bench.domain().isActive()


def activity(bench: Bench) -> dict[str, bool]:
    found = bench.run(lambda: bench.driver.networks.observe("p"))
    return {name: network.active for name, network in found.items()}


def test_a_network_is_made_once_and_goes(bench: Bench) -> None:
    for _ in range(2):
        bench.run(lambda: bench.driver.networks.start(network_xml()))
        assert activity(bench) == {"p-network": True}
    with pytest.raises(DriverError, match="the network p-network is active with another definition"):
        bench.run(lambda: bench.driver.networks.start(network_xml(address="10.2.0.1")))
    uuid = bench.connection.networkLookupByName("p-network").UUIDString()
    bench.connection.networkLookupByName("p-network").destroy()
    assert activity(bench) == {"p-network": False}
    bench.run(lambda: bench.driver.networks.start(network_xml(address="10.2.0.1")))
    assert bench.connection.networkLookupByName("p-network").UUIDString() == uuid
    assert "10.2.0.1" in bench.connection.networkLookupByName("p-network").XMLDesc()
    for _ in range(2):
        bench.run(lambda: bench.driver.networks.remove("p-network"))
        assert activity(bench) == {}
    assert bench.removed == ["/run/libvirt/network/p-network.pid"] * 2


def test_networks_of_others_are_neither_listed_nor_touched(bench: Bench) -> None:
    bench.run(lambda: bench.driver.networks.start(network_xml("q-network", project="q", address="10.3.0.1")))
    assert activity(bench) == {}
    for name in ("q-network", "default"):
        with pytest.raises(DriverError, match=f"network {name}") as caught:
            bench.run(lambda name=name: bench.driver.networks.start(network_xml(name)))
        assert f"virsh net-dumpxml {name};" in str(caught.value.hint)


def test_leases_are_of_the_latest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.run(lambda: bench.driver.networks.leases("p-network")) == {}
    bench.run(lambda: bench.driver.networks.start(network_xml()))
    found = [
        {"mac": "52:54:00:AA:00:01", "ipaddr": "10.1.0.9", "expirytime": 200},
        {"mac": "52:54:00:AA:00:01", "ipaddr": "10.1.0.8", "expirytime": 100},
        {"mac": None, "ipaddr": "10.1.0.7", "expirytime": 300},
    ]
    monkeypatch.setattr(libvirt.virNetwork, "DHCPLeases", lambda _network: found)
    assert bench.run(lambda: bench.driver.networks.leases("p-network")) == {"52:54:00:aa:00:01": "10.1.0.9"}


def test_a_subnet_in_use_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "internal error: Network is already in use by interface eth7"
    monkeypatch.setattr(libvirt.virNetwork, "create", fails_with(libvirt.VIR_ERR_INTERNAL_ERROR, said))
    with pytest.raises(
        DriverError, match=r"its subnet \(10.1.0.1/255.255.255.0\) is in use by the interface eth7"
    ):
        bench.run(lambda: bench.driver.networks.start(network_xml()))


def test_what_a_killed_libvirtd_left_of_a_network_is_cleared_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = libvirt.virNetwork.create
    in_the_way = True

    def fail_first(network: libvirt.virNetwork) -> Any:
        if in_the_way:
            fails_with(libvirt.VIR_ERR_INTERNAL_ERROR, "cannot create the bridge: File exists")()
        return create(network)

    def clear(argv: Sequence[str]) -> None:
        nonlocal in_the_way
        if list(argv) == ["ip", "link", "delete", "dev", "p-network"]:
            in_the_way = False

    machine = bench.machine
    monkeypatch.setattr(libvirt.virNetwork, "create", fail_first)
    with pytest.raises(DriverError, match="File exists"):  # a bridge that is not the network's
        bench.run(lambda: bench.driver.networks.start(network_xml()))
    mac = libvirt_mac(bench)
    links = json.dumps([{"ifname": "p-network", "address": mac}]).encode()
    rules = (
        b"*nat\n-A LIBVIRT_PRT -s 10.1.0.0/24 -j MASQUERADE\n-A POSTROUTING -s 10.1.0.0/24 -j LOG\nCOMMIT\n"
    )
    no_dhcp_server = ("pkill", 1, b"", b"")
    machine.answers = (("ip -json", 0, links, b""), ("iptables-save", 0, rules, b""), no_dhcp_server)
    machine.commands, machine.privileged, machine.ran = [], [], clear
    bench.run(lambda: bench.driver.networks.start(network_xml()))
    assert activity(bench) == {"p-network": True}
    assert machine.scripts == ["*nat\n-D LIBVIRT_PRT -s 10.1.0.0/24 -j MASQUERADE\nCOMMIT\n"]
    as_root = [argv[0] for argv, root in zip(machine.commands, machine.privileged, strict=True) if root]
    assert as_root == ["pkill", "iptables-save", "iptables-restore", "ip"]


def libvirt_mac(bench: Bench) -> str:
    xml = bench.connection.networkLookupByName("p-network").XMLDesc()
    return xml.partition("<mac address='")[2].partition("'")[0]


def measured_by(bench: Bench, monkeypatch: pytest.MonkeyPatch, stats: dict[str, int]) -> Counter[str]:
    """Let libvirt say this of p-web; how often it is asked what."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    running = {"state.state": libvirt.VIR_DOMAIN_RUNNING, **stats}
    connection = bench.connection
    monkeypatch.setattr(
        libvirt.virConnect,
        "getAllDomainStats",
        counted("getAllDomainStats", lambda *_: [(each, running) for each in connection.listAllDomains()]),
    )
    for owner, name in ((libvirt.virConnect, "getInfo"), (libvirt.virDomain, "metadata")):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return calls


def test_measuring_is_one_call_once_the_domains_are_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()
    bench.machine.answers = (("ps", 0, b"  7   42 /usr/bin/qemu-system-x86_64 -name guest=p-web\n", b""),)
    bench.start(name="q-web", project="q")
    calls = measured_by(bench, monkeypatch, {"cpu.time": 3 * 10**9})
    first = bench.run(bench.driver.measure)
    assert calls == {"getInfo": 1, "getAllDomainStats": 1, "metadata": 3}  # one is of others
    assert sorted((each.project, each.name) for each in first.instances) == [("p", "p-web"), ("q", "q-web")]
    asked = len(bench.machine.commands)
    calls.clear()
    again = bench.run(bench.driver.measure)
    assert calls == {"getAllDomainStats": 1}
    assert len(bench.machine.commands) == asked
    assert (again.size.cpus, again.size.memory_mb) == (first.size.cpus, first.size.memory_mb)
    found = {each.name: each for each in again.instances}  # libvirt lists them in any order
    assert found["p-web"].uptime == pytest.approx(42, abs=5)
    assert found["p-web"].cpu_seconds == 3
    assert found["q-web"].uptime is None  # its process is not shown
    bench.domain().destroy()
    bench.domain().create()
    bench.run(bench.driver.measure)
    assert bench.machine.commands[asked:][0][0] == "ps"  # it was started again


def test_what_is_measured_is_summed_over_devices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    stats = {
        "balloon.rss": 1000,
        "balloon.available": 900,
        "balloon.usable": 300,
        "block.count": 2,
        "block.0.rd.reqs": 1,
        "block.0.rd.bytes": 512,
        "block.0.wr.reqs": 2,
        "block.0.wr.bytes": 1024,
        "block.1.rd.bytes": 88,
        "net.count": 2,
        "net.0.rx.bytes": 10,
        "net.0.rx.pkts": 1,
        "net.0.tx.bytes": 20,
        "net.1.rx.bytes": 5,
        "net.1.tx.bytes": 6,
    }
    measured_by(bench, monkeypatch, stats)
    (found,) = bench.run(bench.driver.measure).instances  # that of others is not shown
    assert (found.memory, found.used) == (1000 << 10, 600 << 10)
    assert (found.reads, found.read_bytes, found.writes, found.written_bytes) == (1, 600, 2, 1024)
    assert (found.received_packets, found.received_bytes) == (1, 15)
    assert (found.sent_packets, found.sent_bytes) == (None, 26)


def test_what_a_busy_domain_does_not_say_is_not_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    measured_by(bench, monkeypatch, {"net.count": 0})
    (found,) = bench.run(bench.driver.measure).instances
    assert (found.read_bytes, found.memory, found.received_bytes) == (None, None, 0)
