"""How many calls hosts get does not depend on how many guests are in place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from host_calls import HostCalls, counted_calls, growth

from golden.bench import new_bench
from kvmcompose.core.commands import Up
from kvmcompose.hosts.fake import MAIN

if TYPE_CHECKING:
    from conftest import Lab

CONFIG = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
MACHINE = """\
  - name: g{number}
    interfaces: [{{bridge: br{bridge}}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
NETWORK = """\
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options: {placement: {pin: {br0: one, br1: two}}}
"""


def yaml(guests: int) -> str:
    """Half of the guests are on each host."""
    machines = "".join(MACHINE.format(number=number, bridge=number % 2) for number in range(guests))
    return f"machines:\n{machines}{NETWORK}"


@pytest.fixture
def lab_of(tmp_path_factory: pytest.TempPathFactory, new_lab: type[Lab]) -> Callable[[int], Lab]:
    """A testbed of so many guests that is up."""

    def make(guests: int) -> Lab:
        files = {
            "kvm-compose.yaml": yaml(guests),
            "kvm-compose-config.json": CONFIG,
            "keys/id_ed25519": "not a key\n",
        }
        root = tmp_path_factory.mktemp("calls")
        bench = new_bench(root, "lab", files)
        bench.generate()
        lab = new_lab(bench, root)
        lab.must(Up())
        return lab

    return make


def test_calls_are_counted_by_host_and_method() -> None:
    counts = HostCalls()
    for call in ("facts", "two/facts", "two/put:a/b", "two/put:c", "wait_ready:web", "run:web:/etc/x:y"):
        counts.add(call)
    assert counts.of(MAIN) == {"facts": 1}
    assert counts.of("two") == {"facts": 1, "put": 2}
    assert counts.guests == {"wait_ready": 1, "run": 1}
    assert growth(HostCalls(), counts) == {
        "(guests)/run": (0, 1),
        "(guests)/wait_ready": (0, 1),
        "/facts": (0, 1),
        "two/facts": (0, 1),
        "two/put": (0, 2),
    }
    assert growth(counts, HostCalls()) == {}


def test_nothing_to_do_costs_the_same_for_any_number_of_guests(lab_of: Callable[[int], Lab]) -> None:
    found: list[HostCalls] = []
    for guests in (2, 12):
        lab = lab_of(guests)
        with counted_calls(lab.drivers) as counts:
            lab.must(Up())
        found.append(counts)
        lab.store.close()
    assert growth(*found) == {}
    assert not found[1].guests, "nothing is asked by SSH"
    for host in (MAIN, "two"):
        assert found[0].of(host)["observe_bridges"] == 1
        assert found[0].of(host)["domains"] == 1


def test_status_costs_the_same_for_any_number_of_guests(lab_of: Callable[[int], Lab]) -> None:
    found: list[HostCalls] = []
    for guests in (2, 12):
        lab = lab_of(guests)
        with counted_calls(lab.drivers) as counts:
            lab.status()
        found.append(counts)
        lab.store.close()
    assert growth(*found) == {}
    assert not found[1].guests


def test_addresses_by_dhcp_are_asked_for_once(new_lab: type[Lab], tmp_path: Path) -> None:
    text = yaml(6).replace("bridge: br0}", "bridge: br0, ip: dynamic}")
    files = {
        "kvm-compose.yaml": text,
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "not a key\n",
    }
    bench = new_bench(tmp_path, "lab", files)
    bench.generate()
    lab = new_lab(bench, tmp_path)
    guests = bench.state()["testbed_guests"]
    dynamic = {
        name: guest["interfaces"][0]["mac"]
        for name, guest in guests.items()
        if guest["interfaces"][0]["ip"] == "dynamic"
    }
    assert set(dynamic) == {"g0", "g2", "g4"}
    lab.world.leases = {mac: f"10.9.9.{number}" for number, mac in enumerate(dynamic.values())}
    lab.must(Up())
    with counted_calls(lab.drivers) as counts:
        found = {each.name: each.address for each in lab.status().guests}
    assert counts.of(MAIN)["leases"] == 1
    assert [found[name] for name in dynamic] == ["10.9.9.0", "10.9.9.1", "10.9.9.2"]
    assert found["g1"] == guests["g1"]["interfaces"][0]["ip"]
    with counted_calls(lab.drivers) as counts:
        access = asyncio.run(lab.orchestrator.access(lab.deployment))
    assert counts.of(MAIN)["leases"] == 1
    assert {each.name: each.address for each in access} == found
    lab.world.domains["lab-g2"].started = 0  # what is off has no address
    assert {each.name: each.address for each in lab.status().guests} == {**found, "g2": None}
    lab.store.close()


def test_one_guest_that_changes_costs_the_same_among_few_and_among_many(lab_of: Callable[[int], Lab]) -> None:
    found: list[HostCalls] = []
    for guests in (2, 12):
        lab = lab_of(guests)
        (lab.folder / "kvm-compose.yaml").write_text(yaml(guests).replace("cpus: 1", "cpus: 2", 1))
        lab.bench.generate()
        with counted_calls(lab.drivers) as counts:
            lab.must(Up())
        found.append(counts)
        lab.store.close()
    assert growth(*found) == {}
    assert found[1].of(MAIN)["start_domain"] == 1
    assert found[1].of("two")["start_domain"] == 0
    assert set(found[1].guests) <= {"wait_ready"}


def test_guests_more_cost_the_same_among_few_and_among_many(lab_of: Callable[[int], Lab]) -> None:
    found: dict[tuple[int, int], HostCalls] = {}
    for guests in (2, 12):
        for more in (2, 6):
            lab = lab_of(guests)
            (lab.folder / "kvm-compose.yaml").write_text(yaml(guests + more))
            lab.bench.generate()
            with counted_calls(lab.drivers) as counts:
                lab.must(Up())
            assert len(lab.running()) == (guests + more) / 2  # those of the main host
            found[guests, more] = counts
            lab.store.close()
    for more in (2, 6):
        assert growth(found[2, more], found[12, more]) == {}
    # and what grows with what changes grows as that does
    for few, many in growth(found[12, 2], found[12, 6]).values():
        assert many <= 3 * few
    assert found[12, 6].of("two")["start_domain"] == 3
