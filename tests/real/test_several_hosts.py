"""Testbeds on several real hosts: each has its own libvirtd, Open vSwitch and sshd, on one wire."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kvm import Project, changes, inventory

from hosts import TestHost, TestHosts
from hosts.cluster import host_config

pytestmark = pytest.mark.real

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))

MIB = 1 << 20
NAMES = ("one", "two", "three")

YAML = """\
machines:
  - name: alone
    interfaces: [{bridge: br2}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {cloud_image: {path: micro.qcow2}}
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {cloud_image: {path: micro.qcow2, setup_script: each.sh}}
      scaling:
        count: 3
        shared_setup: shared.sh
        interfaces:
          - {bridge: br0, clones: [0]}
          - {bridge: br1, clones: [1]}
          - {bridge: br2, clones: [2]}
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1, br1: br2}
  external_bridge: br0
"""
PINNED = "testbed_options:\n  placement: {pin: {br0: one, br1: %s, br2: %s}}\n"
SHARED = "#!/bin/sh\necho made once >/shared\n"
EACH = "#!/bin/sh\ncp /shared /each\n"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(3, directory=tmp_path_factory.mktemp("several"), ssh=True, tunnels=True) as hosts:
        yield hosts


def config(hosts: Sequence[TestHost], identity_file: Path) -> dict[str, Any]:
    return {
        "testbed_host_ssh_config": host_config(hosts, identity_file),
        "ssh_public_key_location": "key.pub",
        "ssh_private_key_location": "key",
    }


def make_project(
    hosts: TestHosts,
    root: Path,
    name: str,
    count: int = 3,
    *,
    yaml: str = YAML,
    within: str = ".",
    **scripts: str,
) -> Project:
    """A project that lies on the first of ``count`` hosts; its bridges are spread over them."""
    (root / within).mkdir(exist_ok=True)
    used = list(hosts)[:count]
    places = (NAMES[min(1, count - 1)], NAMES[min(2, count - 1)])
    project = Project(
        hosts[0],
        root / within,
        name,
        {
            "kvm-compose.yaml": yaml + (PINNED % places if "placement" not in yaml else ""),
            "kvm-compose-config.json": json.dumps(config(used, hosts.directory / "id_ed25519")),
            "shared.sh": SHARED,
            "each.sh": EACH,
            **{f"{each}.sh": text for each, text in scripts.items()},
        },
    )
    for each in ("key", "key.pub"):
        shutil.copy(root / each, project.folder / each)
    (project.folder / "micro.qcow2").symlink_to((root / "micro.qcow2").resolve())
    return project


def received(host: TestHost) -> int:
    """Bytes that have come to a host over the wire."""
    return int(host.run(["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


def sent_again(host: TestHost) -> int:
    """About how many bytes TCP has sent again from a host: a switch in user space drops packets."""
    lines = host.run(["grep", "^Tcp:", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split()[1:] for line in lines)
    return int(dict(zip(names, values, strict=True))["RetransSegs"]) * 1514


def guests_of(project: Project) -> dict[str, str]:
    """The guests that run, and their addresses."""
    return {
        name: guest["interfaces"][0]["ip"]
        for name, guest in project.state()["testbed_guests"].items()
        if not guest["is_golden_image"]
    }


def assert_all_talk(project: Project) -> None:
    """Every guest reaches every other one, by packets as large as they may be."""
    addresses = guests_of(project)
    for name in addresses:
        script = "".join(
            f"ping -c 1 -W 5 -s 1400 {address} >/dev/null || echo {other}\n"
            for other, address in addresses.items()
        )
        silent = project.inside(name, "sudo", "-n", "sh", "-c", script)
        assert silent == "", f"{name} does not reach {silent}"


def switches(host: TestHost, project: str) -> dict[str, dict[str, dict[str, str]]]:
    """The project's bridges as Open vSwitch tells: each port, and the options of its interface."""
    listed = host.run(["ovs-vsctl", "--bare", "--columns=name", "find", "Bridge",
                       f"external_ids:kvm-compose-project={project}"]).stdout.split()  # fmt: skip
    found: dict[str, dict[str, dict[str, str]]] = {}
    for bridge in listed:
        found[bridge] = {}
        for port in host.run(["ovs-vsctl", "list-ports", bridge]).stdout.split():
            shown = host.run(["ovs-vsctl", "get", "Interface", port, "type", "options"]).stdout.split("\n")
            pairs = re.findall(r'(\w+)="?([^",}]+)"?', shown[1])
            found[bridge][port] = {"type": shown[0].strip('"'), **dict(pairs)}
    return found


def wanted_switches(state: Any, host: str) -> dict[str, dict[str, dict[str, str]]]:
    """The same from ``state.json``, and from nothing else."""
    network = state["network"]
    bridges = {
        bridge["ovs_name"]: dict[str, dict[str, str]]()
        for bridge in network["bridges"]
        if bridge["testbed_host"] == host
    }
    for connection in network["physical_bridge_connections"].values():
        tunnel = connection["tunnel"]  # no two of the bridges are on one host
        for end in ("source", "target"):
            if tunnel[f"testbed_host_{end}"] == host:
                bridges[tunnel[f"{end}_br"]][tunnel[f"{end}_port"]] = {
                    "type": "geneve",
                    "remote_ip": tunnel[f"{end}_remote_ip"],
                    "key": str(tunnel["key"]),
                }
    external = state["testbed_host_shared_config"]["external_bridge"]
    for bridge in network["bridges"]:
        if bridge["name"] == external and bridge["testbed_host"] == host:
            bridges[bridge["ovs_name"]][network["veth_peer_left"]] = {"type": ""}
    for guest in state["testbed_guests"].values():
        for interface in guest["interfaces"]:
            if guest["testbed_host"] == host and interface["attach"] == "ovs":
                bridges[interface["source"]][interface["target"]] = {"type": ""}
    return bridges


# -- the main story ------------------------------------------------------------------------------------


def other_hosts_are_checked(project: Project) -> None:
    checked = json.loads(project.run("doctor", "--json", status=None).stdout)["hosts"]
    assert list(checked) == ["two", "three"]
    for found in checked.values():
        lacking = {
            each["name"] for each in found["findings"] if each["needed_for"] == "up" and not each["ok"]
        }
        assert lacking <= {"disk space"}, found


@pytest.fixture(scope="module")
def empty(hosts: TestHosts) -> list[dict[str, list[str]]]:
    """What there is on each host before anything is brought up."""
    return [inventory(host) for host in hosts]


@pytest.fixture(scope="module")
def spread(
    hosts: TestHosts,
    empty: list[dict[str, list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
    micro_image: Path,
    ssh_key: Path,
) -> Iterator[Project]:
    """The project of the main story, which two tests tell in turn."""
    del empty
    root = tmp_path_factory.mktemp("spread")
    shutil.copy(ssh_key, root / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), root / "key.pub")
    (root / "micro.qcow2").symlink_to(micro_image)
    project = make_project(hosts, root, "spread")
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def assert_gone(hosts: TestHosts, empty: list[dict[str, list[str]]]) -> None:
    """Nothing is left but a folder for projects, on hosts that are not the main one."""
    for number, host in enumerate(hosts):
        left = changes(empty[number], inventory(host))
        assert left.keys() <= ({"projects"} if number else set()), (host.name, left)


def test_three_hosts_from_first_to_last(
    hosts: TestHosts, empty: list[dict[str, list[str]]], spread: Project
) -> None:
    project = spread
    project.run("generate")
    planned = project.run("plan").stderr
    assert re.search(
        r"up would send \d+\.\d MiB to two, and worker-cloud-init.img once it is set up", planned
    )

    project.run("up")
    assert project.states() == {
        "alone": "running",
        "worker": "golden",
        "worker-0": "running",
        "worker-1": "running",
        "worker-2": "running",
    }
    for name in ("worker-0", "worker-1", "worker-2"):
        assert project.inside(name, "cat", "/each") == "made once"
    assert_all_talk(project)
    state = project.state()
    for name, host in zip(NAMES, hosts, strict=True):
        assert switches(host, "spread") == wanted_switches(state, name)
    domains = [sorted(host.virsh("list", "--name").stdout.split()) for host in hosts]
    assert domains == [["spread-worker-0"], ["spread-worker-1"], ["spread-alone", "spread-worker-2"]]
    assert_no_private_keys(hosts, project.root)
    assert "nothing to do" in project.run("up").stderr
    assert "on hosts: nothing to do" in project.run("plan").stderr
    other_hosts_are_checked(project)

    # a guest of another host is worked with as any other
    project.inside("worker-2", "sudo", "-n", "sh", "-c", "echo before >/note; sync")
    project.run("snapshot", "create", "there", "--guest", "worker-2")
    project.inside("worker-2", "sudo", "-n", "sh", "-c", "echo after >/note; sync")
    project.run("snapshot", "restore", "there", "--guest", "worker-2")
    assert project.inside("worker-2", "cat", "/note") == "before"
    project.write("sent.txt", "from the main host\n")
    project.run("cp", str(project.folder / "sent.txt"), "worker-2:sent.txt")
    assert project.inside("worker-2", "cat", "sent.txt") == "from the main host"
    assert project.run("ssh", "worker-1", "--", "hostname").stdout.strip() == "spread-worker-1"

    project.run("down")
    assert_gone(hosts, empty)

    # disks are kept, and what is there is not sent again; those that are to be larger grow where they are
    text = project.folder.joinpath("kvm-compose.yaml").read_text()
    assert text.count("path: micro.qcow2") == 2
    project.write(
        "kvm-compose.yaml", text.replace("path: micro.qcow2", "path: micro.qcow2, expand_gigabytes: 2")
    )
    counted = [received(host) for host in hosts]
    said = project.run("up").stderr
    for disk in ("alone-cloud-init.img", "worker-1-linked-clone.qcow2", "worker-2-linked-clone.qcow2"):
        assert re.search(rf"{disk} grows from [\d.]+ GiB to [\d.]+ GiB, data kept", said), said
    for name in ("worker-0", "worker-1", "worker-2"):
        assert int(project.inside(name, "df", "-m", "/").split()[-5]) > 2500, name
        assert project.inside(name, "cat", "/each") == "made once"
    assert all(received(host) - count < 4 * MIB for host, count in zip(hosts, counted, strict=True))
    assert project.inside("worker-2", "cat", "/note") == "before"
    assert_all_talk(project)


def assert_no_private_keys(hosts: TestHosts, root: Path) -> None:
    """Neither of the user's private keys has left the main host, and seeds are for nobody else to read."""
    secrets = [key.read_text().splitlines()[1] for key in (root / "key", hosts.directory / "id_ed25519")]
    for host in list(hosts)[1:]:
        for secret in secrets:
            found = host.run(["grep", "-rlF", "--", secret, "/var/lib/kvm-compose"], check=False)
            assert (found.returncode, found.stdout) == (1, "")
        modes = host.run(["find", "/var/lib/kvm-compose", "-type", "f", "-printf", r"%m %f\n"]).stdout
        for mode, name in (line.split() for line in modes.splitlines()):
            allowed = 0o600 if name.endswith((".iso", ".img")) else 0o644
            assert int(mode, 8) & ~allowed == 0, (mode, name)


def test_a_host_is_rebooted_on_the_way_up_and_then_gone(
    hosts: TestHosts, empty: list[dict[str, list[str]]], spread: Project
) -> None:
    """The testbed is up when this begins."""
    project = spread
    hosts[1].virsh("destroy", "spread-worker-1")
    up = project.start("up")
    while "spread-worker-1" not in hosts[1].virsh("list", "--name").stdout.split():
        assert up.poll() is None
        time.sleep(0.2)
    hosts[1].reboot()
    up.wait(240)  # it fails, or was at a point from where it has gone on by itself
    project.run("up")
    assert_all_talk(project)
    # and once more when all was well
    hosts[2].reboot()
    deadline = time.monotonic() + 30
    while project.states()["worker-2"] == "unknown":  # its daemons may not answer at once
        assert time.monotonic() < deadline, project.run("status").stdout
    assert project.states()["worker-2"] == "shut off"
    shown = project.run("status").stdout
    assert "guest worker-2: is shut off" in shown
    project.run("up")
    assert_all_talk(project)
    assert_known_to_be_gone(hosts, project)
    assert_gone(hosts, empty)
    for host in list(hosts)[1:]:
        assert host.run(["ls", "/var/lib/kvm-compose/.hosted"]).stdout == ""
        stored = host.run(["ls", "/var/lib/kvm-compose/.store"]).stdout.split()
        assert len(stored) == 1, "the image stays, what was made from it goes"


def assert_known_to_be_gone(hosts: TestHosts, project: Project) -> None:
    """Cut off the host of a guest; take down first what there is elsewhere, then the rest."""
    hosts.cut(hosts[2])
    states = project.states()
    assert (states["worker-1"], states["worker-2"], states["alone"]) == ("running", "unknown", "unknown")
    assert "host three: cannot reach three" in project.run("status").stdout
    assert project.inside("worker-1", "hostname") == "spread-worker-1"
    refused = project.run("up", status=None)
    assert refused.returncode != 0
    assert "three: cannot reach three (root@192.0.2.13) by SSH" in refused.stderr
    failed = project.run("down", status=1)
    assert "error: check: cannot reach three (root@192.0.2.13) by SSH" in failed.stderr
    for host in (hosts[0], hosts[1]):
        assert host.virsh("list", "--all", "--name").stdout.split() == []
        assert switches(host, project.name) == {}
    hosts.mend(hosts[2])
    assert "spread-worker-2" in hosts[2].virsh("list", "--name").stdout
    project.run("down", "--purge")
    assert hosts[2].virsh("list", "--all", "--name").stdout.split() == []
    assert switches(hosts[2], project.name) == {}


@pytest.mark.long
def test_the_same_yaml_on_fewer_hosts(hosts: TestHosts, root: Path) -> None:
    """Built for one host and for two, and brought up on two.

    The latter takes long: tests/real/test_converge_hosts.py has the same bridges on two hosts after an edit,
    and guests that are reached across them.
    """
    one, project, three = (
        make_project(hosts, root, "spread", count, within=str(count)) for count in (1, 2, 3)
    )
    for each in (one, project, three):
        each.run("generate")
    assert guests_of(one) == guests_of(project) == guests_of(three)
    if not _LONG:
        return
    project.run("up")
    assert_all_talk(project)
    assert project.inside("worker-2", "cat", "/each") == "made once"
    project.run("down", "--purge")


# -- what is sent --------------------------------------------------------------------------------------

#: Clones on each of two hosts: one would not show whether each of them is sent an image.
CLONES = 10 if _LONG else 2
MANY = f"""\
machines:
  - name: node
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
      scaling:
        count: {2 * CLONES}
        shared_setup: shared.sh
        interfaces:
          - {{bridge: far, clones: {list(range(CLONES))}}}
          - {{bridge: further, clones: {list(range(CLONES, 2 * CLONES))}}}
network:
  bridges: [{{name: near}}, {{name: far}}, {{name: further}}]
  external_bridge: near
testbed_options:
  placement: {{pin: {{near: one, far: two, further: three}}}}
"""
#: So much of the golden image is its own, and cannot be made smaller.
OWN_MIB = 24


@pytest.mark.long
def test_many_clones_are_sent_one_image_per_host(hosts: TestHosts, root: Path) -> None:
    shared = f"#!/bin/sh\ndd if=/dev/urandom of=/random bs=1M count={OWN_MIB}\n"
    project = make_project(hosts, root, "many", yaml=MANY, shared=shared)
    counted, again = [received(host) for host in hosts], sent_again(hosts[0])
    # no connection leads to these guests: they are started, and not waited for
    said = project.run("up", "--json").stdout
    came = [received(host) - count for host, count in zip(hosts, counted, strict=True)]
    again = sent_again(hosts[0]) - again
    golden = (project.folder / "artefacts/node-cloud-init.img").stat().st_size
    image = (root / "micro.qcow2").stat().st_size
    assert golden > OWN_MIB * MIB
    disks = sum(
        path.stat().st_size
        for path in project.folder.glob("artefacts/*")
        if path.name.endswith(("-linked-clone.qcow2", ".iso"))
    )
    for bytes_ in came[1:]:
        # the image may be there from another test
        assert golden < bytes_ < (golden + image + disks) * 1.1 + MIB + again, (bytes_, golden, image, disks)
    sent = [line["text"] for line in map(json.loads, said.splitlines()) if "sent in" in line.get("text", "")]
    assert sum("node-cloud-init.img" in text for text in sent) == 2
    running = [host.virsh("list", "--name").stdout.split() for host in hosts]
    assert [len(each) for each in running] == [0, CLONES, CLONES]
    project.run("down", "--purge", "--timeout", "0")


BIG = """\
machines:
  - name: web
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {existing_disk: {path: big.raw, driver_type: raw}}
network:
  bridges: [{name: br0}, {name: br1}]
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: two}}
"""
BIG_MIB = 128


def test_a_host_cut_off_while_it_is_sent_something(hosts: TestHosts, root: Path) -> None:
    project = make_project(hosts, root, "cut", 2, yaml=BIG)
    with (project.folder / "big.raw").open("wb") as file:
        for _ in range(BIG_MIB):
            file.write(os.urandom(MIB))
        file.truncate((BIG_MIB + 512) << 20)  # a hole, which is not sent
    counted, again = received(hosts[1]), sent_again(hosts[0])
    up = project.start("up")
    part = "ls /var/lib/kvm-compose/.store/*.part"
    while (
        hosts[1].run(["sh", "-c", part], check=False).returncode != 0
        or received(hosts[1]) - counted < 32 * MIB
    ):
        assert up.poll() is None, "it was sent before it could be cut off"
        time.sleep(0.05)
    hosts.cut(hosts[1])
    # the main host has noticed, and tries to connect again
    trying = ["ss", "-Htn", "state", "syn-sent", "dst", hosts[1].address]
    deadline = time.monotonic() + 120
    while not hosts[0].run(trying).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    hosts.mend(hosts[1])
    assert up.wait(240) == 0
    # what received the piece that was cut off waits for the rest of it, until its time limit
    hosts[1].run(["pkill", "-x", "timeout"], check=False)
    assert project.states() == {"web": "running"}
    came = received(hosts[1]) - counted - (sent_again(hosts[0]) - again)
    # headers, one piece of 8 MiB that was on its way when the host was cut off, what else is said and done
    assert BIG_MIB * MIB < came < (BIG_MIB * 1.06 + 8 + 8) * MIB, f"{came / MIB:.0f} MiB for {BIG_MIB}"
    project.run("down", "--purge", "--timeout", "0")


#: A domain that is not ours, by the name of one that would be.
FOREIGN = """\
<domain type="qemu">
  <name>wrong-alone</name>
  <memory unit="MiB">16</memory>
  <os><type arch="x86_64">hvm</type></os>
</domain>
"""


def test_all_that_is_wrong_is_told_before_anything_is_changed(hosts: TestHosts, root: Path) -> None:
    project = make_project(hosts, root, "wrong")
    project.run("generate")
    wrong = json.loads((project.folder / "kvm-compose-config.json").read_text())
    keys = wrong["testbed_host_ssh_config"]
    keys["two"]["host_key"] = keys["three"]["host_key"]
    project.write("kvm-compose-config.json", json.dumps(wrong))
    bridge = next(each["ovs_name"] for each in project.state()["network"]["bridges"] if each["name"] == "br2")
    hosts[2].run(["ovs-vsctl", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"])
    hosts[2].run(["virsh", "define", "/dev/stdin"], input=FOREIGN)
    before = [inventory(host) for host in hosts]
    refused = project.run("up", status=3)
    assert "two (root@192.0.2.12) has a host key that is not the one in host_key" in refused.stderr
    assert f"taken by other Open vSwitch bridges: {bridge}" in refused.stderr
    assert "three: names are taken by other libvirt objects: domain wrong-alone" in refused.stderr
    assert [changes(then, inventory(host)) for then, host in zip(before, hosts, strict=True)] == [{}, {}, {}]
    assert project.states()["worker-1"] == "unknown"
    hosts[2].run(["ovs-vsctl", "del-br", bridge])
    hosts[2].virsh("undefine", "wrong-alone")


def test_two_main_hosts_one_name(hosts: TestHosts, root: Path) -> None:
    project = make_project(hosts, root, "twice", 2, yaml=BIG)
    (project.folder / "big.raw").write_bytes(bytes(MIB))
    project.run("up")
    other = make_project(hosts, root, "twice", 2, yaml=BIG, within="b")
    (other.folder / "big.raw").write_bytes(bytes(MIB))
    refused = other.run("up", status=3)
    assert "two already has another project twice" in refused.stderr
    assert project.states() == {"web": "running"}
    project.run("down", "--purge", "--timeout", "0")
