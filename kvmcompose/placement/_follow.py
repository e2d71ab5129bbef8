"""Place guests on the hosts of their bridges."""

from __future__ import annotations

from kvmcompose.core.model import Guest, LogicalTestbed


def segments_of(guest: Guest) -> tuple[str, ...]:
    """Return the segments that a guest is on, each once, in order."""
    return tuple(dict.fromkeys(attachment.segment for attachment in guest.attachments))


def sharers(testbed: LogicalTestbed) -> dict[str, list[Guest]]:
    """Return the guests that share each disk, by its name."""
    found: dict[str, list[Guest]] = {}
    for guest in testbed.guests:
        for disk in guest.shared_disks if segments_of(guest) else ():
            found.setdefault(disk, []).append(guest)
    return found


def guests_follow(testbed: LogicalTestbed, segments: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the hosts of guests, which are those of their segments, and the reasons.

    Golden images have no segment: they are set up on the main host, before their clones are placed.
    """
    hosts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    archs = {host.name: host.arch for host in testbed.hosts}
    for guest in testbed.guests:
        on = segments_of(guest)
        if on:
            host = hosts[guest.name] = segments[on[0]]
            reasons[guest.name] = f"is on {', '.join(on)}{_emulated(guest, host, archs[host])}"
        else:
            host = hosts[guest.name] = testbed.main_host.name
            emulated = _emulated(guest, host, archs[host])
            reasons[guest.name] = f"golden images are set up on the main host{emulated}"
    return hosts, reasons


def _emulated(guest: Guest, host: str, arch: str) -> str:
    """Return a note about a guest that its host emulates, because it has another architecture."""
    if guest.arch in (None, arch):
        return ""
    return f"; emulated, as {host} is {arch} and not {guest.arch}"
