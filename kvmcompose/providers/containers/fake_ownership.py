"""Which containers of a simulated host are a project's."""

from __future__ import annotations

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeContainer


def own(host: SimulatedHost, project: str, name: str, verb: str) -> FakeContainer:
    """Return a container of the project, to ``verb`` it. Raises DriverError."""
    doing = f"{verb} the container {name}"
    if name not in host.world.containers:
        raise DriverError(f"cannot {doing}: No such container: {name}")
    refuse_foreign(host, project, name, doing)
    return host.world.containers[name]


def refuse_foreign(host: SimulatedHost, project: str, name: str, doing: str) -> None:
    """Raise DriverError for a container of another project."""
    if host.world.containers[name].project != project:
        raise DriverError(f"cannot {doing}: another container has this name")
