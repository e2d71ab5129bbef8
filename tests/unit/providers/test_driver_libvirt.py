"""The libvirt driver with libvirt's own test driver: domains, networks and snapshots in this process."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest
from recorder import Recorder

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import connection as connection_module
from kvmcompose.providers.libvirt import driver as driver_module
from kvmcompose.providers.libvirt.driver import Libvirt

_DISK = """\
<disk type="file" device="disk"><driver name="qemu" type="{format}"/><source file="/p/{target}"/>
<target dev="{target}" bus="virtio"/>{more}</disk>"""
THEIRS = "their-guest"
THEIR_NETWORK = "<network><name>default</name><bridge name='virbr0'/></network>"
really_open = libvirt.open
#: Managed saves, NVRAM, and the metadata of snapshots and checkpoints (virDomainUndefineFlagsValues).
_FORGOTTEN = 0b10111


def domain_xml(
    name: str = "p-web", *, project: str | None = "p", vcpus: int = 1, kind: str = "qcow2", more: str = ""
) -> str:
    mark = f'<kc:guest xmlns:kc="urn:kvmcompose:guest:1" project="{project}" name="{name[2:]}" host="main"/>'
    return (
        f"<domain type='test'><name>{name}</name>"
        f"<metadata>{mark if project else ''}</metadata>"
        f"<memory>1024</memory><vcpu>{vcpus}</vcpu><os><type>hvm</type></os>"
        f"<devices>{_DISK.format(format=kind, target='vda', more=more)}"
        f"{_DISK.format(format='raw', target='vdb', more='<readonly/>')}</devices></domain>"
    )


def network_xml(name: str = "p-network", *, project: str | None = "p", address: str = "10.1.0.1") -> str:
    mark = f'<kcn:network xmlns:kcn="urn:kvmcompose:network:1" project="{project}"/>' if project else ""
    return (
        f"<network><name>{name}</name><metadata>{mark}</metadata><bridge name='{name[:10]}'/>"
        f"<ip address='{address}' netmask='255.255.255.0'/></network>"
    )


class Machine(Recorder):
    ran: Callable[[Sequence[str]], None] = staticmethod(lambda _argv: None)

    async def reach(self) -> None:
        pass

    async def run(self, argv: Sequence[str], **options: Any) -> Completed:
        self.ran(argv)
        return await super().run(argv, **options)


class Bench:
    """The driver of a host, in whose libvirt ``connection`` others have a domain and a network each."""

    connection: libvirt.virConnect

    def __init__(self) -> None:
        self.machine = Machine(("qemu-img info", 0, b'{"snapshots": []}', b""))
        self.driver = Libvirt(LibvirtUri(), self.machine)

    def run(self, *calls: Callable[[], Awaitable[Any]]) -> Any:
        """The last call's result."""

        async def every() -> Any:
            found = None
            for call in calls:
                found = await asyncio.wait_for(call(), 20)
            return found

        return asyncio.run(every())

    def start(self, **options: Any) -> None:
        self.run(lambda: self.driver.start_domain(domain_xml(**options)))

    def domain(self, name: str = "p-web") -> libvirt.virDomain:
        return self.connection.lookupByName(name)

    @property
    def states(self) -> dict[str, str]:
        found = self.run(lambda: self.driver.domains("p"))
        return {name: state.state for name, state in found.items()}

    @property
    def removed(self) -> list[str]:
        return [word for each in self.machine.commands if each[0] == "rm" for word in each[3:]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # what the test driver lacks
    monkeypatch.setattr(libvirt.virConnect, "setKeepAlive", lambda *_: 0)
    undefine = libvirt.virDomain.undefineFlags

    def undefine_flags(domain: libvirt.virDomain, flags: int) -> int:
        assert flags == _FORGOTTEN
        return undefine(domain, flags & libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)

    monkeypatch.setattr(libvirt.virDomain, "undefineFlags", undefine_flags)
    (tmp_path / "host.xml").write_text(f"<node>{domain_xml(THEIRS, project=None)}{THEIR_NETWORK}</node>")
    opened: list[libvirt.virConnect] = []

    def open_once(_uri: str) -> libvirt.virConnect:
        if not opened:
            opened.append(really_open(f"test://{tmp_path}/host.xml"))
        return opened[0]

    monkeypatch.setattr(libvirt, "open", open_once)
    made = Bench()
    made.run(made.driver.facts)
    (made.connection,) = opened
    yield made
    made.run(made.driver.close)


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
    bench.run(lambda: bench.driver.start_network(network_xml()))
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
        ("ps", 0, b"  42 /usr/bin/qemu-system-x86_64 -name guest=p-web,debug-threads=on\n", b""),
    )
    states = bench.run(lambda: bench.driver.domains("p"))
    assert (states["p-web"].uptime, states["p-web"].cpu_seconds) == (42, 0)
    assert (states["p-off"].uptime, states["p-off"].cpu_seconds, states["p-off"].guest) == (None, None, "off")


def test_a_guest_that_hears_the_button_is_off_soon(bench: Bench) -> None:
    bench.start()
    assert bench.run(lambda: bench.driver.shut_down_domain("p-web", 10))
    assert bench.states == {"p-web": "shut off"}
    assert bench.run(lambda: bench.driver.shut_down_domain("p-gone", 10))
    bench.run(lambda: bench.driver.wait_off("p-web"), lambda: bench.driver.wait_off("p-gone"))


def test_a_guest_that_does_not_is_asked_again_and_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()
    pressed = 0

    def deaf(_domain: libvirt.virDomain) -> None:
        nonlocal pressed
        pressed += 1

    monkeypatch.setattr(libvirt.virDomain, "shutdown", deaf)
    monkeypatch.setattr(driver_module, "_LOOK_AGAIN", 0.02)
    assert not bench.run(lambda: bench.driver.shut_down_domain("p-web", 0.5))
    assert 2 <= pressed <= 26
    assert bench.states == {"p-web": "running"}


def test_an_end_is_noticed_when_it_comes(bench: Bench) -> None:
    """Long before anybody would look again."""
    bench.start()

    async def run() -> None:
        waiting = asyncio.create_task(bench.driver.wait_off("p-web"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await bench.driver.destroy_domain("p-web")
        await asyncio.wait_for(waiting, driver_module._LOOK_AGAIN / 2)

    asyncio.run(run())


def test_a_domain_is_switched_off_and_forgotten(bench: Bench) -> None:
    bench.start()
    with pytest.raises(DriverError, match="cannot undefine the domain p-web"):
        bench.run(lambda: bench.driver.undefine_domain("p-web"))
    assert bench.removed == []
    for _ in range(2):
        bench.run(lambda: bench.driver.destroy_domain("p-web"))
        assert bench.states == {"p-web": "shut off"}
    for _ in range(2):
        bench.run(lambda: bench.driver.undefine_domain("p-web"))
        assert bench.states == {}
    assert bench.removed == ["/run/libvirt/qemu/p-web.xml", "/run/libvirt/qemu/p-web.pid"] * 2
    bench.run(lambda: bench.driver.destroy_domain("p-gone"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b"])
def test_no_name_leads_to_files_elsewhere(bench: Bench, name: str) -> None:
    bench.run(lambda: bench.driver.undefine_domain(name), lambda: bench.driver.remove_network(name))
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
    monkeypatch.setattr(driver_module, "_START_LOOK_SECONDS", 0.01)


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
    monkeypatch.setattr(driver_module, "_START_SECONDS", 0.05)
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


def test_a_network_is_made_once_and_goes(bench: Bench) -> None:
    for _ in range(2):
        bench.run(lambda: bench.driver.start_network(network_xml()))
        assert bench.run(lambda: bench.driver.networks("p")) == {"p-network": True}
    with pytest.raises(DriverError, match="the network p-network is active with another definition"):
        bench.run(lambda: bench.driver.start_network(network_xml(address="10.2.0.1")))
    uuid = bench.connection.networkLookupByName("p-network").UUIDString()
    bench.connection.networkLookupByName("p-network").destroy()
    assert bench.run(lambda: bench.driver.networks("p")) == {"p-network": False}
    bench.run(lambda: bench.driver.start_network(network_xml(address="10.2.0.1")))
    assert bench.connection.networkLookupByName("p-network").UUIDString() == uuid
    assert "10.2.0.1" in bench.connection.networkLookupByName("p-network").XMLDesc()
    for _ in range(2):
        bench.run(lambda: bench.driver.remove_network("p-network"))
        assert bench.run(lambda: bench.driver.networks("p")) == {}
    assert bench.removed == ["/run/libvirt/network/p-network.pid"] * 2


def test_networks_of_others_are_neither_listed_nor_touched(bench: Bench) -> None:
    bench.run(lambda: bench.driver.start_network(network_xml("q-network", project="q", address="10.3.0.1")))
    assert bench.run(lambda: bench.driver.networks("p")) == {}
    for name in ("q-network", "default"):
        with pytest.raises(DriverError, match=f"network {name}") as caught:
            bench.run(lambda name=name: bench.driver.start_network(network_xml(name)))
        assert f"virsh net-dumpxml {name};" in str(caught.value.hint)


def test_leases_are_of_the_latest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.run(lambda: bench.driver.leases("p-network")) == {}
    bench.run(lambda: bench.driver.start_network(network_xml()))
    found = [
        {"mac": "52:54:00:AA:00:01", "ipaddr": "10.1.0.9", "expirytime": 200},
        {"mac": "52:54:00:AA:00:01", "ipaddr": "10.1.0.8", "expirytime": 100},
        {"mac": None, "ipaddr": "10.1.0.7", "expirytime": 300},
    ]
    monkeypatch.setattr(libvirt.virNetwork, "DHCPLeases", lambda _network: found)
    assert bench.run(lambda: bench.driver.leases("p-network")) == {"52:54:00:aa:00:01": "10.1.0.9"}


def fails_with(code: int, message: str, domain: int = libvirt.VIR_FROM_NETWORK) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        error = libvirt.libvirtError("it failed")
        error.err = (code, domain, message, 2, None, None, None, -1, -1)
        raise error

    return fail


def test_a_subnet_in_use_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "internal error: Network is already in use by interface eth7"
    monkeypatch.setattr(libvirt.virNetwork, "create", fails_with(libvirt.VIR_ERR_INTERNAL_ERROR, said))
    with pytest.raises(
        DriverError, match=r"its subnet \(10.1.0.1/255.255.255.0\) is in use by the interface eth7"
    ):
        bench.run(lambda: bench.driver.start_network(network_xml()))


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
        bench.run(lambda: bench.driver.start_network(network_xml()))
    mac = libvirt_mac(bench)
    links = json.dumps([{"ifname": "p-network", "address": mac}]).encode()
    rules = (
        b"*nat\n-A LIBVIRT_PRT -s 10.1.0.0/24 -j MASQUERADE\n-A POSTROUTING -s 10.1.0.0/24 -j LOG\nCOMMIT\n"
    )
    no_dhcp_server = ("pkill", 1, b"", b"")
    machine.answers = (("ip -json", 0, links, b""), ("iptables-save", 0, rules, b""), no_dhcp_server)
    machine.commands, machine.privileged, machine.ran = [], [], clear
    bench.run(lambda: bench.driver.start_network(network_xml()))
    assert bench.run(lambda: bench.driver.networks("p")) == {"p-network": True}
    assert machine.scripts == ["*nat\n-D LIBVIRT_PRT -s 10.1.0.0/24 -j MASQUERADE\nCOMMIT\n"]
    as_root = [argv[0] for argv, root in zip(machine.commands, machine.privileged, strict=True) if root]
    assert as_root == ["pkill", "iptables-save", "iptables-restore", "ip"]


def libvirt_mac(bench: Bench) -> str:
    xml = bench.connection.networkLookupByName("p-network").XMLDesc()
    return xml.partition("<mac address='")[2].partition("'")[0]


def snapshots_of(bench: Bench) -> list[tuple[str, str, bool]]:
    found = bench.run(lambda: bench.driver.snapshots("p-web"))
    return [(each.name, each.state, each.current) for each in found]


def test_snapshots_are_made_restored_and_deleted(bench: Bench) -> None:
    bench.start()
    assert snapshots_of(bench) == []
    bench.run(lambda: bench.driver.create_snapshot("p-web", "first"))
    bench.run(lambda: bench.driver.create_snapshot("p-web", "second"))
    assert sorted(snapshots_of(bench)) == [("first", "running", False), ("second", "running", True)]
    with pytest.raises(DriverError, match="p-web already has a snapshot first"):
        bench.run(lambda: bench.driver.create_snapshot("p-web", "first"))
    bench.domain().destroy()
    bench.machine.answers = (
        ("qemu-img info", 0, b'{"snapshots": [{"id": "1", "name": "first", "vm-state-size": 9}]}', b""),
    )
    bench.run(lambda: bench.driver.restore_snapshot("p-web", "first"))
    assert bench.states == {"p-web": "running"}
    assert ("first", "running", True) in snapshots_of(bench)
    bench.run(lambda: bench.driver.delete_snapshot("p-web", "first"))
    assert [name for name, _, _ in snapshots_of(bench)] == ["second"]


def test_what_qemu_would_confuse_is_put_right(bench: Bench) -> None:
    """A snapshot of a guest that is off, named as the ID of another one."""
    bench.start()
    bench.domain().destroy()
    bench.run(lambda: bench.driver.create_snapshot("p-web", "2"))
    table = b'{"snapshots": [{"id": "1", "name": "2"}, {"id": "2", "name": "later"}]}'
    bench.machine.answers = (("qemu-img info", 0, table, b""),)
    bench.run(lambda: bench.driver.restore_snapshot("p-web", "2"))
    assert bench.machine.commands[-1] == ["qemu-img", "snapshot", "-a", "1", "--", "/p/vda"]
    assert bench.machine.privileged[-1]


def test_a_snapshot_that_is_not_there_is_an_error_that_names_what_is(bench: Bench) -> None:
    bench.start()
    for call in (bench.driver.restore_snapshot, bench.driver.delete_snapshot):
        with pytest.raises(DriverError, match="p-web has no snapshot frist") as caught:
            bench.run(functools.partial(call, "p-web", "frist"))
        assert caught.value.hint == "there are none"
    bench.run(lambda: bench.driver.create_snapshot("p-web", "first"))
    for name, hint in (("frist", "did you mean first?"), ("other", "there are: first")):
        with pytest.raises(DriverError) as caught:
            bench.run(functools.partial(bench.driver.delete_snapshot, "p-web", name))
        assert caught.value.hint == hint
    with pytest.raises(DriverError, match="there is no domain p-gone on main"):
        bench.run(lambda: bench.driver.snapshots("p-gone"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "raw"}, "cannot have snapshots: its disk vda is raw, and only qcow2"),
        ({"more": "<readonly/>"}, "p-web has no writable disk"),
    ],
)
def test_disks_that_hold_no_snapshots_are_named(bench: Bench, options: dict[str, str], message: str) -> None:
    bench.start(**options)
    with pytest.raises(DriverError, match=message):
        bench.run(lambda: bench.driver.create_snapshot("p-web", "first"))
    assert snapshots_of(bench) == []


def test_a_snapshot_is_made_known_to_a_domain_that_was_defined_anew(bench: Bench) -> None:
    bench.start()
    bench.run(lambda: bench.driver.create_snapshot("p-web", "first"))
    (kept,) = bench.run(lambda: bench.driver.snapshots("p-web"))
    bench.run(lambda: bench.driver.destroy_domain("p-web"), lambda: bench.driver.undefine_domain("p-web"))
    bench.start()
    assert snapshots_of(bench) == []
    for _ in range(2):
        bench.run(lambda: bench.driver.know_snapshot("p-web", kept.xml))
        assert [name for name, _, _ in snapshots_of(bench)] == ["first"]


def test_versions_are_dotted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt.virConnect, "getLibVersion", lambda _connection: 10_012_034)
    facts = bench.run(bench.driver.facts)
    assert facts.version.startswith("libvirt 10.12.34, TEST ")
    assert facts.cpus > 0
    assert facts.memory_mb > 0


# -- a connection that is lost


def lost(*_: object) -> None:
    fails_with(libvirt.VIR_ERR_RPC, "client socket is closed", libvirt.VIR_FROM_RPC)()


class Losing:
    """Something to do that loses the connection ``times`` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.done = 0

    def __call__(self, _connection: Any) -> str:
        self.done += 1
        if self.done <= self.times:
            lost()
        return "done"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(connection_module, "_COME_BACK_SECONDS", 0.3)


@pytest.mark.usefixtures("brief")
def test_what_can_be_repeated_is_when_the_connection_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    host = bench.connection.getURI()

    def again(_uri: str) -> Any:
        nonlocal opened
        opened += 1
        return really_open(host)

    monkeypatch.setattr(libvirt, "open", again)
    call = bench.driver._connection.call
    work = Losing(2)
    assert bench.run(lambda: call("do it", work)) == "done"
    assert (work.done, opened) == (3, 2)
    once = Losing(1)
    with pytest.raises(DriverError, match=r"cannot do it: the connection .* outcome is unknown"):
        bench.run(lambda: bench.driver._connection.call_once("do it", once))
    assert once.done == 1
    with pytest.raises(DriverError, match="cannot do it: libvirt does not answer"):
        bench.run(lambda: call("do it", Losing(10**6)))


@pytest.mark.usefixtures("brief")
def test_an_answer_that_is_no_is_not_asked_for_again(bench: Bench) -> None:
    call = bench.driver._connection.call
    asked = 0

    def refused(_connection: Any) -> None:
        nonlocal asked
        asked += 1
        fails_with(libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is off")()

    with pytest.raises(DriverError, match=r"^cannot do it: domain is off$"):
        bench.run(lambda: call("do it", refused))
    assert asked == 1
    assert (
        not bench.connection.isAlive()
        or bench.run(lambda: call("do it", lambda found: found)) is bench.connection
    )


def test_a_libvirt_that_never_answered_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def refuse(_uri: str) -> None:
        nonlocal asked
        asked += 1
        lost()

    monkeypatch.setattr(libvirt, "open", refuse)
    with pytest.raises(DriverError, match="libvirt does not answer at qemu:///system") as caught:
        bench.run(Libvirt(LibvirtUri(), bench.machine).facts)
    assert asked == 1
    assert "systemctl enable --now libvirtd" in str(caught.value.hint)
