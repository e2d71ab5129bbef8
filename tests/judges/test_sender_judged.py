"""The sender of ``kvm-compose test``, run by each shell that may be in a guest; sockets are the judges."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvmcompose.core.expectation import PING, Traffic
from kvmcompose.server.orchestrator.probe_sender import _BEGIN, SENDER, SentProbe

SHELLS = {"dash": ["/bin/dash"], "bash": ["/bin/bash"], "busybox": ["/bin/busybox", "sh"]}
#: What a guest with nothing but busybox has, as far as the sender uses it.
APPLETS = ("kill", "nc", "ping", "sh", "sleep", "tail")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(10)
        yield made


def run(argv: list[str], *traffic: Traffic, path: str | None = None) -> list[str]:
    """Send to this machine, and return what the sender prints."""
    probes = [SentProbe(number, each, "127.0.0.1") for number, each in enumerate(traffic, 1)]
    done = subprocess.run(
        argv,
        input="".join(each.line("token") for each in probes),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": path} if path else None,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def port(end: socket.socket) -> int:
    number: int = end.getsockname()[1]
    return number


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_sends(shell: str, listener: socket.socket, datagrams: socket.socket) -> None:
    argv = [*SHELLS[shell], "-c", SENDER, "kvm-compose", "10"]
    said = run(argv, PING, Traffic("tcp", port(listener)), Traffic("udp", port(datagrams)))
    assert said == ["done"]
    listener.accept()[0].close()
    assert datagrams.recv(100) == b"token3"


@pytest.mark.parametrize("shell", SHELLS)
def test_what_goes_wrong_is_printed_with_its_number(shell: str, listener: socket.socket) -> None:
    closed = port(listener)
    listener.close()
    said = run([*SHELLS[shell], "-c", SENDER, "kvm-compose", "10"], PING, Traffic("tcp", closed))
    assert said[-1] == "done"
    assert [line.partition(" ")[0] for line in said[:-1]] == ["2"]
    assert "Connection refused" in said[0]


def test_bash_is_preferred_and_starts_no_program_to_send(listener: socket.socket, tmp_path: Path) -> None:
    for name in ("bash", "sh", "sleep", "tail"):
        (tmp_path / name).symlink_to(f"/bin/{name}" if name != "tail" else "/usr/bin/tail")
    argv = ["/bin/sh", "-c", _BEGIN, "kvm-compose", SENDER, "2"]
    assert run(argv, Traffic("tcp", port(listener)), path=str(tmp_path)) == ["done"]
    listener.accept()[0].close()


def test_a_guest_with_busybox_alone_sends_tcp(listener: socket.socket, tmp_path: Path) -> None:
    for name in APPLETS:
        (tmp_path / name).symlink_to("/bin/busybox")
    argv = [str(tmp_path / "sh"), "-c", _BEGIN, "kvm-compose", SENDER, "2"]
    said = run(argv, PING, Traffic("tcp", port(listener)), path=str(tmp_path))
    assert said == ["2 Terminated", "done"]  # nc waits for the other end, until its time is up
    listener.accept()[0].close()


def test_a_guest_with_nothing_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "tail").symlink_to("/usr/bin/tail")
    argv = ["/bin/dash", "-c", SENDER, "kvm-compose", "10"]
    said = run(argv, PING, Traffic("tcp", 9), Traffic("udp", 9), path=str(tmp_path))
    none = "there is none of bash, python3 and nc"
    assert sorted(said) == ["1 there is no ping", f"2 {none}", f"3 {none}", "done"]
