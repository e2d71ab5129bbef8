"""``images.lock``: an input of the build, kept by ``pull``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from golden.bench import Bench, new_bench
from kvmcompose.cli._image_lock import digests_of
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_lock import written_lock
from kvmcompose.core.model import Host
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.fake import FakeDrivers

A, B = ("sha256:" + each * 64 for each in "ab")
YAML = """\
machines:
  - {name: web, interfaces: [{bridge: br0}], docker: {image: "nginx:1.25"}}
  - {name: db, interfaces: [{bridge: br0}], docker: {image: "lab/db@%s"}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
#: With it, no build tries whether KVM works here.
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}}}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return new_bench(tmp_path, "project", {"kvm-compose.yaml": YAML % B, "kvm-compose-config.json": CONFIG})


def images(bench: Bench) -> list[str]:
    """Build, and return the images in the requests."""
    ran = bench.run("generate")
    assert ran.status == 0, ran.err
    paths = [bench.folder / "artefacts" / f"{name}-container.json" for name in ("web", "db")]
    return [json.loads(path.read_text())["Image"] for path in paths]


def found(bench: Bench) -> list[tuple[str, str, str]]:
    """Return what ``validate`` says of the project: severity, code, place."""
    problems = bench.run("validate", "--json").json["problems"]
    return [
        (each["severity"], each["code"], f"{Path(each['location']['file']).name}:{each['location']['line']}")
        for each in problems
    ]


def test_a_build_follows_the_lock(bench: Bench) -> None:
    db = f"lab/db@{B}"
    assert images(bench) == ["nginx:1.25", db]
    lock = bench.folder / "images.lock"
    for digest in (A, B):
        lock.write_bytes(written_lock({"nginx:1.25": digest}))
        assert images(bench) == [f"nginx@{digest}", db]
    assert found(bench) == []
    lock.unlink()
    assert images(bench) == ["nginx:1.25", db]


def test_a_lock_without_an_image_is_a_warning(bench: Bench) -> None:
    (bench.folder / "images.lock").write_bytes(written_lock({"nginx:1.24": A}))
    assert found(bench) == [("warning", "not-in-lock", "kvm-compose.yaml:2")]
    assert images(bench)[0] == "nginx:1.25"


def test_a_lock_that_is_none_is_refused(bench: Bench, tmp_path: Path) -> None:
    lock = bench.folder / "images.lock"
    lock.write_text(f"nginx:1.25: {A}\n=======\nnginx:1.25: {B}\n")
    assert found(bench) == [("error", "bad-lock", "images.lock:2")]
    lock.unlink()
    outside = tmp_path / "outside"
    outside.write_bytes(written_lock({"nginx:1.25": A}))
    lock.symlink_to(outside)
    assert found(bench) == [("error", "bad-lock", "kvm-compose.yaml:2")]
    lock.unlink()
    lock.mkdir()
    assert found(bench) == [("error", "bad-lock", "kvm-compose.yaml:2")]


def test_pull_keeps_what_is_pinned_and_removes_what_is_not_used(bench: Bench) -> None:
    lock = bench.folder / "images.lock"
    lock.write_bytes(written_lock({"nginx:1.25": A, "nginx:1.24": B}))
    ran = bench.run("pull")
    assert ran.status == 0, ran.err
    assert lock.read_bytes() == written_lock({"nginx:1.25": A})
    assert f"nginx:1.25 stays {A}" in ran.err
    assert "nginx:1.24 is removed" in ran.err
    before = lock.stat()
    assert bench.run("pull").status == 0
    assert lock.stat() == before


def test_images_are_pinned_by_what_the_engine_pulls(tmp_path: Path) -> None:
    async def run() -> None:
        engine = (
            FakeDrivers(tmp_path / "world")
            .host(Host(name="main", ip="127.0.0.1", is_main_host=True))
            .engine.images
        )
        said: list[str] = []
        digests = await digests_of(engine, ["nginx:1.25", "lab/web"], {}, said.append)
        assert said[0] == "pulling nginx:1.25"
        for image, digest in digests.items():
            there = await engine.image(f"{image.partition(':')[0]}@{digest}")
            assert there is not None
            assert there.id == await engine.pull(image, said.append)

        with pytest.raises(KvmComposeError, match="cannot pin lab/web: the engine knows no digest"):
            await digests_of(cast("Any", _Local()), ["lab/web"], {}, said.append)

    asyncio.run(run())


class _Local:
    """An engine with an image that is in no registry."""

    async def image(self, reference: str) -> FoundImage:
        return FoundImage(id=A, tags=(reference,), digests=(), size=1)

    async def pull(self, _reference: str, _on_line: object) -> str:
        return A
