"""Set-up scripts of guests, which run once in a guest's life (decision 12).

What they ran as is noted in the guest, script by script, and known here by a mark. One that has not run is
run. What changed for one that has is shown, and waits until the user asks for it to be run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from kvmcompose.core.resource import Change, Found, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _marks
from kvmcompose.server.orchestrator.resources._inside import ScriptedGuest
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.script_records import (
    Ran,
    decode_record,
    encode_record,
    last_runs,
    reasons,
)
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("set-up",)
AFTER = ("reachable",)
STAGE = "setup"
ONLY_KNOWN = True
WAITS_FOR = "--rerun-scripts"
#: What its scripts are called in reasons.
NOUN = "setup script"

_WHY_NONE = {True: "a golden image is set up again when its scripts change: kvm-compose up"}

limit = _marks.limit
settle = _marks.settle
asked = _marks.asked


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the set-up of each guest that has scripts for it."""
    return _marks.wanted_scripts(testbed, KINDS[0], lambda run: run.setup_scripts)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the set-up of guests in which it is known to have run. Other guests have to be asked."""
    return [
        each
        for each in await _marks.observe(view, host, KINDS[0], wanted)
        if decode_record(each.spec) is not None
    ]


def compare(wanted: Resource, found: Found) -> Change | None:
    """A script that has not run is run; what changed since the others ran waits."""
    now, then = decode_record(wanted.spec), decode_record(found.spec)
    assert now is not None  # noqa: S101 (see wanted)
    new, changed = reasons(now, then or {}, NOUN)
    if not new and not changed:
        return None
    return Change(
        verb=Verb.UPDATE,
        ref=wanted.ref,
        reasons=(*new, *changed),
        wanted=wanted,
        found=found,
        pending=not new,
    )


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Guests that were named, and have nothing to run again."""
    guests = work.testbed.guests
    runs = [guests[name] for name in work.up.rerun_guests if name in guests]
    return [
        (f"{guest.name} has no scripts to run again", _WHY_NONE.get(guest.state.is_golden_image))
        for guest in runs
        if guest.state.is_golden_image
        or guest.run is None
        or not (guest.run.setup_scripts or guest.run.run_scripts)
    ]


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Run the scripts of a guest in order, unless they have run there."""
    (change,) = changes
    assert change.wanted is not None  # noqa: S101 (see compare)
    guest = work.testbed.guests[change.guest or ""]
    now = decode_record(change.wanted.spec)
    assert now is not None  # noqa: S101 (see wanted)
    inside = ScriptedGuest(work, guest)
    ran: dict[str, Ran] = {}
    again = work.up.reruns(guest.name)
    for number, script in enumerate(guest.run.setup_scripts if guest.run is not None else ()):
        name = PurePosixPath(script).name
        with work.step(STAGE, f"setup:{guest.name}:{name}", guest=guest.name, host=host.name) as step:
            if again and number == 0:
                _marks.forget(work, changes)
                await inside.forget()
            last = {} if again else last_runs(now, await inside.ran())
            ran[name] = last.get(name) or now[name]
            if name in last:
                if last[name] is None:  # of an earlier version, which noted nothing more
                    await inside.note(script, now[name])
                step.skip()
                continue
            await inside.run(script, step)
            await inside.note(script, now[name])
    _marks.note(work, change, encode_record(ran))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Forget that it ran."""
    _marks.forget(work, changes)
