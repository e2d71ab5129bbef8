"""What captures prove: each outcome, from frames at the interfaces of source and target."""

from __future__ import annotations

import time

import pytest

from kvmcompose.core.expectation import PING, Traffic
from kvmcompose.core.probe import ProbeOutcome
from kvmcompose.reachability.evidence import (
    MOST_FRAMES,
    Circumstances,
    Evidence,
    Port,
    Sending,
    best,
    conclude,
)
from kvmcompose.reachability.frames import FrameKind, ProbeFrame

A, B, R = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:01:01"
WEB, DB, UPLINK = Port("one/web-0", A), Port("two/db-0", B), Port("one/br-ex")
HERE, THERE, OUTER, INNER = "10.0.0.10", "10.0.1.10", "172.16.1.200", "172.16.1.201"
TCP, UDP = Traffic("tcp", 80), Traffic("udp", 53)


def sending(probe: Traffic, address: str = THERE, *, outside: bool = False) -> Sending:
    targets = (UPLINK,) if outside else (DB,)
    return Sending(probe=probe, address=address, sources=(WEB,), targets=targets, gateways=("10.0.0.1",))


class Scene:
    """Frames at interfaces, in the words of what happens."""

    def __init__(self, probe: Traffic, address: str = THERE, *, outside: bool = False) -> None:
        self.sending = sending(probe, address, outside=outside)
        self.evidence = Evidence()
        self.kind = {"icmp": FrameKind.ECHO, "tcp": FrameKind.SYN, "udp": FrameKind.UDP}[probe.protocol]
        self.back = {"icmp": FrameKind.ECHO_REPLY, "tcp": FrameKind.ANSWER, "udp": FrameKind.UDP}[
            probe.protocol
        ]
        self.port = probe.port
        self.outside = outside

    def sent(self, mark: bytes = b"m") -> Scene:
        frame = ProbeFrame(self.kind, A, R, HERE, self.sending.address, 4000, self.port, mark)
        self.evidence.add(WEB.name, frame)
        return self

    def arrived(self, mark: bytes = b"m", eth: str = B, source: str = HERE) -> Scene:
        port = UPLINK if self.outside else DB
        self.evidence.add(port.name, ProbeFrame(self.kind, R, eth, source, THERE, 4000, self.port, mark))
        return self

    def answered(self, mark: bytes = b"m", *, reset: bool = False, to: str = HERE) -> Scene:
        answer = ProbeFrame(self.back, B, R, THERE, to, self.port, 4000, mark, reset)
        self.evidence.add(DB.name, answer)
        return self

    def returned(self, mark: bytes = b"m", *, reset: bool = False) -> Scene:
        frame = ProbeFrame(self.back, R, A, self.sending.address, HERE, self.port, 4000, mark, reset)
        self.evidence.add(WEB.name, frame)
        return self

    def heard(self, port: Port, kind: FrameKind, address: str, eth: tuple[str, str]) -> Scene:
        self.evidence.add(port.name, ProbeFrame(kind, *eth, address, address))
        return self

    def end(self, said: str = "", *, runs: bool | None = None) -> tuple[ProbeOutcome, str]:
        known = Circumstances(source="web", target="db", said=said, outside=self.outside, target_runs=runs)
        return conclude(self.sending, self.evidence.seen(self.sending), known)


@pytest.mark.parametrize("probe", [TCP, PING], ids=str)
def test_what_arrives_and_is_answered_reaches(probe: Traffic) -> None:
    assert Scene(probe).sent().arrived().answered().returned().end()[0] is ProbeOutcome.REACHES


def test_a_closed_port_is_reached() -> None:
    scene = Scene(TCP).sent().arrived().answered(reset=True).returned(reset=True)
    assert scene.end() == (
        ProbeOutcome.REACHES,
        "it arrives and is answered by db, which has the port closed",
    )


def test_a_reset_of_what_did_not_arrive_is_a_rejection() -> None:
    outcome, cause = Scene(TCP).sent().returned(reset=True).end()
    assert outcome is ProbeOutcome.LOST
    assert cause == "sent to 10.0.1.10, it does not arrive at db, something on the way rejects it"


@pytest.mark.parametrize("probe", [UDP, PING], ids=str)
def test_an_icmp_error_is_a_rejection(probe: Traffic) -> None:
    scene = Scene(probe).sent()
    error = ProbeFrame(FrameKind.ERROR, R, A, HERE, THERE, 4000, probe.port)
    scene.evidence.add(WEB.name, error)
    assert scene.end()[0] is ProbeOutcome.LOST
    assert "rejects it" in scene.end()[1]


@pytest.mark.parametrize("probe", [TCP, UDP, PING], ids=str)
def test_what_was_sent_and_did_not_arrive_is_lost(probe: Traffic) -> None:
    assert Scene(probe).sent().end() == (ProbeOutcome.LOST, "sent to 10.0.1.10, it does not arrive at db")


@pytest.mark.parametrize("probe", [TCP, UDP, PING], ids=str)
def test_an_answer_that_does_not_get_back_is_lost(probe: Traffic) -> None:
    scene = Scene(probe).sent().arrived().answered()
    assert scene.end() == (ProbeOutcome.ARRIVES, "it arrives, but the answer of db is lost")


def test_a_datagram_needs_no_answer() -> None:
    assert Scene(UDP).sent().arrived().end() == (ProbeOutcome.REACHES, "it arrives at db")


@pytest.mark.parametrize(
    ("runs", "outcome"),
    [(True, ProbeOutcome.ARRIVES), (False, ProbeOutcome.UNKNOWN), (None, ProbeOutcome.UNKNOWN)],
)
def test_silence_of_a_target_proves_something_only_if_it_runs(
    runs: bool | None, outcome: ProbeOutcome
) -> None:
    assert Scene(TCP).sent().arrived().end(runs=runs)[0] is outcome


def test_translated_addresses_are_followed() -> None:
    scene = Scene(TCP, INNER).sent().arrived(source=OUTER).answered(to=OUTER).returned()
    assert scene.end()[0] is ProbeOutcome.REACHES


def test_another_packet_is_not_the_one_that_was_sent() -> None:
    assert Scene(TCP).sent().arrived(b"other").end()[0] is ProbeOutcome.LOST


def test_a_packet_for_another_guest_has_not_arrived() -> None:
    """Bridges flood what they do not know the way of."""
    assert Scene(TCP).sent().arrived(eth=R).end()[0] is ProbeOutcome.LOST


def test_one_of_several_attempts_is_enough() -> None:
    scene = Scene(UDP).sent(b"1").sent(b"2").arrived(b"2")
    assert scene.end()[0] is ProbeOutcome.REACHES


def test_without_a_packet_nothing_is_proved() -> None:
    assert Scene(TCP).end() == (ProbeOutcome.UNKNOWN, "web has not sent it to 10.0.1.10")
    assert Scene(TCP).arrived().end()[0] is ProbeOutcome.UNKNOWN
    outcome, cause = Scene(TCP).end("there is none of bash, python3 and nc")
    assert outcome is ProbeOutcome.UNKNOWN
    assert cause.endswith(": there is none of bash, python3 and nc")


@pytest.mark.parametrize(
    "said", ["ping: connect: Network is unreachable", "nc: can't connect: Network unreachable"]
)
def test_without_a_route_nothing_can_be_sent(said: str) -> None:
    assert Scene(PING).end(said) == (ProbeOutcome.LOST, "web has no route to 10.0.1.10")


def test_an_address_that_nothing_on_the_network_has_is_not_reached() -> None:
    scene = Scene(TCP).heard(WEB, FrameKind.WHO_HAS, THERE, (A, "ff:ff:ff:ff:ff:ff"))
    assert scene.end() == (ProbeOutcome.LOST, "web finds no neighbour with the address of 10.0.1.10")
    scene = Scene(TCP).heard(WEB, FrameKind.WHO_HAS, "10.0.0.1", (A, "ff:ff:ff:ff:ff:ff"))
    assert scene.end()[1] == "web finds no neighbour with the address of its gateway 10.0.0.1"


def test_a_guest_that_hears_the_question_for_its_address_and_is_silent_denies_nothing() -> None:
    scene = Scene(TCP)
    for port in (WEB, DB):
        scene.heard(port, FrameKind.WHO_HAS, THERE, (A, "ff:ff:ff:ff:ff:ff"))
    assert scene.end()[0] is ProbeOutcome.UNKNOWN
    assert scene.end(runs=True)[0] is ProbeOutcome.LOST
    scene.heard(DB, FrameKind.IS_AT, THERE, (B, A))  # its answer is lost
    assert scene.end()[0] is ProbeOutcome.LOST


def test_what_leaves_the_testbed_has_reached_the_outside() -> None:
    assert Scene(PING, outside=True).sent().arrived(eth=R).end() == (
        ProbeOutcome.REACHES,
        "it leaves the testbed",
    )
    assert Scene(PING, outside=True).sent().end()[0] is ProbeOutcome.LOST


def test_one_address_that_is_reached_is_enough() -> None:
    reaches, lost = (ProbeOutcome.REACHES, "yes"), (ProbeOutcome.LOST, "no")
    assert best({"1": lost, "2": reaches}) == reaches
    assert best({"1": lost, "2": (ProbeOutcome.UNKNOWN, "?")})[0] is ProbeOutcome.UNKNOWN


def test_a_guest_that_floods_its_interface_fills_no_memory() -> None:
    evidence = Evidence()
    for number in range(MOST_FRAMES + 1):
        mark = number.to_bytes(4, "big")
        evidence.add(WEB.name, ProbeFrame(FrameKind.SYN, A, R, HERE, THERE, 1, 80, mark))
    assert evidence.overflown == {WEB.name}


def test_thousands_of_packets_alike_are_followed_once() -> None:
    """A hostile guest sends them from all its ports: the server must not stand still for it."""
    evidence = Evidence()
    for number in range(MOST_FRAMES):
        alike = ProbeFrame(FrameKind.UDP, A, B, HERE, THERE, number, UDP.port, b"m")
        evidence.add(WEB.name, alike)
        evidence.add(DB.name, alike)
    begun = time.process_time()
    seen = evidence.seen(sending(UDP))
    assert (seen.arrived, seen.returned) == (True, False)
    assert time.process_time() - begun < 5  # each with each takes most of a minute


def test_broadcasts_at_all_interfaces_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcompose.reachability.evidence.MOST_IN_ALL", 10)
    evidence = Evidence()
    for number in range(4):
        for port in ("one/a", "one/b", "one/c"):
            evidence.add(port, ProbeFrame(FrameKind.WHO_HAS, A, B, f"10.0.0.{number}", HERE))
    assert evidence.overflown == {"one/b", "one/c"}
