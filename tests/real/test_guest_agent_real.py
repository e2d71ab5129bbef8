"""A real guest agent, in a guest without a network: entered, asked, killed, stopped, replaced by an enemy."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from kvm import Project

from hosts import TestHost

# of a minute and a half, on a machine that does nothing else
pytestmark = [pytest.mark.real, pytest.mark.long_only]

MICRO = "path: micro.qcow2"
YAML = f"""\
machines:
  - name: cut
    interfaces: [{{bridge: lab, ip: dynamic}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      ready: agent
      libvirt_type: {{cloud_image: {{{MICRO}, setup_script: setup.sh, run_script: run.sh, context: given}}}}
  - name: web
    interfaces: [{{bridge: home}}]
    libvirt: {{cpus: 1, memory_mb: 128, ready: {{tcp: 22}}, libvirt_type: {{cloud_image: {{{MICRO}}}}}}}
  - name: bare
    interfaces: [{{bridge: lab}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      ready: {{console: "login:"}}
      libvirt_type: {{existing_disk: {{{MICRO}}}}}
network:
  bridges: [{{name: home}}, {{name: lab}}]
  external_bridge: home
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu",
   "datapath_type": "netdev"}},
 "ssh_public_key_location": "key.pub", "ssh_private_key_location": "key"}
"""
#: How long a command may take whose guest's agent does not answer, in seconds: libvirt's five, and ours.
SECONDS = 40


@pytest.fixture
def project(real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path) -> Project:
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": CONFIG,
        "setup.sh": "#!/bin/sh\ncat hello >/made\n",
        "run.sh": "#!/bin/sh\nid -un\n",
        "given/hello": "made\n",
    }
    project = Project(real_host, tmp_path, "agent", files)
    shutil.copy(ssh_key, project.folder / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), project.folder / "key.pub")
    (project.folder / "micro.qcow2").symlink_to(micro_image)
    return project


def in_time(project: Project, *words: str, status: int = 0) -> str:
    """Run a command, which must end within ``SECONDS``; return what it says."""
    begun = time.monotonic()
    done = project.run(*words, status=status)
    assert time.monotonic() - begun < SECONDS, words
    return done.stdout + done.stderr


def test_a_guest_without_a_network(project: Project) -> None:
    project.run("up")
    try:
        assert project.inside("cut", "cat", "/made") == "made"
        enter_it(project)
        copy_files(project)
        set_its_clock(project)
        lose_its_agent(project)
    finally:
        project.run("down", "--purge")


def enter_it(project: Project) -> None:
    assert project.inside("cut", "id", "-un") == "root"
    assert project.inside("bare", "id", "-un") == "root"  # no cloud-init, and nothing of ours in it
    said = project.run("exec", "--user", "nocloud", "cut", "--", "sh", "-c", "id -un; pwd")
    assert said.stdout.split() == ["nocloud", "/home/nocloud"]
    said = project.run("exec", "cut", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert said.stdout == "out\nerr\n"
    assert project.run("exec", "-i", "cut", "--", "wc", "-c", input="x" * 200_000).stdout.strip() == "200000"
    said = project.run("exec", "--timeout", "1", "cut", "--", "sh", "-c", "sleep 77; true", status=255)
    assert "did not end within 1 s" in said.stderr
    assert "sleep 77" not in project.inside("cut", "ps")
    project.inside("cut", "ip", "address", "add", "203.0.113.7/24", "dev", "eth0")
    deadline = time.monotonic() + 60
    while (told := addresses(project, "cut")) != ["203.0.113.7"]:
        assert time.monotonic() < deadline, told
        time.sleep(2)


def addresses(project: Project, name: str) -> list[str]:
    return next(guest["addresses"] for guest in project.json("status")["guests"] if guest["name"] == name)


def copy_files(project: Project) -> None:
    (project.folder / "given" / "large").write_bytes(bytes(range(256)) * 1000)
    project.run("cp", "-r", str(project.folder / "given"), "cut:/srv")
    project.run("cp", "cut:/srv/large", str(project.root / "back"))
    assert (project.root / "back").read_bytes() == bytes(range(256)) * 1000


def set_its_clock(project: Project) -> None:
    project.inside("cut", "date", "-s", "2020-01-01 00:00:00")
    project.run("snapshot", "create", "-n", "cut", "old")
    assert "the clock of cut is set" in project.run("snapshot", "restore", "-n", "cut", "old").stderr
    assert abs(int(project.inside("cut", "date", "+%s")) - time.time()) < SECONDS


def lose_its_agent(project: Project) -> None:
    # killed: init starts another one
    in_time(project, "exec", "cut", "--", "sh", "-c", "kill -9 $(pidof qemu-ga)", status=255)
    deadline = time.monotonic() + 60
    while project.run("exec", "cut", "--", "true", status=None).returncode:
        assert time.monotonic() < deadline
    # something else answers, and never ends
    enemy = "#!/bin/sh\nfor port in /dev/vport*; do yes '{\"return\":[[[' >$port; done\n"
    project.run("exec", "-i", "cut", "--", "sh", "-c", "cat >/usr/lib/micro/agent", input=enemy)
    in_time(project, "exec", "cut", "--", "sh", "-c", "kill -9 $(pidof qemu-ga)", status=255)
    said = in_time(project, "exec", "cut", "--", "true", status=255)
    assert "guest agent" in said
    assert {guest["state"] for guest in project.json("status")["guests"]} == {"running"}
    in_time(project, "status")
    assert project.inside("web", "id", "-un") == "nocloud"
    # one that stands still
    in_time(project, "exec", "bare", "--", "sh", "-c", "kill -STOP $(pidof qemu-ga)", status=255)
    assert "does not answer" in in_time(project, "exec", "bare", "--", "true", status=255)
    in_time(project, "status")
    in_time(project, "snapshot", "create", "-n", "bare", "still")
    in_time(project, "snapshot", "restore", "-n", "bare", "still")
