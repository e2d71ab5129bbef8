"""Facts about the host. Runs in the threads of a libvirt connection."""

from __future__ import annotations

from typing import Any

from kvmcompose.providers.libvirt.interface import HypervisorFacts


def facts(connection: Any) -> HypervisorFacts:
    """Return processors, memory and versions."""
    _, memory_mb, cpus, *_ = connection.getInfo()
    versions = {"libvirt": connection.getLibVersion(), connection.getType(): connection.getVersion()}
    version = ", ".join(f"{name} {_dotted(number)}" for name, number in versions.items())
    return HypervisorFacts(cpus=cpus, memory_mb=memory_mb, version=version)


def _dotted(number: int) -> str:
    """Format a version as libvirt encodes it: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
