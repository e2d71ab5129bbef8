"""XML that is parsed part by part."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from kvmcompose.core import xml_parts
from kvmcompose.core.xml_parts import parse_xml

DOCUMENTS = (
    "<a/>",
    "<?xml version='1.0' encoding='UTF-8'?>\n<a b='ü€'>text &amp; &#8364; 😀<!-- c --><b/>tail\n</a>\n",
    "<?xml version='1.0' encoding='latin-1'?><a>ü</a>",
    "<!DOCTYPE a [<!ENTITY e 'some text'>]><a>&e;</a>",
)
BROKEN = ("", "text", "<a>", "<a></b>", "<a/><b/>", "<a b='1' b='2'/>", "<a>&e;</a>", "<a>\x00</a>")


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_parts, "_PART", 3)


@pytest.mark.parametrize("text", DOCUMENTS)
def test_parts_are_one_document(text: str) -> None:
    assert ET.tostring(parse_xml(text)) == ET.tostring(ET.fromstring(text))  # noqa: S314 (ours)


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_broken_is_refused_as_in_one_text(text: str) -> None:
    with pytest.raises(ET.ParseError) as whole:
        ET.fromstring(text)  # noqa: S314 (ours)
    with pytest.raises(ET.ParseError) as parts:
        parse_xml(text)
    assert parts.value.msg == whole.value.msg


def test_no_call_parses_more_than_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []

    class Parser(ET.XMLParser):
        def feed(self, data: str | bytes, /) -> None:
            fed.append(len(data))
            super().feed(data)

    monkeypatch.setattr(ET, "XMLParser", Parser)
    assert len(parse_xml(f"<a>{'<b/>' * 100}</a>")) == 100
    assert len(fed) == 136
    assert max(fed) == 3
