"""What the existing system's examples and documentation contain, with micro guests on one to three hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from logical_lab import LogicalLab
from test_several_hosts import NAMES

from hosts import TestHosts
from hosts.nginx_image import nginx_image

pytestmark = [pytest.mark.real, pytest.mark.long_only]

FILES = Path(__file__).parents[1] / "testbedos"
OUTSIDE = "172.16.1.1"
#: The example has one MAC address twice, which is an error here.
SAME_MACS = (
    '{from: "00:00:00:00:00:01", to: "00:00:00:00:00:02"}',
    '{from: "00:00:00:00:00:02", to: "00:00:00:00:00:03"}',
)
#: The virtual machine that fetches the pages of its web servers.
BESIDE = """\
  - name: client
    network: {switch: sw0, gateway: 10.0.0.1, mac: "00:00:00:00:00:09", ip: 10.0.0.9}
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {path: micro.qcow2}}}
"""
SCRIPT = "#!/bin/sh\necho {name} >>/notes\n"
#: What the examples refer to, and is not in their YAML.
SCRIPTS = ("shared_setup", "clone_setup", "shared", "install", "server", "client")
FILES_OF_CONTAINERS = {"docker.env": "X=1\n", "html/index.html": "one\n", "clones_html/index.html": "clone\n"}
CONTEXTS = ("context_folder/note", "server/note", "use_custom_server.patch", "emulator/note")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    folder = tmp_path_factory.mktemp("ex")
    with TestHosts(3, directory=folder, ssh=True, tunnels=True, ovn=True, docker=True) as hosts:
        for host in hosts:
            host.run(["docker", "load", "-i", nginx_image()])
        yield hosts


def small(example: str) -> str:
    """Return an example with micro guests, of which only those with a key can be entered."""
    text = (FILES / f"{example}.yaml").read_text()
    text = re.sub(r",? *\n? *expand_gigabytes: \d+", "", text)
    text = re.sub(r"memory_mb: \d+", "memory_mb: 128", text.replace("cpus: 2", "cpus: 1"))
    text = text.replace("name: ubuntu_20_04", "path: micro.qcow2")
    if example == "docker":
        text = text.replace(*SAME_MACS).replace("\nnetwork:\n", f"\n{BESIDE}network:\n")
    return text if "existing_disk" in text else f"{text}testbed_options: {{management: true}}\n"


def make(hosts: TestHosts, count: int, root: Path, example: str) -> LogicalLab:
    lab = LogicalLab(hosts, count, root, f"{example.replace('_', '-')}-{count}", small(example))
    for name in SCRIPTS:
        lab.project.write(f"{name}.sh", SCRIPT.format(name=name))
    for path, text in FILES_OF_CONTAINERS.items():
        lab.project.write(path, text)
    for path in CONTEXTS:
        lab.project.write(path, f"{path}\n")
    return lab


def arrives(lab: LogicalLab, sender: str, address: str, *, at: str) -> bool:
    """Return whether pings arrive that are not answered."""
    echoes = "awk '/^Icmp: [0-9]/ {print $10}' /proc/net/snmp"
    before = int(lab.project.inside(at, "sh", "-c", echoes))
    lab.reaches(sender, (), {address})
    return int(lab.project.inside(at, "sh", "-c", echoes)) > before


def acl(lab: LogicalLab) -> None:
    for guest in lab.guests:
        lab.reaches(guest, {"client1", "client2", "client3", OUTSIDE})


def clones(lab: LogicalLab) -> None:
    """The default route of the router leads nowhere."""
    for guest in lab.guests:
        lab.reaches(guest, {"server-0", "server-1", "server-2", "10.0.0.1"}, {OUTSIDE, "172.16.1.200"})
        assert lab.project.inside(guest, "cat", "/notes").split() == ["shared_setup", "clone_setup"]


def docker(lab: LogicalLab) -> None:
    """Pages of the two volumes, and variables of the file and of the machine."""
    clones = ("nginx-clones-0", "nginx-clones-1")
    for name, page in (("nginx", "one"), *((each, "clone") for each in clones)):
        assert lab.project.inside("client", "wget", "-q", "-O", "-", f"http://{lab.address(name)}/") == page
        assert "GET / HTTP/1.1" in lab.project.run("logs", name).stdout
    assert lab.project.inside("nginx", "sh", "-c", "echo $A $TWO $X; cat /tmp/docker.env") == "B 2 1\nX=1"
    for each in clones:
        assert lab.project.inside(each, "sh", "-c", "echo $B $THREE $X") == "A 3 1"
    for guest in lab.guests:
        lab.reaches(guest, {*lab.guests, "10.0.0.1"})
    place = lab.project.state()["testbed_guests"]["nginx-clones-1"]["testbed_host"]
    lab.hosts[NAMES.index(place)].run(["docker", "kill", f"{lab.project.name}-nginx-clones-1"])
    assert lab.differences() == ["guest nginx-clones-1: is shut off (killed by SIGKILL)"]
    lab.project.run("up")
    lab.reaches("nginx-clones-1", {"client", "nginx"})


def multi_interface(lab: LogicalLab) -> None:
    lab.reaches("client1", {"10.0.0.12"}, (), "-I", "eth1")
    lab.reaches("client1", (), {"10.0.0.12"}, "-I", "eth0")
    # client1 has two interfaces in one subnet, and replies by the first one: a reply without a request there
    assert arrives(lab, "client2", "10.0.0.11", at="client1")
    assert not arrives(lab, "client2", "10.0.0.10", at="client1")


def ovn(lab: LogicalLab) -> None:
    lab.reaches("client1", {"10.0.0.1", "10.0.1.2", "10.0.2.1", OUTSIDE})


def ovn_all(lab: LogicalLab) -> None:
    every = {"client1", "client2", "client3", "clone-0", "clone-1", OUTSIDE}
    for guest in lab.guests:
        lab.reaches(guest, every)
    lab.hosts[0].run(["ping", "-c3", "-W2", "-i0.3", "172.16.1.11"])  # client3, from outside
    assert lab.hosts[0].run(["ping", "-c1", "-W1", "172.16.1.12"], check=False).returncode != 0


def sigadb(lab: LogicalLab) -> None:
    """Nothing gives the guest its address; the port is there."""
    host = lab.hosts[0]
    (port,) = host.run(["ovn-nbctl", "--bare", "--columns=name", "find", "Logical_Switch_Port", "up=true",
                        'type=""']).stdout.split()  # fmt: skip
    assert host.run(["ovn-nbctl", "lsp-get-addresses", port]).stdout.startswith("00:00:00:00:00:01 10.0.0.")


def signal(lab: LogicalLab) -> None:
    for guest in lab.guests:
        lab.reaches(guest, {"server", "client1", "client2", OUTSIDE})
    assert lab.project.inside("client2", "cat", "/notes") == "client"


def doc_acl(lab: LogicalLab) -> None:
    """A rule for one direction without connections: the request arrives, the reply is dropped."""
    assert not arrives(lab, "client3", "10.0.0.12", at="client2")
    assert arrives(lab, "client1", "10.0.0.12", at="client2")


def doc_clones(lab: LogicalLab) -> None:
    for guest in lab.guests:
        lab.reaches(guest, {"scaling-guest-0", "scaling-guest-1", "10.0.0.1", "10.0.1.1"})
        assert lab.project.inside(guest, "cat", "/notes").split() == ["shared", "install"]


RUNNING = {
    "acl": acl,
    "clones": clones,
    "doc-acl": doc_acl,
    "doc-clones": doc_clones,
    "docker": docker,
    "multi_interface": multi_interface,
    "ovn": ovn,
    "ovn-all": ovn_all,
    "sigadb": sigadb,
    "signal": signal,
}
#: Those that are refused, and for which of their guests.
REFUSED = {"avd": "machines[0].android"}


def test_every_file_is_run_or_refused() -> None:
    assert {path.stem for path in FILES.iterdir()} == {*RUNNING, *REFUSED}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("example", sorted(RUNNING))
def test_an_example_runs(hosts: TestHosts, root: Path, example: str, count: int) -> None:
    lab = make(hosts, count, root, example)
    try:
        lab.project.run("up", timeout=900)
        states = lab.project.states()
        assert {name: states[name] for name in lab.guests} == dict.fromkeys(lab.guests, "running")
        places = lab.project.state()["testbed_guests"]
        assert len({places[name]["testbed_host"] for name in lab.guests}) == min(count, len(lab.guests))
        assert lab.processes().keys() == {name for name in lab.guests if places[name]["kind"] == "libvirt"}
        RUNNING[example](lab)
        if "multi" not in example and "doc-acl" not in example and "sigadb" not in example:  # no rules
            assert all(lab.resolves(lab.guests[0], name) for name in lab.guests)
        assert lab.differences() == []
    except BaseException:  # the next example is on the same hosts
        lab.project.run("down", "--purge", "--timeout", "0", status=None)
        raise
    lab.down()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("example", sorted(REFUSED))
def test_an_example_is_refused_for_its_guests(hosts: TestHosts, root: Path, example: str, count: int) -> None:
    lab = make(hosts, count, root, example)
    said = lab.project.run("up", status=2).stderr
    assert REFUSED[example] in said
    assert lab.processes() == {}
