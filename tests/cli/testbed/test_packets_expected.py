"""``kvm-compose test`` and the doit task ``expect_running``, with fake guests that reach each other."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import jsonschema
from test_doit import DODO, doit

if TYPE_CHECKING:
    from conftest import Lab

EXPECT = """\
expect:
  - {from: web, to: db, tcp: 5432, is: allowed}
  - {from: db, to: [web, internet], icmp: true, is: allowed}
  - {from: internet, to: web, is: denied}
"""
DENIED = "  - {from: db, to: web, udp: 53, is: denied}\n"


def expecting(lab: Lab, text: str) -> None:
    yaml = (lab.folder / "kvm-compose.yaml").read_text().partition("expect:")[0]
    lab.bench.write("kvm-compose.yaml", yaml + text)


def test_lines_that_hold_are_broken_or_cannot_be_tested(lab: Lab) -> None:
    expecting(lab, EXPECT)
    assert lab.run("test").status == 3  # not up
    lab.must("up")
    ran = lab.must("test")
    assert "holds    web to db, tcp 5432: allowed" in ran.out
    assert "skipped  internet to web: denied" in ran.out
    assert "expectations: 2 holds, 1 skipped" in ran.err
    assert lab.state() == "up"

    expecting(lab, EXPECT + DENIED)
    report = lab.folder / "report.xml"
    ran = lab.run("test", "--junit", str(report))
    assert ran.status == 1
    assert "broken   db to web, udp 53: denied" in ran.out
    assert "         db to web, udp 53: it arrives and is answered by web" in ran.out
    root = ET.parse(report).getroot()  # noqa: S314 (our own)
    assert [root.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["4", "1", "0", "1"]

    ran = lab.run("test", "--junit", str(lab.folder / "gone" / "report.xml"))
    assert ran.status == 1
    assert "broken   db to web" in ran.out
    assert "there is no folder" in ran.err

    lab.must("stop", "db", "--timeout", "0")
    ran = lab.run("test", "--json")
    assert ran.status == 1
    jsonschema.validate(ran.json, lab.run("schema", "--of", "test").json)
    assert [line["verdict"] for line in ran.json["expectations"]] == [
        "unknown",
        "unknown",
        "skipped",
        "unknown",
    ]
    assert ran.json["expectations"][0]["unknown"][0]["cause"] == "db is shut off"


def test_what_check_says_is_named_where_packets_differ(lab: Lab) -> None:
    expecting(lab, EXPECT)
    lab.must("up")
    lab.serve("--fail", "arrive:*:tcp:*")
    ran = lab.run("test", "--timeout", "1")
    assert ran.status == 1
    assert "web to db, tcp 5432: sent to " in ran.out
    assert "by kvm-compose check it holds" in ran.out


def test_a_task_brings_the_testbed_up_and_tests_it(lab: Lab) -> None:
    lab.bench.write("dodo.py", DODO)
    expecting(lab, EXPECT)
    said = doit(lab, "expect_running")
    assert said.index(".  up") < said.index(".  expect_running")
    expecting(lab, EXPECT + DENIED)
    said = doit(lab, "expect_running", status=1)
    assert any("broken: db to web, udp 53: denied" in line for line in said)
    assert any("1 of 4 expectations broken" in line for line in said)


def test_nothing_expected_is_said(lab: Lab) -> None:
    lab.must("up")
    assert "nothing is expected" in lab.must("test").err
