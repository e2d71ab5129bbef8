"""Edits of a testbed that is up, on a real host: what changed follows, and every other guest keeps running.

One testbed for all rows, in the order of the file. Two of its guests ping each other all the time; no edit
names them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kvm import Project
from running_lab import Lab

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: left
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
  - name: right
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
  - name: edited
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 128
      max_memory_mb: 160
      libvirt_type:
        cloud_image: {name: micro, setup_script: setup.sh, run_script: run.sh}
network:
  bridges:
    - {name: br0, subnet: 10.77.0.0/24}
    - {name: br1}
  bridge_connections: {br0: br1}
  external_bridge: br0
"""
ADDED = """\
  - name: added
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
"""
FILES = {
    "kvm-compose.yaml": YAML,
    "setup.sh": "echo one >>/etc/setups\n",
    "run.sh": "echo one >>/etc/runs\n",
}


@pytest.fixture(scope="module")
def lab(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The testbed, up, with pings from one of its guests to another."""
    project = Project(real_host, tmp_path_factory.mktemp("rows"), "rows", FILES)
    lab = Lab(project)
    try:
        project.run("up")
        lab.start_pings()
        time.sleep(2)
        yield lab
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)


# -- edits ---------------------------------------------------------------------------------------------


def test_a_comment_changes_nothing(lab: Lab) -> None:
    lab.edit("machines:\n", "# a comment\nmachines:\n")
    lab.edit("cpus: 1\n      memory_mb: 128\n", "memory_mb: 128\n      cpus: 1\n")
    assert "nothing to do" in lab.up()


def test_memory_changes_alive_up_to_its_maximum_and_beyond_by_a_restart(lab: Lab) -> None:
    least = lab.memory("edited")
    lab.edit("memory_mb: 128\n", "memory_mb: 150\n")
    lab.up()
    end = time.monotonic() + 20
    while lab.memory("edited") < least + 15:
        assert time.monotonic() < end
        time.sleep(0.5)
    lab.edit("memory_mb: 150\n      cpus: 1\n      max_memory_mb: 160", "memory_mb: 192\n      cpus: 1")
    before = lab.qemu()
    assert "guest edited: restart" in lab.project.run("up", "--no-restart").stderr
    assert lab.qemu() == before
    said = lab.up(restarted=["edited"])
    assert "guest edited: restart: " in said
    assert "memory_mb: 150 -> 192" in said
    assert lab.memory("edited") > least + 40
    lab.talks("edited", "left")


def test_a_guest_is_added(lab: Lab) -> None:
    network = lab.project.state()["network"]["libvirt_network_bridge_name"]
    index = lab.host.run(["cat", f"/sys/class/net/{network}/ifindex"]).stdout
    lab.edit("network:\n", f"{ADDED}network:\n")
    lab.up(restarted=["added"])
    lab.talks("left", "added")
    lab.talks("added", "edited", "left")
    assert lab.host.run(["cat", f"/sys/class/net/{network}/ifindex"]).stdout == index


def test_an_interface_moves_to_another_bridge(lab: Lab) -> None:
    lab.edit(ADDED, ADDED.replace("br1", "br0"))
    lab.up()
    assert lab.ovs("port-to-br", lab.tap("added")) == lab.bridge("br0")
    lab.talks("left", "added")
    lab.edit(ADDED.replace("br1", "br0"), ADDED)
    lab.up()
    assert lab.ovs("port-to-br", lab.tap("added")) == lab.bridge("br1")
    lab.talks("left", "added")


def test_an_interface_is_added_and_removed(lab: Lab) -> None:
    more = ADDED.replace("{bridge: br1}", "{bridge: br1}, {bridge: br0}")
    lab.edit(ADDED, more)
    lab.up()
    assert "eth1" in lab.project.inside("added", "ls", "/sys/class/net")
    assert lab.ovs("port-to-br", lab.tap("added", 1)) == lab.bridge("br0")
    lab.edit(more, ADDED)
    lab.up()
    assert "eth1" not in lab.project.inside("added", "ls", "/sys/class/net")
    lab.talks("left", "added")


def test_a_bridge_is_connected_with_a_guest_on_it_and_removed(lab: Lab) -> None:
    lab.edit("    - {name: br1}\n", "    - {name: br1}\n    - {name: br2}\n")
    lab.up()
    assert lab.bridge("br2") in lab.ovs("list-br").split()
    lab.edit("{br0: br1}", "{br0: br1, br1: br2}")
    lab.edit(ADDED, ADDED.replace("br1", "br2"))
    lab.up()
    lab.talks("left", "added")
    gone = lab.bridge("br2")
    lab.edit("    - {name: br2}\n", "")
    lab.edit("{br0: br1, br1: br2}", "{br0: br1}")
    lab.edit(ADDED.replace("br1", "br2"), ADDED)
    lab.up()
    assert gone not in lab.ovs("list-br").split()
    lab.talks("left", "added")


def test_a_controller_is_set_and_taken_away(lab: Lab) -> None:
    lab.edit("- {name: br1}", "- {name: br1, controller: 'tcp:127.0.0.1:6653', protocol: OpenFlow13}")
    lab.up()
    assert lab.ovs("get-controller", lab.bridge("br1")) == "tcp:127.0.0.1:6653"
    lab.edit("- {name: br1, controller: 'tcp:127.0.0.1:6653', protocol: OpenFlow13}", "- {name: br1}")
    lab.up()
    assert lab.ovs("get-controller", lab.bridge("br1")) == ""
    lab.talks("left", "added")


def test_a_setup_script_that_changed_waits_for_the_user(lab: Lab) -> None:
    lab.project.write("setup.sh", "echo two >>/etc/setups\n")
    before = lab.qemu()
    said = lab.project.run("up").stderr
    assert "set-up of edited" in said
    assert any("set-up of edited" in each for each in lab.differences())
    assert lab.project.inside("edited", "cat", "/etc/setups") == "one"
    lab.up("--rerun-scripts")
    assert lab.project.inside("edited", "cat", "/etc/setups") == "one\ntwo"
    assert lab.qemu() == before


def test_a_run_script_that_changed_runs(lab: Lab) -> None:
    lab.project.write("run.sh", "echo two >>/etc/runs\n")
    lab.project.run("up", "--rerun-scripts")
    assert lab.project.inside("edited", "tail", "-n", "1", "/etc/runs") == "two"
    assert lab.differences() == []


# -- changed outside -----------------------------------------------------------------------------------


def test_guests_that_were_switched_off_or_paused(lab: Lab) -> None:
    lab.host.virsh("destroy", "rows-edited")
    lab.host.virsh("suspend", "rows-added")
    found = "\n".join(lab.differences())
    assert "guest edited: is shut off (destroyed)" in found
    assert "guest added: is paused (by user)" in found
    lab.repaired("guest edited", restarted=["edited"])
    lab.talks("left", "edited", "added")


def test_a_guest_that_was_switched_off_from_inside_has_dns_again(lab: Lab) -> None:
    lab.project.run("exec", "edited", "--", "sudo", "poweroff", status=None)
    end = time.monotonic() + 30
    while lab.project.states()["edited"] != "shut off":
        assert time.monotonic() < end
        time.sleep(0.5)
    lab.up(restarted=["edited"])
    lab.talks("edited", "left", "added")


def test_a_port_and_a_bridge_that_were_deleted(lab: Lab) -> None:
    lab.ovs("del-port", lab.tap("added"))
    lab.repaired("guest added")
    lab.talks("left", "added")
    lab.ovs("del-br", lab.bridge("br1"))
    lab.repaired("bridge br1")
    lab.talks("left", "added", "edited")
    lab.talks("edited", "added")


def test_links_that_were_deleted(lab: Lab) -> None:
    for port in lab.ovs("list-ports", lab.bridge("br1")).split():
        if port not in (lab.tap("added"), lab.tap("edited")):
            lab.host.run(["ip", "link", "delete", port])
    lab.repaired("link ")
    lab.talks("left", "added", "edited")


def test_an_interface_that_was_unplugged(lab: Lab) -> None:
    mac = lab.project.state()["testbed_guests"]["added"]["interfaces"][0]["mac"]
    lab.host.virsh("detach-interface", "rows-added", "bridge", "--mac", mac, "--live")
    lab.repaired("guest added")
    lab.project.run("restart", "added")
    lab.talks("left", "added")


def test_a_network_that_was_destroyed(lab: Lab) -> None:
    lab.host.virsh("net-destroy", lab.project.state()["network"]["libvirt_network_name"])
    lab.repaired("network ")
    lab.talks("left", "added", "edited")


def test_a_definition_that_was_edited(lab: Lab) -> None:
    xml = lab.host.virsh("dumpxml", "--inactive", "rows-added").stdout
    path = lab.project.root / "edited.xml"
    path.write_text(re.sub(r"<on_crash>\w+<", "<on_crash>preserve<", xml))
    lab.host.virsh("define", str(path))
    lab.repaired("guest added")
    assert "preserve" not in lab.host.virsh("dumpxml", "--inactive", "rows-added").stdout


# -- the end -------------------------------------------------------------------------------------------


def test_a_guest_is_removed(lab: Lab) -> None:
    lab.edit(ADDED, "")
    lab.up(gone=["added"])
    assert "rows-added" not in lab.host.virsh("list", "--all", "--name").stdout.split()
    assert (lab.project.folder / "artefacts" / "added-cloud-init.img").exists()
