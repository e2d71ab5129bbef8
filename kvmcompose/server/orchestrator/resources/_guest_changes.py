"""What differs in two guests of ``state.json``, in the terms of the YAML. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.environment import value_digest
from kvmcompose.core.resource import Reason, ReasonCode

#: Of these only names are in plans.
_SECRET = (".environment", ".cloud_init.values", ".cloud_init.digests")
#: Of a list with more characters than this, a plan has the length only.
_LONGEST_LIST = 60


def changes_of(before: Any, after: Any, path: str = "") -> Iterator[Reason]:
    """Yield what differs in two guests of ``state.json``, by path; of an environment the names."""
    if path.endswith(_SECRET) and not (before is None and after is None):
        yield from _of_environment(before or {}, after or {}, path)
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from changes_of(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and _is_of_objects([*before, *after]):
        for index in range(max(len(before), len(after))):
            here = f"{path}[{index}]"
            if index >= len(before):
                yield Reason(ReasonCode.ADDED, here)
            elif index >= len(after):
                yield Reason(ReasonCode.REMOVED, here)
            else:
                yield from changes_of(before[index], after[index], here)
    elif before != after:
        yield Reason(ReasonCode.CHANGED, path, _shown(before), _shown(after))


def _is_of_objects(values: list[Any]) -> bool:
    return any(not isinstance(each, str) for each in values)


def _of_environment(before: dict[str, str], after: dict[str, str], path: str) -> Iterator[Reason]:
    """States of version 0.1 have values, later ones digests of them."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None and other in (one, value_digest(name, one)):
            continue
        subject = f"{path}.{name}"
        if one is None:
            yield Reason(ReasonCode.ADDED, subject)
        elif other is None:
            yield Reason(ReasonCode.REMOVED, subject)
        else:
            yield Reason(ReasonCode.CHANGED, subject)


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"  # as the YAML has it
    if not isinstance(value, dict | list):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        words = ", ".join(value)
        if len(words) <= _LONGEST_LIST:
            return words
    if not value:
        return "(empty)"
    return "(1 entry)" if len(value) == 1 else f"({len(value)} entries)"


#: Parts of a path in the state that the YAML does not have, or that say nothing.
_INTERNAL = re.compile(
    r"^(libvirt|clone|docker)\.|libvirt_type\.(cloud_image\.)?|(?<=cloud_init\.)(values|digests|paths)\."
)


def worded(reasons: list[Reason]) -> list[Reason]:
    """Return the reasons in the terms of the YAML, each once."""
    found = []
    for each in reasons:
        subject = _INTERNAL.sub("", _INTERNAL.sub("", each.subject))
        match = re.match(r"^interfaces\[(\d+)\](?:\.(\w+))?$", subject)
        if match:
            if match[2] in ("source", "target", "prefix_length"):
                continue  # follows from the others
            subject = f"{match[2]} of interface {match[1]}" if match[2] else f"interface {match[1]}"
        subject = re.sub(r"^environment\.", "environment ", subject)
        found.append(msgspec.structs.replace(each, subject=subject))
    # a gateway follows from an address, but can change alone, with the external bridge
    rest = [each for each in found if not each.subject.startswith("gateway of ")]
    return rest or found or reasons
