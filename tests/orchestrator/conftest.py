"""A built project and the internals of a server with a fake host: no process, no socket."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
import pytest

# The golden projects are a package in the parent folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench
from kvmcompose.core.commands import Command
from kvmcompose.core.deployment import Action, ActionState, Deployment, LogLine, NewDeployment, TestbedStatus
from kvmcompose.hosts.blob_store import HOSTED
from kvmcompose.hosts.fake_world import World
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.server.actions import Actions
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.store import Store
from orchestrator.projects import built_project

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image: {name: debian_12, setup_script: setup.sh, run_script: run.sh}
  - name: db
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: alone
    interfaces: [{bridge: br2}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling:
        count: 2
        shared_setup: shared.sh
        interfaces: [{bridge: br0, clones: [0, 1]}]
        clone_setup: [{script: clone.sh, clones: [0, 1]}]
        clone_run: [{script: run.sh, clones: [1]}]
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""

CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    scripts = ("setup", "run", "shared", "clone")
    return built_project(tmp_path_factory.mktemp("template"), YAML, CONFIG, scripts)


class Lab:
    """A project and a server with a fake host. ``killed`` restarts the server with its stored state."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.folder = bench.folder
        self._directory = directory
        self.drivers = FakeDrivers(directory / "world.json")
        self.store = Store(directory / "server.sqlite")
        self.store.put_deployment(NewDeployment("lab", str(self.folder)))
        self.orchestrator = Orchestrator(self.drivers, self.store)

    @classmethod
    @contextmanager
    def copied(cls, project: Bench, directory: Path) -> Iterator[Self]:
        """A lab with a copy of a project that was built before."""
        folder = directory / "lab"
        shutil.copytree(project.folder, folder, symlinks=True)
        lab = cls(Bench(project.root, folder), directory)
        try:
            yield lab
        finally:
            lab.store.close()

    def restart(self) -> None:
        """Simulate that the server was killed, and restart it."""
        self.store.close()
        self.drivers = FakeDrivers(self._directory / "world.json")
        self.store = Store(self._directory / "server.sqlite")
        self.store.interrupt()
        self.orchestrator = Orchestrator(self.drivers, self.store)

    @property
    def deployment(self) -> Deployment:
        found = self.store.deployment("lab")
        assert found is not None
        return found

    @property
    def world(self) -> World:
        return self.drivers.world

    def edit(self, before: str, after: str) -> None:
        """Replace a part of the YAML that occurs exactly once, and write the artefacts."""
        self.bench.edit(before, after)
        self.bench.generate()

    def do(self, command: Command, *, meanwhile: Callable[[Actions, str], None] | None = None) -> Action:
        """Run an action to its end, and return it with its failures."""

        async def run() -> Action:
            actions = Actions(self.store, self.orchestrator)
            uuid = actions.begin(self.deployment, command, "a test").uuid
            if meanwhile is not None:
                meanwhile(actions, uuid)
            await actions.wait(uuid)
            found = self.store.action(uuid)
            assert found is not None
            return found

        return asyncio.run(run())

    def must(self, command: Command) -> Action:
        """Run an action that succeeds."""
        action = self.do(command)
        assert action.state is ActionState.SUCCEEDED, action.faults
        return action

    def log(self, action: Action) -> list[LogLine]:
        return self.store.lines(action.uuid, limit=100_000)

    def text(self, action: Action) -> str:
        return "\n".join(line.text for line in self.log(action))

    def status(self) -> TestbedStatus:
        return asyncio.run(self.orchestrator.status(self.deployment))

    def disk(self, name: str, host: str = "one") -> str:
        """The key of a disk of the project in a host's world."""
        folder = self.folder if host == "one" else HOSTED / "lab"
        return str(folder / "artefacts" / name)

    def running(self) -> set[str]:
        return {domain.guest for domain in self.world.domains.values() if domain.started}

    def assert_clean(self) -> None:
        """Check that only the disks of the project remain."""
        empty = World(disks=self.world.disks)
        assert msgspec.to_builtins(self.world) == msgspec.to_builtins(empty)


@pytest.fixture(scope="session")
def new_lab() -> type[Lab]:
    """Return a factory of labs with another project."""
    return Lab


@pytest.fixture
def lab(template: Bench, tmp_path: Path) -> Iterator[Lab]:
    with Lab.copied(template, tmp_path) as lab:
        yield lab
