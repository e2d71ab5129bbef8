"""``capture``: packets to read, in a file and through a pipe, and how it ends."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.bench import environment

if TYPE_CHECKING:
    from conftest import Lab

HEADER = 24


def packets_in(data: bytes) -> int:
    """How many there are, and nothing is cut off."""
    assert struct.unpack_from("<I", data)[0] == 0xA1B2C3D4
    at, count = HEADER, 0
    while at < len(data):
        at += 16 + struct.unpack_from("<I", data, at + 8)[0]
        count += 1
    assert at == len(data)
    return count


@pytest.fixture
def lab_of_two_ports(idle: Lab) -> Lab:
    """One whose guest web has two interfaces."""
    idle.bench.edit(
        "labels: {role: front, tier: 1}\n    interfaces: [{bridge: br0}]",
        "interfaces: [{bridge: br0}, {bridge: br1}]",
    )
    idle.bench.edit("bridges: [{name: br0}]", "bridges: [{name: br0}, {name: br1}]")
    idle.serve()
    idle.must("up")
    return idle


def test_packets_are_printed(running: Lab, tmp_path: Path) -> None:
    process = running.start("capture", "web", "--count", "3")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("IP 192.0.2.2 > 192.0.2.1: ICMP echo reply, id 1, seq 0, length 64")
    assert err.splitlines() == ["capturing packets of web; Ctrl-C ends the capture", "3 packets captured"]
    assert running.must("capture", "-q", "lab-web", "--count", "1", "-w", str(tmp_path / "x")).said == ""


@pytest.mark.parametrize("target", ["web", "lab-web", "br0", "lab-br0", "lab-network"])
def test_packets_through_a_pipe(running: Lab, target: str) -> None:
    argv = running.bench.argv("capture", target, "--filter", "icmp", "--count", "5", "-w", "-")
    done = subprocess.run(argv, env=_environment(running), capture_output=True, timeout=60, check=True)
    assert packets_in(done.stdout) == 5


def _environment(lab: Lab) -> dict[str, str]:
    address = f"unix:{lab.bench.root}/state/server.sock"
    return environment(lab.bench.root) | lab.env | {"KVM_COMPOSE_SERVER": address}


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_ends_it_well(running: Lab, tmp_path: Path, number: int) -> None:
    path = tmp_path / "web.pcap"
    process = running.start("capture", "web", "-w", str(path))
    while not path.exists() or path.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    count = packets_in(path.read_bytes())
    assert (process.returncode, out) == (0, "")
    assert err.endswith(f"\n{count} packets captured\n")


def test_who_has_read_enough_ends_it(running: Lab) -> None:
    with running.start("capture", "web") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "rror" not in process.stderr.read()


def test_packets_are_nothing_for_a_terminal(running: Lab) -> None:
    ours, theirs = pty.openpty()
    try:
        argv = running.bench.argv("capture", "web", "-w", "-")
        done = subprocess.run(
            argv, env=_environment(running), stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert b"wireshark" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("wbe",), 2, "did you mean web?"),
        (("no such",), 2, "not a valid name of a guest, bridge or logical switch"),
        (("web", "--interface", "7"), 2, "name one with --interface: 0 (on br0)"),
        (("web", "--interface", "a b"), 2, "not a valid name of an interface"),
        (("br0", "--interface", "0"), 2, "br0 is not a guest"),
        (("web", "--filter", "(tcp"), 2, "the filter '(tcp' cannot be used: syntax error"),
        (("web", "--filter", "höst x"), 2, "ASCII characters"),
        (("web", "-w", "no/such/folder"), 1, "cannot write no/such/folder: No such file or directory"),
    ],
)
def test_what_cannot_be_captured(running: Lab, words: tuple[str, ...], status: int, message: str) -> None:
    assert message in running.must("capture", *words, status=status).err


@pytest.mark.parametrize("option", ["--count", "--snaplen"])
@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999999"])
def test_numbers_that_are_none(running: Lab, option: str, number: str) -> None:
    assert "is not a number from 1 to" in running.must("capture", "web", f"{option}={number}", status=2).err


def test_one_of_several_interfaces(lab_of_two_ports: Lab, tmp_path: Path) -> None:
    lab = lab_of_two_ports
    said = lab.must("capture", "web", status=2).err
    assert "web has 2 interfaces" in said
    assert "--interface: 0 (on br0), 1 (on br1)" in said
    for name in ("1", "br1", "lab-br1"):
        lab.must("capture", "web", "--interface", name, "--count", "1", "-w", str(tmp_path / "one"))


def test_down_ends_it_and_status_sees_nothing_of_it(up: Lab) -> None:
    process = up.start("capture", "br0", "-w", "br0.pcap")
    path = up.folder / "br0.pcap"
    while not path.exists() or path.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.05)
    assert up.must("status", "--json").json["differences"] == []
    up.must("down")
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    count = packets_in(path.read_bytes())
    assert f"{count} packets captured\nerror: the capture ended early: br0 disappeared\n" in err
    assert "web is not up" in up.must("capture", "web", status=3).err
    assert "br0 is not up" in up.must("capture", "br0", status=3).err


def test_a_server_that_stops_does_not_wait_for_it(up: Lab) -> None:
    process = up.start("capture", "web", "-w", "web.pcap")
    path = up.folder / "web.pcap"
    while not path.exists() or path.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.05)
    began = time.monotonic()
    up.stop()
    assert time.monotonic() - began < 15  # after 20 it would have been killed
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "aborted the capture" in err
    packets_in(path.read_bytes())


def test_failures_of_the_host(lab: Lab) -> None:
    lab.serve("--fail", "check_filter:*", "--fail", "capture:*", "--fail", "mirror:*")
    lab.must("up")
    for words in (("web", "--filter", "tcp"), ("web",), ("br0",)):
        assert "was made to fail" in lab.must("capture", *words, status=1).err


def test_an_embedded_server_stays_as_long_as_it_is_captured(idle: Lab) -> None:
    env = environment(idle.bench.root) | idle.env | {
        "KVM_COMPOSE_SERVER_FAKE": "1", "KVM_COMPOSE_SERVER_IDLE": "0.5"
    }  # fmt: skip
    subprocess.run(idle.bench.argv("up"), env=env, capture_output=True, timeout=120, check=True)
    process = subprocess.Popen(
        idle.bench.argv("capture", "web", "-w", "long.pcap"), env=env, cwd=idle.folder, stderr=subprocess.PIPE
    )
    path, earliest = idle.folder / "long.pcap", time.monotonic() + 4
    while time.monotonic() < earliest or not path.exists() or path.stat().st_size < 20_000:
        assert process.poll() is None
        time.sleep(0.1)
    lock = (idle.bench.root / "state" / "server.lock").read_text().split()
    process.send_signal(2)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert packets_in(path.read_bytes()) > 100
    deadline = time.monotonic() + 20
    while Path(f"/proc/{lock[0]}").exists():
        assert time.monotonic() < deadline, "the server does not end"
        time.sleep(0.1)
