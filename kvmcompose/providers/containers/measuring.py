"""What the containers of a host have used, for metrics.

An engine measures one container at a time, and only interfaces that it has made. Those of containers here are
others, and are read from /proc, for all containers at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from docker import APIClient
from docker.errors import APIError, NotFound

from kvmcompose.core.instance import HostMeasures, HostSize, Measured, Usage
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.containers import rows
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.labels import PROJECT_LABEL

#: A line of ``/proc/PID/net/dev`` behind its path: the process, the interface, and sixteen numbers.
_INTERFACE = re.compile(r"/proc/([0-9]{1,10})/net/dev:\s*([^\s:]+):([\s0-9]+)$")
_COLUMNS, _DIGITS = 16, 20


async def measures(
    facts: EngineFacts, found: Sequence[tuple[int, Measured]], runner: CommandRunner
) -> HostMeasures:
    """Return the containers that ``measured`` has found on a host, with what their interfaces counted."""
    interfaces = await _interfaces([pid for pid, _ in found if pid], runner)
    return HostMeasures(
        size=HostSize(cpus=facts.cpus, memory_mb=facts.memory_mb),
        instances=tuple(_with_interfaces(each, interfaces.get(pid)) for pid, each in found),
    )


async def _interfaces(pids: Sequence[int], runner: CommandRunner) -> Mapping[int, tuple[int, int, int, int]]:
    """Return what processes have received and sent; those that have ended are missing."""
    if not pids:
        return {}
    paths = [f"/proc/{pid}/net/dev" for pid in pids]
    shown = await runner.run(["grep", "-sH", ":", *paths], check=False)
    return interfaces_in(shown.text)


def listed(client: APIClient) -> list[str]:
    """Return the IDs of the containers that projects have made."""
    found = client.containers(all=True, filters={"label": [PROJECT_LABEL]})
    return [str(row["Id"]) for row in found if _is_own(row)]


def _is_own(row: Mapping[str, Any]) -> bool:
    labels = row.get("Labels") or {}
    return rows.is_of(str(labels.get(PROJECT_LABEL)), rows.name_in(row), labels)


def measured(client: APIClient, container: str, *, limits: bool) -> tuple[int, Measured] | None:
    """Return the process of a container and what it has used; None for one that has gone.

    Without ``limits``, the engine measures nothing.
    """
    try:
        row = client.inspect_container(container)
    except NotFound:
        return None
    pid = rows.observed_in(row).pid
    stats = None
    if pid and limits:
        try:
            stats = client.stats(container, stream=False, one_shot=True)
        except APIError as error:
            if not _has_ended(error):
                raise
    return pid, measured_in(row, stats, time.time())


def used(client: APIClient, container: str) -> tuple[str, Usage] | None:
    """Return the ID of a container and what it uses; None for one that ends just now."""
    try:
        return container, rows.usage_in(client.stats(container, stream=False, one_shot=True))
    except APIError as error:
        if _has_ended(error):
            return None
        raise


def _has_ended(error: APIError) -> bool:
    """Return whether an engine has no statistics since the container ends just now."""
    status = error.status_code or 0
    return status == HTTPStatus.NOT_FOUND or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _with_interfaces(measured: Measured, counted: tuple[int, int, int, int] | None) -> Measured:
    if counted is None:
        return measured
    received_bytes, received_packets, sent_bytes, sent_packets = counted
    return msgspec.structs.replace(
        measured,
        received_bytes=received_bytes,
        received_packets=received_packets,
        sent_bytes=sent_bytes,
        sent_packets=sent_packets,
    )


def measured_in(found: Mapping[str, Any], stats: Mapping[str, Any] | None, now: float) -> Measured:
    """Return a container with what it has used, from its answers of ``/containers/ID/json`` and ``…/stats``.

    Requests are not measured where the kernel's control groups do not count them.
    """
    container = rows.observed_in(found)
    labels = (found.get("Config") or {}).get("Labels") or {}
    runs = container.pid and container.started is not None
    made = Measured(
        project=str(labels.get(PROJECT_LABEL, "")),
        name=container.name,
        state=container.state,
        health=container.health if container.pid else "",
        uptime=max(0.0, now - (container.started or 0.0)) if runs else None,
    )
    if stats is None or not container.pid:
        return made
    blocks = stats.get("blkio_stats") or {}
    return msgspec.structs.replace(
        made,
        cpu_seconds=rows.cpu_seconds(stats),
        memory=rows.memory_of(stats),
        reads=_blocks(blocks, "io_serviced_recursive", "read"),
        read_bytes=_blocks(blocks, "io_service_bytes_recursive", "read"),
        writes=_blocks(blocks, "io_serviced_recursive", "write"),
        written_bytes=_blocks(blocks, "io_service_bytes_recursive", "write"),
    )


def _blocks(blocks: Mapping[str, Any], counter: str, verb: str) -> int | None:
    """Return the sum of a counter over the block devices; None where the engine has none."""
    counted = blocks.get(counter)
    if not isinstance(counted, list):
        return None
    return sum(int(each.get("value") or 0) for each in counted if str(each.get("op", "")).lower() == verb)


def interfaces_in(shown: str) -> dict[int, tuple[int, int, int, int]]:
    """Return what was received and sent, by process: bytes and packets, bytes and packets (proc_pid_net(5)).

    ``shown`` has lines of ``/proc/PID/net/dev``, each with this path in front, as grep(1) shows them. The
    loopback interface does not count.
    """
    found: dict[int, tuple[int, int, int, int]] = {}
    for line in shown.splitlines():
        match = _INTERFACE.match(line)
        if match is None or match[2] == "lo":
            continue
        numbers = [int(each) for each in match[3].split() if len(each) <= _DIGITS]
        if len(numbers) < _COLUMNS:
            continue
        before = found.get(int(match[1]), (0, 0, 0, 0))
        now = (numbers[0], numbers[1], numbers[8], numbers[9])
        found[int(match[1])] = (
            before[0] + now[0], before[1] + now[1], before[2] + now[2], before[3] + now[3]
        )  # fmt: skip
    return found
