"""Guests as what runs them sees them, whatever that is."""

from __future__ import annotations

import msgspec

#: The states of a guest that has memory.
ON = ("running", "paused", "pmsuspended")
#: The state of an instance that is not there any more.
GONE = "gone"


class HostSize(msgspec.Struct, frozen=True, kw_only=True):
    """A host as what runs guests on it sees it. ``memory_mb`` is the total, in MiB."""

    cpus: int
    memory_mb: int


class Instance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A guest of a project on a host. ``state`` is ``running``, ``paused``, ``shut off`` or ``crashed``.

    A runtime may have other states, but no other words for these. ``name`` is its name on the host, and
    ``guest`` the identity of the guest, or its name where the runtime is asked by a view. ``reason`` says why
    it is in its state, where that is known. ``made`` is what it was made from, in terms of its provider, and
    "" without. ``uptime`` is in seconds; ``boot`` tells its starts apart, and is "" where that is not known.
    ``cpu_seconds`` were used since its start. ``memory_mb`` is resident on the host and ``used_mb`` used in
    the guest, in MiB.
    """

    name: str
    guest: str
    state: str
    reason: str | None = None
    made: str = ""
    uptime: float | None = None
    boot: str = ""
    cpu_seconds: float | None = None
    memory_mb: int | None = None
    used_mb: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an instance uses: processor time since its start in seconds, memory in MiB."""

    cpu_seconds: float
    memory_mb: int


class Measured(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance of any project with what it has used since its start. See ``Instance``.

    ``health`` is what its runtime says, "" where that says nothing. ``memory`` is resident on the host and
    ``used`` is used in the guest, in bytes. ``reads`` and ``writes`` are requests to its disks. Received and
    sent is what the guest has received and sent. None: not known.
    """

    project: str
    name: str
    state: str
    health: str = ""
    uptime: float | None = None
    cpu_seconds: float | None = None
    memory: int | None = None
    used: int | None = None
    reads: int | None = None
    read_bytes: int | None = None
    writes: int | None = None
    written_bytes: int | None = None
    received_packets: int | None = None
    received_bytes: int | None = None
    sent_packets: int | None = None
    sent_bytes: int | None = None


class HostMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What something that runs guests measures on a host, in one look: the guests of all projects."""

    size: HostSize
    instances: tuple[Measured, ...]


class InstanceEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state that an instance has got into, as in ``Instance``; or ``GONE``.

    ``boot`` tells its starts apart, as there; it is "" where instances lose nothing by a restart.
    """

    name: str
    guest: str
    state: str
    reason: str | None = None
    boot: str = ""
