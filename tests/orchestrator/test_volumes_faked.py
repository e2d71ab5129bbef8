"""Volumes of containers on other, simulated hosts: what is sent, when, and what stays."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import ActionState, Deployment
from kvmcompose.core.planned import PlanRequest, TestbedPlan
from kvmcompose.hosts.fake import Failure
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.people import Person, Role
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Lab
    from golden.bench import Bench

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br1}]
    docker:
      image: "tiny:1"
      volumes:
        - {source: "${PWD}/html", target: /www, read_only: true}
        - {source: html/inner, target: /inner, read_only: true}
        - {source: app.conf, target: /etc/app.conf, read_only: true}
  - name: db
    interfaces: [{bridge: br1}]
    docker: {image: "tiny:1", volumes: [{source: ./html/, target: /www, read_only: true}]}
  - name: main
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", volumes: [{source: data, target: /data, read_only: true}]}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
testbed_options:
  placement: {pin: {br0: one, br1: two}}
"""
CONFIG = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"},
   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
FILES = {
    "html/index": "a page\n",
    "html/inner/page": "another\n",
    "app.conf": "key = 1\n",
    "data/here": "not sent\n",
}
ANN = 61_000
SENT = {"html": {"", "index", "inner", "inner/page"}, "app.conf": {""}}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("volumes"), YAML, CONFIG, others=FILES)


@pytest.fixture
def lab(volumes: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(volumes, tmp_path) as lab:
        yield lab


class MembersServer(Orchestrator):
    """A server of root's that works for a member."""

    def _owner(self, deployment: Deployment) -> Person:
        del deployment
        return Person(name="ann", role=Role.USER, uid=ANN)


@pytest.fixture
def members_lab(volumes: Bench, new_lab: type[Lab]) -> Iterator[Lab]:
    """A lab of a member's, who may not look into pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        with new_lab.copied(volumes, place) as lab:
            for path in (lab.folder, *lab.folder.rglob("*")):
                os.chown(path, ANN, ANN, follow_symlinks=False)
            lab.orchestrator = MembersServer(lab.drivers, lab.store)
            yield lab


def sent(lab: Lab, host: str = "two") -> dict[str, set[str]]:
    """What was sent of each volume to a host."""
    return {name: set(tree) for name, tree in lab.drivers.worlds[host].volumes.get("lab", {}).items()}


def ids(lab: Lab) -> dict[str, str]:
    worlds = lab.drivers.worlds.values()
    return {name: each.id for world in worlds for name, each in world.containers.items()}


def plan(lab: Lab) -> TestbedPlan:
    return asyncio.run(lab.orchestrator.plan(lab.deployment, PlanRequest(state=msgspec.Raw(b"null"))))


def puts(lab: Lab) -> list[str]:
    return [call for call in lab.drivers.calls if "put_volume" in call]


def test_each_host_is_sent_the_volumes_of_its_containers_once(lab: Lab) -> None:
    assert {(each.subject, each.host) for each in plan(lab).changes if each.kind == "container-volume"} == {
        ("volume html", "two"),
        ("volume app.conf", "two"),
    }
    assert "app.conf: 1 file sent to two" in lab.text(lab.must(Up()))
    assert sent(lab) == SENT
    assert sent(lab, "three") == sent(lab, "") == {}
    assert lab.drivers.calls.index("two/put_volume:html") < lab.drivers.calls.index(
        "two/start_container:lab-web"
    )
    assert lab.status().differences == ()
    lab.drivers.calls.clear()
    assert "nothing to do" in lab.text(lab.must(Up()))
    assert puts(lab) == []
    assert not [call for call in lab.drivers.calls if call.startswith("three/look_at_volumes")]


def test_an_edit_is_named_and_sent_and_no_container_restarts(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    (lab.folder / "html/index").write_text("an edited page\n")
    (lab.folder / "html/more").write_text("more\n")
    (lab.folder / "html/inner/page").unlink()
    (change,) = plan(lab).changes
    assert change.verb == "update"
    assert change.because == ("html/index has changed", "html/more added", "html/inner/page removed")
    assert [each.bytes_to_send for each in plan(lab).hosts if each.name == "two"] == [20]
    lab.drivers.calls.clear()
    action = lab.must(Up())
    assert puts(lab) == ["two/put_volume:html"]
    assert "html: 2 files sent to two, 20 bytes, 1 removed" in lab.text(action)
    assert sent(lab)["html"] == {"", "index", "inner", "more"}
    assert ids(lab) == before
    assert plan(lab).changes == ()


def test_a_name_in_two_lines_is_shown_in_one(lab: Lab) -> None:
    lab.must(Up())
    (lab.folder / "html/a\nlab is up").write_text("")
    (change,) = plan(lab).changes
    assert change.because == (r"'html/a\nlab is up' added",)


def test_volumes_that_are_in_others_are_sent_with_these(lab: Lab) -> None:
    (lab.folder / "html-2").mkdir()
    lab.edit("source: html/inner", "source: html-2")
    lab.must(Up())
    assert sent(lab) == {**SENT, "html-2": {""}}


def test_many_edits_are_counted(lab: Lab) -> None:
    lab.must(Up())
    for number in range(10):
        (lab.folder / f"html/{number}").write_text("")
    (change,) = plan(lab).changes
    assert change.because[-2:] == ("html/2 added", "the rest of 10 files has changed")


def test_down_keeps_volumes_and_purge_removes_them(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    assert sent(lab) == SENT
    lab.drivers.calls.clear()
    lab.must(Up())
    assert puts(lab) == []
    lab.must(Down(purge=True))
    assert sent(lab) == {}


def test_what_could_not_be_sent_keeps_its_containers_from_starting(lab: Lab) -> None:
    lab.drivers.failures = [Failure("two/put_volume:app.conf", 1)]
    action = lab.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    running = {name for name, each in lab.drivers.worlds["two"].containers.items() if each.state == "running"}
    assert running == {"lab-db"}
    lab.must(Up())
    assert sent(lab) == SENT
    assert lab.status().differences == ()


def test_what_cannot_be_sent_is_refused_before_anything_is_changed(lab: Lab) -> None:
    lab.must(Up())
    os.mkfifo(lab.folder / "html/pipe")
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    (fault,) = action.faults
    assert fault.message.endswith("two: 'html/pipe' is a named pipe, which other hosts cannot be sent")
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))


@pytest.mark.parametrize("source", ["./", "artefacts", "html/to-inner"])
def test_volumes_that_no_other_host_can_have(lab: Lab, source: str) -> None:
    (lab.folder / "html/to-inner").symlink_to("inner")
    lab.edit("source: html/inner", f"source: {source}")
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    said = "is reached by a link" if source == "html/to-inner" else "has artefacts in it"
    assert said in action.faults[0].message
    assert not [call for call in lab.drivers.calls if "create" in call]


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone")
def test_a_members_volumes_are_refused_on_all_hosts(members_lab: Lab) -> None:
    action = members_lab.do(Up())
    assert action.state is ActionState.FAILED
    said = {each.message for each in action.faults if "which no host is sent for ann" in each.message}
    assert {each.split(" has the volume ")[0].rpartition(" ")[2] for each in said} == {"web", "db", "main"}
    assert not [call for call in members_lab.drivers.calls if "volume" in call or "create" in call]


def test_a_copy_that_stays_behind_is_named(lab: Lab) -> None:
    lab.must(Up())
    lab.edit("br1: two", "br1: three")
    text = lab.text(lab.must(Up()))
    assert "html on two stays there, with what guests have written to it" in text
    assert sent(lab, "three") == sent(lab) == SENT
    lab.edit("br1: three", "br1: one")
    text = lab.text(lab.must(Up()))
    assert text.count("html on three stays there, with what guests have written to it") == 1


def test_a_container_that_was_stopped_moves_and_stays_off(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Power(verb=PowerVerb.STOP, guests=("web",)))
    lab.edit("br1: two", "br1: three")
    lab.must(Up())
    (web,) = [
        each for each in asyncio.run(lab.orchestrator.status(lab.deployment)).guests if each.name == "web"
    ]
    assert web.state not in ("running", "missing", None)
    lab.must(Power(verb=PowerVerb.START, guests=("web",)))
    assert "is up already" in lab.text(lab.must(Up()))


def test_the_server_can_be_killed_at_any_call(lab: Lab) -> None:
    lab.must(Up())
    (lab.folder / "html/index").write_text("an edited page\n")
    for call in ("two/look_at_volumes:lab", "two/put_volume:html"):
        lab.drivers.failures = [Failure(call, 1)]
        assert lab.do(Up()).state is not ActionState.SUCCEEDED
    lab.restart()
    lab.must(Up())
    assert plan(lab).changes == ()
