"""Testbeds of containers on a real host, by the commands a user types, with Docker and with Podman."""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC240 - a scenario has its loop to itself
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import driven
import pytest
from kvm import Project

from hosts import TestHost, TestHosts, engines
from hosts.tiny_image import BUSYBOX, tiny_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
#: A first process has no handlers of signals unless it sets some: it would be killed after ten seconds.
WAITS = "trap 'exit 0' TERM; echo started; sleep 4444 & wait"
YAML = f"""\
machines:
  - name: web
    interfaces: [{{bridge: br0}}]
    docker:
      image: "tiny:1"
      command: [sh, -c, "{WAITS}"]
      environment: {{GREETING: hello}}
      volumes: [{{source: "${{PWD}}/html", target: /www, read_only: true}}]
  - name: db
    interfaces: [{{bridge: br1}}]
    docker:
      image: "tiny:1"
      command: [sh, -c, "{WAITS}"]
      context: files
      setup_script: setup.sh
      run_script: run.sh
  - name: worker
    docker:
      image: "tiny:1"
      command: [sh, -c, "{WAITS}"]
      scaling: {{count: 2, interfaces: [{{bridge: br0, clones: [0, 1]}}]}}
network:
  bridges: [{{name: br0}}, {{name: br1}}]
  bridge_connections: {{br0: br1}}
"""
ALL = ("web", "db", "worker-0", "worker-1")
COMMANDS = {"docker": ("docker",), "podman": ("podman", "--url", "unix:///run/podman/podman.sock")}


@pytest.fixture(scope="module")
def engine_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    hosts = TestHosts(1, directory=tmp_path_factory.mktemp("short"), docker=True, podman=True)
    with hosts:
        for command in COMMANDS.values():
            hosts[0].run([*command, "load", "-i", tiny_image()])
        yield hosts[0]


class Lab:
    """A testbed of containers in one of the engines."""

    def __init__(self, host: TestHost, engine: str, root: Path, yaml: str = YAML) -> None:
        one = {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
        config = {"testbed_host_ssh_config": {"one": {**one, "container_engine": engine}}}
        files = {
            "kvm-compose.yaml": yaml,
            "kvm-compose-config.json": json.dumps(config),
            "html/index": "a page\n",
            "files/note": "from the context\n",
            "setup.sh": "#!/bin/sh\necho setting up: $(cat note)\n",
            "run.sh": "echo running\n",
        }
        self.host, self.engine = host, COMMANDS[engine]
        self.project = Project(host, root, "lab", files)

    def do(self, *words: str) -> str:
        return self.host.run([*self.engine, *words]).stdout

    def ids(self) -> dict[str, str]:
        rows = self.do("ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(row.split() for row in rows)

    def differences(self) -> list[str]:
        found: list[str] = self.project.json("status")["differences"]
        return found

    def changed(self, *words: str) -> set[str]:
        """The containers that are others after a command than before."""
        before = self.ids()
        self.project.run(*words)
        assert self.differences() == []
        after = self.ids()
        assert after.keys() >= before.keys()
        return {name for name in after if after[name] != before.get(name)}

    def talks(self) -> None:
        targets = " ".join(map(self.project.address, ALL))
        script = f"for each in {targets}; do ping -c1 -W2 $each >/dev/null || echo $each; done"
        assert self.project.inside("db", "sh", "-c", script) == ""


def drift_is_repaired(lab: Lab) -> None:
    """A killed container, a lost pair, a container that was removed; others are left alone."""
    (nic,) = lab.project.state()["testbed_guests"]["worker-0"]["interfaces"]
    lab.do("kill", "lab-web")
    lab.host.run(["ip", "link", "delete", nic["target"]])
    lab.do("rm", "--force", "lab-worker-1")
    drift = [
        "guest web: is shut off (killed by SIGKILL)",
        "guest worker-0: interface eth0 is missing",
        "guest worker-1: is missing",
    ]
    assert lab.differences() == drift
    planned = lab.project.run("plan", "--detailed-exitcode", status=2).stderr
    assert "3 to repair" in planned
    assert lab.changed("up") == {"lab-worker-1"}
    lab.talks()


def power(lab: Lab) -> None:
    before = lab.ids()
    lab.project.run("pause", "web")
    lab.project.run("stop", "db")
    assert lab.project.states() == {**dict.fromkeys(ALL, "running"), "web": "paused", "db": "shut off"}
    assert "nothing to do" in lab.project.run("up").stderr
    lab.project.run("resume", "web")
    said = lab.project.run("start", "db").stderr
    assert "db | running" in said
    assert "setting up" not in said
    assert lab.ids() == before
    lab.talks()


@pytest.mark.parametrize("engine", ["docker", "podman"] if LONG else ["docker"])
def test_containers_from_up_to_down(engine_host: TestHost, engine: str, tmp_path: Path) -> None:
    lab = Lab(engine_host, engine, tmp_path)
    lab.do("run", "--detach", "--name", "foreign", "--network", "none", "tiny:1", "sleep", "7777")
    foreign = lab.ids()["foreign"]
    try:
        said = lab.project.run("up").stderr
        assert "db | setting up: from the context" in said
        assert "db | running" in said
        assert lab.differences() == []
        lab.talks()
        assert lab.project.inside("web", "cat", "/www/index") == "a page"
        assert lab.project.run("logs", "worker-0").stdout == "started\n"
        drift_is_repaired(lab)
        lab.project.edit("GREETING: hello", "GREETING: bonjour")
        assert "(environment GREETING changed)" in lab.project.run("plan").stdout
        assert lab.changed("up") == {"lab-web"}
        assert lab.project.inside("web", "sh", "-c", "echo $GREETING") == "bonjour"
        power(lab)
    finally:
        lab.project.run("down", "--purge", status=None)
        left = lab.ids()
        lab.do("rm", "--force", "foreign")
    assert left == {"foreign": foreign}
    assert lab.host.run(["ovs-vsctl", "list-br"]).stdout == ""
    links = {each["ifname"] for each in json.loads(lab.host.run(["ip", "-json", "link"]).stdout)}
    assert not [each for each in links if each.startswith("lab")], links


PAIR = f"""\
machines:
  - name: web
    interfaces: [{{bridge: br0}}]
    docker: {{image: "tiny:1", command: [sh, -c, "{WAITS}"]}}
  - name: db
    interfaces: [{{bridge: br0}}]
    docker: {{image: "tiny:1", command: [sh, -c, "{WAITS}"]}}
network:
  bridges: [{{name: br0}}]
"""


@contextlib.contextmanager
def daemon(lab: Lab) -> Iterator[None]:
    """Run a server that does not end by itself, and end it."""
    process = lab.project.start("server")
    socket = lab.project.root / "state" / "server.sock"
    try:
        eventually(socket.exists)
        yield
    finally:
        process.terminate()
        process.wait(30)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Wait for something, and return how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)
    return time.monotonic() - began


def containers_are_measured(lab: Lab) -> None:
    found = lab.project.metrics()
    assert found["kvmcompose_guest_up"] == {"web": 1, "db": 1}
    for name, least in {
        "uptime_seconds": 0,
        "cpu_seconds_total": 0.001,
        "memory_resident_bytes": 4096,
        "network_receive_bytes_total": 50,
        "network_transmit_packets_total": 1,
    }.items():
        assert found[f"kvmcompose_guest_{name}"]["web"] >= least, (name, found)


async def restart_docker() -> None:
    """End the engine, which ends its containers, and start it again."""
    warnings.simplefilter("ignore", ResourceWarning)  # it outlives the scenario
    pid = Path("/run/docker.pid")
    os.kill(int(pid.read_text()), signal.SIGTERM)
    while pid.exists():
        await asyncio.sleep(0.1)
    engines.start_docker(Path("/run"))
    engines.wait_for(["docker"])


async def restart_podman() -> None:
    """Kill the service; containers run on."""
    warnings.simplefilter("ignore", ResourceWarning)  # see above
    found = subprocess.run(
        ["pgrep", "-f", f"system service --time=0 unix://{engines.PODMAN_SOCKET}"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    engines.PODMAN_SOCKET.unlink()
    engines.start_podman(Path("/run"))
    engines.wait_for(["podman"])


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_daemon_connects_what_others_restart(engine_host: TestHost, engine: str, tmp_path: Path) -> None:
    lab = Lab(engine_host, engine, tmp_path, PAIR)
    # what is asked through the engine does not ask the server, which would make it look
    ping = [*lab.engine, "exec", "lab-web", "ping", "-c1", "-W1"]

    def talks() -> bool:
        return lab.host.run([*ping, lab.project.address("db")], check=False).returncode == 0

    with daemon(lab):
        try:
            lab.project.run("up")
            assert talks()
            containers_are_measured(lab)
            ids = lab.ids()
            lab.do("restart", "--time", "0", "lab-web")
            eventually(talks)
            assert lab.differences() == []
            if engine == "docker":
                said = lab.project.run("logs").stdout
                assert "guest web: repair: interface eth0 is missing" in said
                lab.do("update", "--restart", "always", "lab-web")
                driven.inside(lab.host, restart_docker)
                eventually(lambda: lab.differences() == ["guest db: is shut off"])  # but web is connected
                lab.project.run("up")
            else:
                driven.inside(lab.host, restart_podman)
                lab.do("restart", "--time", "0", "lab-db")
            eventually(talks)
            assert lab.differences() == []
            assert lab.ids() == ids
        finally:
            lab.project.run("down", "--purge", status=None)


BUILDS = f"""\
machines:
  - name: web
    interfaces: [{{bridge: br0}}]
    docker: {{build: site, command: [sh, -c, "{WAITS}"]}}
  - name: plain
    interfaces: [{{bridge: br0}}]
    docker: {{image: "tiny:1", command: [sh, -c, "{WAITS}"]}}
network: {{bridges: [{{name: br0}}]}}
"""
DOCKERFILE = "FROM scratch\nCOPY busybox /bin/\nCOPY page /page\nRUN {run}\n"
#: In an image without a shell of its own.
RUN = '["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin && echo built from $(cat /page)"]'


@pytest.mark.parametrize("engine", ["docker", "podman"] if LONG else ["docker"])
def test_images_are_built_and_purged(engine_host: TestHost, engine: str, tmp_path: Path) -> None:
    lab = Lab(engine_host, engine, tmp_path)
    project = lab.project

    def built() -> list[str]:
        rows = lab.do("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
        return [row for row in rows if "kvm-compose-builds/lab:" in row]

    project.write("kvm-compose.yaml", BUILDS)
    project.write("site/Dockerfile", DOCKERFILE.format(run=RUN))
    project.write("site/page", "one\n")
    shutil.copy(BUSYBOX, project.folder / "site" / "busybox")
    everything = lab.do("images", "--all", "--quiet")
    try:
        said = project.run("up").stderr
        assert "built from one" in said
        assert project.inside("web", "cat", "/page") == "one"
        # an edit replaces the container of this image alone
        project.write("site/page", "two\n")
        planned = project.run("plan").stdout
        assert "file site/page has changed" in planned
        assert "build context site has changed" in planned
        assert lab.changed("up") == {"lab-web"}
        assert project.inside("web", "cat", "/page") == "two"
        # a build that fails changes nothing, and says why
        ids = lab.ids()
        project.write(
            "site/Dockerfile", DOCKERFILE.format(run=RUN.replace("echo", "echo sorry; exit 7; echo"))
        )
        said = project.run("up", status=3).stderr
        assert "| sorry" in said
        assert "exit 7" in said
        assert lab.ids() == ids
        # what was built before is there
        project.write("site/Dockerfile", DOCKERFILE.format(run=RUN))
        project.write("site/page", "one\n")
        assert "built from" not in project.run("up").stderr
        assert project.inside("web", "cat", "/page") == "one"
        assert len(built()) == 2
        foreign = built()[0]
        lab.do("create", "--name", "foreign", "--network", "none", foreign, "true")
    finally:
        said = project.run("down", "--purge", status=None).stderr
        kept = built()
        lab.do("rm", "--force", "foreign")
    assert kept == [foreign]
    assert " stays on one: cannot remove the image " in said
    lab.do("rmi", foreign)
    # Docker keeps the steps that went well of the build that failed
    assert len(lab.do("images", "--all", "--quiet").split()) <= len(everything.split()) + 3
