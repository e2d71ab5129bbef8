"""What ``ready`` names is waited for, on simulated hosts; a change of it restarts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      ready: {ready}
      libvirt_type: {{cloud_image: {{name: debian_12}}}}
"""
READY = {
    "ssh": "{tcp: 2222}",
    "web": '{http: ":8080/health"}',
    "serial": '{console: "login:"}',
    "agent": "agent",
    "other": "none",
}
YAML = (
    "machines:\n"
    + "".join(GUEST.format(name=name, bridge="home", ready=ready) for name, ready in READY.items())
    + GUEST.format(name="dark", bridge="lab", ready="{agent: true}")
    + "network:\n  bridges: [{name: home}, {name: lab}]\n  external_bridge: home\n"
    "testbed_options: {placement: {pin: {home: one, lab: one}}}\n"
)
WAITED = {
    "wait_answer:ssh:2222",
    "wait_answer:web:8080/health",
    "wait_for_text:serial.log:login:",
    "wait_agent:lab-agent",
    "wait_agent:lab-dark",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("ready"), YAML)


@pytest.fixture
def waiting(built: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(built, tmp_path) as lab:
        yield lab


def waits(lab: Lab) -> set[str]:
    """The calls that wait for a guest."""
    return {each for each in lab.drivers.calls if each.startswith(("wait_", "reach"))} - {"wait_off"}


def names(calls: set[str]) -> set[str]:
    return {each for each in calls if not each.startswith("wait_off")}


def test_each_is_waited_for_as_it_says(waiting: Lab) -> None:
    text = waiting.text(waiting.must(Up()))
    assert names(waits(waiting)) == WAITED
    assert "cannot be reached" not in text  # the agent needs no network
    assert waiting.status().differences == ()
    assert "nothing to do" in waiting.text(waiting.must(Up()))


@pytest.mark.parametrize("call", sorted(WAITED))
def test_a_guest_that_is_not_ready_fails_up_and_is_waited_for_again(waiting: Lab, call: str) -> None:
    waiting.drivers.failures = [Failure(call, 1)]
    action = waiting.do(Up())
    assert action.state is ActionState.FAILED
    assert call in action.faults[0].message
    assert any("not seen to be ready" in each for each in waiting.status().differences)
    started = {name: each.started for name, each in waiting.world.domains.items()}
    waiting.must(Up())
    assert {name: each.started for name, each in waiting.world.domains.items()} == started


def test_another_ready_restarts_nothing_and_waits_for_nothing(waiting: Lab) -> None:
    waiting.must(Up())
    started = {name: each.started for name, each in waiting.world.domains.items()}
    waiting.drivers.calls.clear()
    waiting.edit("ready: {tcp: 2222}", "ready: {tcp: 22}")
    waiting.edit("ready: agent", "ready: none")
    assert waiting.status().differences == ()
    waiting.must(Up())
    assert names(waits(waiting)) == set()
    assert {name: each.started for name, each in waiting.world.domains.items()} == started


def test_a_guest_that_is_to_be_waited_for_from_now_on(waiting: Lab) -> None:
    waiting.must(Up())
    started = {name: each.started for name, each in waiting.world.domains.items()}
    waiting.drivers.calls.clear()
    waiting.edit("ready: none", "ready: agent")
    waiting.must(Up())
    assert names(waits(waiting)) == {"wait_agent:lab-other"}
    assert {name: each.started for name, each in waiting.world.domains.items()} == started


def test_another_key_beside_it_restarts_for_that_key_alone(waiting: Lab) -> None:
    waiting.must(Up())
    waiting.edit("      ready: {tcp: 2222}\n", "      max_cpus: 2\n      ready: {tcp: 22}\n")
    (difference,) = waiting.status().differences
    assert "max_cpus" in difference
    assert "ready" not in difference


def test_a_port_that_nothing_here_reaches_is_refused(waiting: Lab) -> None:
    waiting.edit("ready: {agent: true}", "ready: {tcp: 23}")
    action = waiting.do(Up())
    assert action.refused
    assert "dark is waited for at port 23, but cannot be reached from here" in action.faults[0].message
    assert not waiting.world.domains
