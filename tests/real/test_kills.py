"""Killed at a random moment of up or down: the server, libvirtd, the command, a guest. Both go on from there.

KVM_COMPOSE_TEST_KILLS is how often (each once when CI runs it), KVM_COMPOSE_TEST_SEED where chance begins.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from kvm import Project, changes, inventory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

COUNT = int(
    os.environ.get("KVM_COMPOSE_TEST_KILLS", "24" if os.environ.get("KVM_COMPOSE_TEST_LONG") else "4")
)
SEED = int(os.environ.get("KVM_COMPOSE_TEST_SEED", "20"))

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro, setup_script: setup.sh, run_script: run.sh}}
  - name: pair
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
      scaling:
        count: 1
        shared_setup: setup.sh
        interfaces: [{bridge: br1, clones: [0]}]
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""

GUESTS = {"one": "running", "pair": "golden", "pair-0": "running"}


@pytest.fixture
def project(real_host: TestHost, tmp_path: Path) -> Project:
    files = {"kvm-compose.yaml": YAML, "setup.sh": "echo set up\n", "run.sh": "echo run\n"}
    project = Project(real_host, tmp_path, "mortal", files)
    project.run("generate")
    return project


def kill(project: Project, pattern: str) -> None:
    done = project.host.run(["pkill", "-KILL", "-f", "--", pattern], check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: there is none at that moment


def kill_server(project: Project) -> None:
    kill(project, "server --embedded")


def kill_command(project: Project) -> None:
    kill(project, f"-C {project.folder} ")


def kill_guest(project: Project) -> None:
    kill(project, "guest=mortal-")


def kill_libvirtd(project: Project) -> None:
    """As systemd does it: it is back at once."""
    script = (
        "kill -KILL $(cat /run/libvirtd.pid); sleep 0.3; setsid --fork libvirtd >/dev/null 2>&1 </dev/null"
    )
    project.host.run(["sh", "-c", script])


VICTIMS: tuple[Callable[[Project], None], ...] = (kill_server, kill_libvirtd, kill_command, kill_guest)


def wait_until_idle(project: Project) -> None:
    """A server whose command was killed brings to its end what it has begun."""
    end = time.monotonic() + 180
    while project.json("status")["deployment"]["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.5)


def await_end(project: Project) -> None:
    end = time.monotonic() + 30
    while project.host.run(["pgrep", "-f", "server --embedded"], check=False).stdout:
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.mark.long
def test_both_ways_lead_on_from_any_kill(project: Project) -> None:
    chance = random.Random(SEED)  # noqa: S311 (no secret)
    before = inventory(project.host)
    is_up = False
    victims: list[Callable[[Project], None]] = []
    for number in range(COUNT):
        verb = "down" if is_up and chance.random() < 0.7 else "up"
        if not victims:
            victims = chance.sample(VICTIMS, len(VICTIMS))
        victim = victims.pop()
        delay = chance.uniform(0.2, 12 if verb == "up" else 2.5)
        after = chance.choice(("up", "down"))
        told = f"{number}: {verb}, after {delay:.1f} s {victim.__name__}, then {after}"
        print(told, flush=True)  # noqa: T201 (what a run by hand wants to see)
        command = project.start(verb)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(delay)
        victim(project)
        command.wait(300)
        wait_until_idle(project)
        project.run(after, "--purge" if after == "down" and chance.random() < 0.3 else "-v", timeout=300)
        is_up = after == "up"
        if is_up:
            assert project.states() == GUESTS, told
            assert project.inside("pair-0", "hostname") == "mortal-pair-0", told
        else:
            await_end(project)
            assert not changes(before, inventory(project.host)), told
    project.run("down", "--purge")
    await_end(project)
    assert not changes(before, inventory(project.host))
