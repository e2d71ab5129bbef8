"""Packets of a real testbed: what is seen, and that nothing is left of a capture, however it ended."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kvm import Project, changes, inventory

from kvmcompose.server.orchestrator.merged_packets import PacketReader

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: left
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
  - name: right
    interfaces: [{bridge: br0}, {bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
network:
  bridges: [{name: br0}, {name: br1}]
  external_bridge: br0
"""
PINGS = 3
NUMBERS = itertools.count()


class Running:
    """A capture that has begun."""

    def __init__(self, project: Project, words: tuple[str, ...]) -> None:
        environment = [f"{key}={value}" for key, value in project.env.items()]
        self._files = [project.root / f"{kind}-{next(NUMBERS)}" for kind in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            argv = ["env", *environment, *project.argv("capture", *words)]
            self.process = project.host.popen(argv, stdout=out, stderr=err)
        wait_for(lambda: "Ctrl-C ends the capture" in self.said or self.process.poll() is not None)
        assert "Ctrl-C ends the capture" in self.said, self.said

    @property
    def said(self) -> str:
        return self._files[1].read_text()

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, str]:
        """Its status and output, after a signal or by itself."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(30), self._files[0].read_text(errors="replace")


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_for_no_traces(host: TestHost, seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := traces(host):
        assert time.monotonic() < end, f"left on {host.name}: {', '.join(left)}"
        time.sleep(0.1)


def wait_for_packets(path: Path, count: int) -> None:
    """Wait until a file has so many packets: the last ones arrive after their sender has exited."""
    wait_for(lambda: len([*PacketReader().read(path.read_bytes())]) >= count)


@pytest.fixture(scope="module")
def project(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One testbed for all of them; and when it is down, the host is as it was."""
    wait_for(lambda: not servers(real_host))
    before = inventory(real_host)
    project = Project(real_host, tmp_path_factory.mktemp("wire"), "wire", {"kvm-compose.yaml": YAML})
    project.run("up")
    yield project
    project.run("down", "--purge", "--timeout", "0")
    wait_for(lambda: not servers(real_host))
    assert not changes(before, inventory(real_host))


def servers(host: TestHost) -> str:
    return host.run(["pgrep", "-f", "server --embedded"], check=False).stdout


def traces(host: TestHost) -> list[str]:
    """What there is only while something is captured."""
    found = host.run(["ps", "-C", "tcpdump", "-o", "args="], check=False).stdout.splitlines()
    found += host.run(["ovs-vsctl", "--bare", "--columns=name", "list", "Mirror"]).stdout.split()
    ports = host.run(["ovs-vsctl", "--bare", "--columns=name", "list", "Interface"]).stdout.split()
    return found + [port for port in ports if port.startswith("cap-")]


@contextmanager
def nothing_left(project: Project, seconds: float = 3) -> Iterator[None]:
    assert traces(project.host) == []
    yield
    wait_for_no_traces(project.host, seconds)


def ping(project: Project) -> None:
    said = project.inside("left", "ping", "-c", str(PINGS), "-i", "0.2", project.address("right"))
    assert f"{PINGS} packets received" in said


def read(path: Path) -> str:
    """What tcpdump reads in a file; it complains of one that is cut off."""
    done = subprocess.run(
        ["tcpdump", "-n", "-r", str(path)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "truncated" not in done.stderr
    return done.stdout


def test_a_guest_and_its_pings(project: Project) -> None:
    everything, questions = project.root / "all.pcap", project.root / "questions.pcap"
    with nothing_left(project):
        captures = [
            Running(project, ("left", "-w", str(everything))),
            Running(project, ("left", "--filter", "icmp[icmptype] == icmp-echo", "-w", str(questions))),
        ]
        ping(project)
        wait_for_packets(everything, 2 * PINGS)
        wait_for_packets(questions, PINGS)
        for each in captures:
            status, out = each.end()
            assert (status, out) == (0, "")
            assert re.search(r"^\d+ packets captured$", each.said, re.MULTILINE)
    assert captures[1].said.endswith(f"\n{PINGS} packets captured\n")
    seen = read(questions)
    address = project.address("right")
    assert len(re.findall(rf" > {address}: ICMP echo request", seen)) == len(seen.splitlines()) == PINGS
    seen = read(everything)
    assert len(re.findall("ICMP echo request", seen)) == PINGS
    assert len(re.findall("ICMP echo reply", seen)) == PINGS
    assert ".22 " in seen  # the command that pings comes by SSH


def test_a_bridge_twice_at_once_and_printed(project: Project) -> None:
    with nothing_left(project):
        captures = [Running(project, ("br0", "--filter", "icmp")) for _ in range(2)]
        assert len(traces(project.host)) == 8  # each is printed by a tcpdump of its own
        assert project.json("status")["differences"] == []
        assert "is up already" in project.run("up").stderr
        ping(project)
        for each in captures:
            status, out = each.end(signal.SIGTERM)
            assert status == 0
            kinds = re.findall("ICMP echo (request|reply)", out)
            assert kinds == ["request", "reply"] * PINGS  # each one once
            assert each.said.endswith(f"\n{2 * PINGS} packets captured\n")
    assert project.json("status")["differences"] == []


def test_what_a_capture_speaks_does_not_reach_the_bridge(project: Project) -> None:
    path = project.root / "silence.pcap"
    with nothing_left(project):
        capture = Running(project, ("br1", "-w", str(path)))
        others = [Running(project, ("br1", "--filter", "tcp port 1")) for _ in range(2)]
        time.sleep(3)
        for each in (*others, capture):
            assert each.end()[0] == 0
    own = {nic["mac"] for nic in project.state()["testbed_guests"]["right"]["interfaces"]}
    link = subprocess.run(
        ["tcpdump", "-n", "-e", "-r", str(path)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert all(line.split()[1] in own for line in link.stdout.splitlines()), link.stdout


def test_the_nat_network_and_a_count(project: Project) -> None:
    with nothing_left(project):
        capture = Running(project, ("wire-network", "--filter", "icmp", "--count", "2", "--snaplen", "64"))
        gateway = project.state()["network"]["libvirt_network_gateway"]
        project.inside("right", "ping", "-c", "2", gateway)
        status, out = capture.end(None)
        assert status == 0
        assert f" > {gateway}: ICMP echo request" in out


def test_one_of_several_interfaces(project: Project) -> None:
    with nothing_left(project):
        said = project.run("capture", "right", status=2).stderr
        assert "--interface: 0 (on br0), 1 (on br1)" in said
        for name in ("0", "br0"):
            capture = Running(project, ("right", "--interface", name, "--filter", "icmp", "--count", "1"))
            ping(project)
            status, out = capture.end(None)
            assert status == 0
            assert "ICMP echo request" in out


def test_filters_that_are_none_set_nothing_up(project: Project) -> None:
    for target in ("left", "br0"):
        for expression in ("tcp prot 80", "; touch /tmp/x", "-w /tmp/x", "$(id)"):
            with nothing_left(project, 0):
                done = project.run("capture", target, f"--filter={expression}", status=2)
                assert f"the filter {expression!r} cannot be used: syntax error" in done.stderr


def test_a_command_that_is_killed_leaves_nothing(project: Project) -> None:
    with nothing_left(project):
        captures = [
            Running(project, (target, "-w", str(project.root / f"{target}.pcap")))
            for target in ("left", "br0")
        ]
        assert len(traces(project.host)) == 4
        project.host.run(["pkill", "-KILL", "-f", f"{project.folder} capture"])
        for each in captures:
            each.process.wait(20)


def test_what_a_killed_server_leaves_goes_with_the_next_capture(project: Project) -> None:
    path = project.root / "killed.pcap"
    capture = Running(project, ("br0", "-w", str(path)))
    project.host.run(["pkill", "-KILL", "-f", "server --embedded"])
    status, _ = capture.end(None)
    assert status == 1
    assert "aborted the capture" in capture.said
    read(path)
    wait_for(lambda: not any("tcpdump" in each for each in traces(project.host)), 3)
    (mirror, port) = traces(project.host)
    assert mirror == port
    next_one = Running(project, ("br0", "-w", str(path)))
    assert mirror not in traces(project.host)
    assert next_one.end()[0] == 0
    wait_for_no_traces(project.host, 3)


def test_a_guest_that_goes_off_ends_its_capture(project: Project) -> None:
    with nothing_left(project):
        capture = Running(project, ("left", "-w", str(project.root / "off.pcap")))
        project.host.virsh("destroy", "wire-left")
        status, _ = capture.end(None)
        assert status == 1
        assert "left disappeared" in capture.said
        read(project.root / "off.pcap")
        said = project.run("capture", "left", status=3).stderr
        assert "left is shut off" in said
        project.run("up")


def test_down_ends_captures(project: Project) -> None:
    with nothing_left(project):
        abandoned = Running(project, ("br1", "-w", str(project.root / "abandoned.pcap")))
        project.host.run(["pkill", "-KILL", "-f", "server --embedded"])
        assert abandoned.end(None)[0] == 1
        captures = [Running(project, (target,)) for target in ("left", "br0", "wire-network")]
        assert len([each for each in traces(project.host) if each.startswith("cap-")]) == 4
        project.run("down", "--timeout", "0")
        for each in captures:
            assert each.end(None)[0] == 1
            assert "disappeared" in each.said
        assert "is not up" in project.run("capture", "br0", status=3).stderr
    project.run("up")
