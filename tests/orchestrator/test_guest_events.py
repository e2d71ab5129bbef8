"""What happens to guests and resources is reported: by actions, by drivers, or by looking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import Action
from kvmcompose.hosts.fake import Failure
from kvmcompose.server import guest_watch
from kvmcompose.server.actions import Actions
from kvmcompose.server.guest_watch import GuestWatches

if TYPE_CHECKING:
    from conftest import Lab


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(guest_watch, "_SOON_SECONDS", 0.05)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (the store has no event for it)
            await asyncio.sleep(0.01)


def watch(lab: Lab) -> GuestWatches:
    return GuestWatches(lab.store, lab.orchestrator.status, lab.orchestrator.guest_events)


def state(lab: Lab, guest: str) -> tuple[str, str | None, str | None]:
    found = lab.store.guests("lab").get(guest)
    return (found.state, found.before, found.reason) if found is not None else ("", None, None)


def test_what_happens_outside_is_reported_with_its_reason(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 60)
    lab.must(Up())
    (domain,) = [each for each in lab.world.domains.values() if each.guest == "web"]

    async def run() -> None:
        with watch(lab).listen("lab", figures=False) as watching:
            await eventually(lambda: state(lab, "web")[0] == "running")
            await asyncio.sleep(1)
            looks = watching.looks
            await asyncio.sleep(1)
            assert watching.looks == looks  # nothing happens, nobody asks
            domain.paused = "I/O error: no space for vda"
            await eventually(
                lambda: state(lab, "web") == ("paused", "running", "I/O error: no space for vda")
            )
            domain.paused = ""
            await eventually(lambda: state(lab, "web")[:2] == ("running", "paused"))

    asyncio.run(run())


def test_hosts_that_report_nothing_are_looked_at(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("events:*")]
    (domain,) = [each for each in lab.world.domains.values() if each.guest == "web"]

    async def run() -> None:
        with watch(lab).listen("lab", figures=False):
            await eventually(lambda: state(lab, "web")[0] == "running")
            domain.paused = "by user"
            await eventually(lambda: state(lab, "web")[0] == "paused")

    asyncio.run(run())


def test_a_watch_begins_before_anything_is_built_and_sees_what_comes_up(lab: Lab) -> None:
    """Then no driver can be asked yet; after the action they are."""
    built = lab.folder / "state.json"
    text = built.read_bytes()
    built.unlink()

    async def run() -> None:
        watches = watch(lab)
        with watches.listen("lab", figures=False) as watching:
            await eventually(lambda: watching.looks > 1)
            assert watching.seen is not None
            assert not lab.store.guests("lab")
            built.write_bytes(text)
            actions = Actions(lab.store, lab.orchestrator)
            await actions.wait(actions.begin(lab.deployment, Up()).uuid)
            await eventually(lambda: state(lab, "web")[0] == "running")
            assert watching._listening is not None
            await asyncio.sleep(0.5)
            assert not watching._listening.done()

    asyncio.run(run())


def changed(lab: Lab, action: Action) -> list[tuple[str, str, str | None]]:
    """What an action did to resources: verb, kind, guest."""
    found = []
    after = 0
    while batch := lab.store.events("lab", after=after, action=action.uuid):
        for number, document in batch:
            after = number
            event = msgspec.json.decode(document)
            if event["event"] == "resource":
                found.append((event["verb"], event["kind"], event.get("guest")))
    return found


def test_actions_report_what_they_did_to_resources(lab: Lab) -> None:
    up = changed(lab, lab.must(Up()))
    assert {verb for verb, _, _ in up} == {"create"}
    for kind in ("libvirt-network", "ovs-bridge"):
        assert ("create", kind, None) in up
    for guest in ("web", "db"):
        assert up.count(("create", "libvirt-domain", guest)) == 1
    assert changed(lab, lab.must(Up())) == []
    lab.drivers.failures = [Failure("*destroy*"), Failure("undefine_domain:lab-web")]
    failed = changed(lab, lab.do(Down()))
    assert ("remove", "libvirt-domain", "web") not in failed
    lab.drivers.failures = []
    down = failed + changed(lab, lab.must(Down()))
    assert {verb for verb, _, _ in down} == {"remove"}
    assert down.count(("remove", "libvirt-domain", "web")) == 1
    assert ("remove", "ovs-bridge", None) in down
