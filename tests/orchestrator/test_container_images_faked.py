"""Images of containers on simulated hosts: had once for each host, pulled or sent from the main host."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from golden.image_archive import write_archive
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench
    from kvmcompose.core.planned import TestbedPlan
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
    assert f"{image}: 0.0 MiB sent" in said
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


# -- images in files ------------------------------------------------------------------------------------


def write_image(lab: Lab, *more: str) -> str:
    """Write an archive of an image, whose ID depends on ``more``, and return that."""
    return write_archive(lab.folder / "images" / "tiny.tar", *more)


def with_file(lab: Lab) -> str:
    found = write_image(lab)
    lab.edit('"tiny:1", scaling', '"docker-archive:${PWD}/images/tiny.tar", scaling')
    return found


def planned(lab: Lab) -> TestbedPlan:
    return asyncio.run(lab.orchestrator.plan(lab.deployment, PlanRequest(state=msgspec.Raw(b"null"))))


def test_an_image_in_a_file_is_loaded_once_for_each_host_that_lacks_it(lab: Lab) -> None:
    image = with_file(lab)
    plan = planned(lab)
    assert [each.subject for each in plan.changes if each.kind == "container-image"] == [
        "image tiny:1",
        f"image docker-archive:./images/tiny.tar ({image[7:19]})",
    ]
    sizes = {each.name: each.bytes_to_send for each in plan.hosts}
    action = lab.must(Up())
    assert calls(lab, "load_image") == [f"two/load_image:{image}"]
    assert sizes == {"one": 0, "two": two(lab).images[image].size}
    assert two(lab).images[image].tags == []
    assert {each.request["Image"] for each in two(lab).containers.values()} == {image}
    assert "bytes loaded" in lab.text(action)
    assert lab.status().differences == ()
    assert {each.bytes_to_send for each in planned(lab).hosts} == {0}
    lab.must(Down())
    lab.must(Up())
    assert len(calls(lab, "load_image")) == 1


def test_another_content_of_a_file_replaces_its_containers(lab: Lab) -> None:
    with_file(lab)
    lab.must(Up())
    before = {name: each.id for name, each in two(lab).containers.items()}
    image = write_image(lab, "changed")
    lab.bench.generate()
    action = lab.must(Up())
    said = "guest worker-0: replace: the image docker-archive:./images/tiny.tar has changed"
    assert said in lab.text(action)
    assert {each.image for each in two(lab).containers.values()} == {image}
    assert not {each.id for each in two(lab).containers.values()} & set(before.values())
    assert "guest web" not in lab.text(action)


def test_a_file_that_has_changed_since_the_build_is_not_loaded(lab: Lab) -> None:
    with_file(lab)
    write_image(lab, "changed")
    action = lab.do(Up())
    assert action.refused
    assert "docker-archive:./images/tiny.tar has changed since the build" in str(action.faults)
    (lab.folder / "images" / "tiny.tar").unlink()
    assert "cannot read docker-archive:./images/tiny.tar" in str(lab.do(Up()).faults)
    assert not lab.world.containers


def test_another_name_of_the_same_image_is_not_sent_again(lab: Lab) -> None:
    image = with_file(lab)
    shutil.copy(lab.folder / "images" / "tiny.tar", lab.folder / "other.tar")
    lab.edit('"tiny:1", command', '"docker-archive:other.tar", command')
    lab.edit("web: one", "web: two")
    lab.must(Up())
    assert calls(lab, "load_image") == [f"two/load_image:{image}"]
