"""Edits of a testbed that is up on three real hosts: guests there, moves, hosts that leave, servers killed.

One testbed for all tests, in the order of the file. Two of its guests ping each other all the time, through a
tunnel; no edit names them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_lab import Lab
from test_several_hosts import config, make_project

from hosts import TestHosts

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt:
      cpus: 1
      memory_mb: {memory}
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2{more}}}}}
"""
ADDED = GUEST.format(name="added", bridge="br1", memory=128, more="")
EDITED = GUEST.format(name="edited", bridge="br1", memory=128, more=", setup_script: each.sh")
CHANGED = EDITED.replace("name: edited", "name: changed\n    id: edited").replace("128", "160")
PINS = "{br0: one, br1: two, br2: %s}"
YAML = f"""\
machines:
{GUEST.format(name="left", bridge="br0", memory=128, more="")}\
{GUEST.format(name="right", bridge="br1", memory=128, more="")}\
{EDITED}\
  - name: clone
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
      scaling:
        count: 1
        shared_setup: shared.sh
        interfaces: [{{bridge: br2, clones: [0]}}]
network:
  bridges:
    - {{name: br0, subnet: 10.78.0.0/24}}
    - {{name: br1}}
    - {{name: br2}}
  bridge_connections: {{br0: br1, br1: br2}}
  external_bridge: br0
testbed_options:
  placement: {{pin: {PINS % "three"}}}
"""
#: The set-up of this guest shows how often it has run.
EACH = "#!/bin/sh\necho set up >>/setups\n"
#: Those on br2.
MOVING = ("changed", "clone-0")
#: A line of ``up`` after which the server is killed, and the host that br2 moves to.
KILLS = (
    ("done +stop ", "one"), ("done +move ", "two"), ("done +start ", "three"),
    ("done +check ", "two"), ("done +ports ", "one"), ("done +bridges on ", "three"),
    ("done +links ", "two"), ("(one|two|three): ports: ", "three"), ("done +wait ", "one"),
    ("done +move ", "three"), ("done +files on |done +ports on ", "two"), ("done +verify ", "three"),
)  # fmt: skip
#: One otherwise: each takes two restarts of both guests. tests/real/test_kills.py kills at other moments.
TRIED = KILLS if os.environ.get("KVM_COMPOSE_TEST_LONG") else KILLS[9:10]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, micro_image: Path, ssh_key: Path) -> Iterator[Lab]:
    """Guests on three hosts, and pings from one host to another."""
    root = tmp_path_factory.mktemp("far")
    shutil.copy(ssh_key, root / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), root / "key.pub")
    (root / "micro.qcow2").symlink_to(micro_image)
    with TestHosts(3, directory=root / "hosts", ssh=True, tunnels=True) as hosts:
        project = make_project(hosts, root, "far", yaml=YAML, each=EACH)
        project.run("up")
        lab = Lab(project, list(hosts))
        lab.start_pings()
        try:
            yield lab
        finally:
            project.run("down", "--purge", "--timeout", "0", status=None)


def where(lab: Lab) -> list[list[str]]:
    """The guests that run on each host, by the identities that domains are called after."""
    names = [host.virsh("list", "--name").stdout.split() for host in lab.hosts]
    return [sorted(name.removeprefix("far-") for name in each) for each in names]


def use_hosts(lab: Lab, count: int) -> None:
    """Have the first hosts only in the configuration."""
    hosts = config(lab.hosts[:count], lab.project.root / "hosts" / "id_ed25519")
    lab.project.write("kvm-compose-config.json", json.dumps(hosts))


def assert_kept(lab: Lab) -> None:
    """What guests wrote is there, and nothing was set up twice."""
    assert lab.project.inside("changed", "cat", "/setups", "/note") == "set up\nwritten in changed"
    assert lab.project.inside("clone-0", "cat", "/shared", "/note") == "made once\nwritten in clone-0"


def test_one_up_follows_several_edits(lab: Lab) -> None:
    """A guest has another name, more memory and a bridge of another host; a guest is added on a third one."""
    lab.edit(EDITED, CHANGED.replace("br1", "br2"))
    lab.edit("network:\n", f"{ADDED}network:\n")
    planned = lab.project.run("plan").stdout
    assert "up would refuse" not in planned
    for line in ("move     guest changed on three", "create   guest added on two"):
        assert planned.count(line) == 1, planned
    said = lab.up(restarted=["edited", "added"])
    assert "the disk of changed moved from two to three" in said
    assert where(lab) == [["left"], ["added", "right"], ["clone-0", "edited"]]
    assert lab.project.inside("changed", "cat", "/setups") == "set up"
    lab.talks("left", "changed", "added", "clone-0", "right")


def test_what_was_changed_by_hand_elsewhere_is_repaired(lab: Lab) -> None:
    two = lab.hosts[1]
    two.virsh("destroy", "far-added")
    two.run(["ovs-vsctl", "del-port", lab.tap("right")])
    lab.repaired("guest added", restarted=["added"], lost=10_000)
    lab.talks("left", "added", "right")


def test_a_host_has_another_address(lab: Lab) -> None:
    """The tunnels of the others follow it; nothing restarts."""
    two, path = lab.hosts[1], lab.project.folder / "kvm-compose-config.json"
    was = path.read_text()
    for old, new in (("192.0.2.12", "192.0.2.32"), ("192.0.2.32", "192.0.2.12")):
        two.run(["ip", "addr", "del", f"{old}/24", "dev", "br-phy"])
        two.run(["ip", "addr", "add", f"{new}/24", "dev", "br-phy"])
        path.write_text(was.replace("192.0.2.12", new))
        said = lab.up(lost=10_000)
        assert f"ip of host two: {old} -> {new}" in said
        lab.talks("left", "added", "right")
    assert path.read_text() == was


def test_who_is_not_named_does_not_move(lab: Lab) -> None:
    path = lab.project.folder / "kvm-compose.yaml"
    was = path.read_text()
    lab.edit(f"  placement: {{pin: {PINS % 'three'}}}", "  load_balancing: round_robin")
    lab.edit("  bridges:\n", "  bridges:\n    - {name: new}\n")
    before = lab.qemu()
    said = lab.project.run("up", status=3).stderr
    (lines,) = re.findall(r"(?s)add these lines to kvm-compose.yaml:\n\n(.*?)\n +hint:", said)
    assert lab.qemu() == before
    path.write_text(path.read_text().replace("testbed_options:", lines))
    planned = lab.project.run("plan").stdout
    assert "up would refuse" not in planned
    assert "create   bridge far-new" in planned
    assert "guest" not in planned
    path.write_text(was)


def test_a_host_leaves(lab: Lab) -> None:
    for name in MOVING:
        lab.project.inside(name, "sudo", "-n", "sh", "-c", f"echo written in {name} >/note; sync")
    lab.project.run("snapshot", "create", "before", "--guest", "changed")
    use_hosts(lab, 2)
    lab.edit(PINS % "three", PINS % "two")
    lab.edit(ADDED, "")
    lab.up(restarted=["edited", "clone-0"], gone=["added"])
    assert where(lab) == [["left"], ["clone-0", "edited", "right"], []]
    assert_kept(lab)
    three = lab.hosts[2]
    assert three.run(["ovs-vsctl", "list-br"]).stdout.split() == ["br-phy"]
    assert three.run(["find", "/var/lib/kvm-compose/.hosted", "-mindepth", "1"]).stdout == ""
    use_hosts(lab, 3)


@pytest.mark.parametrize(("line", "goal"), TRIED, ids=range(len(TRIED)))
def test_a_server_is_killed_while_guests_move(lab: Lab, line: str, goal: str) -> None:
    """The next ``up`` does the rest; guests that stay have noticed nothing."""
    path = lab.project.folder / "kvm-compose.yaml"
    path.write_text(re.sub(r"br2: (one|two|three)", f"br2: {goal}", path.read_text()))
    before = lab.qemu()
    with lab.project.start("up", stderr=subprocess.PIPE) as command:
        assert command.stderr is not None
        assert any(re.match(line, each.decode()) for each in command.stderr), f"no line {line!r}"
        killed = lab.host.run(["pkill", "-KILL", "-f", "--", "server --embedded"], check=False)
        assert killed.returncode == 0
        command.stderr.read()
        assert command.wait(60) != 0
    lab.project.run("up")
    after = lab.qemu()
    assert {name: after[name] for name in ("left", "right")} == {
        name: before[name] for name in ("left", "right")
    }
    assert set(where(lab)[("one", "two", "three").index(goal)]) >= {"edited", "clone-0"}
    assert len(after) == len(before)
    assert lab.differences() == []
    assert lab.lost_pings() <= lab.tolerated
    assert "nothing to do" in lab.project.run("up").stderr
    assert not list((lab.project.folder / ".kvm-compose").glob("moving-*"))
    assert_kept(lab)


def test_disks_that_moved_are_whole(lab: Lab) -> None:
    lab.project.inside("changed", "sudo", "-n", "sh", "-c", "echo later >/note; sync")
    lab.project.run("snapshot", "restore", "before", "--guest", "changed")
    assert_kept(lab)
    lab.project.run("down", "--timeout", "20")
    found = []
    for host in lab.hosts[1:]:
        argv = [
            "find",
            "/var/lib/kvm-compose/.hosted",
            "-type",
            "f",
            "-name",
            "*.img",
            "-o",
            "-name",
            "*.qcow2",
        ]
        disks = [each for each in host.run(argv).stdout.split() if "edited" in each or "clone-0" in each]
        for disk in disks:
            host.run(["qemu-img", "check", "-q", disk])
        found += [Path(each).name for each in disks]
    assert sorted(found) == ["clone-0-linked-clone.qcow2", "edited-cloud-init.img"]
    end = time.monotonic() + 30
    while lab.host.run(["pgrep", "-f", "server --embedded"], check=False).stdout:
        assert time.monotonic() < end
        time.sleep(0.3)
