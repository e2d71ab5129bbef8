"""What the agent of a hostile guest answers is bounded, and of the type that it should be."""

from __future__ import annotations

import json
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from kvmcompose.hosts.errors import AgentSilentError, DriverError
from kvmcompose.providers.libvirt import agent, agents
from kvmcompose.providers.libvirt.connection import failure
from kvmcompose.providers.libvirt.definitions import has_agent, parse


def interface(mac: object, *addresses: object) -> dict[str, Any]:
    shown = [{"ip-address": each, "ip-address-type": "ipv4", "prefix": 24} for each in addresses]
    return {"name": "eth0", "hardware-address": mac, "ip-addresses": shown}


def test_a_command_is_compact_json() -> None:
    command = agent.AgentCommand(execute="guest-exec", arguments={"path": "/bin/true"})
    assert json.loads(command.json) == {"execute": "guest-exec", "arguments": {"path": "/bin/true"}}
    assert agent.PING.json == '{"execute":"guest-ping"}'


def test_an_answer_is_what_returns() -> None:
    assert agent.answer_of("web", "guest-ping", '{"return":{}}') == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"error":{}}',
        '"\\ud800"',
        '{"return":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"return":"' + "x" * agent.LONGEST_ANSWER + '"}',
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_nonsense_is_an_error_in_words(text: str) -> None:
    with pytest.raises(
        DriverError, match="the guest agent of web answers guest-ping with what no agent"
    ) as raised:
        agent.answer_of("web", "guest-ping", text)
    assert len(raised.value.message) < 400


def test_addresses_by_mac() -> None:
    answer = [
        interface("00:00:00:00:00:00", "127.0.0.1"),
        interface("52:54:00:AB:00:01", "fe80::1", "2001:db8::7", "10.0.0.7", "169.254.1.1", "::"),
        interface("52:54:00:ab:00:02"),
    ]
    assert agent.addresses_of("web", answer) == {"52:54:00:ab:00:01": ("10.0.0.7", "2001:db8::7")}


def test_what_is_no_address_is_left_out() -> None:
    answer = [
        interface("52:54:00:ab:00:01", "-oProxyCommand=x", "10.0.0.7\nx", "1.2.3", "fd00::1%eth0", "10.0.0.8")
    ]
    assert agent.addresses_of("web", answer) == {"52:54:00:ab:00:01": ("10.0.0.8",)}


def test_too_many_are_cut_off() -> None:
    answer = [
        interface("52:54:00:ab:00:01", *(f"10.0.{each // 250}.{each % 250 + 1}" for each in range(300)))
    ]
    assert len(agent.addresses_of("web", answer * 300)["52:54:00:ab:00:01"]) == 256


@pytest.mark.parametrize(
    "answer", [{}, "x", None, [1], [interface(1)], [{"ip-addresses": {}}], [interface("x", {})]]
)
def test_other_types_are_refused(answer: object) -> None:
    with pytest.raises(DriverError, match="guest-network-get-interfaces with what no agent does"):
        agent.addresses_of("web", answer)


class Refused(libvirt.libvirtError):  # type: ignore[misc] # libvirt has no types
    """An error of libvirt with a code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.err = (code, 10, text)


class Domain:
    def __init__(self, state: int = libvirt.VIR_DOMAIN_RUNNING) -> None:
        self._state = state

    def name(self) -> str:
        return "lab-web"

    def state(self) -> tuple[int, int]:
        return self._state, libvirt.VIR_DOMAIN_PAUSED_USER


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            "QEMU guest agent is not connected",
        ),
        (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is not running"),
    ],
)
def test_an_agent_that_is_not_there(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    def refuse(*_: object) -> str:
        raise Refused(code, text)

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", refuse)
    with pytest.raises(AgentSilentError, match="lab-web does not answer guest-ping") as raised:
        agents.ask(Domain(), command=agent.PING, seconds=5)
    assert "Requested operation" not in raised.value.message
    assert "install qemu-guest-agent" in (raised.value.hint or "")
    with pytest.raises(AgentSilentError, match=r"it is paused \(by user\)$") as raised:
        agents.ask(Domain(libvirt.VIR_DOMAIN_PAUSED), command=agent.PING, seconds=5)
    assert raised.value.hint == "kvm-compose resume; kvm-compose status says why a guest is paused"


def test_a_command_that_the_agent_refuses_is_libvirts_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise Refused(libvirt.VIR_ERR_INTERNAL_ERROR, "Command guest-exec has been disabled")

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", refuse)
    with pytest.raises(libvirt.libvirtError) as raised:
        agents.ask(Domain(), command=agent.PING, seconds=5)
    assert "block-rpcs" in (failure("ask", raised.value).hint or "")


@pytest.mark.parametrize(
    ("state", "there"), [(" state='connected'", True), (" state='disconnected'", False), ("", False)]
)
def test_whether_something_is_connected_to_the_channel(state: str, there: bool) -> None:
    channel = f"<channel><target name='org.qemu.guest_agent.0'{state}/></channel>"
    assert has_agent(parse(f"<domain><devices>{channel}</devices></domain>", "domain")) is there
