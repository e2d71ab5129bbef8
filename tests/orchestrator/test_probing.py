"""``test``: what is asked of running guests, where it is observed, and what cannot be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Power, PowerVerb, Test, Up
from kvmcompose.core.deployment import ActionState, Phase
from kvmcompose.core.deployment_event import ProbeAnswered, StoredEvent
from kvmcompose.core.expectation import PING as PING_TRAFFIC
from kvmcompose.core.probe import Probed, ProbeOutcome, Question
from kvmcompose.hosts.fake import Failure
from kvmcompose.reachability.evidence import Port, Sending
from kvmcompose.server.orchestrator.probe_sender import SentProbe
from kvmcompose.server.orchestrator.probing import AskedProbe, waves

if TYPE_CHECKING:
    from conftest import Lab

TCP = Question("web", "db", "tcp 5432")
PING = Question("web", "db", "icmp")
UDP = Question("db", "web", "udp 53")


def answers(lab: Lab, *questions: Question) -> dict[Question, Probed]:
    """The answers, each of which was one event of the action."""
    action = lab.must(Test(questions=questions, seconds=1))
    events = lab.store.events("lab", after=0, action=action.uuid)
    decoded = [msgspec.json.decode(document, type=StoredEvent) for _, document in events]
    found = [each.answer for each in decoded if isinstance(each, ProbeAnswered)]
    assert len({each.question for each in found}) == len(found)
    return {each.question: each for each in found}


def calls(lab: Lab, method: str) -> set[str]:
    return {call.partition(":")[2] for call in lab.drivers.calls if call.startswith(f"{method}:")}


def test_packets_are_sent_by_sources_and_observed_at_both_ends(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.calls.clear()
    found = answers(lab, TCP, PING, UDP, TCP)
    assert {question: each.outcome for question, each in found.items()} == dict.fromkeys(
        (TCP, PING, UDP), ProbeOutcome.REACHES
    )
    assert calls(lab, "capture") == {"lab-web-0", "lab-db-0"}
    assert {call for call in lab.drivers.calls if call.startswith("run:")} == {"run:web:1", "run:db:1"}
    before_first = lab.drivers.calls[: lab.drivers.calls.index("run:web:1")]
    assert {"capture:lab-web-0", "capture:lab-db-0"} <= {*before_first}
    assert lab.deployment.state is Phase.UP


def test_what_does_not_arrive_is_lost(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("arrive:lab-db-0:tcp:*")]
    found = answers(lab, TCP, PING)
    assert [found[each].outcome for each in (TCP, PING)] == [ProbeOutcome.LOST, ProbeOutcome.REACHES]
    assert "it does not arrive at db" in found[TCP].cause


@pytest.mark.parametrize("end", ["web", "db"])
def test_without_an_observation_nothing_is_denied(lab: Lab, end: str) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure(f"capture:lab-{end}-0"), Failure("arrive:*")]
    (found,) = answers(lab, TCP).values()
    assert found.outcome is ProbeOutcome.UNKNOWN
    assert f"the observation of lab-{end}-0 on one ended" in found.cause


def test_a_source_that_cannot_be_entered_denies_nothing(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("run:web:*")]
    found = answers(lab, TCP, UDP)
    assert found[TCP].outcome is ProbeOutcome.UNKNOWN
    assert "was made to fail" in found[TCP].cause
    assert found[UDP].outcome is ProbeOutcome.REACHES


def test_guests_that_are_off_or_isolated_or_unknown_are_named(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",), timeout=0))
    isolated = Question("alone", "web", "icmp")
    unknown = Question("gone", "web", "icmp")
    outside = Question("internet", "web", "icmp")
    found = answers(lab, TCP, UDP, isolated, unknown, outside)
    assert {each.outcome for each in found.values()} == {ProbeOutcome.UNKNOWN}
    assert found[TCP].cause == found[UDP].cause == "db is shut off"
    assert found[isolated].cause == "alone has no address that can be reached from here"
    assert found[unknown].cause == "gone is not in the testbed that is up: kvm-compose up"
    assert found[outside].cause == "nothing outside the testbed can be entered to send from"


def test_the_outside_is_where_packets_leave(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.calls.clear()
    question = Question("web", "internet", "tcp 443")
    (found,) = answers(lab, question).values()
    assert (found.outcome, found.cause) == (ProbeOutcome.REACHES, "it leaves the testbed")
    assert calls(lab, "capture") == {"lab-web-0", "lab-prjbr0"}
    # to an address that is no guest's
    assert {each.address for each in lab.drivers.probes} == {"203.0.113.1"}


def test_a_testbed_that_is_down_is_refused(lab: Lab) -> None:
    action = lab.do(Test(questions=(TCP,)))
    assert (action.state, action.refused) == (ActionState.FAILED, True)
    assert action.faults[0].message == "lab is not up"
    lab.must(Up())
    lab.must(Down(timeout=0))
    assert lab.do(Test(questions=(TCP,))).refused


def test_a_test_that_is_cancelled_leaves_no_capture(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("arrive:*")]
    action = lab.do(
        Test(questions=(TCP,), seconds=60), meanwhile=lambda actions, uuid: actions.cancel(uuid) and None
    )
    assert action.state is ActionState.CANCELLED
    assert lab.deployment.state is Phase.UP


def test_no_more_interfaces_are_observed_at_once_than_allowed() -> None:
    ports = [Port(f"one/{number}", f"{number:012x}") for number in range(150)]
    asked = [
        AskedProbe(
            Question("web", "db", "icmp"),
            SentProbe(number, PING_TRAFFIC, "10.0.0.1"),
            Sending(probe=PING_TRAFFIC, address="10.0.0.1", sources=(ports[0],), targets=(port,)),
        )
        for number, port in enumerate(ports[1:])
    ]
    found = list(waves(asked))
    assert [each for wave in found for each in wave] == asked
    assert [len({port for each in wave for port in each.sending.targets}) for wave in found] == [63, 63, 23]
