"""What changes while everything runs: bridges, connections, ports, interfaces, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.commands import Up

if TYPE_CHECKING:
    from conftest import Lab


def started(lab: Lab) -> dict[str, float]:
    return {name: domain.started for name, domain in lab.world.domains.items()}


def ports(lab: Lab) -> dict[str, set[str]]:
    return {name: set(bridge.ports) for name, bridge in lab.world.bridges["lab"].items()}


def up_alive(lab: Lab, **options: bool) -> list[str]:
    """Run up; check that no guest restarts and that nothing is left; return the names of the steps."""
    before = started(lab)
    action = lab.must(Up(**options))
    assert {name: each for name, each in started(lab).items() if name in before} == before
    return [step.name for step in lab.store.steps(action.uuid)]


def test_an_interface_goes_to_another_bridge_of_its_network(lab: Lab) -> None:
    lab.must(Up())
    tap = lab.world.domains["lab-db"].taps[0]
    lab.edit("name: db\n    interfaces: [{bridge: br1}]", "name: db\n    interfaces: [{bridge: br0}]")
    assert lab.status().differences == ("guest db: bridge: br1 -> br0",)
    assert "update:db" in up_alive(lab)
    assert tap in ports(lab)["lab-br0"]
    assert tap not in ports(lab)["lab-br1"]
    assert lab.status().differences == ()


def test_an_interface_in_another_network_has_its_address_from_the_next_start(lab: Lab) -> None:
    lab.must(Up())
    lab.edit("name: alone\n    interfaces: [{bridge: br2}]", "name: alone\n    interfaces: [{bridge: br0}]")
    planned = "guest alone: bridge: br2 -> br0, ip of interface 0 (from its next start): "
    assert [each for each in lab.status().differences if each.startswith(planned)]
    assert "update:alone" in up_alive(lab)
    (left,) = lab.status().differences
    assert left.startswith("guest alone: ip of interface 0: ")
    assert "check" in up_alive(lab)  # it waits
    lab.must(Up(restart=True))
    assert lab.status().differences == ()


def test_interfaces_come_and_go(lab: Lab) -> None:
    lab.must(Up())
    one, two = (
        "name: db\n    interfaces: [{bridge: br1}]",
        "name: db\n    interfaces: [{bridge: br1}, {bridge: br2}]",
    )
    lab.edit(one, two)
    assert "update:db" in up_alive(lab)
    assert len(lab.world.domains["lab-db"].taps) == 2
    assert lab.status().differences == ()
    lab.edit(two, one)
    assert "update:db" in up_alive(lab)
    assert len(lab.world.domains["lab-db"].taps) == 1
    assert lab.status().differences == ()


def test_another_mac_address_restarts_the_guest_which_then_has_its_address(lab: Lab) -> None:
    lab.must(Up())
    before = started(lab)
    old = lab.world.domains["lab-db"].hardware.nics[0].mac
    bridge = "name: db\n    interfaces: [{bridge: br1"
    lab.edit(bridge, f'{bridge}, mac: "52:54:00:11:22:33"')
    why = f"guest db: mac of interface 0: {old} -> 52:54:00:11:22:33"
    assert why in lab.status().differences
    lab.must(Up())
    assert {name for name, each in started(lab).items() if before[name] != each} == {"lab-db"}
    assert [nic.mac for nic in lab.world.domains["lab-db"].hardware.nics] == ["52:54:00:11:22:33"]
    assert lab.status().differences == ()


def test_memory_changes_alive_up_to_its_maximum(lab: Lab) -> None:
    machine = "name: db\n    interfaces: [{bridge: br1}]\n    libvirt: {cpus: 1, memory_mb: 128"
    lab.bench.edit(machine, f"{machine}, max_memory_mb: 512")
    lab.bench.generate()
    lab.must(Up())
    lab.edit("memory_mb: 128, max_memory_mb: 512", "memory_mb: 256, max_memory_mb: 512")
    assert lab.status().differences == ("guest db: memory_mb: 128 -> 256",)
    assert "update:db" in up_alive(lab)
    assert lab.world.domains["lab-db"].hardware.memory_mb == 256
    assert lab.status().differences == ()


def test_processors_come_while_it_runs_and_go_when_it_restarts(lab: Lab) -> None:
    machine = "name: db\n    interfaces: [{bridge: br1}]\n    libvirt: {cpus: 1, memory_mb: 128"
    lab.edit(machine, machine.replace("cpus: 1", "cpus: 1, max_cpus: 4"))
    lab.must(Up())
    db = lab.world.domains["lab-db"]
    started = db.started
    machine = machine.replace("cpus: 1", "cpus: 1, max_cpus: 4")
    lab.edit(machine, machine.replace("cpus: 1", "cpus: 3"))
    lab.must(Up())
    assert (db.started, db.hardware.cpus) == (started, 3)
    lab.edit(machine.replace("cpus: 1", "cpus: 3"), machine.replace("cpus: 1", "cpus: 2"))
    assert "guest db: restart: cpus: 3 -> 2" in lab.text(lab.must(Up()))
    db = lab.world.domains["lab-db"]
    assert db.started > started
    assert db.hardware.cpus == 2


def test_bridges_and_connections_come_and_go(lab: Lab) -> None:
    lab.must(Up())
    lab.edit(
        "{name: br2}]", "{name: br2}, {name: br3, protocol: OpenFlow13, controller: tcp:127.0.0.1:6653}]"
    )
    up_alive(lab)
    assert lab.world.bridges["lab"]["lab-br3"].controller == "tcp:127.0.0.1:6653"
    lab.edit("{br0: br1}", "{br0: br1, br1: br3}")
    steps = up_alive(lab)
    assert {"links", "ports"} <= set(steps)
    assert len(lab.world.links) == 6
    lab.edit("{br0: br1, br1: br3}", "{br0: br1}")
    up_alive(lab)
    assert len(lab.world.links) == 4
    lab.edit(", {name: br3, protocol: OpenFlow13, controller: tcp:127.0.0.1:6653}]", "]")
    up_alive(lab)
    assert "lab-br3" not in lab.world.bridges["lab"]
    assert lab.status().differences == ()


def test_what_was_changed_outside_is_repaired(lab: Lab) -> None:
    lab.must(Up())
    whole = ports(lab)
    tap = lab.world.domains["lab-web"].taps[0]
    del lab.world.bridges["lab"]["lab-br0"].ports[tap]
    assert lab.status().differences == ("guest web: its port on the bridge br0 is missing",)
    up_alive(lab)
    assert ports(lab) == whole
    lab.world.bridges["lab"]["lab-br1"].controller = "tcp:192.0.2.1:6653"
    assert "bridge lab-br1: controller: tcp:192.0.2.1:6653 -> (none)" in lab.status().differences
    up_alive(lab)
    assert lab.world.bridges["lab"]["lab-br1"].controller is None
    del lab.world.bridges["lab"]["lab-br0"]
    up_alive(lab)
    assert ports(lab) == whole
    for name in [*lab.world.links]:
        del lab.world.links[name]
    up_alive(lab)
    assert ports(lab) == whole
    lab.world.stopped_networks.append("lab-network")
    assert "network lab-network: is inactive" in lab.status().differences
    up_alive(lab)
    assert lab.status().differences == ()


def test_a_comment_changes_nothing(lab: Lab) -> None:
    lab.must(Up())
    lab.edit("machines:\n", "# a comment\nmachines:\n")
    assert lab.status().differences == ()
    assert "is up already" in lab.text(lab.must(Up()))
