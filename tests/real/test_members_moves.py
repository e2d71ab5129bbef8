"""A member's testbed on two real hosts, on root's server: a clone moves, is edited and repaired.

The member has an account on the test host alone, and uses the server as documented: by its socket, with a
project folder that root only reads (decision 16).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import KVM_COMPOSE, ROOT, Project, changes, inventory
from running_lab import Lab
from test_several_hosts import config

from hosts import TestHosts
from hosts.testbed import make_key

pytestmark = [
    pytest.mark.real,
    pytest.mark.long_only,
    pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone"),
]

ANN, GROUP = 61_001, "users"
SERVER = "/run/kvm-compose/server.sock"
HOSTED = "/var/lib/kvm-compose/.hosted"
PINS = "{br0: one, br1: %s}"
YAML = f"""\
machines:
  - name: staying
    interfaces: [{{bridge: br0}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
  - name: clone
    libvirt:
      cpus: 1
      memory_mb: 144
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2, setup_script: each.sh}}}}
      scaling:
        count: 1
        shared_setup: shared.sh
        interfaces: [{{bridge: br1, clones: [0]}}]
network:
  bridges: [{{name: br0}}, {{name: br1}}]
  bridge_connections: {{br0: br1}}
  external_bridge: br0
testbed_options:
  placement: {{pin: {PINS % "two"}}}
"""
EACH = "#!/bin/sh\necho set up >>/setups\n"
SHARED = "#!/bin/sh\necho made >/shared\n"


class MembersProject(Project):
    """A project whose commands are run by a member of the server's socket group.

    They may read all files, as the Python of the tests can be in root's home. That gets them nothing of the
    server, which reads with the rights of the member's account.
    """

    def argv(self, *words: str) -> list[str]:
        return [
            "setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--groups", GROUP,
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
            *super().argv(*words),
        ]  # fmt: skip


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("members"), ssh=True, tunnels=True) as hosts:
        yield hosts


@pytest.fixture
def home() -> Iterator[Path]:
    """The member's home folder. Others may enter the folder that it is in."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        place = Path(folder)
        place.chmod(0o755)
        (place / "ann").mkdir(mode=0o700)
        yield place / "ann"


@pytest.fixture
def server(hosts: TestHosts, home: Path) -> Iterator[None]:
    """Root's server on the first host, where the member has an account."""
    main = hosts[0]
    account = f"ann:x:{ANN}:{ANN}::{home}:/bin/sh"
    main.run(["sh", "-c", f"echo {account} >>/run/of-the-host/passwd"])  # /etc/passwd of this host alone
    assert main.run(["getent", "passwd", "ann"]).stdout.strip() == account
    argv = [*KVM_COMPOSE, "server", "--socket-group", GROUP, "--project-root", home.parent]
    log = hosts.directory / "server.log"
    with log.open("wb") as output:
        process = main.popen(
            ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", *argv], stdout=output, stderr=output
        )
    end = time.monotonic() + 30
    while main.run(["test", "-S", SERVER], check=False).returncode:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    yield
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def project(hosts: TestHosts, home: Path, micro_image: Path, server: None) -> Iterator[MembersProject]:
    del server
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": json.dumps(config(list(hosts), Path("~/.ssh/lab"))),
        "each.sh": EACH,
        "shared.sh": SHARED,
    }
    project = MembersProject(hosts[0], home, "lab", files)
    project.env |= {"KVM_COMPOSE_SERVER": f"unix:{SERVER}", "KVM_COMPOSE_STORE": str(home / "images")}
    shutil.copy(micro_image, project.folder / "micro.qcow2")
    (home / ".ssh").mkdir()
    shutil.copy(hosts.directory / "id_ed25519", home / ".ssh" / "lab")
    make_key(project.folder / "key")
    for path in (home, *home.rglob("*")):
        os.chown(path, ANN, ANN)
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def where(lab: Lab) -> list[list[str]]:
    """The guests that run on each host."""
    return [sorted(host.virsh("list", "--name").stdout.split()) for host in lab.hosts]


def edited(lab: Lab, *options: str) -> str:
    """``up``; the clone has another process then, the other guest has its own, and nothing differs."""
    before = lab.qemu()
    said = lab.project.run("up", *options).stderr
    after = lab.qemu()
    assert after.keys() == {"staying", "clone-0"}, said
    assert after["staying"] == before["staying"], said
    assert after["clone-0"] != before.get("clone-0"), said
    assert "nothing to do" in lab.project.run("up").stderr
    return said


def test_a_members_clone_moves(hosts: TestHosts, project: MembersProject) -> None:
    before = [inventory(host) for host in hosts]
    lab = Lab(project, list(hosts))
    project.run("up")
    assert where(lab) == [["lab-staying"], ["lab-clone-0"]]
    assert lab.differences() == []  # the other host has the image as it was set up, not as it was built
    project.inside("clone-0", "sudo", "-n", "sh", "-c", "echo written >/note; sync")

    # moved with more memory, its scripts have changed, and both guests were broken by hand
    lab.edit(PINS % "two", PINS % "one")
    lab.edit("memory_mb: 144", "memory_mb: 192")
    project.write("each.sh", EACH.replace("set up", "set up again"))
    memory = lab.memory("clone-0")
    hosts[1].virsh("destroy", "lab-clone-0")
    lab.host.run(["ovs-vsctl", "del-port", lab.tap("staying")])
    said = edited(lab, "--rerun-scripts")
    assert "the disk of clone-0 moved from two to one" in said
    assert "its port on the bridge br0 is missing" in said
    assert where(lab) == [["lab-clone-0", "lab-staying"], []]
    kept = "made\nset up\nset up again\nwritten"
    assert project.inside("clone-0", "cat", "/shared", "/setups", "/note") == kept
    assert lab.memory("clone-0") >= memory + 40
    lab.talks("staying", "clone-0")

    lab.edit(PINS % "one", PINS % "two")
    assert "the disk of clone-0 moved from one to two" in edited(lab)
    assert where(lab) == [["lab-staying"], ["lab-clone-0"]]
    assert project.inside("clone-0", "cat", "/shared", "/setups", "/note") == kept
    project.write("shared.sh", SHARED.replace("made", "made again"))
    assert "clones have data: clone-0" in project.run("up", status=3).stderr
    edited(lab, "--reset-clones")
    assert project.inside("clone-0", "cat", "/shared", "/setups") == "made again\nset up again"
    project.run("down", "--purge")
    assert_nothing_is_left(hosts, before, project.folder)


def assert_nothing_is_left(hosts: TestHosts, before: list[dict[str, list[str]]], folder: Path) -> None:
    """Images stay on hosts; in the member's folder nothing is root's."""
    for number, host in enumerate(hosts):
        assert changes(before[number], inventory(host)).keys() <= {"projects"}, host.name
        assert host.run(["find", HOSTED, "-mindepth", "1"]).stdout == ""
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {ANN}
    private = {path.name for path in (folder / ".kvm-compose").iterdir()}
    assert not {each for each in private if each.startswith(("moving-", "consoles", "known_hosts", "sent"))}
