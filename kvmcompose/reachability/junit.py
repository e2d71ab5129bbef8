"""What holds as JUnit XML, for CI: a test case for each line of ``expect``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import msgspec

from kvmcompose.core.checked import CheckDocument, CheckedTraffic
from kvmcompose.core.errors import Location
from kvmcompose.core.plain import plain
from kvmcompose.core.tested import TestDocument, TestedExpectation, Verdict
from kvmcompose.reachability.tested import broken_lines


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """A line. ``kind`` is the element that says why it has not passed, '' if it has."""

    text: str
    at: Location
    kind: str = ""
    attributes: dict[str, str] = {}
    details: Sequence[str] = ()


def junit(document: CheckDocument) -> bytes:
    """Return the report of ``check``."""
    return _report(
        document.project,
        [
            _Case(text=each.text, at=each.at)
            if each.holds
            else _Case(
                text=each.text,
                at=each.at,
                kind="failure",
                attributes={
                    "type": "broken-expectation",
                    "message": f"{len(each.broken)} of {each.pairs} pairs are not {each.wanted}",
                },
                details=[traffic_text(traffic) for traffic in each.broken],
            )
            for each in document.expectations
        ],
    )


def junit_of_test(document: TestDocument) -> bytes:
    """Return the report of ``test``: what could not be tested is an error, or skipped."""
    return _report(document.project, [_tested(each) for each in document.expectations])


def _tested(line: TestedExpectation) -> _Case:
    found = {
        Verdict.BROKEN: (
            "failure",
            "broken-expectation",
            f"{len(line.broken)} of {line.pairs} pairs are not {line.wanted}",
        ),
        Verdict.UNKNOWN: (
            "error",
            "not-tested",
            f"{len(line.unknown)} of {line.pairs} pairs could not be tested",
        ),
        Verdict.SKIPPED: ("skipped", "", "nothing outside the testbed can send packets"),
    }.get(line.verdict)
    if found is None:
        return _Case(text=line.text, at=line.at)
    kind, name, message = found
    attributes = ({"type": name} if name else {}) | {"message": message}
    return _Case(
        text=line.text, at=line.at, kind=kind, attributes=attributes, details=list(broken_lines(line))
    )


def _report(project: str, cases: Sequence[_Case]) -> bytes:
    """Return the report. It has no times, so that the same testbed gives the same bytes."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(each.kind == "failure" for each in cases)),
        "errors": str(sum(each.kind == "error" for each in cases)),
        "skipped": str(sum(each.kind == "skipped" for each in cases)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": f"expect of {project}", **counts})
    for each in cases:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": f"{project}.expect",
                "name": plain(each.text),
                "file": plain(each.at.file),
                "line": str(each.at.line),
            },
        )
        if each.kind:
            why = ET.SubElement(case, each.kind, each.attributes)
            why.text = "\n".join(plain(detail) for detail in each.details)
    ET.indent(suites)
    body: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def traffic_text(traffic: CheckedTraffic) -> str:
    """Return traffic and its cause in one line."""
    verb = "passes" if traffic.reaches else "arrives" if traffic.arrives else "does not arrive"
    at = f" ({traffic.at})" if traffic.at is not None else ""
    return f"{traffic.source} to {traffic.target}, {traffic.protocol}, {verb}: {traffic.cause}{at}"
