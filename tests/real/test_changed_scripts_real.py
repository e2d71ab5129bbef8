"""A set-up that changes while its guest runs: seen, sent, run again, and remembered by the guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
from kvm import Project

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.long_only, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image:
          name: micro
          context: {path: files, modes: {key: "0600"}}
          environment: {GREETING: "hello"}
          setup_script: setup.sh
          run_script: run.sh
  - name: other
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
FILES = {
    "kvm-compose.yaml": YAML,
    "files/note": "first\n",
    "files/key": "secret\n",
    "setup.sh": 'echo "$GREETING $(cat note) $(stat -c %a-%U key)" >>/etc/setups\n',
    "run.sh": "echo one >>/etc/runs\n",
}
New = Callable[[str, Mapping[str, str]], Project]


@pytest.fixture
def project(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(real_host, tmp_path_factory.mktemp("again"), "again", FILES)
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def test_a_set_up_that_changed(project: Project) -> None:
    project.run("up")
    assert project.inside("web", "cat", "/etc/setups") == "hello first 600-root"
    uptime = project.inside("web", "cat", "/proc/sys/kernel/random/boot_id")

    # seen, and left
    project.write("kvm-compose.yaml", YAML.replace("hello", "it's\\tme"))
    project.write("files/note", "second\n")
    line = "set-up of web is out of date: context has changed, environment GREETING has changed"
    said = project.run("up").stderr
    assert line in said
    assert line in project.run("status").stdout
    assert project.inside("web", "cat", "/etc/setups") == "hello first 600-root"

    # run scripts have run, with what is new: that is in the guest now
    assert project.inside("web", "wc", "-l", "/etc/runs") == "2 /etc/runs"
    assert project.inside("web", "cat", "/etc/nocloud/context/note") == "second"

    # again, in the same boot
    project.run("up", "--rerun-scripts", "web")
    assert project.inside("web", "cat", "/etc/setups") == "hello first 600-root\nit's\tme second 600-root"
    assert "differs" not in project.run("status").stdout
    assert project.inside("web", "cat", "/proc/sys/kernel/random/boot_id") == uptime
    there = project.inside("web", "sudo", "sh", "-c", "ls -A /etc/nocloud").split()
    assert there == ["context", "done", "env.sh", "environment", "ready", "run", "setup"]

    # the guest knows, and is asked after its next boot, which has unpacked the new seed
    project.run("down")
    assert "left" not in project.run("up").stderr
    assert project.inside("web", "wc", "-l", "/etc/setups") == "2 /etc/setups"
    assert project.inside("web", "sudo", "sh", "-c", "ls -A /etc/nocloud/setup") == "00-setup.sh"

    # what changed while it was off is seen, too; a script that failed goes on when it is mended
    project.run("down")
    project.write("setup.sh", "exit 3\n")
    assert "setup script setup.sh has changed" in project.run("up").stderr
    assert "ended with status 3" in project.run("up", "--rerun-scripts", status=1).stderr
    project.write("setup.sh", "echo mended >>/etc/setups\n")
    project.run("up")
    assert project.inside("web", "tail", "-n", "1", "/etc/setups") == "mended"
    assert "differs" not in project.run("status").stdout

    # another life
    other = project.inside("other", "cat", "/proc/sys/kernel/random/boot_id")
    project.run("up", "--recreate", "web")
    assert project.inside("web", "cat", "/etc/setups", "/etc/runs") == "mended\none"
    assert project.inside("other", "cat", "/proc/sys/kernel/random/boot_id") == other
    assert "differs" not in project.run("status").stdout
