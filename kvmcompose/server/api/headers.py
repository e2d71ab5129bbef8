"""Reads headers of requests as ASGI has them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::(\d*))?")

Headers = Iterable[tuple[bytes, bytes]]


def only(headers: Headers, name: bytes, *, default: str | None = None) -> str | None:
    """Return a header's value; ``default`` when it is missing, None when it is repeated."""
    found = [value.decode("latin-1") for key, value in headers if key == name]
    if not found:
        return default
    return found[0] if len(found) == 1 else None


def host_parts(host: str) -> tuple[str, str]:
    """Return name and port of a Host header, the latter empty if there is none; ``::1`` of ``[::1]:5040``."""
    found = _HOST.fullmatch(host)
    if found is None:
        return "", ""
    return (found.group(1) or found.group(2) or "").lower(), found.group(3) or ""


def matches(if_none_match: str | None, tag: str) -> bool:
    """Return whether a client knows what has an entity tag (RFC 9110, section 13.1.2)."""
    known = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in known or "*" in known
