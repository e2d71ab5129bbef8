"""Metrics: what Prometheus is shown of hosts, guests and actions, and what looking at them costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import Deployment, Health, NewDeployment, Phase
from kvmcompose.core.instance import HostSize, Measured
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeContainer, FakeDomain
from kvmcompose.server.actions import Actions
from kvmcompose.server.api import exposition as text
from kvmcompose.server.api.figures import DeploymentFigures, ServerFigures
from kvmcompose.server.api.service import Service
from kvmcompose.server.orchestrator import metering
from kvmcompose.server.orchestrator.metering import GuestFigures, HostFigures, TestbedFigures
from kvmcompose.server.people import Asker, Person, Role, this_user
from orchestrator.host_calls import counted_calls
from orchestrator.projects import TWO_HOSTS, built_project

if TYPE_CHECKING:
    from conftest import Lab
    from golden.bench import Bench

YAML = """\
machines:
  - name: vm
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: web
    interfaces: [{bridge: br0}]
    healthcheck: {command: ["true"]}
    docker: {image: "tiny:1", command: [sleep, "4444"]}
  - name: db
    interfaces: [{bridge: br1}]
    docker: {image: "tiny:1", command: [sleep, "4444"]}
network:
  bridges: [{name: br0}, {name: br1}]
  external_bridge: br0
testbed_options:
  placement: {pin: {vm: one, web: one, db: two, br1: two}}
"""
Labels = Mapping[str, str]
VM = {"deployment": "lab", "guest": "vm", "host": "one", "kind": "libvirt"}
WEB = {"deployment": "lab", "guest": "web", "host": "one", "kind": "docker"}
DB = {"deployment": "lab", "guest": "db", "host": "two", "kind": "docker"}


class Scrape:
    """The samples of one scrape."""

    def __init__(self, content: bytes) -> None:
        self.text = content.decode()
        families = list(text_string_to_metric_families(self.text))
        self.samples = {
            (each.name, frozenset(each.labels.items())): each.value
            for family in families
            for each in family.samples
        }
        assert len(self.samples) == sum(len(family.samples) for family in families), "a sample is there twice"

    def value(self, name: str, labels: Labels) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def having(self, name: str, label: str) -> dict[str, str]:
        """Each guest's value of a label, of the samples that are 1."""
        found = [
            dict(labels) for (each, labels), value in self.samples.items() if each == name and value == 1
        ]
        assert len({each["guest"] for each in found}) == len(found)
        return {each["guest"]: each[label] for each in found}


@pytest.fixture(scope="module")
def mixed_kinds(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("metered"), YAML, TWO_HOSTS)


@pytest.fixture
def lab(mixed_kinds: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(mixed_kinds, tmp_path) as lab:
        yield lab


def service_of(lab: Lab) -> Service:
    health = Health(version="1", drivers="fake", embedded=False, pid=1)
    actions = Actions(lab.store, lab.orchestrator)
    return Service(lab.store, actions, lab.orchestrator, project_roots=(lab.folder,), health=health)


async def scraped(service: Service, person: Person | None = None) -> Scrape:
    found = await service.metrics(Asker(person=person or this_user()))
    content, kind = text.exposition(*found, "")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(content)


def scrape(lab: Lab) -> Scrape:
    return asyncio.run(scraped(service_of(lab)))


def age(lab: Lab, seconds: float) -> None:
    """Let what runs have been started earlier."""
    for world in lab.drivers.worlds.values():
        for each in (*world.domains.values(), *world.containers.values()):
            each.started -= seconds if each.started else 0


def test_guests_have_the_numbers_that_status_shows(lab: Lab) -> None:
    lab.must(Up())
    age(lab, 1000)
    found = scrape(lab)
    shown = {guest.name: guest for guest in lab.status().guests}
    for labels in (VM, WEB, DB):
        guest = shown[labels["guest"]]
        assert (guest.host, guest.kind, guest.state) == (labels["host"], labels["kind"], "running")
        assert found.value("kvmcompose_guest_up", labels) == 1
        assert found.value("kvmcompose_guest_state", {**labels, "state": guest.state}) == 1
        assert found.value("kvmcompose_guest_uptime_seconds", labels) == pytest.approx(guest.uptime, abs=5)
        assert found.value("kvmcompose_guest_memory_resident_bytes", labels) == (guest.memory_mb or 0) << 20
        for name in ("disk_read", "disk_written", "network_receive", "network_transmit"):
            value = found.value(f"kvmcompose_guest_{name}_bytes_total", labels)
            assert value is not None
            assert value >= 400 * 1000
    assert found.value("kvmcompose_guest_cpu_seconds_total", VM) == pytest.approx(100, abs=1)
    assert found.value("kvmcompose_guest_cpu_seconds_total", DB) == pytest.approx(10, abs=1)
    assert found.value("kvmcompose_guest_memory_used_bytes", VM) == (shown["vm"].used_mb or 0) << 20
    assert found.value("kvmcompose_guest_memory_limit_bytes", VM) == (shown["vm"].given_mb or 0) << 20
    assert found.having("kvmcompose_guest_health", "health") == {"web": "healthy"}
    for host in ("one", "two"):
        assert found.value("kvmcompose_host_up", {"deployment": "lab", "host": host}) == 1
    assert found.value("kvmcompose_host_cpus", {"deployment": "lab", "host": "two"}) == 8
    assert found.value("kvmcompose_host_memory_bytes", {"deployment": "lab", "host": "two"}) == 16 << 30


def test_a_scrape_is_one_look_at_what_runs_guests_on_a_host(lab: Lab) -> None:
    lab.must(Up())
    with counted_calls(lab.drivers) as calls:
        scrape(lab)
    assert calls.of() == {"measure_domains": 1, "measure_containers": 1}
    assert calls.of("two") == {"measure_containers": 1}  # no guest of libvirt is there
    assert calls.guests == {}


def test_scrapes_and_deployments_share_a_look(lab: Lab) -> None:
    lab.must(Up())
    lab.store.put_deployment(NewDeployment("other", "/elsewhere"))
    lab.store.set_deployed("other", lab.store.deployed("lab"))
    lab.drivers.delay = 2  # all have asked by then, on a loaded machine, too

    async def together() -> list[Scrape]:
        service = service_of(lab)
        return list(await asyncio.gather(*(scraped(service) for _ in range(5))))

    with counted_calls(lab.drivers) as calls:
        found = asyncio.run(together())
    assert calls.of() == {"measure_domains": 1, "measure_containers": 1}
    assert calls.of("two") == {"measure_containers": 1}
    for each in found:
        assert each.value("kvmcompose_guest_up", VM) == 1
        # nothing there is that project's
        assert each.value("kvmcompose_guest_state", {**VM, "deployment": "other", "state": "absent"}) == 1


def test_nobody_who_asks_nothing_that_looks(lab: Lab) -> None:
    lab.must(Up())

    async def idle() -> None:
        service_of(lab)
        await asyncio.sleep(0.2)

    with counted_calls(lab.drivers) as calls:
        asyncio.run(idle())
    assert calls.hosts == {}


def test_a_host_that_fails_is_shown_as_such(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures.append(Failure("two/measure_containers"))
    found = scrape(lab)
    assert found.value("kvmcompose_host_up", {"deployment": "lab", "host": "one"}) == 1
    assert found.value("kvmcompose_host_up", {"deployment": "lab", "host": "two"}) == 0
    assert found.having("kvmcompose_guest_state", "state") == {
        "vm": "running",
        "web": "running",
        "db": "unknown",
    }
    assert found.value("kvmcompose_guest_up", DB) == 0
    assert found.value("kvmcompose_guest_cpu_seconds_total", DB) is None
    assert found.value("kvmcompose_host_cpus", {"deployment": "lab", "host": "two"}) is None


def test_a_host_that_hangs_is_waited_for_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.must(Up())
    monkeypatch.setattr(metering, "LOOK_SECONDS", 0.1)
    lab.drivers.delay = 3600

    async def twice_and_then() -> list[Scrape]:
        service = service_of(lab)
        found = [await scraped(service) for _ in range(2)]
        for task in asyncio.all_tasks():
            if task.get_name().startswith("measure "):
                task.cancel()  # as if it had answered
        lab.drivers.delay = 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [*found, await scraped(service)]

    with counted_calls(lab.drivers) as calls:
        *hung, good = asyncio.run(twice_and_then())
    for each in hung:
        assert each.value("kvmcompose_host_up", {"deployment": "lab", "host": "one"}) == 0
        assert set(each.having("kvmcompose_guest_state", "state").values()) == {"unknown"}
        assert each.value("kvmcompose_deployment_scrape_success", {"deployment": "lab"}) == 1
    assert good.value("kvmcompose_host_up", {"deployment": "lab", "host": "one"}) == 1
    assert calls.of("two") == {"measure_containers": 2}


def domain(lab: Lab) -> FakeDomain:
    return lab.world.domains["lab-vm"]


def container(lab: Lab) -> FakeContainer:
    return lab.world.containers["lab-web"]


def stop(lab: Lab) -> None:
    domain(lab).started = 0
    container(lab).state, container(lab).pid = "exited", 0


def pause(lab: Lab) -> None:
    domain(lab).paused = "by user"
    container(lab).state = "paused"


def remove(lab: Lab) -> None:
    del lab.world.domains["lab-vm"]
    del lab.world.containers["lab-web"]


def take(lab: Lab) -> None:
    """Let others have what has the names."""
    domain(lab).project = container(lab).project = "of-others"


@pytest.mark.parametrize(
    ("change", "state"), [(stop, "shut off"), (pause, "paused"), (remove, "absent"), (take, "absent")]
)
def test_guests_that_do_not_run(lab: Lab, change: Callable[[Lab], None], state: str) -> None:
    lab.must(Up())
    change(lab)
    found = scrape(lab)
    assert found.having("kvmcompose_guest_state", "state") == {"vm": state, "web": state, "db": "running"}
    assert found.value("kvmcompose_guest_up", VM) == found.value("kvmcompose_guest_up", WEB) == 0
    known = state == "paused"
    assert (found.value("kvmcompose_guest_cpu_seconds_total", VM) is not None) is known
    assert (found.value("kvmcompose_guest_memory_resident_bytes", WEB) is not None) is known


def test_unhealthy_guests(lab: Lab) -> None:
    lab.must(Up())
    container(lab).health = "unhealthy"
    assert scrape(lab).having("kvmcompose_guest_health", "health") == {"web": "unhealthy"}


def test_what_was_taken_down_is_not_shown(lab: Lab) -> None:
    def state(name: str) -> float | None:
        return scrape(lab).value("kvmcompose_deployment_state", {"deployment": "lab", "state": name})

    assert state(Phase.DOWN) == 1
    lab.must(Up())
    assert (state(Phase.UP), state(Phase.DOWN)) == (1, None)
    lab.must(Power(verb=PowerVerb.STOP, guests=("vm",)))
    assert scrape(lab).having("kvmcompose_guest_state", "state")["vm"] == "shut off"
    lab.must(Down())
    assert state(Phase.DOWN) == 1
    found = scrape(lab)
    assert "kvmcompose_guest_up{" not in found.text
    assert "kvmcompose_host_up{" not in found.text


def test_a_guest_that_was_removed_has_gone(lab: Lab) -> None:
    lab.must(Up())
    assert scrape(lab).value("kvmcompose_guest_up", WEB) == 1
    lab.edit("web: one, ", "")
    lab.edit(YAML[YAML.index("  - name: web") : YAML.index("  - name: db")], "")
    lab.must(Up())
    found = scrape(lab)
    assert 'guest="web"' not in found.text
    assert found.value("kvmcompose_guest_up", VM) == 1


def test_a_testbed_that_cannot_be_read_does_not_hide_others(lab: Lab) -> None:
    lab.must(Up())
    lab.store.put_deployment(NewDeployment("broken", "/elsewhere"))
    lab.store.set_deployed("broken", b'{"state": {}, "files": {}}')
    found = scrape(lab)
    assert found.value("kvmcompose_deployment_scrape_success", {"deployment": "broken"}) == 0
    assert found.value("kvmcompose_guest_up", VM) == 1


def test_users_see_their_own_deployments(lab: Lab) -> None:
    lab.must(Up())
    stranger = Person(name="eve", role=Role.READ_ONLY, uid=54321)
    lab.store.put_deployment(NewDeployment("eves", "/eves"), stranger)
    found = asyncio.run(scraped(service_of(lab), stranger))
    assert '"lab"' not in found.text
    assert found.value("kvmcompose_deployment_state", {"deployment": "eves", "state": "down"}) == 1
    assert found.value("kvmcompose_build_info", {"version": "1"}) == 1


def test_actions_are_counted_by_their_end(lab: Lab) -> None:
    async def act() -> tuple[Scrape, Scrape, Scrape]:
        actions = Actions(lab.store, lab.orchestrator)
        health = Health(version="1", drivers="fake", embedded=False, pid=1)
        service = Service(lab.store, actions, lab.orchestrator, project_roots=(), health=health)
        lab.drivers.failures.append(Failure("start_domain:*", 1))
        for _ in range(2):
            await actions.wait(actions.begin(lab.deployment, Up()).uuid)
        running = actions.begin(lab.deployment, Down())
        while_it_runs = await scraped(service)
        await actions.wait(running.uuid)
        ended = await scraped(service)
        service.remove(Asker(person=this_user()), "lab")
        return while_it_runs, ended, await scraped(service)

    running, ended, removed = asyncio.run(act())
    up, down = ({"deployment": "lab", "command": each} for each in ("up", "down"))
    assert running.value("kvmcompose_actions_running", down) == 1
    assert running.value("kvmcompose_actions_running", up) == 0
    assert ended.value("kvmcompose_actions_running", down) == 0
    for result in ("failed", "succeeded"):
        assert ended.value("kvmcompose_actions_total", {**up, "result": result}) == 1
    assert ended.value("kvmcompose_actions_total", {**down, "result": "succeeded"}) == 1
    assert ended.value("kvmcompose_action_duration_seconds_count", up) == 2
    assert ended.value("kvmcompose_action_duration_seconds_bucket", {**up, "le": "+Inf"}) == 2
    assert "kvmcompose_actions_total{" not in removed.text


HOSTILE = 'a"} 1\nkvmcompose_guest_up{guest="b\\'


def test_names_cannot_forge_samples() -> None:
    """The schema allows no such names; should it ever, they stay values of labels."""
    labels = {"deployment": HOSTILE, "guest": HOSTILE, "host": HOSTILE, "kind": HOSTILE}
    measured = Measured(project=HOSTILE, name=HOSTILE, state=HOSTILE, cpu_seconds=1e300)
    guest = GuestFigures(
        name=HOSTILE,
        kind=HOSTILE,
        host=HOSTILE,
        state=HOSTILE,
        health=HOSTILE,
        memory_mb=1,
        measured=measured,
    )
    hosts = (HostFigures(name=HOSTILE, responds=False, size=None),)
    testbed = TestbedFigures(hosts=hosts, guests=(guest,))
    deployment = DeploymentFigures(
        deployment=Deployment(name=HOSTILE, project_location="/", state=Phase.UP),
        testbed=testbed,
        readable=True,
        running=(),
        ended={},
    )
    server = ServerFigures(version=HOSTILE, answered={}, requests=0, websockets=0, event_sockets=0)
    content, _ = text.exposition([deployment], server, "")
    found = Scrape(content)
    assert found.value("kvmcompose_guest_up", labels) == 0
    assert found.value("kvmcompose_guest_state", {**labels, "state": HOSTILE}) == 1
    assert [key for key in found.samples if key[0] == "kvmcompose_guest_up"] == [
        ("kvmcompose_guest_up", frozenset(labels.items()))
    ]


def test_numbers_that_no_counter_has_are_left_out(lab: Lab) -> None:
    """An engine says what it likes; what cannot be written must not fail the scrape of all hosts."""
    absurd = Measured(
        project="lab", name="lab-db", state="running", memory=10**400, reads=-(10**400), cpu_seconds=1
    )
    guest = GuestFigures(
        name="db", kind="docker", host="two", state="running", health="", memory_mb=None, measured=absurd
    )
    size = HostSize(cpus=10**400, memory_mb=-(10**400))
    testbed = TestbedFigures(hosts=(HostFigures(name="two", responds=True, size=size),), guests=(guest,))
    deployment = DeploymentFigures(
        deployment=lab.deployment, testbed=testbed, readable=True, running=(), ended={}
    )
    server = ServerFigures(version="1", answered={}, requests=0, websockets=0, event_sockets=0)
    found = Scrape(text.exposition([deployment], server, "")[0])
    assert found.value("kvmcompose_guest_memory_resident_bytes", DB) is None
    assert found.value("kvmcompose_guest_disk_reads_total", DB) is None
    assert found.value("kvmcompose_guest_cpu_seconds_total", DB) == 1
    assert found.value("kvmcompose_host_cpus", {"deployment": "lab", "host": "two"}) is None
    assert found.value("kvmcompose_host_up", {"deployment": "lab", "host": "two"}) == 1
