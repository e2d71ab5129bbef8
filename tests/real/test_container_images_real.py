"""Images of containers on two real hosts, one without a registry: from the main host, and from files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from kvm import ROOT, Project

from hosts import TestHost, TestHosts
from hosts.cluster import host_config
from hosts.tiny_image import archive, image_id, tiny_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
COMMANDS = {"docker": ("docker",), "podman": ("podman", "--url", "unix:///run/podman/podman.sock")}
YAML = """\
machines:
  - name: here
    interfaces: [{bridge: br0}]
    docker: {image: "%(image)s", command: &waits [sh, -c, "trap 'exit 0' TERM; sleep 4444 & wait"]}
  - name: there
    interfaces: [{bridge: br1}]
    docker: {image: "%(image)s", command: *waits}
  - name: file-here
    interfaces: [{bridge: br0}]
    docker: {image: "docker-archive:${PWD}/tiny.tar", command: *waits}
  - name: file-there
    interfaces: [{bridge: br1}]
    docker: {image: "docker-archive:tiny.tar", command: *waits}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
testbed_options: {placement: {pin: {br0: one, br1: two}}}
"""
ALL = ("here", "there", "file-here", "file-there")
SERVES = """\
import sys, time, registry
with registry.serving(open(sys.argv[1], "rb").read()) as served:
    print(served.address, served.digest, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    directory = tmp_path_factory.mktemp("short")
    with TestHosts(2, directory=directory, ssh=True, tunnels=True, docker=True, podman=True) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def registry(hosts: TestHosts) -> Iterator[tuple[str, str]]:
    """Yield the address of a registry on the first host alone, and the digest of its image."""
    environment = ["env", f"PYTHONPATH={ROOT / 'tests' / 'real'}"]
    argv = [*environment, sys.executable, "-c", SERVES, str(tiny_image())]
    with hosts[0].popen(argv, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        address, digest = serving.stdout.readline().decode().split()
        yield address, digest
        serving.kill()


class Lab:
    """A testbed of containers on two hosts, in one of the engines."""

    def __init__(self, hosts: TestHosts, engine: str, root: Path, yaml: str, lock: str) -> None:
        config = host_config(list(hosts), hosts.directory / "id_ed25519")
        for each in config.values():
            each["container_engine"] = engine
        files = {
            "kvm-compose.yaml": yaml,
            "kvm-compose-config.json": json.dumps({"testbed_host_ssh_config": config}),
            "images.lock": lock,
        }
        self.hosts, self.engine = hosts, COMMANDS[engine]
        self.project = Project(hosts[0], root, "lab", files)
        self.put_image(b"one")

    def put_image(self, content: bytes) -> str:
        """Write an archive that would take the name of an image of others, and return its image's ID."""
        written = archive("tiny:1", {"etc/content": content})
        (self.project.folder / "tiny.tar").write_bytes(written)
        with tarfile.open(fileobj=io.BytesIO(written)) as tar:
            (config,) = (entry for entry in tar if entry.name.endswith(".json") and len(entry.name) > 60)
            return f"sha256:{config.name.removesuffix('.json')}"

    def do(self, host: TestHost, *words: str) -> list[str]:
        return host.run([*self.engine, *words]).stdout.splitlines()

    def images(self, host: TestHost) -> set[str]:
        rows = self.do(host, "images", "--all", "--no-trunc", "--format", "{{.ID}}")
        return {f"sha256:{row.removeprefix('sha256:')}" for row in rows}

    def tags(self, host: TestHost) -> set[str]:
        rows = self.do(host, "images", "--format", "{{.Repository}}:{{.Tag}}")
        return {row for row in rows if "<none>" not in row}


@pytest.mark.parametrize("engine", ["docker", "podman"] if LONG else ["docker"])
def test_images_come_from_the_main_host_and_from_files(
    hosts: TestHosts, registry: tuple[str, str], engine: str, tmp_path: Path
) -> None:
    address, digest = registry
    image, lock, reference = f"{address}/tiny:1", f"{address}/tiny:1: {digest}\n", f"{address}/tiny@{digest}"
    if engine == "podman":  # which takes no image from a registry without TLS: one that the main host has
        image, lock, reference = "tiny:1", "", "tiny:1"
    lab = Lab(hosts, engine, tmp_path, YAML % {"image": image}, lock)
    project, (one, two) = lab.project, hosts
    first = lab.put_image(b"one")
    lab.do(one, "load", "-i", str(tiny_image()))  # an image of somebody, with the name in the archive
    try:
        assert "up would send 2.0 MiB to two" in project.run("plan").stderr
        said = project.run("up").stderr
        assert f"{reference} is {image_id()}" in said
        assert f"{first}: " in said
        assert project.json("status")["differences"] == []
        # by their content: no name was made on the host, and none was taken
        assert lab.images(two) == {image_id(), first}
        assert lab.tags(two) == set()
        (tagged,) = lab.do(one, "images", "--no-trunc", "--format", "{{.ID}}", "tiny:1")
        assert image_id().removeprefix("sha256:") in tagged
        assert project.inside("there", "ls", "/etc/group") == "/etc/group"
        assert project.inside("file-there", "cat", "/etc/content") == "one"
        assert "nothing to do" in project.run("up").stderr

        second = lab.put_image(b"two")
        said = project.run("up").stderr
        assert "guest file-there: replace: the image docker-archive:tiny.tar has changed" in said
        assert "guest there" not in said
        assert project.inside("file-there", "cat", "/etc/content") == "two"
        assert second in lab.images(one) & lab.images(two)
    finally:
        project.run("down", status=None)
    assert {image_id(), first, second} <= lab.images(two)
