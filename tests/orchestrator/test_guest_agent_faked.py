"""Guests that are entered by their guest agent, on simulated hosts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Exec, Power, PowerVerb, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import Action, ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.providers.libvirt.fake_agents import FakeAgents
from kvmcompose.server.orchestrator import agent_addresses
from kvmcompose.server.orchestrator.runtimes import runtime_of
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt: {{cpus: 1, memory_mb: 128{ready}, libvirt_type: {{{kind}}}}}
"""
DARK = "name: dark\n    interfaces: [{bridge: lab}]"
SCRIPTS = "cloud_image: {name: debian_12, setup_script: setup.sh, run_script: run.sh}"
YAML = (
    "machines:\n"
    + GUEST.format(name="web", bridge="home", ready="", kind="cloud_image: {name: debian_12}")
    + GUEST.format(name="near", bridge="home", ready=", ready: agent", kind=SCRIPTS)
    + GUEST.format(name="cut", bridge="lab", ready=", ready: agent", kind=SCRIPTS)
    + GUEST.format(name="dark", bridge="lab", ready="", kind="cloud_image: {name: debian_12}")
    + "network:\n  bridges: [{name: home}, {name: lab}]\n  external_bridge: home\n"
    "testbed_options: {placement: {pin: {home: one, lab: one}}}\n"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("agent"), YAML, scripts=("setup", "run"))


@pytest.fixture
def agents(built: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(built, tmp_path) as lab:
        yield lab


def run(lab: Lab, guest: str, *argv: str, **options: str) -> tuple[Action, str]:
    action = lab.do(Exec(guest=guest, argv=argv, **options))
    return action, lab.text(action)


async def enter(lab: Lab, name: str) -> Entrance:
    context = lab.orchestrator._context(lab.deployment)
    testbed = await context.read_current()
    guest = testbed.guests[name]
    return await runtime_of(guest).entrance(context, testbed, guest)


def test_scripts_run_without_a_network(agents: Lab) -> None:
    action = agents.must(Up())
    printed = {(line.guest, line.text) for line in agents.log(action)}
    for guest in ("near", "cut"):
        assert (guest, "(a fake guest) /etc/nocloud/setup/00-setup.sh") in printed
        assert (guest, "(a fake guest) /etc/nocloud/run/00-run.sh") in printed
    by_ssh = ("run:", "wait_ready:cut", "wait_ready:near")
    assert not any(call.startswith(by_ssh) for call in agents.drivers.calls)
    assert agents.status().differences == ()
    assert "nothing to do" in agents.text(agents.must(Up()))
    agents.must(Up(rerun_scripts=True))
    assert agents.world.disks[agents.disk("cut-cloud-init.img")].markers


def test_commands_and_their_users(agents: Lab) -> None:
    agents.must(Up())
    assert run(agents, "cut", "whoami")[1].splitlines()[-1] == "root"
    assert run(agents, "cut", "whoami", user="postgres")[1].splitlines()[-1] == "postgres"
    assert run(agents, "web", "whoami")[1].splitlines()[-1] == "nocloud"  # by SSH
    assert run(agents, "cut", "false")[0].exit_status == 1
    action, _ = run(agents, "cut", "true", user="nobody")
    assert "cannot run commands as nobody in cut: su: unknown user" in action.faults[0].message


def test_input_is_there_before_the_command_starts(agents: Lab) -> None:
    agents.must(Up())

    async def pieces() -> AsyncIterator[bytes]:
        yield b"hello "
        yield b"world"

    entrance = asyncio.run(enter(agents, "cut"))
    printed: list[str] = []
    assert asyncio.run(entrance.run(["sha256sum"], printed.append, stdin=pieces())) == 0
    assert printed == [hashlib.sha256(b"hello world").hexdigest()]


def test_a_command_that_takes_too_long_is_ended(agents: Lab) -> None:
    agents.must(Up())
    action = agents.do(Exec(guest="cut", argv=("sleep", "60"), timeout=0.3))
    assert "sleep 60 did not end within 0.3 s" in action.faults[0].message
    calls = [call for call in agents.drivers.calls if call.startswith("ask_agent:lab-cut:guest-exec")]
    assert calls[-1] == "ask_agent:lab-cut:guest-exec"  # which removes its files


def test_a_guest_without_an_agent_is_refused_at_once(agents: Lab) -> None:
    agents.must(Up())
    action, _ = run(agents, "dark", "true")
    assert "dark has no address that can be reached from here" in action.faults[0].message
    assert "install qemu-guest-agent in it (the guest agent of lab-dark" in (action.faults[0].hint or "")
    agents.world.domains["lab-dark"].agent = True
    assert run(agents, "dark", "whoami")[1].splitlines()[-1] == "root"


@pytest.mark.parametrize("call", ["guest-exec", "guest-exec-status", "guest-file-open", "guest-file-read"])
def test_an_agent_that_goes_away_fails_the_command_in_words(agents: Lab, call: str) -> None:
    agents.must(Up())
    agents.drivers.failures = [Failure(f"ask_agent:lab-cut:{call}", 1)]
    action, _ = run(agents, "cut", "whoami")
    assert action.state is ActionState.FAILED
    assert f"ask_agent:lab-cut:{call} was made to fail" in action.faults[0].message
    assert run(agents, "cut", "whoami")[0].exit_status == 0


def test_who_is_entered_how(agents: Lab) -> None:
    agents.must(Up())
    access = asyncio.run(agents.orchestrator.access(agents.deployment))
    assert {each.name for each in access if each.by_agent} == {"near", "cut", "dark"}


def asked(lab: Lab, execute: str) -> list[str]:
    """The guests whose agents were asked this."""
    return [call.split(":")[1] for call in lab.drivers.calls if call.endswith(f":{execute}")]


def test_the_clock_is_set_after_a_guest_stood_still(agents: Lab) -> None:
    agents.must(Up())
    agents.must(Power(verb=PowerVerb.PAUSE, guests=("cut", "dark")))
    assert "its clock is set" in agents.text(
        agents.must(Power(verb=PowerVerb.RESUME, guests=("cut", "dark")))
    )
    assert asked(agents, "guest-set-time") == ["lab-cut"]  # the other one has no agent
    agents.must(Snapshot(verb=SnapshotVerb.CREATE, name="s", guests=("cut",)))
    restored = agents.must(Snapshot(verb=SnapshotVerb.RESTORE, name="s", guests=("cut",)))
    assert "the clock of cut is set" in agents.text(restored)


def test_a_clock_that_is_not_set_fails_nothing(agents: Lab) -> None:
    agents.must(Up())
    agents.must(Snapshot(verb=SnapshotVerb.CREATE, name="s", guests=("cut",)))
    agents.drivers.failures = [Failure("ask_agent:*:guest-set-time")]
    restored = agents.must(Snapshot(verb=SnapshotVerb.RESTORE, name="s", guests=("cut",)))
    assert "clock" not in agents.text(restored)


def test_addresses_that_nothing_else_knows(agents: Lab) -> None:
    agents.edit(DARK, DARK.replace("lab}", "lab, ip: dynamic}"))
    agents.must(Up())
    assert address(agents, "dark") == ()
    agents.world.domains["lab-dark"].agent = True
    agents.world.domains["lab-dark"].agent_addresses = ["198.51.100.7"]
    assert address(agents, "dark") == ("198.51.100.7",)
    assert set(asked(agents, "guest-network-get-interfaces")) == {"lab-dark"}  # those of others are known


def test_an_agent_that_hangs_holds_up_no_status(agents: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    agents.edit(DARK, DARK.replace("lab}", "lab, ip: dynamic}"))
    agents.must(Up())
    agents.world.domains["lab-dark"].agent = True
    looks = []

    async def hang(*_: object) -> object:
        looks.append(1)
        await asyncio.sleep(60)

    monkeypatch.setattr(FakeAgents, "answer", hang)
    monkeypatch.setattr(agent_addresses, "_WAIT_SECONDS", 0.1)

    async def twice() -> None:
        for _ in range(2):
            async with asyncio.timeout(10):
                found = await agents.orchestrator.status(agents.deployment)
            assert [each.addresses for each in found.guests if each.name == "dark"] == [()]

    asyncio.run(twice())
    assert len(looks) == 1  # no second look begins


def address(lab: Lab, name: str) -> tuple[str, ...]:
    """All addresses of a guest that its status has."""
    lab.orchestrator._agents._seen.clear()
    return next(each.addresses for each in lab.status().guests if each.name == name)


def test_where_the_server_connects_to_the_host_confirms(agents: Lab) -> None:
    """A guest may name the address of another one, or of anything else."""

    async def find(*, is_there: bool) -> str | None:
        main = agents.orchestrator._context(agents.deployment).built.main_host
        networks = agents.drivers.host(main).hypervisor.networks
        told = {"52:54:00:00:00:01": ("203.0.113.9", "10.1.0.7")}
        with pytest.MonkeyPatch.context() as patch:

            async def answers(mac: str, address: str) -> bool:
                return is_there and (mac, address) == ("52:54:00:00:00:01", "10.1.0.7")

            patch.setattr(networks, "answers", answers)
            return await agent_addresses.confirmed(networks, told, ["52:54:00:00:00:01"], "10.1.0.0/24")

    assert asyncio.run(find(is_there=True)) == "10.1.0.7"
    assert asyncio.run(find(is_there=False)) is None
