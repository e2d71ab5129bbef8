"""A server whose hosts are simulated, in a thread of the test, and projects for it.

The simulated hosts are at hand: a test lets calls fail (``fail``), take time (``delay``), or changes what is
on a host (``change``) as someone would by hand.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from stub import StubServer

from kvmcompose.core.commands import Command, Down, Up
from kvmcompose.core.deployment import Action, ActionState, NewDeployment
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeDomain, World
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.people import Role
from kvmcompose.server.project_commands import ProjectCommands
from kvmcompose.server.tokens import Tokens
from orchestrator.projects import built_project

_GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
_CONTAINER = """\
  - {{name: {name}, interfaces: [{{bridge: br0}}], docker: {{image: nginx}}}}
"""


def names(count: int) -> list[str]:
    """Return the names of the guests of ``build``."""
    return [f"g{number:03}" for number in range(count)]


def build(root: Path, *, guests: int, hosts: int, containers: int = 0) -> Path:
    """Return a built project: guests ``g000``…, on bridges ``br0``…, on hosts ``h0`` (the main host)…

    There are two bridges for each host, connected in a row; the guests take turns at them. Containers are
    ``c000``…, on the first bridge.
    """
    bridges = [f"br{number}" for number in range(2 * hosts)]
    machines = "".join(
        _GUEST.format(name=name, bridge=bridges[number % len(bridges)])
        for number, name in enumerate(names(guests))
    ) + "".join(_CONTAINER.format(name=f"c{number:03}") for number in range(containers))
    connections = {after: before for before, after in pairwise(bridges)}
    network = {
        "bridges": [{"name": name} for name in bridges],
        "bridge_connections": connections,
        "external_bridge": bridges[0],
    }
    config = {
        "testbed_host_ssh_config": {
            f"h{number}": {
                "ip": f"192.0.2.{number + 1}",
                "user": "root",
                "is_main_host": number == 0,
                "virt_type": "kvm",
            }
            for number in range(hosts)
        },
        "ssh_public_key_location": "keys/id_ed25519.pub",
        "ssh_private_key_location": "keys/id_ed25519",
    }
    yaml = f"machines:\n{machines}network: {json.dumps(network)}\n"
    return built_project(root, yaml, json.dumps(config)).folder


class FakeLab(StubServer):
    """A server with the deployment ``lab``. It is the lab of the test: it may be broken."""

    drivers = "fake"
    name = "lab"

    def __init__(self, folder: Path, project: Path) -> None:
        super().__init__(folder)
        self.projects = project.parent
        self.project_folder = project
        self.hosts = FakeDrivers()
        #: What the users' tokens are, by name.
        self.tokens: dict[str, str] = {}

    def orchestrator(self) -> Orchestrator:
        """Return one for the simulated hosts, which go on while the server is stopped."""
        return Orchestrator(self.hosts, self.store)

    def commands(self) -> ProjectCommands:
        """Return what runs the real command line."""
        return ProjectCommands(self.socket)

    def start(self) -> None:
        """Start the server, at the port of before if it was started before."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._ready.clear()
        super().start()
        self.client().put(NewDeployment(self.name, str(self.project_folder)))

    # -- what a test does to it

    def world(self, host: str = "") -> World:
        """Return what is on a host: on ``h1``…, or without a name on the main host."""
        return self.hosts.worlds[host]

    def domain(self, guest: str) -> FakeDomain:
        """Return the domain of a guest, to be changed in ``inside``."""
        found = [
            domain
            for world in self.hosts.worlds.values()
            for domain in world.domains.values()
            if domain.guest == guest
        ]
        assert len(found) == 1, guest
        return found[0]

    def fail(self, pattern: str, times: int | None = None) -> None:
        """Let calls to hosts fail: ``start_domain:*``, on other hosts ``h1/start_domain:*``."""
        self.inside(lambda: self.hosts.failures.append(Failure(pattern, times)))

    def mend(self) -> None:
        """Let no call fail any more."""
        self.inside(self.hosts.failures.clear)

    def delay(self, seconds: float) -> None:
        """Let each call to a host take so long."""
        self.inside(lambda: setattr(self.hosts, "delay", seconds))

    def change(self, function: Callable[[], Any]) -> Any:
        """Change the hosts by hand."""
        return self.inside(function)

    # -- what a user does with it

    def run(self, command: Command) -> Action:
        """Run an action, and return it when it has ended."""
        uuid = self.client().act(self.name, command)
        for _ in self.client().events(self.name, action=uuid, after=0):
            pass
        return self.client().action(self.name, uuid)

    def up(self) -> Action:
        """Bring it up. Returns the action, which has succeeded."""
        action = self.run(Up())
        assert action.state is ActionState.SUCCEEDED, action.faults
        return action

    def down(self) -> Action:
        """Take it down."""
        return self.run(Down())

    # -- the way of a browser

    @property
    def origin(self) -> str:
        """Return where the page is."""
        return f"http://127.0.0.1:{self.port}"

    def link(self, place: str = "") -> str:
        """Return a one-time link, as ``kvm-compose ui`` makes it, to a place: ``lab``, ``lab/file``."""
        address = self.client().make_link().address
        return f"{address}&lab={place}" if place else address

    def token(self, role: Role) -> str:
        """Return a token of a user with this role, whose are all deployments of root."""
        name = f"{role}-{len(self.tokens)}"
        user = None if role is Role.ADMIN else ("root", 0)
        secret = Tokens(self.folder / "state").create(name, role, user, None)
        self.tokens[name] = secret
        return secret


@contextmanager
def running_lab(folder: Path, project: Path) -> Iterator[FakeLab]:
    """Run a server for a built project until the block ends."""
    lab = FakeLab(folder, project)
    lab.start()
    try:
        yield lab
    finally:
        if lab._thread.is_alive():
            lab.stop()
