"""Verdicts on expectations, with an oracle that a test writes."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

import msgspec

from golden.memory import compile_text
from kvmcompose.core.answers import Answer, Cause
from kvmcompose.core.checked import CheckDocument
from kvmcompose.core.expectation import PING, Traffic
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.reachability.judge import Judge
from kvmcompose.reachability.junit import junit

LAB = """\
machines:
  - {name: a, docker: {image: a}, interfaces: [{bridge: br0}]}
  - {name: b, docker: {image: a}, interfaces: [{bridge: br0}]}
  - {name: c, docker: {image: a}, interfaces: [{bridge: br0}]}
network: {bridges: [{name: br0}]}
"""
HTTP = Traffic("tcp", 80)


class Table:
    """An oracle that knows which traffic passes: (source, target, traffic)."""

    probes = (PING, HTTP)

    def __init__(self, *passes: tuple[str, str, Traffic]) -> None:
        self._passes = set(passes)
        self.asked: Counter[tuple[str, str, Traffic]] = Counter()

    def answer(self, source: str, target: str, probe: Traffic) -> Answer:
        self.asked[source, target, probe] += 1
        reaches = (source, target, probe) in self._passes
        return Answer(reaches, Cause("because", ("network", "bridges", 0)), arrives=reaches)


def judged(oracle: Table, *lines: str, matrix: Traffic | None = None) -> CheckDocument:
    text = LAB + "expect:\n" + "".join(f"  - {{{line}}}\n" for line in lines)
    documents = Documents(InputFile("kvm-compose.yaml", text.encode()), None, schemas())
    return Judge(compile_text(text).placed.logical, documents, oracle).document(matrix)


def verdicts(oracle: Table, *lines: str) -> list[bool]:
    return [each.holds for each in judged(oracle, *lines).expectations]


def test_a_line_is_about_its_own_protocol() -> None:
    oracle = Table(("a", "b", HTTP))
    assert verdicts(
        oracle,
        "from: a, to: b, tcp: 80, is: allowed",
        "from: a, to: b, icmp: true, is: denied",
        "from: b, to: a, tcp: 80, is: denied",
    ) == [True, True, True]
    assert verdicts(
        oracle, "from: a, to: b, icmp: true, is: allowed", "from: b, to: a, tcp: 80, is: allowed"
    ) == [
        False,
        False,
    ]


def test_all_traffic_is_denied_only_if_nothing_passes_and_allowed_only_if_everything_does() -> None:
    half = Table(("a", "b", HTTP))
    assert verdicts(half, "from: a, to: b, is: denied") == [False]
    assert verdicts(half, "from: a, to: b, is: allowed") == [False]
    assert verdicts(Table(("a", "b", HTTP), ("a", "b", PING)), "from: a, to: b, is: allowed") == [True]
    assert verdicts(Table(), "from: a, to: b, is: denied") == [True]


def test_every_pair_that_breaks_a_line_is_listed_with_its_cause_and_place() -> None:
    (line,) = judged(Table(("a", "c", PING)), "from: '*', to: [b, c], icmp: true, is: denied").expectations
    assert line.pairs == 4
    (broken,) = line.broken
    assert (broken.source, broken.target, broken.protocol, broken.cause) == ("a", "c", "icmp", "because")
    assert str(broken.at) == "kvm-compose.yaml:5:21"
    assert str(line.at) == "kvm-compose.yaml:7:5"


def test_no_question_is_asked_twice() -> None:
    oracle = Table()
    judged(oracle, "from: a, to: b, is: denied", "from: '*', to: '*', icmp: true, is: denied", matrix=PING)
    assert set(oracle.asked.values()) == {1}


def test_the_matrix_has_every_pair_and_the_outside() -> None:
    found = judged(Table(("a", "b", PING)), matrix=PING).matrix
    assert found is not None
    assert len(found) == 4 * 3
    assert [(each.source, each.target) for each in found if each.reaches] == [("a", "b")]


def test_json_has_the_words_of_the_yaml() -> None:
    found = msgspec.to_builtins(judged(Table(), "from: a, to: b, is: allowed"))
    assert found["holds"] is False
    (line,) = found["expectations"]
    assert line["is"] == "allowed"
    assert (line["broken"][0]["from"], line["broken"][0]["to"]) == ("a", "b")


def test_junit_has_a_case_for_each_line_and_escapes_what_is_in_names() -> None:
    found = judged(Table(), "from: 'a*', to: b, is: allowed", "from: a, to: c, is: denied")
    suite = ET.fromstring(junit(found)).find("testsuite")  # noqa: S314 (our own)
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    first, second = suite.findall("testcase")
    assert (first.get("name"), first.get("line")) == ("a* to b: allowed", "7")
    failure = first.find("failure")
    assert failure is not None
    assert "a to b, icmp, does not arrive: because (kvm-compose.yaml:5:21)" in str(failure.text)
    assert second.find("failure") is None
