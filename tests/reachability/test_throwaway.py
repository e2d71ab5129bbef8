"""The throw-away OVN: what it answers, what it refuses, and that nothing of it remains."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ovn_lab import OUTSIDE, Lab, NoPlaces, two_switches_and_the_outside

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.expectation import INTERNET, PING, Traffic
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.reachability import throwaway as module
from kvmcompose.reachability.ovn_check import unparsed_rules
from kvmcompose.reachability.throwaway import throwaway

pytestmark = pytest.mark.real
HTTP = Traffic("tcp", 80)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have the temporary folders where the test can see them, with a path that is longer than a socket's."""
    long = tmp_path / ("a" * 60) / ("b" * 60)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    yield long
    deadline = time.monotonic() + 10  # what was killed takes a moment to be gone on a busy machine
    while left(long) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(long) == []


def left(folder: Path) -> list[str]:
    """Return what is in a folder, and which processes work in it."""
    found = [each.name for each in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if where.startswith(str(folder)):
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def reached(lab: Lab, *questions: tuple[str, str, Traffic]) -> list[bool]:
    with lab.oracle() as oracle:
        return [oracle.answer(*question).reaches for question in questions]


def cause(lab: Lab, source: str, target: str, probe: Traffic = PING) -> tuple[str, tuple[str | int, ...]]:
    with lab.oracle() as oracle:
        answer = oracle.answer(source, target, probe)
    assert not answer.reaches
    return answer.cause.text, answer.cause.path


def test_guests_reach_each_other_through_a_router_and_the_outside_by_snat() -> None:
    lab = two_switches_and_the_outside()
    assert reached(lab, ("web", "client", PING), ("web", "db", HTTP), ("db", "web", PING)) == [True] * 3
    assert reached(lab, ("web", INTERNET, PING), (INTERNET, "web", PING)) == [True, False]


def test_without_nat_the_answer_is_lost() -> None:
    lab = two_switches_and_the_outside()
    with lab.oracle() as oracle:
        answer = oracle.answer("db", INTERNET, PING)
    assert (answer.reaches, answer.arrives) == (False, True)
    assert (
        answer.cause.text
        == "its answer is lost: no NAT translates 10.0.1.10, which the outside does not know"
    )
    assert answer.cause.path == ("Logical_Router", "r")


def test_dnat_lets_in_at_its_own_address_and_out() -> None:
    lab = two_switches_and_the_outside()
    lab.nat("r", "dnat_and_snat", "172.16.1.112", "10.0.1.10")
    assert reached(lab, (INTERNET, "db", HTTP), ("db", INTERNET, HTTP), ("web", "db", HTTP)) == [True] * 3


def test_a_guest_reaches_another_by_its_address_outside() -> None:
    lab = two_switches_and_the_outside()
    lab.nat("r", "dnat_and_snat", "172.16.1.112", "10.0.1.10")
    with lab.oracle() as oracle:
        assert oracle._answer("web", "db", ipaddress.ip_address("172.16.1.112"), HTTP).reaches


def test_answers_to_a_network_that_knows_the_way_in_are_not_translated_but_those_of_udp_are() -> None:
    lab = two_switches_and_the_outside()
    lab.guest("edge", "pub", "172.16.1.50/24", "172.16.1.200")
    assert reached(lab, ("edge", "web", PING), ("edge", "web", HTTP)) == [True, True]
    assert reached(lab, ("edge", "web", Traffic("udp", 53))) == [False]


def test_a_rule_that_drops_is_the_cause_and_one_that_allows_lets_answers_back() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s1", "to-lport", 1000, 'outport == "db-0" && ip4', "drop")
    lab.acl("s1", "to-lport", 1001, 'outport == "db-0" && tcp.dst == 80', "allow-related")
    assert cause(lab, "web", "db") == ("rule to-lport 1000 of s1 drops it", ("ACL", "0"))
    assert reached(lab, ("web", "db", HTTP), ("db", "web", HTTP)) == [True, True]


def test_without_connections_answers_need_a_rule_of_their_own() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s0", "to-lport", 1000, 'outport == "web-0" && ip4', "drop")
    lab.acl("s0", "to-lport", 1001, 'outport == "web-0" && tcp.dst == 80', "allow-stateless")
    text, path = cause(lab, "web", "client", HTTP)
    assert (text, path) == ("its answer is lost: rule to-lport 1000 of s0 drops it", ("ACL", "0"))


def test_a_reject_is_a_rejection() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s0", "from-lport", 1000, 'inport == "web-0" && tcp', "reject")
    assert cause(lab, "web", "db", HTTP) == ("rule from-lport 1000 of s0 rejects it", ("ACL", "0"))


def test_questions_for_neighbours_pass_rules_too() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s0", "from-lport", 1000, "arp", "drop")
    text, path = cause(lab, "web", "client")
    dropped = "rule from-lport 1000 of s0 drops the request for the MAC address of 10.0.0.11"
    assert (text, path) == (dropped, ("ACL", "0"))


def test_arp_cannot_be_rejected() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s0", "from-lport", 1000, 'inport == "web-0" && arp', "reject")
    lab.acl("s0", "to-lport", 1000, 'outport == "client-0" && arp', "reject")
    assert reached(lab, ("web", "client", PING), ("client", "web", PING), ("web", "db", PING)) == [True] * 3


def test_missing_links() -> None:
    lab = two_switches_and_the_outside()
    lab.switch("s2")
    lab.guest("lone", "s2", "10.0.2.10/24")
    lab.guest("lost", "s2", "10.0.2.11/24", "10.0.2.1")
    lab.route("r", "10.0.3.0/24", "10.0.1.77")
    lab.switch("s3")
    lab.guest("far", "s3", "10.0.3.10/24", "10.0.3.1")
    assert cause(lab, "lone", "web") == (
        "lone has no gateway, and no interface on the subnet of 10.0.0.10",
        ("interfaces", "lone"),
    )
    assert cause(lab, "lost", "web")[0] == "nothing on switch s2 answers for 10.0.2.1"
    assert cause(lab, "web", "far") == (
        "nothing answers for the next hop 10.0.1.77 of router r",
        ("Logical_Router_Static_Route", "r 10.0.3.0/24"),
    )


def test_no_route_is_the_router() -> None:
    lab = two_switches_and_the_outside()
    lab.rows = [row for row in lab.rows if row.ref.table not in ("Logical_Router_Static_Route", "NAT")]
    assert cause(lab, "web", INTERNET) == (
        "router r has no route to its destination",
        ("Logical_Router", "r"),
    )


def test_ipv6_with_neighbour_discovery() -> None:
    lab = Lab()
    lab.router("r")
    for number in (0, 1):
        lab.switch(f"s{number}")
        lab.link("r", f"s{number}", f"fd00:{number}::1/64")
        lab.guest(f"g{number}", f"s{number}", f"fd00:{number}::10/64", f"fd00:{number}::1")
    lab.guest("near", "s0", "fd00::11/64")
    lab.acl("s1", "to-lport", 1000, 'outport == "g1-0" && tcp', "drop")
    assert (
        reached(lab, ("g0", "g1", PING), ("g0", "near", PING), ("g1", "g0", Traffic("udp", 53))) == [True] * 3
    )
    # without a stateful rule on the switch answers are dropped, too
    assert reached(lab, ("g0", "g1", HTTP), ("g1", "g0", HTTP)) == [False, False]


def test_a_guest_of_the_provider_network_is_outside_and_inside() -> None:
    lab = two_switches_and_the_outside()
    lab.guest("edge", "pub", "172.16.1.50/24", str(OUTSIDE.ip))
    assert reached(lab, ("edge", INTERNET, PING), (INTERNET, "edge", HTTP)) == [True, True]


def test_a_match_that_ovn_does_not_understand_is_found() -> None:
    lab = two_switches_and_the_outside()
    lab.acl("s0", "to-lport", 1000, "tpc.dst == 80", "drop")
    with throwaway(lab.rows) as ovn:
        found = ovn.unparsed()
    assert found
    assert all("tpc.dst == 80" in match and "expecting field name" in why for match, why in found)


def test_such_a_match_is_a_problem_of_its_line() -> None:
    text = b"ACL:\n  '0': {match: 'tpc.dst == 80'}\n"
    lab = two_switches_and_the_outside()
    lab.acl("s0", "to-lport", 1000, "tpc.dst == 80", "drop")
    lab.acl("s0", "to-lport", 1001, "tcp.dst == 80", "drop")
    documents = Documents(InputFile("kvm-compose.yaml", text), None, schemas())
    with throwaway(lab.rows) as ovn:
        (problem,) = unparsed_rules(ovn, lab.rows, NoPlaces(), documents)
    assert (problem.code, problem.found) == ("bad-match", "tpc.dst == 80")
    assert str(problem.location) == "kvm-compose.yaml:2:16"
    assert "expecting field name" in problem.message


def test_a_flow_that_switches_share_is_the_rule_of_the_packets_own() -> None:
    lab = two_switches_and_the_outside()
    for switch in ("s0", "s1", "pub"):
        lab.acl(switch, "to-lport", 1000, "ip4 && udp", "drop")
    assert cause(lab, "web", "client", Traffic("udp", 1)) == (
        "rule to-lport 1000 of s0 drops it",
        ("ACL", "0"),
    )
    lab.guest("near", "s1", "10.0.1.11/24")
    assert cause(lab, "db", "near", Traffic("udp", 1)) == ("rule to-lport 1000 of s1 drops it", ("ACL", "1"))


def test_states_of_connections_do_not_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """ovn-trace would take every packet for one of an established connection, which passes."""
    monkeypatch.setattr(module, "_LOOKUPS", 40)
    lab = two_switches_and_the_outside()
    lab.acl("s0", "to-lport", 1000, 'outport == "web-0" && tcp.dst == 81', "allow-related")
    lab.acl("s0", "to-lport", 900, 'outport == "web-0" && tcp', "drop")
    with lab.oracle() as oracle:
        for _ in range(30):
            assert not oracle.answer("client", "web", HTTP).reaches
            assert oracle.answer("client", "web", Traffic("tcp", 81)).reaches


def test_a_missing_program_is_refused_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_DAEMON_FOLDERS", str(tmp_path))
    with pytest.raises(RefusedError) as caught, throwaway([]):
        pass
    assert caught.value.hint == "sudo apt-get install ovn-central"


def test_an_error_in_the_middle_leaves_nothing(folder: Path) -> None:
    lab = two_switches_and_the_outside()
    began = []

    def fail() -> None:
        with throwaway(lab.rows):
            began.extend(left(folder))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(began) >= 3


CHILD = """
import sys, time
from kvmcompose.reachability.throwaway import throwaway
with throwaway([]) as ovn:
    ovn.tracer("new").log()
    print("ready", flush=True)
    time.sleep(60)
"""


#: Leaves room for the log and the process number of northd, and none for what it compiles.
FULL = """
from kvmcompose.reachability import throwaway as module
from ovn_lab import two_switches_and_the_outside

def fill(throwaway, program, name, *arguments, start=module.Throwaway.daemon):
    if name == "northd":
        try:
            with (throwaway.folder.parent / "other").open("wb", buffering=0) as other:
                while other.write(bytes(4096)):
                    pass
        except OSError:
            with (throwaway.folder.parent / "other").open("r+b") as other:
                other.truncate((throwaway.folder.parent / "other").stat().st_size - 8192)
    start(throwaway, program, name, *arguments)

module.Throwaway.daemon = fill
with module.throwaway(two_switches_and_the_outside().rows):
    pass
"""


def test_a_full_folder_is_said_at_once(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs "$TMPDIR" && exec "$@"'  # it goes with its namespace
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh", sys.executable, "-c", FULL],  # noqa: S607
        env={**os.environ, "TMPDIR": str(small), "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=30,  # far less than northd may take to compile
        check=False,
    )
    assert f"ovn-northd cannot write to the databases in {small}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert len(left(folder)) >= 4
    child.send_signal(number)
    child.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while left(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
