"""What an engine says about containers and images, as our types (Docker Engine API, v1.41)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kvmcompose.core.instance import Usage
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.interface.containers import ObservedContainer
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.containers.labels import (
    BUILD_LABEL,
    GUEST_LABEL,
    MADE_LABEL,
    NAME_LABEL,
    PROJECT_LABEL,
)

_MIB = 1 << 20
_NANOSECONDS = 1e9
#: Exit statuses of a process that a signal killed are this and its number.
_SIGNALLED = 128
#: The longest reason of an engine that is kept, in characters.
_LONGEST = 300
#: What Podman puts in front of names that Docker shows without.
_SHOWN_BY_PODMAN = ("localhost/", "docker.io/library/", "docker.io/")
_HEALTHS = ("starting", "unhealthy", "healthy")
#: What Podman calls the states of Docker's.
_STATES = {"stopped": "exited", "configured": "created", "initialized": "created", "stopping": "running"}


def facts_in(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineFacts:
    """Return the facts in the answers of ``/info`` and ``/version``."""
    rootless = any("rootless" in str(each) for each in info.get("SecurityOptions") or ())
    rootless = rootless or bool(info.get("Rootless"))
    return EngineFacts(
        engine="Podman" if is_podman(version) else "Docker",
        version=str(version.get("Version", "")),
        rootless=rootless,
        cpus=int(info.get("NCPU") or 0),
        memory_mb=int(info.get("MemTotal") or 0) // _MIB,
        limits=bool(info.get("MemoryLimit")) and not (rootless and str(info.get("CgroupVersion")) == "1"),
    )


def is_podman(version: Mapping[str, Any]) -> bool:
    """Return whether the engine with this answer of ``/version`` is Podman's service."""
    return any("Podman" in str(each.get("Name", "")) for each in version.get("Components") or ())


def name_in(row: Mapping[str, Any]) -> str:
    """Return the name in a row of ``/containers/json``; others are those of links to it (one more slash)."""
    names = [str(each).removeprefix("/") for each in row.get("Names") or ()]
    return next((name for name in names if "/" not in name), "")


def is_of(project: str, name: str, labels: Mapping[str, Any] | None) -> bool:
    """Return whether a container is a project's: one of an image that the project made is not."""
    return labels is not None and (labels.get(PROJECT_LABEL), labels.get(NAME_LABEL)) == (project, name)


def observed_in(found: Mapping[str, Any]) -> ObservedContainer:
    """Return the container in an answer of ``/containers/ID/json``."""
    state = found.get("State") or {}
    labels = (found.get("Config") or {}).get("Labels") or {}
    health = state.get("Health") or state.get("Healthcheck") or {}
    runs = bool(state.get("Running")) or bool(state.get("Paused"))
    status = _state(state.get("Status"))
    code = None if runs or status == "created" else int(state.get("ExitCode") or 0)
    return ObservedContainer(
        name=str(found["Name"]).removeprefix("/"),
        id=str(found["Id"]),
        guest=str(labels.get(GUEST_LABEL, "")),
        state=status,
        health=_health(health.get("Status")),
        health_reason=_health_reason(health),
        made=str(labels.get(MADE_LABEL, "")),
        exit_code=code,
        reason=_reason(state, code),
        started=_seconds(state.get("StartedAt")),
        pid=int(state.get("Pid") or 0) if runs else 0,
        image=image_id(str(found.get("Image", ""))),
        restarts=int(found.get("RestartCount") or 0),
    )


def image_in(found: Mapping[str, Any]) -> FoundImage:
    """Return the image in an answer of ``/images/NAME/json``, or in a row of ``/images/json``."""
    tags = (each for each in found.get("RepoTags") or () if not each.startswith("<none>"))
    labels = found.get("Labels") or (found.get("Config") or {}).get("Labels") or {}
    return FoundImage(
        id=image_id(str(found["Id"])),
        tags=tuple(sorted(map(_short, tags))),
        digests=tuple(sorted(map(_short, found.get("RepoDigests") or ()))),
        size=int(found.get("Size") or 0),
        project=str(labels.get(PROJECT_LABEL, "")),
        build=str(labels.get(BUILD_LABEL, "")),
    )


def _short(name: str) -> str:
    found = next((each for each in _SHOWN_BY_PODMAN if name.startswith(each)), "")
    return name.removeprefix(found)


def image_id(text: str) -> str:
    """Return the ID of an image with its algorithm, which Podman leaves out."""
    return text if not text or ":" in text else f"sha256:{text}"


def usage_in(stats: Mapping[str, Any]) -> Usage:
    """Return what a container uses, from an answer of ``/containers/ID/stats``."""
    return Usage(cpu_seconds=cpu_seconds(stats), memory_mb=memory_of(stats) // _MIB)


def cpu_seconds(stats: Mapping[str, Any]) -> float:
    """Return the processor time of a container since its start."""
    cpu = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0
    return int(cpu) / _NANOSECONDS


def memory_of(stats: Mapping[str, Any]) -> int:
    """Return the memory of a container in bytes, without the cache that the kernel can drop.

    This is what ``docker stats`` shows.
    """
    memory = stats.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return max(int(memory.get("usage") or 0) - int(cache or 0), 0)


def _state(text: object) -> str:
    word = str(text or "").lower()
    return _STATES.get(word, word)


def _health(status: object) -> str:
    return str(status) if status in _HEALTHS else ""


def _health_reason(health: Mapping[str, Any]) -> str:
    """Return how the last check failed. What it printed is dropped, as that of others is."""
    checks = health.get("Log") or ()
    code = int(checks[-1].get("ExitCode") or 0) if checks else 0
    if code < 0:
        return "it did not end in time"
    return f"exit status {code}" if code else ""


def _reason(state: Mapping[str, Any], code: int | None) -> str | None:
    if code is None:
        return None
    if state.get("Error"):
        return " ".join(str(state["Error"]).split())[:_LONGEST]
    if state.get("OOMKilled"):
        return "out of memory"
    if code > _SIGNALLED:
        try:
            return f"killed by {signal.Signals(code - _SIGNALLED).name}"
        except ValueError:
            pass
    return f"exit status {code}" if code else None


def _seconds(text: object) -> float | None:
    """Return a time in seconds since 1970; None for the year 1, which stands for none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found.timestamp() if found.year > 1 and found.tzinfo is not None else None
