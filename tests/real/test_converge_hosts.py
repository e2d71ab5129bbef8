"""Edits of a testbed that is up on two real hosts, and what is changed outside there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_lab import Lab
from test_several_hosts import make_project

from hosts import TestHosts

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt:
      cpus: 1
      memory_mb: {memory}
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
"""
YAML = f"""\
machines:
{GUEST.format(name="left", bridge="br0", memory=128)}\
{GUEST.format(name="right", bridge="br1", memory=128)}\
network:
  bridges:
    - {{name: br0, subnet: 10.78.0.0/24}}
    - {{name: br1}}
  bridge_connections: {{br0: br1}}
  external_bridge: br0
testbed_options:
  placement: {{pin: {{br0: one, br1: two}}}}
"""
ADDED = GUEST.format(name="added", bridge="br1", memory=128)


@pytest.fixture
def lab(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, micro_image: Path, ssh_key: Path
) -> Iterator[Lab]:
    """Two guests on two hosts, which ping each other through a tunnel."""
    shutil.copy(ssh_key, tmp_path / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), tmp_path / "key.pub")
    (tmp_path / "micro.qcow2").symlink_to(micro_image)
    with TestHosts(2, directory=tmp_path_factory.mktemp("hosts"), ssh=True, tunnels=True) as hosts:
        project = make_project(hosts, tmp_path, "far", 2, yaml=YAML)
        project.run("up")
        lab = Lab(project, list(hosts))
        lab.start_pings()
        try:
            yield lab
        finally:
            project.run("down", "--purge", "--timeout", "0", status=None)


def test_two_hosts_follow_edits(lab: Lab) -> None:
    one, two = lab.hosts
    # on the other host: added, restarted
    lab.edit("network:\n", f"{ADDED}network:\n")
    lab.up(restarted=["added"])
    lab.talks("left", "added", "right")
    more = GUEST.format(name="added", bridge="br1", memory=160)
    lab.edit(ADDED, more)
    lab.up(restarted=["added"])
    lab.talks("left", "added")

    # changed by hand on the other host
    two.virsh("destroy", "far-added")
    two.run(["ovs-vsctl", "del-port", lab.tap("right")])
    lab.repaired("guest added", restarted=["added"], lost=10_000)
    lab.talks("left", "added", "right")

    # a bridge with a tunnel comes, with a guest on it, and goes again
    pins = "{br0: one, br1: two}"
    lab.edit("    - {name: br1}\n", "    - {name: br1}\n    - {name: br2}\n")
    lab.edit("{br0: br1}", "{br0: br1, br1: br2}")
    lab.edit(f"pin: {pins}", "pin: {br0: one, br1: two, br2: one}")
    lab.edit(more, more.replace("br1", "br2"))
    lab.up(restarted=["added"])
    assert "far-added" in one.virsh("list", "--name").stdout.split()
    assert "far-added" not in two.virsh("list", "--all", "--name").stdout.split()
    lab.talks("left", "added", "right")
    lab.edit("    - {name: br2}\n", "")
    lab.edit("{br0: br1, br1: br2}", "{br0: br1}")
    lab.edit("pin: {br0: one, br1: two, br2: one}", f"pin: {pins}")
    lab.edit(more.replace("br1", "br2"), "")
    lab.up(gone=["added"])
    assert one.run(["ovs-vsctl", "list-br"]).stdout.split().count("far-br2") == 0
