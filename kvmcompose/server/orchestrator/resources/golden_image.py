"""Golden images: set up once in a guest of their own, then shut down and frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.golden import golden_recipe
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("golden-image",)
AFTER = ("ovs-port", "ovn-row", "delivery")
STAGE = "golden"
LOOKS_AT_FILES = True
RENEWS = True


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield those that have to be set up, each made from its recipe, which only its files tell."""
    for guest in testbed.golden:
        ref = Ref(KINDS[0], guest.name, guest.state.testbed_host)
        recipe = golden_recipe(testbed, guest) if testbed.has_files else None
        yield Resource(ref=ref, spec=recipe, guest=guest.name)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return those that were made, and whose files have not changed since."""
    if view.golden is None or host.name != view.golden.host:
        return ()
    return [
        Found(ref=Ref(KINDS[0], name, host.name), spec=recipe, guest=name)
        for name, recipe in (await view.golden.made()).items()
    ]


def compare(wanted: Resource, found: Found) -> Change | None:
    """One that was made from something else is made again, and its clones with it."""
    if found.spec == wanted.spec:
        return None
    reason = Reason(ReasonCode.CHANGED, "its image or its scripts")
    return Change(verb=Verb.REPLACE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Clones hold data that is on top of the old image."""
    if work.up.reset_clones:
        return ()
    golden = work.view.golden
    assert golden is not None  # noqa: S101 (there are changes only where they were looked at)
    found: list[Refusal] = []
    for change in changes:
        found += await golden.clones_in_the_way(work.testbed.guests[change.ref.name])
    return found


async def settle(work: Work, found: Sequence[Found]) -> None:
    """Record images of version 0.1 as this version does, before something of their seeds changes."""
    if work.view.golden is not None and found:
        await in_thread(work.view.golden.settle, [each.ref.name for each in found])


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Boot it, run its scripts, shut it down and freeze it."""
    (change,) = changes
    golden = work.view.golden
    assert golden is not None  # noqa: S101 (as above)
    await golden.make(work.testbed.guests[change.ref.name], work.starter, work.log)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: its disk stays, like every disk."""


def boots(change: Change) -> bool:
    """Return whether it is booted to be set up."""
    return change.verb is not Verb.REMOVE


def limit(work: Work, host: str, *, removing: bool) -> int:  # noqa: ARG001
    """Return how many may boot at a time."""
    return work.boots(host)
