"""Containers on three hosts beside a virtual machine, with Docker and Podman, and engines that are killed."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kvm import ROOT, Project, inventory
from logical_lab import LogicalLab
from test_several_hosts import NAMES, config

from hosts import TestHost, TestHosts, engines
from hosts.tiny_image import tiny_image

pytestmark = [pytest.mark.real, pytest.mark.long_only]

COMMANDS = {
    "docker": ("docker",),
    "podman": ("podman", "--url", f"unix://{engines.PODMAN_SOCKET}"),
    "rootless": ("podman", "--url", f"unix://{engines.USER_SOCKET}"),
}
WAITS = """[sh, -c, "trap 'exit 0' TERM; sleep 4444 & wait"]"""
SCALED = f"""\
  - name: worker
    docker:
      image: tiny:1
      command: {WAITS}
      environment: {{NUMBER: one}}
      scaling:
        count: 20
        interfaces:
          - {{%(net)s0, clones: [0, 1, 2, 3, 4, 5, 6]}}
          - {{%(net)s1, clones: [7, 8, 9, 10, 11, 12, 13]}}
          - {{%(net)s2, clones: [14, 15, 16, 17, 18, 19]}}
"""
VM = "libvirt: {cpus: 1, memory_mb: 128, username: tester, libvirt_type: {cloud_image: {path: micro.qcow2}}}"
BRIDGES = f"""\
machines:
  - name: vm
    interfaces: [{{bridge: br0}}]
    {VM}
{SCALED % {"net": "bridge: br"}}
network:
  bridges: [{{name: br0}}, {{name: br1}}, {{name: br2}}]
  bridge_connections: {{br0: br1, br1: br2}}
  external_bridge: br0
testbed_options: {{placement: {{pin: {{br0: one, br1: two, br2: three}}}}}}
"""
#: A container on each switch, and a virtual machine; a router between the switches.
SWITCHES = f"""\
machines:
  - name: vm
    network: {{switch: sw0, gateway: 10.0.0.1}}
    {VM}
  - name: left
    network: {{switch: sw0, gateway: 10.0.0.1}}
    docker: {{image: "tiny:1", command: {WAITS}}}
  - name: right
    network: {{switch: sw1, gateway: 10.0.1.1}}
    docker: {{image: "tiny:1", command: {WAITS}}}
testbed_options: {{management: true, placement: {{pin: {{vm: one, left: two, right: three}}}}}}
network:
  ovn:
    switches: {{sw0: {{subnet: 10.0.0.0/24}}, sw1: {{subnet: 10.0.1.0/24}}}}
    routers:
      lr0:
        ports:
          - {{name: lr0-sw0, mac: "00:00:00:00:ff:01", gateway_ip: 10.0.0.1/24, switch: sw0}}
          - {{name: lr0-sw1, mac: "00:00:00:00:ff:02", gateway_ip: 10.0.1.1/24, switch: sw1}}
"""
START = """\
import sys
from pathlib import Path
from hosts import engines
engines.start([sys.argv[1]], Path("/run"))
engines.wait_for([sys.argv[1]])
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    folder = tmp_path_factory.mktemp("ch")
    with TestHosts(3, directory=folder, ssh=True, tunnels=True, ovn=True, docker=True, podman=True) as hosts:
        for host in hosts:
            for engine in ("docker", "podman"):
                host.run([*COMMANDS[engine], "load", "-i", tiny_image()])
        yield hosts


class ContainerLab(LogicalLab):
    """A testbed on three hosts whose containers are in one kind of engine."""

    def __init__(self, hosts: TestHosts, root: Path, name: str, yaml: str, engine: str) -> None:
        super().__init__(hosts, 3, root, name, yaml)
        self.engine, self.was_killed = engine, False
        settings: dict[str, Any] = config(self.hosts, hosts.directory / "id_ed25519")
        for each in settings["testbed_host_ssh_config"].values():
            each["container_engine"] = engine
        self.project.write("kvm-compose-config.json", json.dumps(settings))
        for host in self.hosts:  # one of another, and one that is named as the project's are
            for other in ("foreign", f"{name}-foreign"):
                self.do(host, "run", "--detach", "--name", other, "--network=none", "tiny:1", "sleep", "7777")
        self.foreign = [self.ids(host) for host in self.hosts]

    def do(self, host: TestHost, *words: str) -> str:
        return host.run([*COMMANDS[self.engine], *words]).stdout

    def ids(self, host: TestHost) -> dict[str, str]:
        rows = self.do(host, "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(row.split() for row in rows)

    def images(self) -> list[str]:
        return [self.do(host, "images", "--format", "{{.Repository}}:{{.Tag}}") for host in self.hosts]

    def all_ids(self) -> dict[str, str]:
        return {name: each for host in self.hosts for name, each in self.ids(host).items()}

    def talk(self, *senders: str) -> None:
        """Require that these guests reach every one."""
        for guest in senders or self.guests:
            self.reaches(guest, self.guests)

    def kill_engine(self, host: TestHost) -> None:
        pattern = (
            "dockerd|containerd --config"
            if self.engine == "docker"
            else f"system service.*{engines.PODMAN_SOCKET}"
        )
        host.run(["pkill", "-KILL", "-f", pattern])
        self.was_killed = True

    def start_engine(self, host: TestHost) -> None:
        host.run([sys.executable, "-c", START, self.engine], env={"PYTHONPATH": str(ROOT / "tests")})

    def end(self) -> None:
        """Take it down; containers of others are as they were, nothing else is left."""
        try:
            self.project.run("down", "--purge", "--timeout", "0")
            assert [self.ids(host) for host in self.hosts] == self.foreign
        finally:
            for host in self.hosts:
                self.do(host, "rm", "--force", *self.ids(host))
        if self.was_killed:  # what the engine itself leaves behind
            for before, host in zip(self.before, self.hosts, strict=True):
                before |= {kind: inventory(host)[kind] for kind in ("processes", "run")}
        self.down()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_replicas_and_a_virtual_machine_on_bridges(hosts: TestHosts, root: Path, engine: str) -> None:
    lab = ContainerLab(hosts, root, "many", BRIDGES, engine)
    images = lab.images()
    try:
        lab.project.run("up", timeout=600)
        assert [len(lab.ids(host)) for host in lab.hosts] == [9, 9, 8]
        lab.talk()
        before = lab.all_ids()
        request = lab.project.folder / "artefacts/worker-8-container.json"
        request.write_text(request.read_text().replace("NUMBER=one", "NUMBER=eight"))
        lab.project.run("up")
        after = lab.all_ids()
        assert {name for name in after if after[name] != before[name]} == {"many-worker-8"}
        assert lab.project.inside("worker-8", "sh", "-c", "echo $NUMBER") == "eight"
        assert lab.differences() == []
        drift(lab)
        engine_away(lab)
    finally:
        lab.end()
    assert lab.images() == images


def drift(lab: ContainerLab) -> None:
    """A killed container, one that was removed, and a lost pair, each on another host."""
    nics = {name: each["interfaces"] for name, each in lab.project.state()["testbed_guests"].items()}
    lab.do(lab.hosts[0], "kill", "many-worker-0")
    lab.do(lab.hosts[1], "rm", "--force", "many-worker-7")
    lab.hosts[2].run(["ip", "link", "delete", nics["worker-14"][0]["target"]])
    found = [
        "guest worker-0: is shut off (killed by SIGKILL)",
        "guest worker-7: is missing",
        "guest worker-14: interface eth0 is missing",
    ]
    assert lab.differences() == found
    assert "3 to repair" in lab.project.run("plan").stderr
    before = lab.all_ids()
    lab.project.run("up")
    after = lab.all_ids()
    assert {name for name in after if after[name] != before.get(name)} == {"many-worker-7"}
    assert lab.differences() == []
    for guest in ("worker-0", "worker-7", "worker-14"):
        lab.reaches(guest, lab.guests)


def engine_away(lab: ContainerLab) -> None:
    """The engine of another host is killed: it is named as it is there, and the rest is seen."""
    lab.kill_engine(lab.hosts[1])
    named = f"no container engine answers on two at {engines.SOCKETS[lab.engine]}"
    try:
        assert any(named in each for each in lab.differences())
        states = lab.project.states()
        assert (states["worker-0"], states["worker-7"], states["vm"]) == ("running", "unknown", "running")
        assert "nothing to do" not in lab.project.run("plan").stderr.partition("on hosts: ")[2]
        assert named in lab.project.run("up", status=3).stderr
    finally:
        lab.start_engine(lab.hosts[1])
    lab.project.run("up")
    assert lab.differences() == []
    lab.talk("vm", "worker-8")


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_engine_is_killed_while_it_starts_containers(hosts: TestHosts, root: Path, engine: str) -> None:
    """Whatever it had begun, the next ``up`` ends it."""
    lab = ContainerLab(hosts, root, "killed", BRIDGES, engine)
    host = lab.hosts[0]
    try:
        lab.project.run("generate")
        with lab.project.start("up") as up:
            deadline = time.monotonic() + 120
            while len(lab.ids(host)) < len(lab.foreign[0]) + 2:
                assert time.monotonic() < deadline
                assert up.poll() is None
            lab.kill_engine(host)
            assert up.wait(180) == 1
        lab.start_engine(host)
        assert lab.differences() != []
        lab.project.run("up")
        assert lab.differences() == []
        lab.talk("vm", "worker-0", "worker-6")
    finally:
        lab.end()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_containers_and_a_virtual_machine_on_logical_switches(
    hosts: TestHosts, root: Path, engine: str
) -> None:
    lab = ContainerLab(hosts, root, "logical", SWITCHES, engine)
    try:
        lab.project.run("up", timeout=600)
        places = lab.project.state()["testbed_guests"]
        assert [places[name]["testbed_host"] for name in ("vm", "left", "right")] == list(NAMES)
        lab.talk()
        nic = places["right"]["interfaces"][0]["target"]
        lab.hosts[2].run(["ip", "link", "delete", nic])
        lab.do(lab.hosts[1], "kill", "logical-left")
        assert lab.differences() == [
            "guest left: is shut off (killed by SIGKILL)",
            "guest right: interface eth0 is missing",
        ]
        lab.project.run("up")
        assert lab.differences() == []
        lab.talk()
    finally:
        lab.end()


SMALL = f"""\
machines:
  - name: web
    interfaces: [{{bridge: br0}}]
    docker:
      image: tiny:1
      command: {WAITS}
      setup_script: setup.sh
      volumes: [{{source: html, target: /www, read_only: true}}]
  - name: db
    interfaces: [{{bridge: br0}}]
    docker: {{image: "tiny:1", command: {WAITS}}}
network:
  bridges: [{{name: br0}}]
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the engine's user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def test_containers_of_a_users_podman(open_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All but pausing works in a rootless engine: networks, files, scripts, snapshots."""
    one = {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
    settings = {"testbed_host_ssh_config": {"one": {**one, "container_engine": str(engines.USER_SOCKET)}}}
    files = {
        "kvm-compose.yaml": SMALL,
        "kvm-compose-config.json": json.dumps(settings),
        "html/index": "a page\n",
        "setup.sh": "echo set up >/root/done\n",
    }
    with TestHosts(1, directory=tmp_path_factory.mktemp("rl"), rootless=True) as hosts:
        hosts[0].run([*COMMANDS["rootless"], "load", "-i", tiny_image()])
        project = Project(hosts[0], open_folder, "lab", files)
        try:
            project.run("up")
            ping = ("ping", "-c", "1", "-W", "5", project.address("db"))
            project.inside("web", *ping)
            assert project.inside("web", "cat", "/www/index", "/root/done").split("\n") == [
                "a page",
                "set up",
            ]
            assert "control groups" in project.run("pause", "web", status=1).stderr
            project.run("snapshot", "create", "before", "--guest", "web")
            project.inside("web", "rm", "/root/done")
            project.run("snapshot", "restore", "before", "--guest", "web")
            assert project.inside("web", "cat", "/root/done") == "set up"
            project.run("restart", "web")
            project.inside("web", *ping)
            assert project.json("status")["differences"] == []
        finally:
            project.run("down", "--purge", "--timeout", "0")
        assert hosts[0].run([*COMMANDS["rootless"], "ps", "-aq"]).stdout == ""
