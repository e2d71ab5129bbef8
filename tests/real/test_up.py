"""Whole testbeds on a real host, by the commands a user types."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
from kvm import Project, changes, inventory

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

TWO_BRIDGES = """\
machines:
  - name: left
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image:
          name: micro
          context: files
          environment: {GREETING: "hello there"}
          setup_script: setup.sh
          run_script: run.sh
  - name: right
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
      shares: [{source: shared, target: /srv/shared}]
  - name: apart
    interfaces: [{bridge: br2}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""

FILES = {
    "kvm-compose.yaml": TWO_BRIDGES,
    "files/note": "from the context\n",
    "shared/note": "from the project\n",
    "setup.sh": '#!/bin/sh\nset -e\necho "setting up: $GREETING, $(cat note)"\necho once >>/etc/setups\n',
    "run.sh": "echo running; echo again >>/etc/runs\n",
}

New = Callable[[str, Mapping[str, str]], Project]


@pytest.fixture
def new(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[New]:
    """Makes projects, and takes down what is left of them."""
    made: list[Project] = []

    def make(name: str, files: Mapping[str, str]) -> Project:
        project = Project(real_host, tmp_path_factory.mktemp(name), name, files)
        made.append(project)
        return project

    yield make
    for project in made:
        project.run("down", "--purge", "--timeout", "0", status=None)


@pytest.fixture
def settled(real_host: TestHost) -> Callable[[], dict[str, list[str]]]:
    """What is on the host once an embedded server has ended by itself."""

    def look() -> dict[str, list[str]]:
        end = time.monotonic() + 30
        while real_host.run(["pgrep", "-f", "server --embedded"], check=False).stdout:
            assert time.monotonic() < end, "the embedded server does not end"
            time.sleep(0.5)
        return inventory(real_host)

    return look


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def other_ways_in(real_host: TestHost, project: Project) -> None:
    assert project.run("ssh", "right", "hostname").stdout.strip() == "lab-right"
    right, hosts = project.address("right"), project.run("inventory", "--format", "hosts").stdout
    assert right in hosts
    ssh_config = project.run("inventory", "--format", "ssh_config").stdout
    (project.root / "ssh_config").write_text(ssh_config)
    done = real_host.run(["ssh", "-F", project.root / "ssh_config", "right", "hostname"], env=project.env)
    assert done.stdout.strip() == "lab-right"
    assert project.run("exec", "left", "--", "sh", "-c", "exit 7", status=7)
    assert project.run("exec", "lab-left", "--", "echo", "a  b", "$HOME;").stdout == "a  b $HOME;\n"


def consoles_are_read(project: Project) -> None:
    assert "micro guest: ready" in project.run("logs", "left").stdout
    assert "micro guest: ready" in project.run("logs", "--tail", "30", "lab-right").stdout


def guests_are_measured(project: Project) -> None:
    """By the server that the command that follows keeps running."""
    following = project.start("status", "--watch")
    try:
        wait_for((project.root / "state" / "server.sock").exists)
        found = project.metrics()
    finally:
        following.terminate()
        following.wait(30)
    assert found["kvmcompose_guest_up"] == {"left": 1, "right": 1, "apart": 1}
    for name, least in {
        "uptime_seconds": 1,
        "cpu_seconds_total": 0.5,
        "memory_resident_bytes": 16 << 20,
        "disk_read_bytes_total": 1 << 20,
        "network_receive_bytes_total": 1000,
        "network_transmit_packets_total": 3,
    }.items():
        assert found[f"kvmcompose_guest_{name}"]["left"] >= least, (name, found)


#: What snapshots there are before `down`, by guest and name.
TAKEN = {("left", "first"), ("left", "all"), ("right", "second"), ("right", "all"), ("apart", "all")}


def snapshots(project: Project) -> set[tuple[str, str]]:
    return {(each["guest"], each["name"]) for each in project.json("snapshot", "list")}


def write_word(project: Project, guest: str, word: str) -> None:
    project.inside(guest, "sudo", "sh", "-c", f"echo {word} >/etc/word; sync")


def snapshots_are_taken(project: Project) -> None:
    """Of a guest that runs, of one that is off, and of all."""
    write_word(project, "left", "one")
    project.run("snapshot", "create", "first", "--guest", "left")
    write_word(project, "left", "two")
    project.run("snapshot", "restore", "first", "--guest", "left")
    assert project.inside("left", "cat", "/etc/word") == "one"
    assert snapshots(project) == {("left", "first")}

    write_word(project, "right", "one")
    project.run("exec", "right", "--", "sudo", "poweroff", status=None)
    wait_for(lambda: project.states()["right"] == "shut off")
    project.run("snapshot", "create", "second", "--guest", "right")
    project.run("snapshot", "create", "all", "--all")

    # errors are errors
    for verb, name, guest, wanted in (
        ("create", "first", "left", "has a snapshot first already"),
        ("restore", "no", "left", "has no snapshot no"),
        ("create", "x", "nobody", "nobody"),
    ):
        done = project.run("snapshot", verb, name, "--guest", guest, status=None)
        assert done.returncode != 0
        assert wanted in done.stderr


def what_was_off_is_off_again(project: Project) -> None:
    """When its snapshot is restored; it is brought up with what it had then."""
    write_word(project, "right", "three")
    project.run("snapshot", "restore", "second", "--guest", "right")
    wait_for(lambda: project.states()["right"] == "shut off")
    project.run("up")
    assert project.inside("right", "cat", "/etc/word") == "one"
    project.run("snapshot", "delete", "first", "--guest", "left")
    assert snapshots(project) == TAKEN - {("left", "first")}


def test_a_testbed_from_up_to_down(
    real_host: TestHost, new: New, settled: Callable[[], dict[str, list[str]]]
) -> None:
    before = settled()
    project = new("lab", FILES)
    said = project.run("up").stderr
    assert "left | setting up: hello there, from the context" in said
    assert "left | running" in said
    assert "cannot be reached from the main host: apart" in said
    assert project.states() == {"left": "running", "right": "running", "apart": "running"}

    # guests on connected bridges talk, by name too; one on a bridge of its own does not
    right, apart = project.address("right"), project.address("apart")
    assert "0% packet loss" in project.inside("left", "ping", "-c", "2", right)
    assert "0% packet loss" in project.inside("right", "ping", "-c", "2", "left")
    assert "100% packet loss" in project.inside("left", "ping", "-c", "1", "-W", "2", apart, status=1)
    assert real_host.run(["ping", "-c", "1", "-W", "2", apart], check=False).returncode != 0

    # the external bridge reaches the NAT network, whose server knows the guests by name
    gateway = project.state()["network"]["libvirt_network_gateway"]
    assert "0% packet loss" in project.inside("right", "ping", "-c", "1", gateway)
    found = real_host.run(["busybox", "nslookup", "right", gateway], check=False).stdout
    assert right in found

    # large packets and TCP arrive, in both directions
    project.run("cp", str(project.folder / "kvm-compose.yaml"), "left:copied")
    assert project.inside("left", "cat", "copied") == TWO_BRIDGES.strip()
    project.run("cp", "left:copied", str(project.root / "back"))
    assert (project.root / "back").read_text() == TWO_BRIDGES
    big = project.root / "big"
    big.write_bytes(bytes(range(256)) * 4096)
    project.run("cp", str(big), "right:big")
    assert project.inside("right", "sh", "-c", "wc -c <big") == str(256 * 4096)

    # a share goes both ways
    assert project.inside("right", "cat", "/srv/shared/note") == "from the project"
    project.inside("right", "sudo", "-n", "cp", "/etc/hostname", "/srv/shared/name")
    assert (project.folder / "shared" / "name").read_text() == "lab-right\n"

    other_ways_in(real_host, project)
    consoles_are_read(project)
    guests_are_measured(project)

    # what is up is left alone
    again = project.run("up").stderr
    assert "is up already" in again
    assert project.inside("left", "cat", "/etc/runs") == "again"

    snapshots_are_taken(project)
    project.run("down")
    assert not changes(before, settled())
    assert snapshots(project) == TAKEN  # they outlive the testbed
    project.run("up")
    assert (
        project.inside("left", "sh", "-c", "cat /etc/setups; wc -l </etc/runs") == "once\n2"
    )  # run scripts run when their guest starts
    what_was_off_is_off_again(project)
    project.run("down", "--purge")
    assert not changes(before, settled())
    assert not (project.folder / "artefacts" / "left-cloud-init.img").exists()


_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
#: Clones of the golden image, half of them on each of two bridges.
COUNT = 10 if _LONG else 2
CLONES = f"""\
machines:
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image: {{name: micro}}
      scaling:
        count: {COUNT}
        shared_setup: shared.sh
        interfaces:
          - {{bridge: br0, clones: {list(range(COUNT // 2))}}}
          - {{bridge: br1, clones: {list(range(COUNT // 2, COUNT))}}}
        clone_setup: [{{script: clone.sh, clones: {list(range(COUNT))}}}]
        clone_run: [{{script: run.sh, clones: [{COUNT - 1}]}}]
network:
  bridges: [{{name: br0}}, {{name: br1}}]
  bridge_connections: {{br0: br1}}
  external_bridge: br0
"""


@pytest.mark.long
def test_clones_of_one_golden_image(real_host: TestHost, new: New) -> None:
    files = {
        "kvm-compose.yaml": CLONES,
        "shared.sh": "echo shared by all >/etc/shared; echo x >>/etc/times\n",
        "clone.sh": "hostname >/etc/mine\n",
        "run.sh": "echo here runs $(hostname)\n",
    }
    project = new("herd", files)
    said = project.run("up", timeout=600).stderr
    last = COUNT - 1
    assert re.findall(r"(\S+) \| here runs (\S+)", said) == [(f"worker-{last}", f"herd-worker-{last}")]
    states = project.states()
    assert states.pop("worker") == "golden"
    assert states == {f"worker-{number}": "running" for number in range(COUNT)}
    keys = set()
    for number in range(COUNT):
        text = project.inside(f"worker-{number}", "cat", "/etc/shared", "/etc/times", "/etc/mine")
        assert text.splitlines() == ["shared by all", "x", f"herd-worker-{number}"]
        keys.add(project.inside(f"worker-{number}", "sudo", "sh", "-c", "md5sum /etc/dropbear/*key"))
    assert len(keys) == COUNT  # each has host keys of its own
    assert "0% packet loss" in project.inside("worker-0", "ping", "-c", "1", f"worker-{last}")
    golden = project.folder / "artefacts" / "worker-cloud-init.img"
    assert golden.stat().st_mode & 0o222 == 0

    # the golden image is made once: after down, and with clones that hold data
    project.run("down")
    if _LONG:  # else by test_several_hosts alone, whose clones on three hosts go up, down and up again
        made = golden.stat().st_mtime_ns
        project.run("up", timeout=600)
        assert golden.stat().st_mtime_ns == made
        assert project.inside(f"worker-{COUNT - 2}", "cat", "/etc/mine") == f"herd-worker-{COUNT - 2}"
        project.run("down")

    # another script: another image, but not below clones that hold data, unless told so
    project.write("shared.sh", "echo another >/etc/shared\n")
    refused = project.run("up", status=3).stderr
    assert "--reset-clones" in refused
    project.run("up", "--reset-clones", timeout=600)
    assert project.inside("worker-0", "sh", "-c", "cat /etc/shared; cat /etc/times 2>&1 | head -1") != ""
    assert project.inside("worker-0", "cat", "/etc/shared") == "another"


#: More than may boot at a time, which are two for each core; as many on each bridge.
GUESTS = 30 if _LONG else 6


@pytest.mark.long_only
def test_many_guests_on_three_bridges(new: New) -> None:
    """On two cores: a storm of boots must not make guests late."""
    guests = "".join(
        f"  - name: g{number}\n    interfaces: [{{bridge: br{number % 3}}}]\n"
        "    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}\n"
        for number in range(GUESTS)
    )
    network = (
        "network:\n  bridges: [{name: br0}, {name: br1}, {name: br2}]\n"
        "  bridge_connections: {br0: br1, br1: br2}\n  external_bridge: br0\n"
    )
    project = new("crowd", {"kvm-compose.yaml": f"machines:\n{guests}{network}"})
    project.run("up", timeout=900)
    assert set(project.states().values()) == {"running"}
    for number in range(GUESTS):
        assert project.inside(f"g{number}", "hostname") == f"crowd-g{number}"
    for pair in ((0, GUESTS - 1), (1, GUESTS // 2 - 1), (2, GUESTS - 3)):
        assert "0% packet loss" in project.inside(f"g{pair[0]}", "ping", "-c", "1", f"g{pair[1]}")
    project.run("down", timeout=300)
