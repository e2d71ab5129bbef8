"""Shares of libvirt guests on simulated hosts: copies elsewhere, what an edit costs, what is refused."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Power, PowerVerb, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState, Deployment
from kvmcompose.core.planned import PlanRequest, TestbedPlan
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.orchestrator.resources import _platform_checks
from kvmcompose.server.people import Person, Role
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Lab
    from golden.bench import Bench

YAML = """\
defaults:
  libvirt: {cpus: 1, memory_mb: 512, libvirt_type: {cloud_image: {name: debian_12}}}
machines:
  - name: here
    interfaces: [{bridge: br0}]
    libvirt: {shares: [{source: data, target: /srv/data}]}
  - name: there
    interfaces: [{bridge: br1}]
    libvirt:
      shares:
        - {source: data, target: /srv/data}
        - {source: data/inner, target: /srv/inner, readonly: true}
  - name: none
    interfaces: [{bridge: br1}]
    libvirt: {}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: two}}
"""
CONFIG = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
FILES = {"data/file": "a file\n", "data/inner/file": "another\n"}
ANN = 61_000


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("shares"), YAML, CONFIG, others=FILES)


@pytest.fixture
def lab(shares: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(shares, tmp_path) as lab:
        yield lab


class MembersServer(Orchestrator):
    """A server of root's that works for a member."""

    def _owner(self, deployment: Deployment) -> Person:
        del deployment
        return Person(name="ann", role=Role.USER, uid=ANN)


def plan(lab: Lab) -> TestbedPlan:
    return asyncio.run(lab.orchestrator.plan(lab.deployment, PlanRequest(state=msgspec.Raw(b"null"))))


def changes(lab: Lab) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {each.subject: (each.verb, each.because) for each in plan(lab).changes}


def test_another_host_is_sent_a_copy_before_the_guest_starts(lab: Lab) -> None:
    assert "data: 2 files sent to two" in lab.text(lab.must(Up()))
    assert set(lab.drivers.worlds["two"].volumes["lab"]["data"]) == {"", "file", "inner", "inner/file"}
    calls = lab.drivers.calls
    assert calls.index("two/put_volume:data") < calls.index("two/start_domain:lab-there")
    assert lab.status().differences == ()
    (lab.folder / "data/file").write_text("edited\n")
    assert changes(lab) == {"volume data": ("update", ("data/file has changed",))}


def test_an_edit_restarts_the_guests_that_have_the_share(lab: Lab) -> None:
    lab.must(Up())
    lab.edit("target: /srv/inner, readonly: true", "target: /srv/other, readonly: true")
    restarts = [each for each in plan(lab).changes if each.verb == "restart"]
    assert [(each.subject, each.because) for each in restarts] == [
        ("guest there", ("shares[1].target: /srv/inner -> /srv/other",))
    ]
    lab.must(Up())
    assert changes(lab) == {}


def test_a_snapshot_needs_the_guest_off(lab: Lab) -> None:
    lab.must(Up())
    take = Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("there",))
    action = lab.do(take)
    assert action.state is ActionState.FAILED
    assert "makes no snapshot of a guest that can reach a share" in action.faults[0].message
    assert "kvm-compose stop there && kvm-compose snapshot create before" in str(action.faults[0].hint)
    assert not [call for call in lab.drivers.calls if "create_snapshot" in call]
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("none",)))
    lab.must(Power(verb=PowerVerb.STOP, guests=("there",)))
    lab.must(take)


def test_read_only_by_virtiofs_is_refused_where_libvirt_lacks_it(lab: Lab) -> None:
    lab.edit("readonly: true", "readonly: true, driver: virtiofs")
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    (fault,) = action.faults
    assert (
        "libvirt before version 11 shares no folder read-only by virtiofs, which there needs" in fault.message
    )
    assert fault.hint == "on two: give the share driver: 9p"
    assert not [call for call in lab.drivers.calls if "start" in call]


def test_virtiofsd_is_asked_for_by_name() -> None:
    need = DomainNeed(
        arch="x86_64", machine="q35", virt_type="kvm", uefi=False, secure_boot=False, tpm=False, virtiofs=True
    )
    ((what, hint),) = _platform_checks._lacking(need, Capabilities())
    assert what == "there is no virtiofsd"
    assert "install --no-install-recommends virtiofsd" in hint
    assert "driver: 9p" in hint
    assert not list(_platform_checks._lacking(need, Capabilities(virtiofs=True)))


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone")
def test_shares_of_members_are_refused_on_all_hosts(shares: Bench, new_lab: type[Lab]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        with new_lab.copied(shares, place) as lab:
            for path in (lab.folder, *lab.folder.rglob("*")):
                os.chown(path, ANN, ANN, follow_symlinks=False)
            lab.orchestrator = MembersServer(lab.drivers, lab.store)
            action = lab.do(Up())
            assert action.state is ActionState.FAILED
            said = {each.message for each in action.faults if "which no host is sent for ann" in each.message}
            assert {each.split(" has the share ")[0].rpartition(" ")[2] for each in said} == {"here", "there"}
            assert not [call for call in lab.drivers.calls if "start" in call or "volume" in call]
