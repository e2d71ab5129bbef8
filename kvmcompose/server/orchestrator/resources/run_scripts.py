"""Run scripts of guests, which run each time that their guest has started, and when they changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _marks
from kvmcompose.server.orchestrator.resources._inside import ScriptedGuest
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.script_records import decode_record, reasons
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("run-scripts",)
AFTER = ("set-up",)
STAGE = "run"
ONLY_KNOWN = True
#: They are lost when their guest stops.
LOST_WITH_NEEDS = True
#: What they are called in reasons.
NOUN = "run script"

limit = _marks.limit
settle = _marks.settle
asked = _marks.asked


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the run scripts of each guest that has some."""
    return _marks.wanted_scripts(testbed, KINDS[0], lambda run: run.run_scripts)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the run scripts that have run since their guest started."""
    return await _marks.observe(view, host, KINDS[0], wanted, since_start=True)


def compare(wanted: Resource, found: Found) -> Change | None:
    """Scripts that changed are run, with those before and after them."""
    if found.spec == wanted.spec:
        return None
    now, then = decode_record(wanted.spec), decode_record(found.spec)
    new, changed = reasons(now or {}, then or {}, NOUN)
    if not new and not changed and (now or {}).keys() == (then or {}).keys():
        return None
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(*new, *changed), wanted=wanted, found=found)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Run the scripts of a guest in order."""
    (change,) = changes
    guest = work.testbed.guests[change.guest or ""]
    inside = ScriptedGuest(work, guest)
    for script in guest.run.run_scripts if guest.run is not None else ():
        name = script.rpartition("/")[2]
        with work.step(STAGE, f"run:{guest.name}:{name}", guest=guest.name, host=host.name) as step:
            await inside.run(script, step)
    _marks.note(work, change)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Forget that they ran."""
    _marks.forget(work, changes)
