"""What scripts of a guest ran as, compared with what they are now. Pure.

A record has what each script was and saw: in the guest a file for each, here a mark, and the specification of
what is wanted. A script is known by its place in the order: one that was renamed is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import msgspec

from kvmcompose.core.resource import Reason, ReasonCode
from kvmcompose.core.seed import SeedContents
from kvmcompose.images.seeds import UNKNOWN

#: That of what is in a record. What another version wrote counts as what is now.
_FORMAT = 1


class Ran(msgspec.Struct, frozen=True, omit_defaults=True):
    """Digests of a script and of what it saw: the context, and the values of the environment, by name."""

    script: str
    context: str = ""
    environment: dict[str, str] = {}
    format: int = _FORMAT


#: By the name of a script below ``/etc/nocloud/setup`` or ``run``.
Record = Mapping[str, Ran]


def record_of(contents: SeedContents | None, scripts: Sequence[str]) -> Record:
    """Return the record of scripts, by their paths in the guest, if they ran with what is in a seed."""
    if contents is None:
        return {PurePosixPath(script).name: Ran(UNKNOWN, UNKNOWN) for script in scripts}
    record = {}
    for path in map(PurePosixPath, scripts):
        digest = contents.scripts.get(f"{path.parent.name}/{path.name}", "")
        record[path.name] = Ran(digest, contents.context, contents.environment)
    return record


def encode_record(record: Record) -> str:
    """Return a record as text; the same for the same."""
    return msgspec.json.encode(record).decode()


def decode_record(text: str) -> Record | None:
    """Return a record from text, None for one of another version."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Ran])
    except msgspec.MsgspecError:
        return None
    return found if all(each.format == _FORMAT for each in found.values()) else None


def encode_ran(ran: Ran) -> str:
    """Return the content of the file in a guest; what is not known counts as what is then."""
    return msgspec.json.encode(ran).decode() if ran.script != UNKNOWN else ""


def decode_ran(text: str) -> Ran | None:
    """Return what the file in a guest says; None for one that is empty, as of earlier versions."""
    try:
        found = msgspec.json.decode(text, type=Ran)
    except msgspec.MsgspecError:
        return None
    return found if found.format == _FORMAT else None


def last_runs(wanted: Record, found: Mapping[str, Ran | None]) -> dict[str, Ran | None]:
    """Return what each wanted script ran as; one that has not run is missing.

    ``found`` has None for what is not known, and stays so. What ran is first taken for the script that is the
    same in every respect, then for one that differs in its name, then for the one in its place.
    """
    left = dict(found)
    last: dict[str, Ran | None] = {}
    ways: tuple[Callable[[str, str], bool], ...] = (
        lambda name, there: name == there and left[there] == wanted[name],
        lambda name, there: left[there] == wanted[name],
        lambda name, there: _place(name) == _place(there),
    )
    for is_it in ways:
        for name in wanted:
            there = next((each for each in left if name not in last and is_it(name, each)), None)
            if there is not None:
                last[name] = left.pop(there)
    return last


def _place(name: str) -> str:
    return name.partition("-")[0]


def reasons(wanted: Record, found: Record, noun: str) -> tuple[list[Reason], list[Reason]]:
    """Return which scripts have not run, and what changed since the others ran. ``noun`` is what they are."""
    last = last_runs(wanted, found)
    new = [Reason(ReasonCode.ADDED, f"{noun} {_label(name)}") for name in wanted if name not in last]
    changed = [each for name, ran in last.items() if ran for each in _changes(name, ran, wanted[name], noun)]
    return new, list(dict.fromkeys(changed))


def _label(name: str) -> str:
    return name.partition("-")[2]


def _changes(name: str, before: Ran, after: Ran, noun: str) -> Iterator[Reason]:
    if before == after or after.script == UNKNOWN:
        return
    if before.script == UNKNOWN:
        yield Reason(ReasonCode.OUTDATED, f"{noun} {_label(name)}, its context or its environment")
        return
    if before.script != after.script:
        yield Reason(ReasonCode.EDITED, f"{noun} {_label(name)}")
    if before.context != after.context:
        yield _change("context", bool(before.context), bool(after.context))
    for variable in _differing(before.environment, after.environment):
        there, wanted = variable in before.environment, variable in after.environment
        yield _change(f"environment {variable}".rstrip(), there, wanted)


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def _change(subject: str, before: bool, after: bool) -> Reason:
    if before and after:
        return Reason(ReasonCode.EDITED, subject)
    return Reason(ReasonCode.ADDED if after else ReasonCode.REMOVED, subject)
