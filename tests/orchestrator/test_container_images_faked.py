"""Images of containers on simulated hosts: had once for each host, pulled or sent from the main host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench
    from kvmcompose.hosts.fake_world import World

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "4444"]}
  - name: worker
    docker: {image: "tiny:1", scaling: {count: 3, interfaces: [{bridge: br1, clones: [0, 1, 2]}]}}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
testbed_options: {placement: {pin: {web: one, worker: two}}}
"""


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("images"), YAML)


@pytest.fixture
def lab(containers: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(containers, tmp_path) as lab:
        yield lab


def two(lab: Lab) -> World:
    return lab.drivers.worlds["two"]


def calls(lab: Lab, *names: str) -> list[str]:
    return [each for each in lab.drivers.calls if any(name in each for name in names)]


def test_each_host_pulls_an_image_once(lab: Lab) -> None:
    lab.must(Up())
    assert sorted(calls(lab, "pull")) == ["pull:tiny:1", "two/pull:tiny:1"]
    assert not calls(lab, "load", "save")
    workers = [each.request["Image"] for each in two(lab).containers.values()]
    assert workers == ["tiny:1"] * 3


def test_a_host_without_a_registry_gets_an_image_from_the_main_host(lab: Lab) -> None:
    lab.drivers.failures.append(Failure("two/pull:*"))
    action = lab.must(Up())
    assert len(calls(lab, "save_image")) == len(calls(lab, "load_image")) == 1
    (image,) = lab.world.images
    assert list(two(lab).images) == [image]
    assert two(lab).images[image].tags == []  # tags are everybody's
    said = lab.text(action)
    assert "two/pull:tiny:1 was made to fail" in said
    assert f"(a fake engine) {len(image)} bytes loaded" in said
    assert "tiny:1: 0.0 MiB sent" in said
    # they run what the tag means on the main host, by its ID
    assert [each.request["Image"] for each in two(lab).containers.values()] == [image] * 3
    assert lab.status().differences == ()
    assert "nothing to do" in lab.text(lab.must(Up()))
    lab.must(Down())
    lab.must(Up())
    assert len(calls(lab, "save_image")) == 1


def test_the_main_host_pulls_what_only_another_host_needs(lab: Lab) -> None:
    lab.edit("web: one", "web: two")
    lab.drivers.failures.append(Failure("two/pull:*"))
    lab.must(Up())
    assert calls(lab, "pull") == ["two/pull:tiny:1", "pull:tiny:1"]
    assert list(two(lab).images) == list(lab.world.images)


def test_an_image_that_no_host_has_is_said_of_the_host_that_needs_it(lab: Lab) -> None:
    lab.edit("web: one", "web: two")
    lab.drivers.failures.append(Failure("*pull:*"))
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    (fault, *_) = action.faults
    assert (fault.host, fault.message) == ("two", "two/pull:tiny:1 was made to fail")
    assert not two(lab).containers


def test_a_transfer_that_fails_leaves_everything_as_it_was(lab: Lab) -> None:
    lab.drivers.failures += [Failure("two/pull:*"), Failure("two/load_image:*")]
    action = lab.do(Up())
    assert action.refused
    assert not lab.world.containers
    lab.drivers.failures.pop()
    lab.must(Up())


def test_what_a_tag_means_elsewhere_counts_there(lab: Lab) -> None:
    """An image that a host has under the name is used, as on the main host."""
    lab.must(Up())
    lab.must(Down())
    (image,) = two(lab).images
    two(lab).images = {"sha256:" + "7" * 64: two(lab).images[image]}
    lab.drivers.failures.append(Failure("two/pull:*"))
    lab.must(Up())
    assert {each.request["Image"] for each in two(lab).containers.values()} == {"tiny:1"}
    assert not calls(lab, "save_image")
