"""The time stamps of actions, log lines and audit records."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Return the current time as RFC 3339, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
