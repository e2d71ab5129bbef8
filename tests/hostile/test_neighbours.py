"""Names that come to the same, and what else one project may do to another on the same hosts.

``lab`` with a bridge ``x-br0`` and ``lab-x`` with a bridge ``br0`` call it alike, and interfaces' names are
so short that one can be looked for.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, new_bench, tiny_qcow2
from kvmcompose import privileges
from kvmcompose.core.commands import Capture, Command, Down, Up
from kvmcompose.core.deployment import Action, ActionState, Deployment, NewDeployment
from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeBridge, FakeDomain, FakeLink, FakePort
from kvmcompose.hosts.local_blobs import check_images
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.iplink.driver import parse_routes
from kvmcompose.server.actions import Actions
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.orchestrator.resources import libvirt_network
from kvmcompose.server.orchestrator.testbed import LoadedTestbed
from kvmcompose.server.people import Person, Role
from kvmcompose.server.store import Store

if TYPE_CHECKING:
    from kvmcompose.providers.drivers import HostDrivers
    from kvmcompose.server.orchestrator.context import Context
    from kvmcompose.server.orchestrator.resources._work import Refusal
    from kvmcompose.server.orchestrator.testbed import LoadedGuest

YAML = """\
machines:
  - name: a
    interfaces: [{bridge: x-br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: x-worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling: {count: 1, shared_setup: shared.sh, interfaces: [{bridge: br1, clones: [0]}]}
network:
  bridges: [{name: x-br0}, {name: br1}]
  bridge_connections: {x-br0: br1}
  external_bridge: x-br0
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
#: The pair of lab-x.
PAIR = ("lab-x-br0-br1", "lab-x-br1-br0")


def neighbours() -> dict[str, FakeBridge]:
    """The bridges of lab-x, as its own `up` makes them."""
    return {name[: len("lab-x-br0")]: FakeBridge(ports={name: FakePort()}) for name in PAIR}


class Server:
    """A server with a fake host, and one of its projects."""

    def __init__(self, folder: Path, directory: Path) -> None:
        self.drivers = FakeDrivers(directory / "world.json")
        self.world = self.drivers.world
        self.store = Store(directory / "server.sqlite")
        self.store.put_deployment(NewDeployment("lab", str(folder)))
        self.orchestrator = Orchestrator(self.drivers, self.store)

    @property
    def deployment(self) -> Deployment:
        found = self.store.deployment("lab")
        assert found is not None
        return found

    def do(self, command: Command) -> Action:
        async def run() -> Action:
            actions = Actions(self.store, self.orchestrator)
            uuid = actions.begin(self.deployment, command).uuid
            await actions.wait(uuid)
            found = self.store.action(uuid)
            assert found is not None
            return found

        return asyncio.run(run())

    def when(self, wanted: str, do: Callable[[], object]) -> None:
        """Something that another does just before a call of the drivers."""
        before = self.drivers.call

        async def call(method: str, target: str = "") -> None:
            if wanted in (method, f"{method}:{target}"):
                do()
            await before(method, target)

        self.drivers.call = call  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    files = {
        "kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "not a key\n", "shared.sh": "#!/bin/sh\ntrue\n",
    }  # fmt: skip
    bench = new_bench(tmp_path_factory.mktemp("template"), "lab", files)
    bench.generate()
    return bench


@pytest.fixture
def server(bench: Bench, tmp_path: Path) -> Iterator[Server]:
    server = Server(bench.folder, tmp_path)
    yield server
    server.store.close()


def test_without_neighbours_all_is_well(server: Server) -> None:
    assert server.do(Up()).state is ActionState.SUCCEEDED
    assert server.do(Down()).state is ActionState.SUCCEEDED


def test_a_bridge_that_comes_while_we_are_busy_is_not_taken_over(server: Server) -> None:
    server.when("apply_links", lambda: server.world.bridges.update({"lab-x": neighbours()}))
    action = server.do(Up())
    assert action.state is ActionState.FAILED
    assert "taken by other Open vSwitch bridges" in action.faults[0].message
    assert "lab-x-br0" not in server.world.bridges.get("lab", {})


def test_a_golden_image_switches_nobody_elses_guest_off(server: Server) -> None:
    theirs = FakeDomain("lab-x", "worker", started=time.time())
    server.when("change_bridges", lambda: server.world.domains.update({"lab-x-x-worker": theirs}))
    server.when("change_bridges", lambda: server.world.domains.update({"lab-x-worker": theirs}))
    # as libvirt's driver does, since it is another project's
    server.drivers.failures.append(Failure("start_domain:lab-x-worker"))
    assert server.do(Up()).state is ActionState.FAILED
    assert server.world.domains["lab-x-worker"].started


def test_down_cuts_no_link_of_anothers(server: Server) -> None:
    server.world.bridges["lab-x"] = neighbours()
    pair = dict(zip(PAIR, map(FakeLink, reversed(PAIR)), strict=True))
    server.world.links |= pair
    assert server.do(Down()).state is ActionState.SUCCEEDED
    assert server.world.links == pair


def test_nothing_is_brought_up_with_the_name_of_anothers_interface(server: Server) -> None:
    server.world.bridges["long"] = {"long-br0": FakeBridge(ports={"lab-a-0": FakePort()})}
    action = server.do(Up())
    assert action.state is ActionState.FAILED
    assert "lab-a-0" in action.faults[0].message
    assert server.world.domains == {}


def test_anothers_interface_is_not_captured(server: Server) -> None:
    """By a guest whose XML has another one than the state says."""
    assert server.do(Up()).state is ActionState.SUCCEEDED
    server.world.bridges["long"] = {"long-br0": FakeBridge(ports={"lab-a-0": FakePort()})}
    with pytest.raises(RefusedError, match="on another bridge"):
        asyncio.run(server.orchestrator.capture(server.deployment, Capture(target="a", count=1)))
    assert "capture:lab-a-0" not in server.drivers.calls


# -- subnets


def checked(server: Server, folder: Path, subnet: str, role: Role) -> None:
    testbed = read_testbed_of(folder, subnet)
    owner = Person(name="mallory", role=role, uid=61_001)
    context: Context = SimpleNamespace(owner=owner, project="lab")  # type: ignore[assignment]

    async def on_hosts(check: Callable[[HostDrivers], Awaitable[None]]) -> Sequence[Refusal]:
        await check(server.drivers.host(testbed.main_host))
        return ()

    work = SimpleNamespace(testbed=testbed, context=context, on_hosts=on_hosts)
    asyncio.run(libvirt_network.refusals(work, ()))  # type: ignore[arg-type]


def read_testbed_of(folder: Path, subnet: str) -> LoadedTestbed:
    """The testbed with all addresses moved to another subnet."""
    testbed = LoadedTestbed(folder, (folder / "state.json").read_bytes())
    network = msgspec.structs.replace(testbed.network_plan.network, subnet=subnet)
    testbed.network_plan = msgspec.structs.replace(testbed.network_plan, network=network)
    return testbed


@pytest.mark.parametrize(
    "subnet", ["8.8.8.0/24", "169.254.0.0/16", "10.1.2.128/25", "10.1.0.0/16", "192.168.7.0/24"]
)
def test_a_member_takes_no_subnet_that_the_host_is_in(server: Server, bench: Bench, subnet: str) -> None:
    server.world.subnets.update({"10.1.2.0/24": "eth0", "192.168.7.1/32": "eth1"})
    with pytest.raises(DriverError, match=r"private subnet|overlaps"):
        checked(server, bench.folder, subnet, Role.USER)
    checked(server, bench.folder, subnet, Role.ADMIN)


def test_its_own_is_not_in_the_way(server: Server, bench: Bench) -> None:
    server.world.subnets.update({"10.1.2.0/24": "lab-prjbr0", "10.9.0.0/16": "eth0"})
    for subnet in ("10.1.2.0/24", "100.64.0.0/20", "172.20.0.0/20"):
        checked(server, bench.folder, subnet, Role.USER)


def test_routes_are_read_as_ip_prints_them() -> None:
    shown = (
        b'[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},'
        b'{"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"192.0.2.2"},'
        b'{"dst":"10.0.0.0/8","gateway":"192.0.2.9","dev":"eth0"},{"type":"blackhole","dst":"10.7.0.0/16"}]'
    )
    assert [(str(each.subnet), each.interface) for each in parse_routes(shown)] == [
        ("192.0.2.0/24", "eth0"), ("192.0.2.1/32", "eth0"), ("192.0.2.9/32", "eth0"),
    ]  # fmt: skip
    with pytest.raises(DriverError, match="invalid output"):
        parse_routes(b"{}")


# -- XML


def hostile(testbed: LoadedTestbed, name: str, before: str, after: str) -> list[str]:
    guest: LoadedGuest = testbed.guests[name]
    assert guest.run is not None
    xml = testbed.read(guest.run.domain_xml)
    assert before in xml
    xml = xml.replace(before, after, 1)
    found = [
        *privileges.of_domain(
            privileges.Xml(xml), guest.state, guest.run, testbed.state, testbed.network_plan
        )
    ]
    return [
        str(each) for each in [*found, *privileges.of_disks(privileges.Xml(xml), guest.run, testbed.state)]
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # another name to libvirt: the domain is marked as ours, and the state's name is a neighbour's
        ("<name>lab-a", "<name> lab-a"),
        ("lab-a</name>", "lab-a\n</name>"),
        ("lab-a</name>", "lab-a\u2003</name>"),
        # with queues, the tap of a guest that runs is joined
        ('dev="lab-a-0"', 'dev="lab-x-0"'),
        ('dev="lab-a-0"', 'dev="eth0"'),
        # what a guest writes to a raw disk is the header of an image at the next start
        ('type="qcow2"', 'type="raw"'),
        ('type="qcow2" ', ""),
        ('type="raw"', 'type="qcow2"'),
        ("a-cloud-init.img", "x-worker-cloud-init.img"),
        ("a-cloud-init.img", "left-from-before.img"),
    ],
)
def test_what_xml_may_not_say(bench: Bench, before: str, after: str) -> None:
    testbed = read_testbed_here(bench)
    assert hostile(testbed, "a", before, after)


def read_testbed_here(bench: Bench) -> LoadedTestbed:
    return LoadedTestbed(bench.folder, (bench.folder / "state.json").read_bytes())


def test_what_is_built_may(bench: Bench) -> None:
    testbed = read_testbed_here(bench)
    for name, guest in testbed.guests.items():
        if guest.run is not None:
            assert hostile(testbed, name, "<name>", "<name>") == []


@pytest.mark.parametrize("lost", [r"<bridge ", "<kc:network "])
def test_a_network_that_would_not_be_found_again_is_named(bench: Bench, lost: str) -> None:
    testbed = read_testbed_here(bench)
    xml = testbed.read(testbed.network_plan.network.xml)
    network = testbed.network_plan.network
    assert list(privileges.of_network(privileges.Xml(xml), testbed.state, network)) == []
    line = next(each for each in xml.splitlines() if lost in each)
    assert list(privileges.of_network(privileges.Xml(xml.replace(line, "")), testbed.state, network))


def test_a_seed_is_no_image_that_others_are_made_from(tmp_path: Path) -> None:
    """A guest writes to it, unless its XML says that it may not."""
    (tmp_path / "seed.iso").write_bytes(bytes(1 << 16))
    (tmp_path / "disk.img").write_bytes(tiny_qcow2(backing="seed.iso").replace(b"\0\3raw\0\0", b"\0\5qcow2"))
    with pytest.raises(DriverError, match=r"seed\.iso"):
        check_images(tmp_path, ["disk.img", "seed.iso"])
