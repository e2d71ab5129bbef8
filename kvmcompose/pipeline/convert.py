"""Convert the YAML of a testbed with bridges into one with logical switches.

The text is edited where it names bridges, so that comments, order and layout of the rest stay. The result is
compiled: a guest with other addresses than before gets them by ``ip`` and ``mac``, or is reported.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.document import Path
from kvmcompose.core.errors import Complaint, ComplaintsError, InputError, Location, Problem, Severity
from kvmcompose.core.model import LogicalTestbed, Machine, ScaledAttachment
from kvmcompose.core.nic import as_written
from kvmcompose.core.state import Interface
from kvmcompose.networks import AsOvn, as_ovn
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.defaults import heir
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.pipeline.text import decode
from kvmcompose.pipeline.text_edits import SharedError, TextEdits
from kvmcompose.placement import PLACEMENT, names_in

_Key = tuple[str, int]
DYNAMIC = "dynamic"


class Converted(msgspec.Struct, frozen=True):
    """The YAML with logical switches, and what of the testbed has no counterpart."""

    text: str
    notes: tuple[Problem, ...]


def convert(
    testbed: InputFile, compiled: Compiled, compile_text: Callable[[InputFile], Compiled], schemas: Schemas
) -> Converted:
    """Return the testbed with logical switches; ``compile_text`` compiles a YAML in the same project.

    Raises InputError for a network that is not one of bridges, for VLANs, for parts that an alias repeats and
    that would have to differ, and with the problems of the result.
    """
    documents = Documents(testbed, None, schemas)
    logical = compiled.placed.logical
    try:
        plan = as_ovn(logical, compiled.state)
    except ComplaintsError as error:
        raise InputError([documents.problem(each) for each in error.complaints]) from error
    if plan is None:
        raise InputError([
            documents.problem(
                Complaint(
                    code="not-bridges",
                    path=("network",),
                    message="this network does not consist of bridges",
                    wanted="a network with 'bridges'",
                )
            )
        ])  # fmt: skip
    documents.refuse(_inherited(logical, documents))
    conversion = _Conversion(testbed, compiled, plan)
    name = f"converted {testbed.name}"  # of which the lines are, if there are problems
    text = conversion.text({})
    changed = _changed(compiled, compile_text(InputFile(name, text.encode())))
    if changed:
        text = conversion.text(changed)
        changed = _changed(compiled, compile_text(InputFile(name, text.encode())))
    notes = [*plan.notes, *conversion.notes, *_differences(logical, changed, plan)]
    return Converted(text, tuple(documents.problem(each) for each in dict.fromkeys(notes)))


def _inherited(logical: LogicalTestbed, documents: Documents) -> Iterator[Complaint]:
    """Yield the interfaces in the defaults: each machine would need other ones in their place."""
    for machine in {guest.machine.index: guest.machine for guest in logical.guests}.values():
        top: Path = ("machines", machine.index)
        for path in ((*top, machine.interfaces_key), (*top, machine.kind, "scaling", "interfaces")):
            if heir(documents.testbed, path) is not None:
                yield Complaint(
                    code="not-allowed",
                    path=path,
                    message="interfaces in the defaults cannot be converted",
                    hint="write them in the machines",
                    at_key=True,
                )


def _note(path: Path, message: str, hint: str | None = None) -> Complaint:
    return Complaint(code="no-counterpart", path=path, message=message, hint=hint, severity=Severity.WARNING)


def _changed(before: Compiled, after: Compiled) -> dict[_Key, tuple[Interface, Interface]]:
    """Return the interfaces of guests that get other addresses, as they were and as they would be."""
    found = {}
    for guest in before.placed.logical.guests:
        if guest.is_golden_image:
            continue
        old = before.state.testbed_guests[guest.name].interfaces
        new = after.state.testbed_guests[guest.name].interfaces
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            if (was.mac, was.ip, was.prefix_length) != (now.mac, now.ip, now.prefix_length):
                found[guest.name, index] = (was, now)
    return found


def _differences(
    logical: LogicalTestbed, changed: Mapping[_Key, tuple[Interface, Interface]], plan: AsOvn
) -> Iterator[Complaint]:
    guests = {guest.name: guest for guest in logical.guests}
    for (name, index), (was, now) in changed.items():
        if was.mac == now.mac and was.ip == DYNAMIC and (name, index) in plan.static:
            continue  # there is a note already
        message = f"{name!r}, interface {index}: {was.mac} {was.ip} becomes {now.mac} {now.ip}"
        yield _note(guests[name].interfaces_path, message)


class _Conversion:
    """The edits of one YAML. ``notes`` is complete after ``text``."""

    def __init__(self, testbed: InputFile, compiled: Compiled, plan: AsOvn) -> None:
        self._testbed = testbed
        self._logical = compiled.placed.logical
        self._guests = compiled.state.testbed_guests
        self._plan = plan
        self.notes: list[Complaint] = []

    def text(self, changed: Mapping[_Key, tuple[Interface, Interface]]) -> str:
        """Return the converted text, in which these interfaces have the addresses that they had."""
        self.notes = []
        edits = TextEdits(decode(self._testbed.data, self._testbed.name))
        try:
            for machine in {guest.machine.index: guest.machine for guest in self._logical.guests}.values():
                self._machine(edits, machine, changed)
            self._placement(edits)
            edits.replace(("network",), self._plan.section)
        except SharedError as error:
            raise InputError([
                Problem(
                    code="shared-by-alias",
                    message="an alias repeats this, and what it repeats would have to differ",
                    location=Location(self._testbed.name, error.line, error.column),
                    hint="write it out where it is repeated, and convert again",
                )
            ]) from error  # fmt: skip
        return edits.result()

    def _machine(
        self, edits: TextEdits, machine: Machine, changed: Mapping[_Key, tuple[Interface, Interface]]
    ) -> None:
        at: Path = ("machines", machine.index)
        for index, attachment in enumerate(machine.attachments):
            path = (*at, "interfaces", index)
            edits.replace((*path, "bridge"), self._plan.switch_of[attachment.segment])
            edits.rename((*path, "bridge"), "switch")
            static = self._plan.static.get((machine.name, index))
            if static is not None:
                edits.replace((*path, "ip"), static)
            if machine.scaled:
                continue  # of a golden image
            nic = self._guests[machine.name].interfaces[index]
            if nic.gateway is not None and nic.ip != DYNAMIC:
                edits.insert((*path, "bridge"), "gateway", nic.gateway)
            was, now = changed.get((machine.name, index), (None, None))
            if was is not None and now is not None:
                if was.ip not in (now.ip, DYNAMIC) and attachment.ip is None:
                    edits.insert((*path, "bridge"), "ip", was.ip)
                if was.mac != now.mac and attachment.mac is None:
                    edits.insert((*path, "bridge"), "mac", was.mac)
        edits.rename((*at, "interfaces"), "network")
        if machine.scaled:
            path = (*at, machine.kind, "scaling", "interfaces")
            edits.replace(path, self._clones(machine, path))

    def _clones(self, machine: Machine, path: Path) -> dict[str, Any]:
        """Return the interfaces of clones by switch."""
        entries: dict[str, list[ScaledAttachment]] = {}
        order: dict[int, list[str]] = {}
        for each in machine.scaled:
            switch = self._plan.switch_of[each.attachment.segment]
            entries.setdefault(switch, []).append(each)
            for number in each.clones:
                order.setdefault(number, []).append(switch)
        for number, switches in order.items():
            if len(set(switches)) < len(switches):
                message = f"clone {number} of {machine.name!r} has one interface on each switch, not several"
                self.notes.append(_note(path, message))
            elif switches != sorted(switches):
                message = (
                    f"the interfaces of clone {number} of {machine.name!r} are in the order of their "
                    f"switches: {', '.join(sorted(switches))}"
                )
                self.notes.append(_note(path, message))
        return {switch: self._clones_on(machine, each, path) for switch, each in entries.items()}

    def _clones_on(self, machine: Machine, entries: Sequence[ScaledAttachment], path: Path) -> dict[str, Any]:
        given = {number: each.attachment for each in reversed(entries) for number in reversed(each.clones)}
        numbers = sorted(given)
        found: dict[str, Any] = {"clones": numbers} | as_written(given[numbers[0]].keys)
        if len({given[number].keys for number in numbers}) > 1:
            message = f"the interfaces of clones of {machine.name!r} differ: all get the keys of the first"
            self.notes.append(_note(path, message))
        ips = {given[number].ip for number in numbers}
        nics = [
            nic
            for number in numbers
            for nic in self._guests[f"{machine.name}-{number}"].interfaces
            if nic.bridge == given[number].segment
        ]
        gateway = next((nic.gateway for nic in nics if nic.gateway is not None), None)
        if ips == {DYNAMIC} and gateway is not None:
            return found | {"ip_type": DYNAMIC} | self._macs(machine, given, path)
        if gateway is not None:
            found["gateway"] = gateway
        if ips - {None, DYNAMIC}:
            addresses = _range([given[number].ip for number in numbers], _number_of_ip)
            if addresses is None:
                message = f"the addresses of clones of {machine.name!r} are no range: they get derived ones"
                self.notes.append(_note(path, message))
            else:
                found["ip_type"] = {"ip_range": addresses}
        return found | self._macs(machine, given, path)

    def _macs(self, machine: Machine, given: Mapping[int, Any], path: Path) -> dict[str, Any]:
        macs = [given[number].mac for number in sorted(given)]
        if not any(macs):
            return {}
        found = _range(macs, lambda mac: int(mac.replace(":", ""), 16))
        if found is None:
            message = f"the MAC addresses of clones of {machine.name!r} are no range: they get derived ones"
            self.notes.append(_note(path, message))
            return {}
        return {"mac_range": found}

    def _placement(self, edits: TextEdits) -> None:
        """Name guests in place of bridges, which have no hosts any more."""
        constraints = self._logical.constraints
        on: dict[str, list[str]] = {each.name: [] for each in self._logical.topology.segments}
        for guest in self._logical.guests:
            if not guest.is_golden_image:
                for attachment in guest.attachments:
                    on[attachment.segment].append(guest.name)
        if on.keys().isdisjoint(name for name, _ in names_in(constraints)):
            return
        pin: dict[str, str] = {}
        for name, host in constraints.pin.items():
            pin |= dict.fromkeys(on.get(name, [name]), host)
            if name in on:
                note = _note((*PLACEMENT, "pin", name), f"the guests on {name!r} are pinned in its place")
                self.notes.append(msgspec.structs.replace(note, at_key=True))
        kept = {
            "together": [_named(names, on) for names in constraints.together],
            "apart": [
                _named(names, on)
                for number, names in enumerate(constraints.apart)
                if self._is_apart(number, names, on)
            ],
        }
        rewritten: dict[str, Any] = {"pin": pin} if pin else {}
        for key, lists in kept.items():
            longer = [names for names in lists if len(names) > 1]
            rewritten |= {key: longer} if longer else {}
        edits.replace(PLACEMENT, rewritten)

    def _is_apart(self, number: int, names: Sequence[str], on: Mapping[str, Sequence[str]]) -> bool:
        """Return whether guests can take the place of bridges that are kept apart."""
        if all(len(on.get(name, [name])) < 2 for name in names):  # noqa: PLR2004 (several)
            return True
        message = "bridges with several guests cannot be kept apart"
        self.notes.append(_note((*PLACEMENT, "apart", number), message, "name guests in place of bridges"))
        return False


def _named(names: Sequence[str], on: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(guest for name in names for guest in on.get(name, [name])))


def _number_of_ip(text: str) -> int:
    return int(ipaddress.ip_address(text))


def _range(values: Sequence[str | None], number: Callable[[str], int]) -> dict[str, str] | None:
    """Return the range that consists of these values in this order; None for none."""
    known = [each for each in values if each not in (None, DYNAMIC)]
    numbers = [number(each) for each in known if each is not None]
    if not known or len(known) < len(values) or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    return {"from": str(known[0]), "to": str(known[-1])}
