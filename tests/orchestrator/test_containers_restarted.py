"""What happens to containers outside of kvm-compose is reported as their engine reports it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Up
from kvmcompose.server import guest_watch
from kvmcompose.server.guest_watch import GuestWatches
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench
    from kvmcompose.hosts.fake_world import FakeContainer

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "4444"]}
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
