"""Parsing of XML that may be megabytes long."""

from __future__ import annotations

import xml.etree.ElementTree as ET

#: How much is parsed in one call, in characters: a millisecond's work.
_PART = 64 << 10


def parse_xml(text: str) -> ET.Element:
    """Parse XML, as ``ET.fromstring`` does, but part by part.

    The definition of a network with thousands of guests, in one call, would stop all threads for 50 ms.
    Raises ET.ParseError.
    """
    parser = ET.XMLParser()  # noqa: S314 (callers bound the size, or declarations; expat how entities grow)
    for start in range(0, len(text), _PART):
        parser.feed(text[start : start + _PART])
    root: ET.Element = parser.close()
    return root
