"""Some guests alone: up NAME, down NAME, start, stop, restart, pause, resume; and what up leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import Phase

if TYPE_CHECKING:
    from conftest import Lab

GUESTS = {"web", "db", "alone", "worker-0", "worker-1"}


def started(lab: Lab) -> dict[str, float]:
    return {name: domain.started for name, domain in lab.world.domains.items()}


def test_what_was_stopped_stays_off_until_it_is_named(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    assert lab.running() == GUESTS - {"db"}
    (db,) = (guest for guest in lab.status().guests if guest.name == "db")
    assert (db.state, db.asked) == ("shut off", "shut off")
    assert lab.status().differences == ()
    assert lab.status().deployment.condition == "up"
    assert "up already: 4 guests run, 1 stopped or paused" in lab.text(lab.must(Up()))
    lab.must(Up(guests=("db",)))
    assert lab.running() == GUESTS
    lab.must(Power(verb=PowerVerb.STOP))
    assert lab.running() == set()
    lab.must(Power(verb=PowerVerb.START))
    assert lab.running() == GUESTS
    assert lab.deployment.state is Phase.UP


def test_a_guest_is_paused_and_runs_on(lab: Lab) -> None:
    lab.must(Up())
    before = started(lab)
    lab.must(Power(verb=PowerVerb.PAUSE, guests=("web",)))
    (web,) = (guest for guest in lab.status().guests if guest.name == "web")
    assert (web.state, web.asked) == ("paused", "paused")
    lab.must(Up())
    assert lab.status().differences == ()
    lab.must(Power(verb=PowerVerb.RESUME, guests=("web",)))
    assert started(lab) == before
    assert lab.running() == GUESTS


def test_a_guest_that_was_paused_outside_runs_on_at_up(lab: Lab) -> None:
    lab.must(Up())
    before = started(lab)
    lab.world.domains["lab-web"].paused = "I/O error: no space for vda"
    status = lab.status()
    assert status.differences == ("guest web: is paused (I/O error: no space for vda)",)
    assert (status.deployment.state, status.deployment.condition) == (Phase.UP, "degraded")
    (web,) = (guest for guest in status.guests if guest.name == "web")
    assert (web.state, web.reason, web.asked) == ("paused", "I/O error: no space for vda", None)
    lab.must(Up(no_repair=True))
    assert lab.world.domains["lab-web"].paused
    lab.must(Up())
    assert lab.status().differences == ()
    assert started(lab) == before


def test_restart_restarts_what_is_named_and_runs_its_run_scripts(lab: Lab) -> None:
    lab.must(Up())
    before = started(lab)
    action = lab.must(Power(verb=PowerVerb.RESTART, guests=("web",)))
    assert {name for name, each in started(lab).items() if before[name] != each} == {"lab-web"}
    steps = [step.name for step in lab.store.steps(action.uuid)]
    assert steps == ["check", "stop:web", "start:web", "wait:web", "run:web:00-run.sh", "verify"]


def test_down_of_some_guests_leaves_the_others(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down(guests=("db",)))
    assert lab.running() == GUESTS - {"db"}
    assert lab.deployment.state is Phase.UP
    assert "lab-db" not in lab.world.domains
    refused = lab.do(Down(guests=("dbb",)))
    assert refused.refused
    assert refused.faults[0].hint == "did you mean db?"
    lab.must(Up())
    assert lab.running() == GUESTS


def test_what_was_taken_down_alone_is_no_drift(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down(guests=("db",)))
    status = lab.status()
    assert (status.differences, status.deployment.condition) == ((), "up")
    assert {guest.name: (guest.state, guest.asked) for guest in status.guests}["db"] == ("absent", "absent")
    lab.must(Power(verb=PowerVerb.STOP, guests=("web",)))
    assert "lab-db" not in lab.world.domains
    assert lab.running() == GUESTS - {"db", "web"}
    lab.must(Up())
    assert lab.running() == GUESTS - {"web"}
    assert lab.status().differences == ()


def test_up_of_some_guests_changes_these_alone(lab: Lab) -> None:
    lab.must(Up())
    before = started(lab)
    lab.bench.edit(
        "cpus: 1\n      memory_mb: 128\n      libvirt_type: {",
        "cpus: 2\n      memory_mb: 128\n      libvirt_type: {",
    )
    lab.bench.edit(
        "name: db\n    interfaces: [{bridge: br1}]\n    libvirt: {cpus: 1",
        "name: db\n    interfaces: [{bridge: br1}]\n    libvirt: {cpus: 2",
    )
    lab.bench.edit(
        "name: alone\n    interfaces: [{bridge: br2}]\n    libvirt: {cpus: 1",
        "name: alone\n    interfaces: [{bridge: br2}]\n    libvirt: {cpus: 2",
    )
    lab.bench.generate()
    lab.must(Up(guests=("db",)))
    assert {name for name, each in started(lab).items() if before[name] != each} == {"lab-db"}
    action = lab.must(Up(no_restart=True))
    assert "left as it is: guest alone: restart: cpus: 1 -> 2" in lab.text(action)
    assert lab.do(Up(guests=("nobody",))).refused
    lab.must(Up())
    assert lab.status().differences == ()
