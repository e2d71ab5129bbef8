"""Commands for the namespaces of management ports, and what their output says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from recorder import Recorder

from kvmcompose.core.deployable import ManagementPort
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.netns.driver import Namespaces, parse_namespaces

NAME = "kvm-compose.demo.lab"
PORT = ManagementPort(
    host="main",
    namespace=NAME,
    bridge="demo-lab",
    name="demo-lab-mgmt",
    mac="02:6b:76:00:00:01",
    address="10.9.0.2/24",
    mtu=1442,
)
LINK = [
    {
        "ifname": "eth0",
        "flags": ["BROADCAST", "UP"],
        "mtu": 1442,
        "address": PORT.mac,
        "addr_info": [
            {"family": "inet", "local": "10.9.0.2", "prefixlen": 24},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
        ],
    }
]


def chain(name: str, policy: str = "drop") -> dict[str, Any]:
    return {"chain": {"table": "kvm-compose", "name": name, "hook": name, "policy": policy}}


RULE = {"rule": {"table": "kvm-compose", "chain": "input"}}
RULES = [chain("input"), chain("forward"), RULE]


def shown(links: Any = LINK, rules: Any = RULES) -> str:
    return f"{NAME}\n{json.dumps(links)}\n{json.dumps({'nftables': rules})}\n"


def test_a_namespace_is_read() -> None:
    found = parse_namespaces(shown())[NAME]
    assert (found.addresses, found.mac, found.mtu, found.up) == (("10.9.0.2/24",), PORT.mac, 1442, True)
    assert found.firewall


@pytest.mark.parametrize(
    "rules",
    [
        [],
        RULES[:2],
        [*RULES, RULE],
        [chain("input", "accept"), chain("forward"), RULE],
        [chain("input"), RULE],
        [*RULES, {"chain": {"table": "other", "name": "input", "hook": "input", "policy": "accept"}}],
    ],
)
def test_another_filter_is_seen(rules: Any) -> None:
    assert not parse_namespaces(shown(rules=rules))[NAME].firewall


def test_what_is_lacking_is_seen() -> None:
    found = parse_namespaces(f"{NAME}\n\n\n")[NAME]
    assert (found.addresses, found.mac, found.up, found.firewall) == ((), None, False, False)


@pytest.mark.parametrize("output", [f"{NAME}\n", f"{NAME}\n{{\n\n", f"{NAME}\n\nnot JSON\n"])
def test_invalid_output_is_an_error(output: str) -> None:
    with pytest.raises(DriverError):
        parse_namespaces(output)


def test_without_namespaces_no_rights_are_needed() -> None:
    recorder = Recorder()
    assert asyncio.run(Namespaces(recorder).observe("demo")) == {}
    assert recorder.privileged == [False]


def test_only_names_of_ours_reach_a_command() -> None:
    recorder = Recorder(("echo", 0, f"{NAME}\n../../etc\nkvm-compose.demo.$(x)\n".encode(), b""))
    with pytest.raises(DriverError):  # the recorder answers the second command likewise
        asyncio.run(Namespaces(recorder).observe("demo"))
    assert recorder.commands[1][4:] == [NAME]
    for name in ("../x", "other", "-x", "kvm-compose.a", "kvm-compose.a.b/c"):
        with pytest.raises(DriverError, match="invalid name"):
            asyncio.run(Namespaces(recorder).remove([name]))


def test_all_ports_are_set_in_one_command() -> None:
    recorder = Recorder()
    asyncio.run(Namespaces(recorder).apply([PORT, PORT]))
    (command,) = recorder.commands
    assert command[-12:-6] == [NAME, PORT.name, PORT.mac, PORT.address, "1442", "no"]
    assert recorder.privileged == [True]
    asyncio.run(Namespaces(recorder).apply([]))
    assert len(recorder.commands) == 1


def connect(printed: bytes) -> bytes:
    """What the guest sends, after a program has printed this."""

    async def run() -> bytes:
        with await Namespaces(Recorder(("bash", 0, printed, b""))).connect(NAME, "10.9.0.3", 22) as endpoint:
            return await asyncio.get_running_loop().sock_recv(endpoint, 1000)

    return asyncio.run(run())


@pytest.mark.parametrize("before", [b"", b"a shell says hello\n", b"no end of line", b"\n\n"])
def test_what_a_shell_prints_before_is_not_the_guests(before: bytes) -> None:
    assert connect(before + b"kvm-compose: connected\nSSH-2.0-x\r\n") == b"SSH-2.0-x\r\n"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("bash: line 1: /dev/tcp/10.9.0.3/22: Connection refused", ConnectionRefusedError),
        ("bash: line 1: /dev/tcp/10.9.0.3/22: Connection timed out", TimeoutError),
        ("bash: line 1: /dev/tcp/10.9.0.3/22: No route to host", OSError),
    ],
)
def test_a_guest_that_does_not_answer_is_an_error_of_the_system(said: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        connect(f"bash: connect: …\n{said}\n".encode())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (f"nsenter: cannot open /run/netns/{NAME}: No such file or directory", "is not there on main"),
        ("sudo: a password is required", "sudo: a password is required"),
        ("", "it ended without a message"),
        ("x" * 100_000, "cannot use the management port"),
    ],
)
def test_no_way_to_a_guest_is_an_error_of_the_host(said: str, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        connect(said.encode())
