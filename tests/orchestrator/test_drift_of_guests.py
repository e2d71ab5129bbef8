"""Changes by hand to guests that are up, and to their network: ``status`` names them, ``up`` undoes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakePort

if TYPE_CHECKING:
    from conftest import Lab

#: A part of a guest that is in the YAML once.
WEB = """memory_mb: 128
      libvirt_type:
        cloud_image: {name: debian_12, setup_script: setup.sh"""


def repaired(lab: Lab, *drift: str) -> str:
    assert lab.status().differences == drift
    assert lab.status().deployment.condition == "degraded"
    said = lab.text(lab.must(Up()))
    assert lab.status().differences == ()
    assert "nothing to do" in lab.text(lab.must(Up()))
    return said


def test_a_port_that_was_made_again_has_its_interface_id_again(lab: Lab) -> None:
    lab.must(Up())
    ports = next(each.ports for each in lab.world.bridges["lab"].values() if "lab-web-0" in each.ports)
    before = ports["lab-web-0"]
    assert before.interface_id
    ports["lab-web-0"] = FakePort(marked=False)
    started = lab.world.domains["lab-web"].started
    repaired(lab, "guest web: iface-id of its port on the bridge br0 is missing")
    assert ports["lab-web-0"] == before
    assert lab.world.domains["lab-web"].started == started


def test_a_difference_says_what_it_is_of_and_whether_it_is_drift(lab: Lab) -> None:
    lab.must(Up())
    del lab.world.bridges["lab"]["lab-br1"]
    lab.edit(WEB, WEB.replace("128", "256"))
    status = lab.status()
    assert tuple(each.text for each in status.differing) == status.differences
    found = {(each.kind, each.guest, each.segment, each.drift) for each in status.differing}
    assert ("ovs-bridge", None, "br1", True) in found
    assert ("libvirt-domain", "web", None, False) in found
    assert len({each.host for each in status.differing}) == 1


def test_a_guest_that_sleeps_is_woken(lab: Lab) -> None:
    lab.must(Up())
    lab.world.domains["lab-web"].paused = "pmsuspended"
    (web,) = (guest for guest in lab.status().guests if guest.name == "web")
    assert web.state == "pmsuspended"
    started = lab.world.domains["lab-web"].started
    repaired(lab, "guest web: is pmsuspended")
    assert (lab.world.domains["lab-web"].paused, lab.world.domains["lab-web"].started) == ("", started)
    lab.world.domains["lab-web"].paused = "pmsuspended"
    lab.must(Power(verb=PowerVerb.PAUSE, guests=("web",)))
    assert lab.world.domains["lab-web"].paused == "by user"
    lab.world.domains["lab-db"].paused = "pmsuspended"
    calls = len(lab.drivers.calls)
    lab.must(Down())  # it cannot hear the power button while it sleeps
    said = lab.drivers.calls[calls:]
    assert said.index("resume_domain:lab-db") < said.index("shut_down_domain:lab-db")
    lab.assert_clean()


def test_a_guest_started_by_hand_whose_taps_answer_for_the_gateway(lab: Lab) -> None:
    """Only where the switch is in userspace: with the kernel's, Linux does not see what arrives at a tap."""
    config = lab.folder / "kvm-compose-config.json"
    config.write_text(config.read_text().replace('"qemu"', '"qemu", "datapath_type": "netdev"'))
    lab.bench.generate()
    lab.must(Up())
    lab.world.domains["lab-web"].answers_arp = ["lab-web-0"]
    repaired(lab, "guest web: arp_ignore of its interface on br0 is missing")
    assert lab.world.domains["lab-web"].answers_arp == []


@pytest.mark.parametrize("verb", [PowerVerb.STOP, PowerVerb.PAUSE])
def test_a_guest_started_by_hand_that_should_not_run(lab: Lab, verb: PowerVerb) -> None:
    lab.must(Up())
    lab.must(Power(verb=verb, guests=("web",)))
    web = lab.world.domains["lab-web"]
    if verb is PowerVerb.STOP:
        lab.world.plug("lab-web", web.hardware.nics)
    web.started, web.paused = web.started or 5.0, ""
    repaired(lab, "guest web: is running")
    assert (bool(web.started), web.paused) == ((False, "") if verb is PowerVerb.STOP else (True, "by user"))


def test_a_paused_guest_that_was_switched_off_is_paused_again(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Power(verb=PowerVerb.PAUSE, guests=("web",)))
    web = lab.world.domains["lab-web"]
    lab.world.unplug("lab-web")
    web.started, web.paused = 0, ""
    repaired(lab, "guest web: is shut off")
    assert (bool(web.started), web.paused) == (True, "by user")
    lab.must(Power(verb=PowerVerb.RESUME, guests=("web",)))
    assert web.paused == ""
    assert lab.status().differences == ()


def test_a_network_whose_definition_was_edited(lab: Lab) -> None:
    lab.must(Up())
    lab.world.edited_networks = ["lab-network"]
    calls = len(lab.drivers.calls)
    repaired(lab, "network lab-network: its definition in libvirt has changed")
    assert lab.world.edited_networks == []
    assert "remove_network:lab-network" not in lab.drivers.calls[calls:]
    # edited and started again
    xml = lab.world.network_definitions["lab-network"]
    lab.world.network_definitions["lab-network"] = xml.replace('mode="nat"', 'mode="route"')
    lab.world.edited_networks = ["lab-network"]
    repaired_by = lab.status().differences
    assert repaired_by == ("network lab-network: its definition in libvirt has changed",)
    lab.must(Up())
    assert 'mode="nat"' in lab.world.network_definitions["lab-network"]
    assert lab.status().differences == ()


def test_an_entry_of_the_network_that_was_taken_away_is_drift(lab: Lab) -> None:
    lab.must(Up())
    xml = lab.world.network_definitions["lab-network"]
    lab.world.network_definitions["lab-network"] = re.sub(r'<host mac="[^>]*name="lab-web"[^>]*/>', "", xml)
    repaired(lab, "network lab-network: addresses and names of web changed")


def test_run_scripts_run_again_in_a_guest_that_was_started_again_by_hand(lab: Lab) -> None:
    def ran(script: str) -> int:
        return len([call for call in lab.drivers.calls if f"{script}.sh" in call])

    lab.must(Up())
    counts = ran("setup"), ran("run")
    lab.world.domains["lab-web"].started += 7  # virsh destroy, virsh start
    not_ready = "guest web: not seen to be ready since it was started"
    lab.must(Up(no_repair=True))
    assert lab.status().differences == (not_ready,)
    assert (ran("setup"), ran("run")) == counts
    # what failed there is tried again
    lab.drivers.failures = [Failure("run:*run.sh*", 1)]
    assert lab.do(Up()).state is ActionState.FAILED
    lab.must(Up())
    assert lab.status().differences == ()
    assert ran("setup") == counts[0]
    assert ran("run") > counts[1]
    assert "nothing to do" in lab.text(lab.must(Up()))
