"""Templates: any value comes back out of the text as it went in, and no template does more than fill in."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from golden.memory import TEMPLATES
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.render.templates import Templates, to_yaml_flow

#: What XML 1.0 (section 2.2) lets stand in a document, but for what its parsers normalise.
XML_TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="\ufffe\uffff"))
PLAIN = st.none() | st.booleans() | st.integers() | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def templates(**texts: str) -> Templates:
    return Templates({name.replace("_", "."): text for name, text in texts.items()})


@given(XML_TEXT)
def test_any_text_comes_back_out_of_xml(text: str) -> None:
    made = templates(x="<a b=\"{{ value }}\" c='{{ value }}'>{{ value }}</a>").xml("x", {"value": text})
    element = ET.fromstring(made)  # noqa: S314 (our own text)
    assert (element.text or "", element.get("b"), element.get("c")) == (text, text, text)
    assert len(element) == 0


@given(st.text())
def test_any_text_comes_back_out_of_yaml(text: str) -> None:
    made = templates(x="a: {{ value }}\nb: [{{ value }}, {k: {{ value }}}]\nc: 1\n").yaml(
        "x", {"value": text}
    )
    assert yaml.safe_load(made) == {"a": text, "b": [text, {"k": text}], "c": 1}


@given(NESTED)
def test_any_value_comes_back_out_of_yaml(value: Any) -> None:
    line = to_yaml_flow(value)
    assert "\n" not in line
    assert yaml.safe_load(f"a: {line}\n") == {"a": value}


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=20), max_size=4))
def test_values_are_keys_as_well(values: dict[str, str]) -> None:
    made = templates(x="{% for k in v %}\n{{ k }}: {{ v[k] }}\n{% endfor %}\n").yaml("x", {"v": values})
    assert (yaml.safe_load(made) or {}) == values


@pytest.mark.parametrize(
    "value", ["52:54:00:12:34:56", "on", "010", "1e3", "null", "~", "2026-01-01", "0x1f", ""]
)
def test_text_stays_text_in_yaml(value: str) -> None:
    assert yaml.safe_load(templates(x="a: {{ value }}").yaml("x", {"value": value})) == {"a": value}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{{ missing }}", "templates/x"),
        ("\n\n{{ 1 + }}", "templates/x:3"),
        ("{{ value.__class__ }}", "templates/x"),
        ("{% include 'away' %}", "templates/x"),
        ("{{ 1 / 0 }}", "templates/x"),
        ("{{ value + 1 }}", "templates/x"),
        ("{{ value | int + {} }}", "templates/x"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "templates/x"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "templates/x"),
        ("{% include 'x' %}", "templates/x"),
        ("{{ range(999999999) | list }}", "templates/x"),
        ("{{ value.append('x') }}", "templates/x"),
        ("{{ items.append('x') }}", "templates/x"),
    ],
)
@pytest.mark.parametrize("how", ["xml", "yaml"])
def test_what_is_wrong_with_a_template_is_said_with_its_name(text: str, where: str, how: str) -> None:
    made = templates(x=text)
    with pytest.raises(KvmComposeError) as caught:
        getattr(made, how)("x", {"value": "v", "items": ["a"]})
    assert caught.value.message.startswith(where)


@pytest.mark.parametrize("text", ["{{ 1 + }}", "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "{% nothing %}"])
def test_a_broken_template_has_a_digest_all_the_same(text: str) -> None:
    assert templates(x=text).digest("x") != templates(x=f"{text} ").digest("x")


def test_a_digest_follows_what_is_included_imported_and_extended() -> None:
    texts = {
        "top": "{% extends 'base' %}{% block a %}{% include 'part' %}{% import 'macros' as m %}{%endblock%}",
        "base": "{% block a %}{% endblock %}",
        "part": "{% include 'deep' %}",
        "deep": "1",
        "macros": "",
        "other": "",
    }
    before = Templates(texts).digest("top")
    assert Templates(texts).digest("top") == before
    for name, text in texts.items():
        changed = Templates(texts | {name: text + "{# x #}"}).digest("top") != before
        assert changed == (name != "other"), name


def test_a_digest_of_a_template_that_includes_by_a_computed_name_follows_every_template() -> None:
    texts = {"top": "{% include name ~ '.part' %}", "a.part": "1", "b.part": "2"}
    before = Templates(texts).digest("top")
    assert Templates(texts | {"b.part": "3"}).digest("top") != before


def test_templates_that_include_each_other_have_a_digest() -> None:
    assert Templates({"a": "{% include 'b' %}", "b": "{% include 'a' %}"}).digest("a")


def test_a_template_of_the_same_text_has_the_same_digest_whatever_is_beside_it() -> None:
    assert Templates({"a": "1"}).digest("a") == Templates({"a": "1", "b": "2"}).digest("a")


def test_our_own_templates_ask_for_nothing_that_is_not_said() -> None:
    """Every name a template uses is one that its values have: the golden projects render them all."""
    for name in TEMPLATES:
        with pytest.raises(KvmComposeError):
            Templates(TEMPLATES).yaml(name, {})
