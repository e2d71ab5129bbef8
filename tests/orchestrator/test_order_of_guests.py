"""Guests that depend on others, and guests with a healthcheck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import Action, ActionState
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from kvmcompose.server.orchestrator.health_memory import HealthMemory
from orchestrator.projects import TWO_HOSTS, built_project

if TYPE_CHECKING:
    from conftest import Lab

BODY = "libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}"
YAML = f"""\
machines:
  - name: proxy
    interfaces: [{{bridge: br0}}]
    depends_on: [web]
    {BODY}
  - name: web
    interfaces: [{{bridge: br0}}]
    depends_on: {{db: {{condition: healthy}}, cache: {{condition: setup_done}}}}
    {BODY}
  - name: cache
    interfaces: [{{bridge: br0}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {{cloud_image: {{name: debian_12, setup_script: setup.sh}}}}
  - name: db
    interfaces: [{{bridge: br0}}]
    healthcheck: {{command: [check, works], interval: 0.1, retries: 3, timeout: 5}}
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {{cloud_image: {{name: debian_12, run_script: run.sh}}}}
  - name: other
    interfaces: [{{bridge: br0}}]
    {BODY}
network:
  bridges: [{{name: br0}}]
  external_bridge: br0
"""
CHECK = "run:db:works"


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("ordered"), YAML, scripts=("setup", "run"))


@pytest.fixture
def lab(ordered: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(ordered, tmp_path) as lab:
        yield lab


def calls(lab: Lab, *methods: str) -> list[str]:
    """What was called since the last time, of some methods."""
    found = [each for each in lab.drivers.calls if each.partition(":")[0] in methods or each == CHECK]
    lab.drivers.calls.clear()
    return found


def before(found: list[str], first: str, second: str) -> bool:
    return found.index(first) < found.index(second)


def health(lab: Lab) -> str | None:
    (found,) = (guest.health for guest in lab.status().guests if guest.name == "db")
    return found


def faults(action: Action) -> list[str]:
    return [fault.message for fault in action.faults]


def test_each_starts_after_what_it_depends_on_and_goes_before_it(lab: Lab) -> None:
    lab.must(Up())
    found = calls(lab, "start_domain", "run")
    assert before(found, "start_domain:lab-db", CHECK)
    assert before(found, "run:db:/etc/nocloud/run/00-run.sh", CHECK)
    assert before(found, CHECK, "start_domain:lab-web")
    assert before(found, "run:cache:/etc/nocloud/setup/00-setup.sh", "start_domain:lab-web")
    assert before(found, "start_domain:lab-web", "start_domain:lab-proxy")
    assert before(found, "start_domain:lab-other", "start_domain:lab-web")
    lab.must(Down())
    found = calls(lab, "shut_down_domain")
    assert before(found, "shut_down_domain:lab-proxy", "shut_down_domain:lab-web")
    assert before(found, "shut_down_domain:lab-web", "shut_down_domain:lab-db")
    assert before(found, "shut_down_domain:lab-web", "shut_down_domain:lab-cache")
    assert CHECK not in found
    lab.assert_clean()


def test_up_of_one_starts_what_it_depends_on_and_leaves_what_runs(lab: Lab) -> None:
    action = lab.must(Up(guests=("proxy",)))
    assert lab.running() == {"proxy", "web", "db", "cache"}
    text = lab.text(action)
    assert "web is started: proxy depends on it" in text
    assert "db is started: web depends on it" in text
    assert text.endswith("lab is up: 4 of 5 guests run")
    found = calls(lab, "start_domain")
    assert before(found, CHECK, "start_domain:lab-web")
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    started = {name: each.started for name, each in lab.world.domains.items()}
    action = lab.must(Up(guests=("web",)))
    assert "db is started: web depends on it" in lab.text(action)
    assert "cache is started" not in lab.text(action)
    now = {name: each.started for name, each in lab.world.domains.items()}
    assert {name for name, each in now.items() if each != started[name]} == {"lab-db"}
    assert all(guest.asked is None for guest in lab.status().guests)


def test_up_of_one_leaves_a_guest_that_runs_as_it_is(lab: Lab) -> None:
    lab.must(Up())
    started = {name: each.started for name, each in lab.world.domains.items()}
    lab.bench.edit(
        "name: db\n    interfaces: [{bridge: br0}]\n    healthcheck: {command: [check, works], interval: 0.1,"
        " retries: 3, timeout: 5}\n    libvirt:\n      cpus: 1",
        "name: db\n    interfaces: [{bridge: br0}]\n    healthcheck: {command: [check, works], interval: 0.1,"
        " retries: 3, timeout: 5}\n    libvirt:\n      cpus: 2",
    )
    lab.bench.generate()
    assert "nothing to do" in lab.text(lab.must(Up(guests=("proxy",))))
    assert {name: each.started for name, each in lab.world.domains.items()} == started


def test_up_of_one_with_new_disks_starts_no_other(lab: Lab) -> None:
    lab.must(Up(guests=("web",), provision=True))
    assert lab.running() == {"web"}


def test_stop_start_and_restart_follow_the_order(lab: Lab) -> None:
    lab.must(Up())
    calls(lab)
    lab.must(Power(verb=PowerVerb.STOP))
    found = calls(lab, "shut_down_domain")
    assert before(found, "shut_down_domain:lab-proxy", "shut_down_domain:lab-web")
    assert before(found, "shut_down_domain:lab-web", "shut_down_domain:lab-db")
    assert CHECK not in found
    lab.must(Power(verb=PowerVerb.START))
    found = calls(lab, "start_domain")
    assert before(found, CHECK, "start_domain:lab-web")
    lab.must(Power(verb=PowerVerb.RESTART))
    found = calls(lab, "start_domain", "shut_down_domain")
    assert before(found, "shut_down_domain:lab-web", "shut_down_domain:lab-db")
    assert before(found, "shut_down_domain:lab-db", "start_domain:lab-db")
    assert before(found, "start_domain:lab-db", "start_domain:lab-web")


def test_what_a_guest_depends_on_restarts_alone(lab: Lab) -> None:
    lab.must(Up())
    calls(lab)
    lab.must(Power(verb=PowerVerb.RESTART, guests=("db",)))
    assert [each for each in calls(lab, "start_domain") if each != CHECK] == ["start_domain:lab-db"]
    lab.must(Up())
    assert lab.status().differences == ()


def test_up_waits_until_a_guest_is_healthy(lab: Lab) -> None:
    lab.drivers.failures.append(Failure(CHECK, 2))
    action = lab.must(Up())
    assert calls(lab).count(CHECK) >= 3
    assert "run:db:works was made to fail" in lab.text(action)
    assert health(lab) == "healthy"


def test_what_depends_on_a_guest_that_does_not_become_healthy_is_left_out(lab: Lab) -> None:
    lab.drivers.failures.append(Failure(CHECK))
    action = lab.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    assert faults(action) == ["db is not healthy: run:db:works was made to fail"]
    assert lab.running() == {"db", "cache", "other"}
    lab.drivers.failures.clear()
    lab.must(Up())
    assert lab.running() == {"db", "cache", "other", "web", "proxy"}


def test_unhealthy_is_drift_that_up_waits_for_and_restarts_nothing(lab: Lab) -> None:
    lab.must(Up())
    assert health(lab) == "healthy"
    assert lab.status().differences == ()
    lab.drivers.failures.append(Failure(CHECK))
    for _ in range(3):  # as many checks as may fail in a row
        time.sleep(0.11)
        status = lab.status()
    assert health(lab) == "unhealthy"
    assert status.differences == ("guest db: is unhealthy (run:db:works was made to fail)",)
    assert status.deployment.condition == "degraded"
    (change,) = asyncio.run(
        lab.orchestrator.plan(lab.deployment, PlanRequest(state=msgspec.Raw(b"null")))
    ).changes
    assert (change.verb, change.kind, change.guest) == ("repair", "healthy", "db")
    started = {name: each.started for name, each in lab.world.domains.items()}
    action = lab.do(Up())
    assert faults(action) == ["db is not healthy: run:db:works was made to fail"]
    lab.drivers.failures.clear()
    lab.must(Up())
    assert health(lab) == "healthy"
    assert {name: each.started for name, each in lab.world.domains.items()} == started


def test_one_failed_check_of_a_guest_that_is_watched_means_nothing(lab: Lab) -> None:
    lab.must(Up())
    assert health(lab) == "healthy"
    lab.drivers.failures.append(Failure(CHECK, 1))
    time.sleep(0.11)
    assert health(lab) == "healthy"
    assert not lab.drivers.failures[0].left


def test_a_guest_is_checked_once_in_its_interval_however_many_ask(
    ordered: Bench, tmp_path: Path, new_lab: type[Lab]
) -> None:
    with new_lab.copied(ordered, tmp_path) as lab:
        lab.edit("interval: 0.1", "interval: 1h")
        lab.must(Up())
        calls(lab)

        async def ask() -> None:
            await asyncio.gather(*(lab.orchestrator.status(lab.deployment) for _ in range(20)))

        asyncio.run(ask())
        lab.status()
        found = [each for each in lab.drivers.calls if each.startswith("run:")]
        assert len(found) <= 1


def test_checks_that_hang_hold_up_those_of_their_owner_alone() -> None:
    async def ask() -> tuple[bool, bool]:
        memory = HealthMemory()
        while not memory.places(1000).locked():
            await memory.places(1000).acquire()
        return memory.places(1000).locked(), memory.places(1001).locked()

    assert asyncio.run(ask()) == (True, False)


def test_an_edit_of_order_or_healthcheck_restarts_nothing(lab: Lab) -> None:
    lab.must(Up())
    started = {name: each.started for name, each in lab.world.domains.items()}
    lab.edit("    depends_on: [web]\n", "")
    lab.edit("[check, works]", "[check, works, well]")
    calls(lab)
    lab.must(Up())
    assert {name: each.started for name, each in lab.world.domains.items()} == started
    assert "run:db:well" in lab.drivers.calls


def test_a_guest_that_cannot_be_reached_is_not_waited_for(
    ordered: Bench, tmp_path: Path, new_lab: type[Lab]
) -> None:
    with new_lab.copied(ordered, tmp_path) as lab:
        lab.edit("  external_bridge: br0\n", "")
        lab.edit(", run_script: run.sh", "")
        lab.edit(", setup_script: setup.sh", "")
        action = lab.do(Up())
        assert action.state is ActionState.FAILED
        assert "db has a healthcheck, but cannot be reached from the main host" in str(action)
        assert "web waits for cache: setup_done, which cannot be reached from the main host" in str(action)
        assert lab.running() == set()


MIXED = f"""\
machines:
  - name: box
    interfaces: [{{bridge: br0}}]
    depends_on: {{web: {{condition: reachable}}}}
    docker: {{image: "tiny:1", command: [sleep, "4444"]}}
  - name: web
    interfaces: [{{bridge: br0}}]
    depends_on: {{db: {{condition: healthy}}}}
    {BODY}
  - name: db
    interfaces: [{{bridge: br0}}]
    healthcheck: {{command: [check, works], interval: 0.1, retries: 1}}
    docker: {{image: "tiny:1", command: [sleep, "4444"]}}
network:
  bridges: [{{name: br0}}]
  external_bridge: br0
"""


def test_virtual_machines_and_containers_wait_for_each_other(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, new_lab: type[Lab]
) -> None:
    config = TWO_HOSTS.replace(',\n   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"}', "")
    bench = built_project(tmp_path_factory.mktemp("mixed"), MIXED, config)
    with new_lab.copied(bench, tmp_path) as lab:
        lab.must(Up())
        found = calls(lab, "start_domain", "start_container")
        assert found == ["start_container:lab-db", "start_domain:lab-web", "start_container:lab-box"]
        assert health(lab) == "healthy"
        lab.edit("    depends_on: {web: {condition: reachable}}\n", "")
        lab.must(Up())
        assert calls(lab, "start_domain", "start_container") == []
        lab.world.containers["lab-db"].health = "unhealthy"
        time.sleep(0.11)
        assert lab.status().differences == ("guest db: is unhealthy (as its engine says)",)
        lab.world.containers["lab-db"].health = "healthy"
        time.sleep(0.11)
        lab.must(Up())
        calls(lab)
        lab.must(Down())
        found = calls(lab, "shut_down_domain", "stop_container", "remove_container")
        assert before(found, "shut_down_domain:lab-web", "stop_container:lab-db")


def test_what_is_up_goes_in_the_order_that_it_was_brought_up_in(lab: Lab) -> None:
    lab.must(Up())
    lab.edit("    depends_on: {db: {condition: healthy}, cache: {condition: setup_done}}\n", "")
    calls(lab)
    lab.must(Down())
    found = calls(lab, "shut_down_domain")
    assert before(found, "shut_down_domain:lab-web", "shut_down_domain:lab-db")
