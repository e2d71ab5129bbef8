"""What a scrape shows, before it is written in a format."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvmcompose.core.deployment import Deployment
from kvmcompose.server.action_counts import Ended
from kvmcompose.server.orchestrator.metering import TestbedFigures


class DeploymentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrape shows of a deployment. ``testbed`` is None while it is down or not ``readable``.

    ``running`` are the commands of actions that run, ``ended`` those that have ended, by command.
    """

    deployment: Deployment
    testbed: TestbedFigures | None
    readable: bool
    running: tuple[str, ...]
    ended: Mapping[str, Ended]


class ServerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrape shows of the server itself. ``answered``: by method, route and status."""

    version: str
    answered: Mapping[tuple[str, str, int], int]
    requests: int
    websockets: int
    event_sockets: int
