"""Link, throughput and VLAN of interfaces: they change while guests run, and drift is repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.commands import Up
from kvmcompose.hosts.fake_world import FakeNic, FakePort

if TYPE_CHECKING:
    from conftest import Lab

BEFORE = "name: alone\n    interfaces: [{bridge: br2}]"
KEYS = "link: down, vlan: 10, bandwidth: {inbound: {average: 100}, outbound: {average: 50}}"
AFTER = f"name: alone\n    interfaces: [{{bridge: br2, {KEYS}}}]"


def nic(lab: Lab) -> FakeNic:
    return lab.world.domains["lab-alone"].hardware.nics[0]


def port(lab: Lab) -> FakePort:
    return lab.world.bridges["lab"]["lab-br2"].ports[nic(lab).tap]


def up_alive(lab: Lab) -> str:
    before = lab.world.domains["lab-alone"].started
    said = lab.text(lab.must(Up()))
    assert lab.world.domains["lab-alone"].started == before
    assert lab.status().differences == ()
    return said


def test_they_change_while_the_guest_runs(lab: Lab) -> None:
    lab.must(Up())
    lab.edit(BEFORE, AFTER)
    (said,) = lab.status().differences
    assert "link of interface 0: up -> down" in said
    assert "bandwidth of interface 0: (none) -> inbound 100; outbound 50" in said
    assert "vlan of interface 0: (none) -> 10" in said
    up_alive(lab)
    assert (nic(lab).link, port(lab).vlan, port(lab).shaped, port(lab).policed) == ("down", 10, True, True)
    lab.edit("vlan: 10", "vlan: {trunk: [30, 20], native: 10}")
    assert lab.status().differences == ("guest alone: vlan of interface 0: 10 -> trunk 20 30, native 10",)
    up_alive(lab)
    lab.edit("trunk: [30, 20]", "trunk: [20, 30]")
    assert lab.status().differences == ()
    lab.edit(AFTER.replace("vlan: 10", "vlan: {trunk: [20, 30], native: 10}"), BEFORE)
    up_alive(lab)
    assert (nic(lab).link, port(lab).vlan, port(lab).shaped, port(lab).policed) == ("up", None, False, False)


def test_changes_by_hand_are_undone(lab: Lab) -> None:
    lab.edit(BEFORE, AFTER)
    lab.must(Up())
    hardware = lab.world.domains["lab-alone"].hardware
    hardware.nics = [FakeNic(nic(lab).tap, nic(lab).bridge, nic(lab).mac, vlan=10)]
    port(lab).vlan, port(lab).shaped = None, False
    (drift,) = lab.status().differences
    assert "link of interface 0: up -> down" in drift
    assert "vlan of interface 0: (none) -> 10" in drift
    assert "bandwidth of interface 0: (none) -> inbound 100; outbound 50" in drift
    up_alive(lab)
    port(lab).policed = False
    (drift,) = lab.status().differences
    assert drift == "guest alone: bandwidth of interface 0 (outbound) in Open vSwitch is missing"
    up_alive(lab)
    assert port(lab).policed


def test_a_port_that_comes_back_has_its_vlan_and_limits(lab: Lab) -> None:
    lab.edit(BEFORE, AFTER)
    lab.must(Up())
    before = port(lab)
    del lab.world.bridges["lab"]["lab-br2"].ports[nic(lab).tap]
    assert lab.status().differences == ("guest alone: its port on the bridge br2 is missing",)
    up_alive(lab)
    assert port(lab) == before


def test_another_model_or_number_of_queues_restarts_and_another_mtu_waits(lab: Lab) -> None:
    lab.must(Up())
    lab.edit(BEFORE, BEFORE.replace("br2", "br2, mtu: 1400"))
    assert lab.status().differences == ("guest alone: mtu of interface 0: 1442 -> 1400",)
    before = lab.world.domains["lab-alone"].started
    lab.must(Up())
    assert lab.world.domains["lab-alone"].started == before
    lab.must(Up(restart=True))
    assert lab.world.domains["lab-alone"].started != before
    lab.edit("br2, mtu: 1400", "br2, mtu: 1400, model: e1000")
    assert lab.status().differences == ("guest alone: model of interface 0: (none) -> e1000",)
    before = lab.world.domains["lab-alone"].started
    lab.must(Up())
    assert lab.world.domains["lab-alone"].started != before
    assert lab.status().differences == ()


def test_a_card_of_conventional_pci_comes_and_goes_with_a_restart(lab: Lab) -> None:
    lab.must(Up())
    more = BEFORE.replace("{bridge: br2}", "{bridge: br2}, {bridge: br2, model: e1000}")
    for before, after, word in ((BEFORE, more, "added"), (more, BEFORE, "removed")):
        started = lab.world.domains["lab-alone"].started
        lab.edit(before, after)
        assert lab.status().differences == (f"guest alone: interface on br2 (e1000) {word}",)
        lab.must(Up())
        assert lab.world.domains["lab-alone"].started > started
        assert lab.status().differences == ()
