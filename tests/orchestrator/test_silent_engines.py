"""Hosts whose container engine does not answer: the rest of the testbed is seen, and taken down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState, Phase
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeContainer
from kvmcompose.server.orchestrator import runtimes
from kvmcompose.server.orchestrator.built_testbed import read_testbed
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from orchestrator.projects import TWO_HOSTS, built_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "4444"]}
  - name: db
    interfaces: [{bridge: br1}]
    docker: {image: "tiny:1", command: [sleep, "4444"], setup_script: setup.sh}
  - name: vm
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}, {name: br1}]
  external_bridge: br0
testbed_options:
  placement: {pin: {web: one, vm: one, db: two, br1: two}}
"""
#: What the fake calls on the host ``two`` are.
SILENT = "two/observe_containers"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("mixed"), YAML, TWO_HOSTS, ("setup",))


@pytest.fixture
def lab(mixed: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(mixed, tmp_path) as lab:
        yield lab


def of_two(lab: Lab) -> dict[str, FakeContainer]:
    return lab.drivers.worlds["two"].containers


def states(lab: Lab) -> dict[str, str]:
    return {guest.name: guest.state for guest in lab.status().guests}


def test_status_shows_the_rest_and_names_the_engine(lab: Lab) -> None:
    lab.must(Up())
    assert states(lab) == {"web": "running", "db": "running", "vm": "running"}
    lab.drivers.failures.append(Failure(SILENT))
    status = lab.status()
    assert states(lab) == {"web": "running", "db": "unknown", "vm": "running"}
    (difference,) = status.differences
    assert difference.startswith("host two: ")
    assert (status.deployment.state, status.deployment.condition) == (Phase.UP, "degraded")


def test_up_is_refused_and_plan_says_what_is_not_known(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures.append(Failure(SILENT))
    refused = lab.do(Up())
    assert refused.refused
    assert len(refused.faults) == 1
    assert refused.faults[0].message.startswith("two: ")
    request = PlanRequest(state=msgspec.Raw(b"null"))
    planned = asyncio.run(lab.orchestrator.plan(lab.deployment, request))
    assert planned.unseen == ("two",)
    assert planned.due == ()


def test_down_takes_away_the_rest_and_names_what_remains(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures.append(Failure(SILENT))
    action = lab.do(Down())
    assert action.state is ActionState.FAILED
    (fault,) = action.faults
    assert (fault.host, fault.message.endswith(": db may remain there")) == ("two", True)
    assert not lab.world.containers
    assert not lab.world.domains
    assert of_two(lab)
    lab.drivers.failures.clear()
    lab.must(Down())
    assert not of_two(lab)
    assert lab.deployment.state is Phase.DOWN


def test_down_of_guests_elsewhere_is_no_failure(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures.append(Failure(SILENT))
    lab.must(Down(guests=("web", "vm")))
    assert lab.do(Down(guests=("db",))).state is ActionState.FAILED


def test_a_host_without_containers_is_not_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_UNEXPECTED_SECONDS", 0.05)
    testbed = read_testbed(ProjectFolder(lab.folder))

    async def hang() -> list[str]:
        await asyncio.sleep(60)
        return ["never"]

    assert asyncio.run(runtimes.answer_of("containers", [testbed], "three", hang, [])) == []
    with pytest.raises(TimeoutError):
        asyncio.run(
            asyncio.wait_for(runtimes.answer_of("containers", [testbed], "two", hang, []), timeout=0.2)
        )
