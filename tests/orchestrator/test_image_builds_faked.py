"""Images that are built, on simulated hosts: once for their content, and until they are purged."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeContainer, FakeImage
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.server.orchestrator.runtimes import _built_images
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench
    from kvmcompose.hosts.fake_world import World
    from kvmcompose.providers.drivers import HostDrivers
    from kvmcompose.server.orchestrator.context import Context

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {build: site, command: [sleep, "4444"]}
  - name: same
    docker: {build: {context: ./site}, scaling: {count: 2, interfaces: [{bridge: br1, clones: [0, 1]}]}}
  - name: other
    interfaces: [{bridge: br0}]
    docker: {build: {context: site, args: {FLAVOUR: other}}}
  - name: plain
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1"}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
testbed_options: {placement: {pin: {web: one, same: two, other: one, plain: one}}}
"""
ARCHIVE = "artefacts/build-site-"


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("builds")
    folder = root / "lab" / "site"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / "index").write_text("one\n")
    return built_project(root, YAML)


@pytest.fixture
def lab(builds: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(builds, tmp_path) as lab:
        yield lab


def two(lab: Lab) -> World:
    return lab.drivers.worlds["two"]


def ids(lab: Lab) -> dict[str, str]:
    there = (*lab.world.containers.values(), *two(lab).containers.values())
    return {each.guest: each.id for each in there}


def calls(lab: Lab, name: str) -> list[str]:
    return [each for each in lab.drivers.calls if name in each]


def built(world: World) -> list[FakeImage]:
    return [each for each in world.images.values() if each.build]


def edited(lab: Lab, content: str) -> None:
    (lab.folder / "site" / "index").write_text(content)
    lab.bench.generate()


def test_an_image_is_built_once_for_all_guests_and_hosts(lab: Lab) -> None:
    action = lab.must(Up())
    assert len(calls(lab, "build_image")) == 2  # with the arguments, and without
    assert len(calls(lab, "save_image")) == len(calls(lab, "load_image")) == 1
    assert "site, Dockerfile" in lab.text(action)
    (there,) = built(two(lab))
    assert (there.project, there.tags) == ("lab", [])
    assert lab.status().differences == ()
    assert "nothing to do" in lab.text(lab.must(Up()))
    lab.must(Down())
    lab.must(Up())
    assert len(calls(lab, "build_image")) == 2


def test_an_edit_replaces_the_guests_of_that_image_alone(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    edited(lab, "two\n")
    assert lab.status().differences == tuple(
        f"guest {name}: build context {folder} has changed"
        for name, folder in (("web", "site"), ("same-0", "./site"), ("same-1", "./site"), ("other", "site"))
    )
    lab.must(Up())
    after = ids(lab)
    assert {name for name in after if after[name] != before[name]} == {"web", "same-0", "same-1", "other"}
    assert lab.status().differences == ()
    edited(lab, "one\n")
    lab.must(Up())
    assert len(calls(lab, "build_image")) == 4  # those of before are there


def test_what_a_build_does_not_depend_on_builds_nothing(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    lab.edit("args: {FLAVOUR: other}", "args: {FLAVOUR: new}")
    lab.must(Up())
    assert len(calls(lab, "build_image")) == 3
    after = ids(lab)
    assert {name for name in after if after[name] != before[name]} == {"other"}


def test_a_build_that_fails_stops_nothing(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    edited(lab, "two\n")
    lab.drivers.failures.append(Failure("build_image:*"))
    action = lab.do(Up())
    assert action.refused
    assert "site was made to fail" in str(action.faults)
    assert ids(lab) == before
    lab.drivers.failures.clear()
    lab.must(Up())


def test_an_archive_that_is_not_of_the_state_is_not_built(lab: Lab) -> None:
    """An image would be known by a digest of what it does not have."""
    (archive,) = lab.folder.glob(f"{ARCHIVE}*.tar")
    edited_state = (lab.folder / "state.json").read_bytes()
    edited(lab, "two\n")
    (lab.folder / "state.json").write_bytes(edited_state)
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert f"{archive.relative_to(lab.folder)} is not the context of which state.json has the digest" in str(
        action.faults
    )
    archive.write_bytes(b"no archive" * 1000)
    assert "is not a context of an image" in str(lab.do(Up()).faults)
    archive.unlink()
    assert "artefacts are missing" in str(lab.do(Up()).faults)
    assert not calls(lab, "build_image")


def test_no_image_of_others_is_taken_or_replaced(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    image = next(each for each in built(lab.world) if each.build)
    image.project = ""
    action = lab.do(Up())
    assert "another image has its name" in str(action.faults)


def test_what_bears_the_name_on_another_host_is_not_used(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    (name,) = [
        tag for each in built(lab.world) for tag in each.tags if each.build == built(two(lab))[0].build
    ]
    two(lab).images["sha256:" + "6" * 64] = FakeImage(tags=[name])
    lab.must(Up())
    (ours,) = [image for image, each in two(lab).images.items() if each.build]
    assert [each.image for each in two(lab).containers.values()] == [ours] * 2


def test_purge_removes_what_was_built(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("web",)))
    edited(lab, "two\n")
    lab.must(Up())
    lab.must(Down())
    assert len(built(lab.world)) == 4
    lab.must(Down(purge=True))
    assert not built(lab.world)
    assert not built(two(lab))
    assert {tag for each in lab.world.images.values() for tag in each.tags} == {"tiny:1"}


def test_purge_names_what_others_use(lab: Lab) -> None:
    lab.must(Up())
    used = next(name for name, each in lab.world.images.items() if each.build)
    lab.world.containers["foreign"] = FakeContainer(project="", guest="", id="f", image=used)
    text = lab.text(lab.must(Down(purge=True)))
    assert f"{lab.world.images[used].tags[0]} stays on one: " in text
    assert "a container uses it" in text
    assert [each.tags for each in built(lab.world)] == [lab.world.images[used].tags]


class _Stubborn:
    """Images of an engine that removes nothing, or has another one each time."""

    def __init__(self, *, others: bool) -> None:
        self.others = others
        self.removed: list[str] = []

    async def of_project(self, _project: str) -> list[FoundImage]:
        name = f"sha256:{len(self.removed) if self.others else 0:064x}"
        return [FoundImage(id=name, tags=(), digests=(), size=1, project="lab", build="k")]

    async def remove_image(self, _project: str, name: str) -> None:
        self.removed.append(name)


@pytest.mark.parametrize("others", [False, True])
def test_purge_ends_with_an_engine_that_removes_nothing(others: bool) -> None:
    images = _Stubborn(others=others)
    context, host = (
        SimpleNamespace(project="lab"),
        SimpleNamespace(name="two", engine=SimpleNamespace(images=images)),
    )

    async def run() -> list[str]:
        async with asyncio.timeout(20):
            return [*await _built_images.purge(cast("Context", context), cast("HostDrivers", host))]

    kept = asyncio.run(run())
    assert len(images.removed) == (_built_images._MOST_ROUNDS if others else 1)
    assert others or kept == [f"sha256:{0:064x} stays on two: its engine lists it still"]


def test_the_main_host_is_purged_of_what_it_built_for_others(lab: Lab) -> None:
    lab.edit("web: one, same: two, other: one, plain: one", "web: two, same: two, other: two, plain: two")
    lab.must(Up())
    assert len(built(lab.world)) == 2
    lab.must(Down(purge=True))
    assert not built(lab.world)
