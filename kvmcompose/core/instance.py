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


class InstanceEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state that an instance has got into, as in ``Instance``; or ``GONE``.

    ``boot`` tells its starts apart, as there; it is "" where instances lose nothing by a restart.
    """

    name: str
    guest: str
    state: str
    reason: str | None = None
    boot: str = ""
