"""Formats actions for people: their lines, steps, times and results."""

from __future__ import annotations

from datetime import UTC, datetime

from kvmcompose.core.commands import spoken
from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Deployment,
    Fault,
    GuestStatus,
    Level,
    LogLine,
    Step,
)

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
#: States that guests are asked to be in, and the command for that.
_ASKED = {
    "shut off": "stopped (stop)",
    "paused": "paused (pause)",
    "absent": "absent (down)",
}
#: Reasons of libvirt that say little by themselves.
_WORDS = {"shutdown": "it shut down", "destroyed": "switched off", "failed": "it did not start"}


def line_text(line: LogLine) -> str:
    """Return a line with its guest; warnings and errors with their step, too, so that each is complete."""
    if is_hint(line):
        return f"    {line.text}"
    if line.level in (Level.WARNING, Level.ERROR):
        return ": ".join([*_about(line.guest, line.step), line.text])
    if line.guest is None:
        return line.text
    if line.level is Level.OUTPUT:
        return f"{line.guest} | {line.text}"
    return line.text if line.text.startswith(f"{line.guest} ") else f"{line.guest}: {line.text}"


def address_text(guest: GuestStatus) -> str:
    """Return the address where the main host reaches a guest, otherwise the first that it has."""
    return guest.address or next(iter(guest.addresses), "-")


def is_hint(line: LogLine) -> bool:
    """Return whether a line is the hint for the error in the line before it."""
    return line.level is Level.ERROR and line.text.startswith("hint: ")


def step_text(step: Step) -> str:
    """Return the name of a step, with its guest."""
    return ": ".join(_about(step.guest, step.name))


def _about(guest: str | None, step: str | None) -> list[str]:
    """Return guest and step; the name of a step may contain the guest already, as in ``start:web``."""
    parts = (step or "").split(":")
    words = [" ".join(parts)] if step else []
    return words if guest is None or guest in parts else [guest, *words]


def fault_text(fault: Fault) -> str:
    """Return a fault: step, guest and cause, then host and hint."""
    lines = [": ".join([*_about(fault.guest, fault.step), fault.message])]
    lines += [f"    host: {fault.host}"] if fault.host else []
    lines += [f"    hint: {fault.hint}"] if fault.hint else []
    return "\n".join(lines)


def state_text(deployment: Deployment) -> str:
    """Return a deployment's state, with the command that failed, or how much of it differs, if any."""
    word = deployment.condition or str(deployment.state)
    if deployment.failed_command is not None:
        return f"{word} ({deployment.failed_command})"
    if deployment.drift:
        return f"{word} ({deployment.drift})"
    return word


def guest_state_text(guest: GuestStatus) -> str:
    """Return a guest's state and why: ``paused: I/O error``, ``stopped (stop)``.

    Of one with a healthcheck that runs, that is ``healthy``, ``unhealthy`` or ``starting``.
    """
    if guest.health is not None and guest.state == "running":
        return guest.health
    if guest.asked == guest.state and guest.asked in _ASKED:
        return _ASKED[guest.asked]
    return guest.state if guest.reason is None else f"{guest.state}: {_WORDS.get(guest.reason, guest.reason)}"


def memory_text(guest: GuestStatus) -> str:
    """Return the memory that a guest uses: ``48 of 128 MiB``, ``-`` where that is unknown."""
    if guest.used_mb is None:
        return "-"
    return f"{guest.used_mb} of {guest.given_mb} MiB" if guest.given_mb else f"{guest.used_mb} MiB"


def failure_text(action: Action) -> str | None:
    """Return a sentence about an action that did not succeed, None for one that did."""
    command = spoken(action.command, action.options)
    match action.state:
        case ActionState.SUCCEEDED:
            return None
        case ActionState.CANCELLED:
            return f"{command} was cancelled"
        case ActionState.INTERRUPTED:
            return f"{command} was interrupted: the server ended while it ran"
        case ActionState.RUNNING:
            return f"{command} is still running"
        case ActionState.FAILED:
            outcome = "was refused: the testbed was not changed" if action.refused else "failed"
            return f"{command} {outcome}"


def moment(text: str) -> datetime:
    """Parse an RFC 3339 time."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def seconds_between(start: str, end: str | None = None) -> float:
    """Return the seconds between two RFC 3339 times, or until now; 0 if the clock was set back meanwhile."""
    last = datetime.now(UTC) if end is None else moment(end)
    return max(0.0, (last - moment(start)).total_seconds())


def clock(text: str) -> str:
    """Return the local time of day of an RFC 3339 time."""
    return moment(text).astimezone().strftime("%H:%M:%S")


def date(text: str) -> str:
    """Return the local date and time of an RFC 3339 time."""
    return moment(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float, *, whole: bool = False) -> str:
    """Format seconds: ``0.4 s``, ``41 s``, ``3 min 5 s``, ``2 h 10 min``, ``5 d 3 h``."""
    if seconds < 9.95 and not whole:  # noqa: PLR2004 (from ten on, tenths say nothing)
        return f"{seconds:.1f} s"
    count = round(seconds)
    if count < _MINUTE:
        return f"{count} s"
    if count < _HOUR:
        return _two(count, (_MINUTE, "min"), (1, "s"))
    if count < _DAY:
        return _two(count, (_HOUR, "h"), (_MINUTE, "min"))
    return _two(count, (_DAY, "d"), (_HOUR, "h"))


def _two(count: int, large: tuple[int, str], small: tuple[int, str]) -> str:
    rest = count % large[0] // small[0]
    return f"{count // large[0]} {large[1]}" + (f" {rest} {small[1]}" if rest else "")
