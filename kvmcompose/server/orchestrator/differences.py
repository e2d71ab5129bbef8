"""What has changed between the testbed that is up and the one that lies in the project folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from kvmcompose.core.environment import value_digest
from kvmcompose.server.orchestrator.testbed import Deployed

#: More than this of one guest is not shown.
_MOST = 4


def differences(up: Deployed, built: Deployed, *, known: Collection[str], live: Collection[str]) -> list[str]:
    """What would have to be done for the built testbed to be the one that is up; empty when nothing.

    ``known`` are the guests that hosts have domains of, ``live`` those of them that run: one that is off
    is started from what is built now, so whatever has changed about it is no difference.
    """
    if not known:
        return []
    before, after = up.state["testbed_guests"], built.state["testbed_guests"]
    found = [f"guest {name} was removed" for name in before if name not in after and name in known]
    found += [f"guest {name} was added" for name in after if name not in before]
    for name in after:
        if name in before and name in live:
            found += _of_guest(name, up, built)
    for name, host in built.state["testbed_hosts"].items():
        reached = up.state["testbed_hosts"].get(name, host)
        if reached["ip"] != host["ip"]:
            found.append(f"host {name}: ip: {reached['ip']} -> {host['ip']}")
    if up.state["network"] != built.state["network"]:
        found += [f"network: {each}" for each in _changes(up.state["network"], built.state["network"])]
    network = f"artefacts/{up.state['project_name']}-network.xml"
    if not found and up.files.get(network) != built.files.get(network):
        found.append(f"{network} has changed")
    return found


def _of_guest(name: str, up: Deployed, built: Deployed) -> Iterator[str]:
    """A guest is another one when what it is started from is; the states tell what that means."""
    files = [path for path in sorted(up.files | built.files) if _belongs(path, name)]
    changed = [path for path in files if up.files.get(path) != built.files.get(path)]
    if not changed:
        return
    changes = list(_changes(up.state["testbed_guests"][name], built.state["testbed_guests"][name]))
    yield from (f"guest {name}: {each}" for each in changes[:_MOST])
    if len(changes) > _MOST:
        yield f"guest {name}: and {len(changes) - _MOST} more changes"
    if not changes:
        yield from (f"{path} has changed" for path in changed)


def _belongs(path: str, guest: str) -> bool:
    return path in {f"artefacts/{guest}-{rest}" for rest in ("domain.xml", "cloud-init.iso", "media.iso")}


def _changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """``memory_mb: 256 -> 512`` for each value that is not the same; of an environment the names."""
    if path.endswith(".environment") and not (before is None and after is None):
        yield from _of_environment(before or {}, after or {}, path)
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _changes(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif (
        isinstance(before, list)
        and isinstance(after, list)
        and len(before) == len(after)
        and not all(isinstance(each, str) for each in (*before, *after))
    ):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _changes(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _of_environment(before: dict[str, str], after: dict[str, str], path: str) -> Iterator[str]:
    """States of version 0.1 have values, later ones digests of them."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None and other in (one, value_digest(name, one)):
            continue
        verb = "was added" if one is None else "was removed" if other is None else "has another value"
        yield f"{path}.{name} {verb}"


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, dict | list):
        return f"({len(value)} entries)" if value else "(empty)"
    return str(value)
