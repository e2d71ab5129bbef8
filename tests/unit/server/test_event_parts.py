"""Parts of the streams of events that readers share."""

from __future__ import annotations

import msgspec

from kvmcompose.core.commands import Down
from kvmcompose.core.condition import DEGRADED
from kvmcompose.core.deployment import ActionState, Deployment, Level, NewDeployment, Phase, TestbedStatus
from kvmcompose.server.api.event_parts import EventParts
from kvmcompose.server.guest_watch import GuestWatch
from kvmcompose.server.people import Person, Role
from kvmcompose.server.store import Store


def test_a_deployment_of_the_same_name_shows_nothing_of_the_one_before() -> None:
    store = Store(None)
    parts = EventParts(store)
    store.put_deployment(NewDeployment("lab", "/one"), Person(name="one", role=Role.USER, uid=1001))
    action = store.begin_action("lab", Down(), None, exclusive=True)
    store.append(action.uuid, Level.INFO, "the password of one")
    store.end_action(action.uuid, ActionState.SUCCEEDED)
    before = parts.after("lab", 0, None)
    assert b"the password of one" in before.frames
    assert parts.after("lab", 0, None) is before

    store.remove_deployment("lab")
    store.put_deployment(NewDeployment("lab", "/other"), Person(name="other", role=Role.USER, uid=1002))
    found = parts.after("lab", 0, None)
    assert found.frames == b""
    assert found.dropped == before.up_to  # which shows the reader that others existed


def test_a_look_that_was_begun_before_an_action_does_not_hide_it() -> None:
    store = Store(None)
    before = store.put_deployment(NewDeployment("lab", "/one"))

    async def look(_: Deployment) -> TestbedStatus:
        raise NotImplementedError

    watch = GuestWatch(store, "lab", look, None)
    watch.seen, watch.looks = TestbedStatus(deployment=before, guests=()), 1
    store.set_phase("lab", Phase.RUNNING)
    assert b'"state":"running"' in EventParts(store).report(watch, 1)
    # what only a look knows stays
    store.set_phase("lab", Phase.UP)
    up = store.deployment("lab")
    assert up is not None
    degraded = msgspec.structs.replace(up, condition=DEGRADED)
    watch.seen, watch.looks = TestbedStatus(deployment=degraded, guests=()), 2
    assert b'"condition":"degraded"' in EventParts(store).report(watch, 2)
