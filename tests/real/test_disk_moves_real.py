"""A real guest that is placed on another host takes its disk there; the others keep running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project
from test_several_hosts import make_project, root  # noqa: F401 (a fixture)

from hosts import TestHosts

pytestmark = pytest.mark.real

YAML = """\
machines:
  - name: stays
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {cloud_image: {path: micro.qcow2}}
  - name: moves
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {cloud_image: {path: micro.qcow2, setup_script: each.sh}}
  - name: clone
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {cloud_image: {path: micro.qcow2}}
      scaling:
        count: 1
        shared_setup: shared.sh
        interfaces: [{bridge: br1, clones: [0]}]
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: two}}
"""
#: The set-up of this guest shows how often it has run.
EACH = "#!/bin/sh\necho set up >>/setups\n"
MOVING = ("moves", "clone-0")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(3, directory=tmp_path_factory.mktemp("moves"), ssh=True, tunnels=True) as hosts:
        yield hosts


def disks(hosts: TestHosts, number: int) -> list[str]:
    """The disks on a host; images are links there."""
    names = ["(", "-name", "*.img", "-o", "-name", "*.qcow2", ")"]
    argv = ["find", "/var/lib/kvm-compose/.hosted", "-type", "f", *names]
    return sorted(Path(each).name for each in hosts[number].run(argv).stdout.split())


def where(hosts: TestHosts) -> list[list[str]]:
    return [sorted(host.virsh("list", "--name").stdout.split()) for host in hosts]


def assert_moved(project: Project, lifted: str) -> None:
    for name in MOVING:
        assert project.inside(name, "cat", "/note") == f"written in {name}"
    assert project.inside("moves", "cat", "/setups") == "set up"
    assert project.inside("clone-0", "cat", "/shared") == "made once"
    assert project.inside("stays", "cat", "/proc/sys/kernel/random/boot_id") == lifted
    assert "nothing to do" in project.run("up").stderr


def test_a_guest_takes_its_disk_to_another_host(hosts: TestHosts, root: Path) -> None:  # noqa: F811
    project = make_project(hosts, root, "disks", yaml=YAML, each=EACH)
    project.run("up")
    assert where(hosts) == [["disks-stays"], ["disks-clone-0", "disks-moves"], []]
    for name in MOVING:
        project.inside(name, "sudo", "-n", "sh", "-c", f"echo written in {name} >/note; sync")
    project.run("snapshot", "create", "before", "--guest", "moves")
    lifted = project.inside("stays", "cat", "/proc/sys/kernel/random/boot_id")
    address = project.address("moves")

    # to another host, by way of the main host
    project.edit("br1: two", "br1: three")
    said = project.run("up").stderr
    assert "the disk of moves moved from two to three" in said
    assert where(hosts) == [["disks-stays"], [], ["disks-clone-0", "disks-moves"]]
    assert disks(hosts, 1) == []
    assert project.address("moves") == address
    assert_moved(project, lifted)
    project.inside("moves", "sudo", "-n", "sh", "-c", "echo later >/note; sync")
    project.run("snapshot", "restore", "before", "--guest", "moves")
    assert project.inside("moves", "cat", "/note") == "written in moves"

    # to the main host, while it is down
    project.run("down")
    project.edit("br1: three", "br1: one")
    project.run("up")
    assert where(hosts) == [["disks-clone-0", "disks-moves", "disks-stays"], [], []]
    assert disks(hosts, 2) == []
    lifted = project.inside("stays", "cat", "/proc/sys/kernel/random/boot_id")
    assert_moved(project, lifted)
    private = project.folder / ".kvm-compose"
    assert not list(private.glob("moving-*"))

    # and away from it
    project.edit("br1: one", "br1: two")
    project.run("up")
    assert where(hosts) == [["disks-stays"], ["disks-clone-0", "disks-moves"], []]
    assert_moved(project, lifted)
    for name in ("moves-cloud-init.img", "clone-0-linked-clone.qcow2"):
        check = ["qemu-img", "check", "-q", f"/var/lib/kvm-compose/.hosted/disks/artefacts/{name}"]
        project.run("stop", *MOVING)
        hosts[1].run(check)
    project.run("down", "--purge", "--timeout", "0")
