"""Which containers are a project's: no other one is ever touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from docker import APIClient

from kvmcompose.core.names import first_few
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers import rows
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.labels import NAME_LABEL, PROJECT_LABEL

_T = TypeVar("_T")


class ContainerOwnership:
    """The containers of projects in one engine. ``host`` is the name of its host, for messages."""

    def __init__(self, engine: EngineConnection, host: str) -> None:
        self._engine = engine
        self._host = host

    async def look(self, project: str, name: str, doing: str, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        """Return what ``read`` finds in the answer about a container of the project. Raises DriverError."""

        def look(client: APIClient) -> _T:
            found = client.inspect_container(name)
            self.check(project, name, found, doing)
            return read(found)

        return await self._engine.call(doing, look)

    def check(self, project: str, name: str, found: Mapping[str, Any], doing: str) -> None:
        """Raise DriverError for a container that is not the project's, or has the name as part of its ID."""
        labels = (found.get("Config") or {}).get("Labels") or {}
        if str(found.get("Name", "")).removeprefix("/") != name:
            raise DriverError(f"cannot {doing}: there is no container of that name")
        if rows.is_of(project, name, labels):
            return
        owner = labels.get(PROJECT_LABEL) if labels.get(NAME_LABEL) == name else None
        whose = f"the project {first_few([owner])} has" if owner else "another container has"
        raise DriverError(
            f"cannot {doing}: {whose} this name on {self._host}",
            hint="rename or remove that one, or give the project another name: --project-name",
        )


def identity_in(row: Mapping[str, Any]) -> str:
    """Return the ID in an answer about a container."""
    return str(row["Id"])
