"""What holds as JUnit XML, for CI: a test case for each line of ``expect``."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvmcompose.core.checked import CheckDocument, CheckedTraffic
from kvmcompose.core.plain import plain


def junit(document: CheckDocument) -> bytes:
    """Return the report. It has no times, so that the same testbed gives the same bytes."""
    failed = sum(not each.holds for each in document.expectations)
    counts = {
        "tests": str(len(document.expectations)),
        "failures": str(failed),
        "errors": "0",
        "skipped": "0",
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": f"expect of {document.project}", **counts})
    for each in document.expectations:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": f"{document.project}.expect",
                "name": plain(each.text),
                "file": plain(each.at.file),
                "line": str(each.at.line),
            },
        )
        if not each.holds:
            message = f"{len(each.broken)} of {each.pairs} pairs are not {each.wanted}"
            failure = ET.SubElement(case, "failure", {"type": "broken-expectation", "message": message})
            failure.text = "\n".join(plain(traffic_text(traffic)) for traffic in each.broken)
    ET.indent(suites)
    body: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def traffic_text(traffic: CheckedTraffic) -> str:
    """Return traffic and its cause in one line."""
    verb = "passes" if traffic.reaches else "arrives" if traffic.arrives else "does not arrive"
    at = f" ({traffic.at})" if traffic.at is not None else ""
    return f"{traffic.source} to {traffic.target}, {traffic.protocol}, {verb}: {traffic.cause}{at}"
