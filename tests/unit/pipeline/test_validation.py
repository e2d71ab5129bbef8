"""jsonschema-rs, which says whether a value is right, held against jsonschema, which says why it is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_shape import EVERYTHING, SCHEMAS

from kvmcompose.pipeline.read import read_yaml
from kvmcompose.pipeline.schema_errors import SchemaErrors
from kvmcompose.pipeline.shape import shape_testbed
from kvmcompose.pipeline.validation import Validation
from random_cases import cases

SCHEMA = SCHEMAS.testbed("bridges")
VALUE, _ = shape_testbed(read_yaml(EVERYTHING.encode(), "a.yaml"), SCHEMAS)

#: Values that are right in some places and wrong in most.
ODD = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.0, 1.5, 2**40, "", "a", "br0", "x" * 300, "A b", "name\n", [], [0, 1],
     ["a", "a"], [[]], {}, {"name": "x"}, {"bridge": "br0"}, {"path": "p"}, {"unknown": 1}, [{}]]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


PLACES = places(VALUE)[1:]


def agree(schema: Any, value: Any) -> None:
    assert Validation().is_valid(schema, value) == (not list(SchemaErrors().errors(schema, value))), value


def test_what_is_right_has_no_errors() -> None:
    assert Validation().errors(SCHEMA, VALUE) == ()


@pytest.mark.parametrize("value", ["\ud800", [["x"] * 3] * 3, 10**400, float("inf"), float("nan")])
def test_what_is_no_json_is_left_to_jsonschema(value: Any) -> None:
    for schema in ({"type": "string"}, {"type": "array"}, {"type": "number"}, {"type": "integer"}):
        found = [error.message for error in Validation().errors(schema, value)]
        assert found == [error.message for error in SchemaErrors().errors(schema, value)]


@given(st.data())
@cases(400)
def test_it_is_exactly_as_strict_as_jsonschema(data: st.DataObject) -> None:
    value = copy.deepcopy(VALUE)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(PLACES))
        odd, remove = copy.deepcopy(data.draw(ODD)), data.draw(st.booleans())  # a later change may be in it
        try:
            holder = value
            for step in above:
                holder = holder[step]
            if remove and isinstance(holder, dict):
                del holder[last]
                holder[data.draw(st.sampled_from(["extra", "name", "bridges", "context", "scaling"]))] = odd
            else:
                holder[last] = odd
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken that place away
    agree(SCHEMA, value)


@given(ODD)
def test_any_value_at_the_top(value: Any) -> None:
    agree(SCHEMA, value)
    agree(SCHEMAS.config(), value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"], "minLength": 1},
        {"enum": ["a", "br0"]},
        {"not": {"type": "string"}},
        {"anyOf": [{"type": "string"}, {"minimum": 1}]},
        {"allOf": [{"type": "integer"}, {"maximum": 1}]},
        {"oneOf": [{"type": "array"}, {"maxItems": 1}]},
        {"dependentSchemas": {"name": {"required": ["path"]}}},
        {"propertyNames": {"pattern": "^[a-z]+$"}},
        {"additionalProperties": False},
        {"properties": {"name": True}, "additionalProperties": {"type": "string"}},
        {"properties": {"name": False}},
        {"items": {"type": "integer"}},
        {"minProperties": 1, "maxProperties": 1},
        True,
        False,
    ],
)
@given(value=ODD)
def test_each_keyword(schema: Any, value: Any) -> None:
    agree(schema, value)
