"""Volumes of containers on another real host: Docker on the main host, Podman on the other one, or Docker."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from kvm import Project

from hosts import TestHost, TestHosts
from hosts.cluster import host_config
from hosts.tiny_image import tiny_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
WAITS = "trap 'exit 0' TERM; sleep 4444 & wait"
YAML = f"""\
machines:
  - name: near
    interfaces: [{{bridge: br0}}]
    docker:
      image: "tiny:1"
      command: [sh, -c, "{WAITS}"]
      volumes: [{{source: data, target: /data}}]
  - name: far
    interfaces: [{{bridge: br1}}]
    docker:
      image: "tiny:1"
      command: [sh, -c, "{WAITS}"]
      volumes:
        - {{source: "${{PWD}}/html", target: /www, read_only: true}}
        - {{source: data, target: /data}}
        - {{source: app.conf, target: /etc/app.conf, read_only: true}}
network:
  bridges: [{{name: br0}}, {{name: br1}}]
  bridge_connections: {{br0: br1}}
testbed_options:
  placement: {{pin: {{br0: one, br1: two}}}}
"""
COMMANDS = {"docker": ("docker",), "podman": ("podman", "--url", "unix:///run/podman/podman.sock")}
HOSTED = "/var/lib/kvm-compose/.hosted/lab"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    folder = tmp_path_factory.mktemp("vols")
    with TestHosts(2, directory=folder, ssh=True, tunnels=True, docker=True, podman=True) as hosts:
        yield hosts


def lab(hosts: TestHosts, engine: str, root: Path, key: Path) -> Project:
    config = host_config(hosts, hosts.directory / "id_ed25519")
    config["one"]["container_engine"], config["two"]["container_engine"] = "docker", engine
    for host, name in zip(hosts, ("docker", engine), strict=True):
        host.run([*COMMANDS[name], "load", "-i", tiny_image()])
    keys = {"ssh_public_key_location": "key.pub", "ssh_private_key_location": "key"}
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": json.dumps({"testbed_host_ssh_config": config, **keys}),
        "html/index": "a page\n",
        "data/seed": "from the project\n",
        "app.conf": "key = 1\n",
    }
    project = Project(hosts[0], root, "lab", files)
    for name, source in (("key", key), ("key.pub", key.with_suffix(".pub"))):
        shutil.copy(source, project.folder / name)
    return project


def ids(host: TestHost, engine: str) -> list[str]:
    return host.run([*COMMANDS[engine], "ps", "--no-trunc", "--quiet"]).stdout.split()


@pytest.mark.parametrize("engine", ["podman", "docker"] if LONG else ["podman"])
def test_volumes_on_another_host(hosts: TestHosts, engine: str, ssh_key: Path, tmp_path: Path) -> None:
    project, two = lab(hosts, engine, tmp_path, ssh_key), hosts[1]
    project.run("up")
    assert project.inside("far", "cat", "/www/index", "/data/seed", "/etc/app.conf") == (
        "a page\nfrom the project\nkey = 1"
    )
    project.inside("far", "sh", "-c", "! echo x >/www/index")
    assert project.run("plan", "--detailed-exitcode").returncode == 0
    before = ids(two, engine)

    # a container writes, and puts a link, a pipe and a file of its own in places of the project
    theirs = "echo theirs >/data/log; ln -s /etc /data/conf; mkfifo /data/pipe; echo more >>/data/seed"
    project.inside("far", "sh", "-c", theirs)
    for path, text in {
        "html/index": "another page\n",
        "app.conf": "key = 2, and more\n",
        "data/conf/of-the-lab": "in a folder\n",
        "data/pipe": "no pipe\n",
        "data/seed": "from the project, again\n",
    }.items():
        project.write(path, text)
    planned = project.run("plan", "--detailed-exitcode", status=2).stdout
    assert "html/index has changed" in planned
    said = project.run("up").stderr
    assert "data/seed was changed on two, too: that one is beside it, as seed.orig" in said
    assert ids(two, engine) == before
    assert project.inside("far", "cat", "/www/index", "/etc/app.conf") == "another page\nkey = 2, and more"
    listed = project.inside("far", "sh", "-c", "cd /data && ls -d * && cat seed seed.orig log pipe conf/*")
    assert listed.splitlines() == [
        "conf", "conf.orig", "log", "pipe", "pipe.orig", "seed", "seed.orig",
        "from the project, again", "from the project", "more", "theirs", "no pipe", "in a folder",
    ]  # fmt: skip
    two.run(["test", "!", "-e", "/etc/of-the-lab"])
    assert project.json("status")["differences"] == []

    # what containers have written outlives the testbed
    project.run("down")
    assert ids(two, engine) == []
    project.run("up")
    assert project.inside("far", "cat", "/data/log") == "theirs"
    project.run("cp", "far:/data/log", str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "theirs\n"
    project.run("down", "--purge")
    two.run(["test", "!", "-e", HOSTED])
    assert (project.folder / "data/seed").read_text() == "from the project, again\n"
