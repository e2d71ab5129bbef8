"""``ready`` of libvirt guests: what ``up`` waits for, and which other keys need something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.ready import HttpReady, Ready

#: The short form of ``http``: a path, and a port before it. The host is the guest, whatever its address is.
_SHORT = re.compile(r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)")


class ReadySection(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mapping ``ready``. Exactly one of these is set."""

    tcp: int | None = None
    http: str | HttpReady | None = None
    console: str | None = None
    agent: bool = False


#: ``ready`` as in the YAML and the state.
ReadyKey = Literal["agent", "none"] | ReadySection


def ready(key: ReadyKey | None) -> Ready | None:
    """Return what ``up`` waits for; None for what it waits for where the key is not given."""
    if key is None:
        return None
    if isinstance(key, str):
        return Ready(agent=key == "agent")
    return Ready(tcp=key.tcp, http=_http(key.http), console=key.console, agent=key.agent)


def _http(given: str | HttpReady | None) -> HttpReady | None:
    if not isinstance(given, str):
        return given
    found = _SHORT.fullmatch(given)
    assert found is not None  # noqa: S101 (the schema has the same pattern)
    return HttpReady(port=int(found["port"] or 80), path=found["path"])


def check(key: ReadyKey | None, scripts: Iterator[tuple[str | int, ...]]) -> Iterator[Complaint]:
    """Yield the ``scripts`` (paths in the machine) that ``ready`` is in the way of.

    They run when a guest is set up, which SSH and the agent tell, and nothing else.
    """
    wanted = ready(key)
    if wanted is None or wanted.agent:
        return
    for path in scripts:
        yield Complaint(
            code="needs-ready",
            path=path,
            message="this script cannot run: what 'ready' names does not say when the guest is set up",
            hint="leave 'ready' out, so that SSH is waited for, or write 'ready: agent'; whether a service"
            " works after the scripts, a 'healthcheck' says",
        )
