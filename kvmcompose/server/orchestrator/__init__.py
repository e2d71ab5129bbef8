"""Brings testbeds up and down: what the commands of a deployment do, from its state and artefacts alone."""

from __future__ import annotations

import msgspec

from kvmcompose.core.deployment import (
    Command,
    Deployment,
    GuestAccess,
    Phase,
    SnapshotStatus,
    TestbedStatus,
)
from kvmcompose.server.drivers import Drivers
from kvmcompose.server.journal import Journal
from kvmcompose.server.store import Store


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended that did not fail: where the deployment is now (None: where it was before)."""

    phase: Phase | None = None
    exit_status: int | None = None


class Orchestrator:
    """Does what is asked of deployments."""

    def __init__(self, drivers: Drivers, store: Store) -> None:
        self._drivers = drivers
        self._store = store

    async def run(self, deployment: Deployment, command: Command, journal: Journal) -> Outcome:
        """Do it, telling the journal. Raises KvmComposeError when it fails, RefusedError when nothing was
        changed; when cancelled it stops at a point from which ``up`` and ``down`` both go on.
        """
        raise NotImplementedError

    def state(self, deployment: Deployment) -> bytes:
        """The ``state.json`` of what is up, or of the project folder when nothing is."""
        raise NotImplementedError

    def access(self, deployment: Deployment) -> list[GuestAccess]:
        """How each guest is reached."""
        raise NotImplementedError

    async def status(self, deployment: Deployment) -> TestbedStatus:
        """The deployment and its guests as they are now."""
        raise NotImplementedError

    async def snapshots(self, deployment: Deployment, guest: str | None = None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all."""
        raise NotImplementedError

    def remove(self, deployment: Deployment) -> None:
        """Whether a deployment may be forgotten. Raises RefusedError while anything of it may be up."""
        raise NotImplementedError
