"""What up, down and snapshots check or keep so that nothing is lost, each taken away by a mutant once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState, Level, Phase
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeDisk
from kvmcompose.providers.guest.fake import FakeShell
from kvmcompose.providers.guest.interface import Login
from kvmcompose.providers.libvirt.fake import FakeHypervisor
from kvmcompose.providers.libvirt.interface import HypervisorFacts

if TYPE_CHECKING:
    from conftest import Lab


def forgotten(lab: Lab) -> set[str]:
    """The guests whose host keys were forgotten since the last call."""
    calls, prefix = lab.drivers.calls, "forget:"
    found = {call.removeprefix(prefix) for call in calls if call.startswith(prefix)}
    calls.clear()
    return found


def test_networks_stay_while_a_guest_is_plugged_into_them(lab: Lab) -> None:
    def network() -> object:
        """All of it but the ports of guests that are off."""
        ports = {
            name: {port for port, each in bridge.ports.items() if each.marked}
            for name, bridge in lab.world.bridges["lab"].items()
        }
        return [ports, msgspec.to_builtins([lab.world.networks, lab.world.links])]

    lab.must(Up())
    before = network()
    lab.drivers.failures = [Failure("undefine_domain:lab-web")]
    assert lab.do(Down()).state is ActionState.FAILED
    assert "lab-web" in lab.world.domains
    assert network() == before
    assert lab.world.projects
    lab.drivers.failures = []
    lab.must(Down())
    lab.assert_clean()


def test_a_host_key_is_forgotten_when_the_seed_changes(lab: Lab) -> None:
    """cloud-init takes a guest with another seed for a new instance, and makes new host keys."""
    lab.must(Up())
    forgotten(lab)
    lab.bench.write("setup.sh", "echo another\n")
    lab.bench.generate()
    lab.must(Up())
    assert forgotten(lab) == set()  # it has not booted with it
    lab.must(Down())
    lab.must(Up())
    assert forgotten(lab) == {"web"}
    lab.must(Down())
    lab.must(Up())
    assert forgotten(lab) == set()


def test_a_host_key_is_forgotten_with_the_disk(lab: Lab) -> None:
    """The host key of a guest is on its disk: a new disk has another one, by right."""
    lab.must(Up())
    assert "web" in forgotten(lab)
    lab.must(Down())
    lab.must(Up())
    assert forgotten(lab) == set()
    disk = lab.world.domains["lab-web"].disk
    lab.must(Down())
    lab.world.disks[disk] = FakeDisk()
    lab.drivers.keep()
    lab.must(Up())
    assert forgotten(lab) == {"web"}


def test_snapshots_are_forgotten_with_the_disk(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("web",)))
    disk = lab.world.domains["lab-web"].disk
    lab.must(Down())
    lab.world.disks[disk] = FakeDisk()
    lab.drivers.keep()
    lab.must(Up())
    assert lab.world.domains["lab-web"].snapshots == {}


def test_a_guest_with_another_seed_begins_another_life(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lives: dict[str, set[str]] = {}

    async def wait_ready(_self: FakeShell, login: Login, _seconds: float) -> None:
        lives.setdefault(login.guest, set()).add(login.life)

    monkeypatch.setattr(FakeShell, "wait_ready", wait_ready)
    for _ in range(2):
        lab.must(Up())
        lab.must(Down())
    assert {len(each) for each in lives.values()} == {1}
    lab.bench.write("setup.sh", "#!/bin/sh\necho another\n")
    lab.bench.generate()
    lab.must(Up())
    assert {guest for guest, each in lives.items() if len(each) > 1} == {"web"}
    assert "" not in set().union(*lives.values())


@pytest.mark.parametrize(("memory", "warned"), [(128 * 5 - 1, True), (128 * 5, False)])
def test_more_memory_than_the_host_has_is_a_warning(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, memory: int, *, warned: bool
) -> None:
    async def facts(_self: FakeHypervisor) -> HypervisorFacts:
        return HypervisorFacts(cpus=64, memory_mb=memory, version="fake")

    monkeypatch.setattr(FakeHypervisor, "facts", facts)
    action = lab.must(Up())
    warnings = [line.text for line in lab.log(action) if line.level is Level.WARNING]
    assert any(f"{memory} MiB of memory" in text for text in warnings) is warned


def test_a_snapshot_that_fails_leaves_the_testbed_up(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("create_snapshot:lab-web")]
    action = lab.do(Snapshot(verb=SnapshotVerb.CREATE, name="one"))
    assert action.state is ActionState.FAILED
    assert (lab.deployment.state, lab.deployment.failed_command) == (Phase.UP, None)
