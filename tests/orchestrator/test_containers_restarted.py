"""Containers that others restart: that is reported, and a daemon connects them again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Power, PowerVerb, Reconnect, Up
from kvmcompose.core.deployment import Action, ActionState, Phase
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeContainer
from kvmcompose.server import guest_watch, reconnection
from kvmcompose.server.actions import Actions
from kvmcompose.server.guest_watch import GuestWatches
from kvmcompose.server.reconnection import Reconnection
from kvmcompose.server.store import RECONNECT_HISTORY
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "5555"]}
    healthcheck: {command: [check], interval: 60}
  - name: db
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "4444"]}
network:
  bridges: [{name: br0}]
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("containers"), YAML, CONFIG, ())


@pytest.fixture
def lab(containers: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(containers, tmp_path) as lab:
        lab.must(Up())
        yield lab


@pytest.fixture(autouse=True)
def _no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_watch, "LOOK_SECONDS", 60)
    monkeypatch.setattr(guest_watch, "_SOON_SECONDS", 0.05)


def of(lab: Lab, guest: str) -> FakeContainer:
    return lab.world.containers[f"lab-{guest}"]


def end(lab: Lab, guest: str) -> None:
    """Kill a container by its engine: with its namespace its interfaces are gone."""
    container = of(lab, guest)
    for each in container.nics:
        lab.world.links.pop(each, None)
    container.nics, container.pid, container.state = {}, 0, "exited"
    container.exit_code, container.reason = 137, "killed by SIGKILL"


def restart(lab: Lab, guest: str) -> None:
    """Restart a container by its engine."""
    end(lab, guest)
    container = of(lab, guest)
    container.pid, container.started, container.state = 4000 + len(guest), time.time(), "running"
    container.exit_code = container.reason = None


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)


def test_what_an_engine_reports_is_published_without_polls(lab: Lab) -> None:
    def state(guest: str) -> tuple[str, str | None]:
        found = lab.store.guests("lab").get(guest)
        return (found.state, found.reason) if found is not None else ("", None)

    async def run() -> None:
        watches = GuestWatches(lab.store, lab.orchestrator.status, lab.orchestrator.guest_events)
        with watches.listen("lab", figures=False) as watch:
            await eventually(lambda: state("web") == ("running", None))
            await asyncio.sleep(0.5)
            looks = watch.looks
            await asyncio.sleep(0.5)
            assert watch.looks == looks
            of(lab, "db").state = "paused"
            await eventually(lambda: state("db") == ("paused", None))
            of(lab, "web").health = "unhealthy"  # long before the next check is due
            await eventually(lambda: state("web") == ("running", "unhealthy"))
            end(lab, "db")
            await eventually(lambda: state("db") == ("shut off", "killed by SIGKILL"))
            restart(lab, "db")
            await eventually(lambda: state("db") == ("running", None))
            looks = watch.looks
            restart(lab, "db")  # between two looks
            await eventually(lambda: watch.looks > looks)
            assert not isinstance(watch.seen, Exception)
            assert watch.seen is not None
            assert "guest db: interface eth0 is missing" in watch.seen.differences
            del lab.world.containers["lab-db"]
            await eventually(lambda: state("db") == ("absent", None))

    asyncio.run(run())


# -- a server that runs as a daemon


@contextlib.asynccontextmanager
async def daemon(lab: Lab) -> AsyncIterator[Actions]:
    """The part of a daemon that connects containers again, with the actions of its clients."""
    actions = Actions(lab.store, lab.orchestrator)
    keeping = Reconnection(lab.store, actions, lab.orchestrator)
    keeping.start()
    await asyncio.sleep(0.5)  # it has looked at all of them
    try:
        yield actions
    finally:
        await keeping.stop()
        await actions.stop()


def reconnections(lab: Lab) -> list[Action]:
    return [each for each in lab.store.actions("lab") if each.command == "reconnect"]


def is_connected(lab: Lab, guest: str) -> bool:
    return len(of(lab, guest).nics) == 1 and not reconnections_run(lab)


def reconnections_run(lab: Lab) -> bool:
    return any(each.state is ActionState.RUNNING for each in reconnections(lab))


def test_starts_of_what_is_no_guest_are_not_taken_note_of(lab: Lab) -> None:
    """An engine may report them without end."""
    for number in range(5):
        ghost = FakeContainer(project="lab", guest=f"ghost-{number}", id=f"{number}", image="tiny:1")
        ghost.state, ghost.started = "running", time.time()
        lab.world.containers[f"lab-ghost-{number}"] = ghost

    async def run() -> set[str]:
        found = set()
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(1),
                contextlib.aclosing(lab.orchestrator.starts(lab.deployment)) as all_,
            ):
                async for each in all_:
                    found.add(each)
        return found

    assert asyncio.run(run()) == {"web", "db"}


def test_a_daemon_connects_what_was_restarted(lab: Lab) -> None:
    before = lab.deployment
    ids = {name: each.id for name, each in lab.world.containers.items()}

    async def run() -> None:
        async with daemon(lab):
            assert reconnections(lab) == []
            lab.drivers.calls.clear()
            restart(lab, "web")
            assert not is_connected(lab, "web")
            await eventually(lambda: is_connected(lab, "web"))
            assert {each for each in lab.drivers.calls if "start_" in each or "stop_" in each} == set()

    asyncio.run(run())
    (action,) = reconnections(lab)
    assert (action.state, action.who, action.options) == (
        ActionState.SUCCEEDED,
        "the server",
        {"guests": ["web"]},
    )
    assert "guest web: repair: interface eth0 is missing" in lab.text(action)
    assert lab.status().differences == ()
    assert lab.deployment == before
    assert {name: each.id for name, each in lab.world.containers.items()} == ids


def test_what_was_lost_before_a_daemon_starts_comes_back_too(lab: Lab) -> None:
    restart(lab, "web")
    end(lab, "db")

    async def run() -> None:
        async with daemon(lab):
            await eventually(lambda: is_connected(lab, "web"))

    asyncio.run(run())
    assert len(reconnections(lab)) == 1
    assert of(lab, "db").state == "exited"  # that is for `up`
    assert lab.status().differences == ("guest db: is shut off (killed by SIGKILL)",)


def test_what_the_user_stopped_and_what_was_edited_is_left(lab: Lab) -> None:
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    lab.edit('"5555"', '"6666"')
    restart(lab, "db")  # as Docker starts again what is to run always
    restart(lab, "web")
    request = of(lab, "web").request

    async def run() -> None:
        async with daemon(lab):
            await eventually(lambda: is_connected(lab, "web"))

    asyncio.run(run())
    assert of(lab, "db").nics == {}
    assert of(lab, "web").request == request
    assert [each.options["guests"] for each in reconnections(lab)] == [["web"]]


def test_what_a_guest_has_changed_is_left(lab: Lab) -> None:
    (nic,) = of(lab, "db").nics.values()
    nic["addresses"] = ["192.0.2.77/24"]

    async def run() -> None:
        async with daemon(lab):
            restart(lab, "web")
            await eventually(lambda: is_connected(lab, "web"))

    asyncio.run(run())
    assert [each.options["guests"] for each in reconnections(lab)] == [["web"]]
    assert nic["addresses"] == ["192.0.2.77/24"]


def test_one_that_restarts_all_the_time_is_connected_now_and_then(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "_FIRST_PAUSE", 0.3)

    async def run() -> None:
        async with daemon(lab):
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                restart(lab, "web")
                await asyncio.sleep(0.05)
            count = len(reconnections(lab))
            assert 1 <= count <= 4  # at once, and after 0.3, 0.6, 1.2 s
            restart(lab, "db")  # which is not to blame
            await eventually(lambda: is_connected(lab, "db"))
            await eventually(lambda: is_connected(lab, "web"))

    asyncio.run(run())


def test_what_fails_is_tried_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnection, "_FIRST_PAUSE", 0.1)
    lab.drivers.failures = [Failure("apply_nics", 1)]

    async def run() -> None:
        async with daemon(lab):
            restart(lab, "web")
            await eventually(lambda: is_connected(lab, "web"))
            lab.drivers.failures = [Failure("observe_nics", 1)]  # a host that does not answer for a moment
            restart(lab, "web")
            await eventually(lambda: is_connected(lab, "web"))

    asyncio.run(run())
    assert [each.state.value for each in reversed(reconnections(lab))] == ["failed", "succeeded", "succeeded"]
    assert lab.deployment.state is Phase.UP
    assert lab.status().differences == ()


def test_a_daemon_follows_what_its_users_do(lab: Lab) -> None:
    async def run() -> None:
        async with daemon(lab) as actions:
            await actions.wait(actions.begin(lab.deployment, Down()).uuid)
            await actions.wait(actions.begin(lab.deployment, Up()).uuid)
            assert reconnections(lab) == []
            await asyncio.sleep(0.5)
            restart(lab, "web")
            await eventually(lambda: is_connected(lab, "web"))
            # a command that is given meanwhile waits for it
            lab.drivers.delay = 0.1
            restart(lab, "db")
            await eventually(lambda: reconnections_run(lab))
            await actions.make_way("lab")
            lab.drivers.delay = 0
            action = actions.begin(lab.deployment, Up())
            await actions.wait(action.uuid)
            assert "nothing to do" in lab.text(action)
            assert {each.state for each in reconnections(lab)} == {ActionState.SUCCEEDED}

    asyncio.run(run())


def test_what_a_daemon_does_drops_no_actions_of_users(lab: Lab) -> None:
    kept = [each.uuid for each in lab.store.actions("lab")]
    for _ in range(RECONNECT_HISTORY + 5):
        action = lab.store.begin_action("lab", Reconnect(guests=("web",)), None, exclusive=False)
        lab.store.end_action(action.uuid, ActionState.SUCCEEDED)
    assert len(reconnections(lab)) == RECONNECT_HISTORY
    assert {each.uuid for each in lab.store.actions("lab")}.issuperset(kept)
