"""What the agent of a hostile guest answers is bounded, and of the type that it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import agent


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
        interface("52:54:00:ab:00:01", *(f"10.0.{each // 250}.{each % 250 + 1}" for each in range(9999)))
    ]
    assert len(agent.addresses_of("web", answer * 9999)["52:54:00:ab:00:01"]) == 256


@pytest.mark.parametrize(
    "answer", [{}, "x", None, [1], [interface(1)], [{"ip-addresses": {}}], [interface("x", {})]]
)
def test_other_types_are_refused(answer: object) -> None:
    with pytest.raises(DriverError, match="guest-network-get-interfaces with what no agent does"):
        agent.addresses_of("web", answer)
