"""Scaling, shared by all guest types: which clone has which interfaces and scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Attachment, Machine
from kvmcompose.core.names import first_few


class CloneScript(msgspec.Struct, frozen=True):
    """A script for some of the clones, which are counted from 0."""

    script: str
    clones: tuple[int, ...]


class Scaling(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ``scaling`` section. The network dialect reads its ``interfaces``."""

    count: int
    shared_setup: str | None = None
    clone_setup: tuple[CloneScript, ...] = ()
    clone_run: tuple[CloneScript, ...] = ()


def clone_name(machine: Machine, number: int) -> str:
    """Return the name of a clone. Clones are counted from 0."""
    return f"{machine.name}-{number}"


def scripts_for(scripts: Iterable[CloneScript], number: int) -> tuple[str, ...]:
    """Return the scripts of one clone, in file order."""
    return tuple(script.script for script in scripts if number in script.clones)


def attachments_of(machine: Machine) -> list[list[Attachment]]:
    """Return the interfaces of every clone, in file order. Clone numbers out of range are ignored."""
    count: int = machine.body.scaling.count
    found: list[list[Attachment]] = [[] for _ in range(count)]
    for scaled in machine.scaled:
        for position, number in enumerate(scaled.clones):
            if number < count:
                found[number].append(scaled.of(position))
    return found


def check(machine: Machine, scaling: Scaling) -> Iterator[Complaint]:
    """Yield problems: clones out of range, repeated or without interface, and scaling with interfaces."""
    if machine.attachments:
        yield Complaint(
            code="scaling-with-interfaces",
            path=(machine.interfaces_key,),
            message="a machine with scaling has no interfaces of its own: its clones have them",
            hint=f"move them to {machine.kind}.scaling.interfaces, each with the numbers of its clones",
            at_key=True,
        )
    at = (machine.kind, "scaling")
    seen: set[tuple[str, int]] = set()
    for scaled in machine.scaled:
        path = (*at, "interfaces", scaled.key, "clones")
        yield from _check_ids(path, scaled.clones, scaling.count)
        for number in scaled.clones:
            if (scaled.attachment.segment, number) in seen and scaled.clones.count(number) == 1:
                yield Complaint(
                    code="doubled-clone",
                    path=path,
                    message=f"clone {number} has an interface on {scaled.attachment.segment} already",
                    hint="name each clone once per bridge",
                )
            seen.add((scaled.attachment.segment, number))
    for key, scripts in (("clone_setup", scaling.clone_setup), ("clone_run", scaling.clone_run)):
        for index, script in enumerate(scripts):
            yield from _check_ids((*at, key, index, "clones"), script.clones, scaling.count)
    missing = sorted(set(range(scaling.count)) - {number for _, number in seen})
    if missing:
        yield Complaint(
            code="clone-without-interface",
            path=(*at, "interfaces"),
            message=f"{'clones' if len(missing) > 1 else 'clone'} {first_few(missing)} of {machine.name!r} "
            f"{'have' if len(missing) > 1 else 'has'} no interface",
            wanted=f"every number from 0 to {scaling.count - 1} in some interface",
        )


def _check_ids(path: tuple[str | int, ...], ids: Sequence[int], count: int) -> Iterator[Complaint]:
    for position, number in enumerate(ids):
        if number >= count:
            yield Complaint(
                code="clone-out-of-range",
                path=(*path, position),
                message=f"there is no clone {number}: count is {count}",
                found=str(number),
                wanted=f"0 to {count - 1} (clones are counted from 0)",
            )
        elif number in ids[:position]:
            yield Complaint(
                code="doubled-clone", path=(*path, position), message=f"clone {number} is named twice"
            )
