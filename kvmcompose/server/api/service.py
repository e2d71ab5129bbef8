"""What the API does: which deployments there are, and what may be asked of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

from kvmcompose.core.deployment import (
    PROJECT_PATTERN,
    Action,
    Capture,
    Command,
    Deployment,
    Health,
    LogLine,
    NewDeployment,
    Step,
)
from kvmcompose.core.errors import RefusedError
from kvmcompose.server.actions import Actions, BusyError, NotFoundError
from kvmcompose.server.api.cluster import ClusterConfig
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.orchestrator.captures import Packets, WrongCaptureError
from kvmcompose.server.store import Store

_PROJECT = re.compile(PROJECT_PATTERN)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Service:
    """A server without its front door. Raises NotFoundError, RefusedError, ApiError."""

    def __init__(
        self,
        store: Store,
        actions: Actions,
        orchestrator: Orchestrator,
        cluster: ClusterConfig,
        *,
        project_roots: tuple[Path, ...],
        health: Health,
    ) -> None:
        self._store = store
        self._actions = actions
        self.orchestrator = orchestrator
        self.cluster = cluster
        self._roots = tuple(root.resolve() for root in project_roots)
        self.health = health
        #: Set when the server is about to end: what would go on for ever has to end.
        self.stopping = asyncio.Event()

    # -- deployments

    def deployments(self) -> list[Deployment]:
        """All of them, by name."""
        return self._store.deployments()

    def deployment(self, name: str) -> Deployment:
        """One of them."""
        found = self._store.deployment(name) if _PROJECT.match(name) else None
        if found is None:
            raise NotFoundError(
                f"there is no deployment {name!r}", hint="`kvm-compose up` in its folder makes one known"
            )
        return found

    def create(self, new: NewDeployment) -> Deployment:
        """Make a deployment known under a name that is free."""
        if self._store.deployment(new.name) is not None:
            raise RefusedError(f"there is a deployment {new.name!r} already")
        return self._put(new, self._folder(new.project_location))

    def put(self, new: NewDeployment) -> tuple[Deployment, bool]:
        """Make a deployment known, or give it another folder while it is down; whether it is a new one."""
        known = self._store.deployment(new.name)
        folder = self._folder(new.project_location)
        if known is not None and known.project_location == str(folder):
            return known, False
        if known is not None:
            self._check_idle(known)
            try:
                self.orchestrator.check_removal(known)
            except RefusedError as error:
                raise RefusedError(
                    f"the deployment {new.name!r} is that of {known.project_location}: {error.message}",
                    hint=error.hint,
                ) from error
        return self._put(new, folder), known is None

    def _put(self, new: NewDeployment, folder: Path) -> Deployment:
        for other in self._store.deployments():
            if other.project_location == str(folder) and other.name != new.name:
                raise RefusedError(
                    f"{folder} is the deployment {other.name!r} already",
                    hint="a folder is one deployment; remove the other one first, or use its name",
                )
        return self._store.put_deployment(NewDeployment(new.name, str(folder)))

    def _folder(self, location: str) -> Path:
        """The project's folder with links resolved, if projects may lie there."""
        try:
            folder = Path(location).resolve()
            allowed = any(folder.is_relative_to(root) for root in self._roots)
            found = allowed and folder.is_dir()
        except (OSError, ValueError, RuntimeError) as error:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: no folder can be there: {error}"
            ) from error
        if not allowed:
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"{location!r} is not in a folder whose projects this server runs",
                hint="start the server with --project-root and a folder that the project lies in",
            )
        if not found:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: there is no such folder")
        return folder

    def remove(self, name: str) -> None:
        """Forget a deployment of which nothing is up."""
        deployment = self.deployment(name)
        self._check_idle(deployment)
        self.orchestrator.check_removal(deployment)
        self._store.remove_deployment(name)

    def _check_idle(self, deployment: Deployment) -> None:
        running = self._actions.running(deployment.name)
        if running is not None:
            raise BusyError(running)

    async def capture(self, name: str, wanted: Capture) -> Packets:
        """Packets of a deployment, from now on."""
        deployment = self.deployment(name)
        try:
            return await self.orchestrator.capture(deployment, wanted)
        except WrongCaptureError as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, hint=error.hint) from error

    # -- actions

    def act(self, name: str, command: Command, who: str | None) -> Action:
        """Begin an action. The folder must still be the one that was made known."""
        deployment = self.deployment(name)
        folder = self._folder(deployment.project_location)
        if str(folder) != deployment.project_location:
            raise ApiError(HTTPStatus.FORBIDDEN, f"{deployment.project_location} leads to {folder} now")
        return self._actions.begin(deployment, command, who)

    def actions(self, name: str) -> list[Action]:
        """A deployment's actions, the latest first."""
        return self._store.actions(self.deployment(name).name)

    def action(self, name: str, uuid: str) -> Action:
        """One of its actions."""
        deployment = self.deployment(name)
        found = self._store.action(uuid) if _UUID.fullmatch(uuid) else None
        if found is None or found.deployment != deployment.name:
            raise NotFoundError(
                f"{name}: there is no action {uuid!r}", hint="only the latest ones are remembered"
            )
        return found

    def cancel(self, name: str, uuid: str) -> Action:
        """Stop an action, if it runs."""
        action = self.action(name, uuid)
        self._actions.cancel(uuid)
        return action

    def steps(self, name: str, uuid: str) -> list[Step]:
        """An action's steps so far."""
        return self._store.steps(self.action(name, uuid).uuid)

    def lines(self, name: str, uuid: str, *, after: int, limit: int) -> list[LogLine]:
        """Some of an action's log."""
        return self._store.lines(self.action(name, uuid).uuid, after=after, limit=limit)

    def follow(self, name: str, uuid: str, after: int) -> AsyncIterator[LogLine]:
        """An action's log, until it ends."""
        return self._actions.follow(self.action(name, uuid).uuid, after)
