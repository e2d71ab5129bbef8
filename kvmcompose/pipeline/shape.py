"""Convert nodes to plain data as the schemas require, and report every value that does not conform.

The schema decides the type of a value, never the parser: where it requires a string, ``52:54:00:12:34:56``,
``on`` and ``010`` stay what the user wrote. The key that names a guest type selects the fragment, which is
then validated: so a message is about the value, never about several schemas that it does not match.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from kvmcompose.core.document import Document, Mapping, Node, Path, Scalar, show_path
from kvmcompose.core.errors import Problem
from kvmcompose.pipeline.messages import BOOLEANS, INTEGER, NUMBER, explain, listed
from kvmcompose.pipeline.schemas import Schema, Schemas, complete_schema
from kvmcompose.pipeline.text import EMPTY
from kvmcompose.pipeline.validation import Validation
from kvmcompose.pipeline.yaml_nodes import collector_paused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Schema", "Schemas", "complete_schema", "shape_config", "shape_testbed"]

Shaped = tuple[dict[str, Any], tuple[Problem, ...]]


def shape_testbed(document: Document, schemas: Schemas) -> Shaped:
    """Return a ``kvm-compose.yaml`` as plain data, and every problem of its shape, sorted by location.

    A value with a problem is kept as far as possible; later stages must not use it.
    """
    network = document.root.entries.get("network") if isinstance(document.root, Mapping) else None
    keys = network.entries if isinstance(network, Mapping) else {}
    with collector_paused():
        rules = testbed_rules(schemas, schemas.recognise(keys))
        value = _plain_data(document, rules.reading)
        foreign = [name for name in schemas.unsupported_dialects() if name in keys]
        if foreign and rules.schema["properties"]["network"]["properties"].keys().isdisjoint(keys):
            # What the network section should contain instead is said once; the machines' problems, each.
            problems = [_unsupported(foreign[0], document, schemas)]
            rest = {**value, "network": {}}
            problems += _testbed_problems(rest, document, rules)
            return _shaped(value, problems)
        return _shaped(value, _testbed_problems(value, document, rules))


def shape_config(document: Document, schemas: Schemas) -> Shaped:
    """Return a ``kvm-compose-config.json`` as plain data, and every problem of its shape, by location."""
    rules = config_rules(schemas)
    schema, value = rules.schema, _plain_data(document, rules.reading)
    if (
        isinstance(value, dict)
        and not schema["properties"].keys() & value
        and {"ip", "hostname"} & value.keys()
    ):
        return _shaped(value, [_one_host(document)])
    errors = rules.validation.errors(schema, value)
    return _shaped(value, (each for error in errors for each in explain(error, (), document, schema)))


def _plain_data(document: Document, reading: _Reading) -> Any:
    """Return the whole document as plain data, whatever its shape; an empty file is an empty mapping."""
    return {} if document.root is None else _read(document.root, reading)


@dataclass(slots=True)
class _Reading:
    """How to convert the nodes that a schema describes; created once for each part of the schema."""

    plain: Callable[[str], object]
    empty: Callable[[], object]
    properties: dict[str, _Reading] = field(default_factory=dict)
    others: _Reading | None = None
    items: _Reading | None = None


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """A schema without references, and what is prepared of it once for all documents. Nobody changes it."""

    schema: Schema
    reading: _Reading
    validation: Validation


@dataclass(frozen=True, slots=True)
class TestbedRules(SchemaRules):
    """Those of a ``kvm-compose.yaml``, with the parts that are validated one by one."""

    #: A machine may have one guest type only.
    whole: Schema
    #: Whatever the machines are.
    frame: Schema
    #: Whatever the sections of its guest types are.
    machine: Schema
    #: The sections, by the guest type.
    guests: dict[str, Schema]


@lru_cache(maxsize=8)
def testbed_rules(schemas: Schemas, dialect: str) -> TestbedRules:
    """Return the rules of a testbed with this network dialect."""
    schema, kinds = schemas.testbed(dialect), schemas.guest_kinds
    machine = schema["properties"]["machines"]["items"]
    return TestbedRules(
        schema=schema,
        reading=_reading(schema),
        validation=Validation(),
        whole=_with_machines(schema, machine | _one_of(kinds)),
        frame=_with_machines(schema, True),
        machine=machine | {"properties": machine["properties"] | dict.fromkeys(kinds, True)},
        guests={kind: machine["properties"][kind] for kind in kinds},
    )


@lru_cache(maxsize=8)
def config_rules(schemas: Schemas) -> SchemaRules:
    """Return the rules of a ``kvm-compose-config.json``."""
    schema = schemas.config()
    return SchemaRules(schema=schema, reading=_reading(schema), validation=Validation())


def _shaped(value: Any, problems: Iterable[Problem]) -> Shaped:
    found = sorted(set(problems), key=lambda each: (each.location, each.path, each.code, each.message))
    return value if isinstance(value, dict) else {}, tuple(found)


def _reading(schema: Schema | bool) -> _Reading:
    if isinstance(schema, bool):
        return _TEXT
    if schema.get("x-plain") == "yaml":
        return _YAML
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    empty = dict if "object" in types else list if "array" in types else _nothing
    return _Reading(
        plain=next((read for name, read in _PLAIN.items() if name in types), str),
        empty=empty,
        properties={name: _reading(each) for name, each in schema.get("properties", {}).items()},
        others=_reading(schema.get("additionalProperties", True)),
        items=_reading(schema.get("items", True)),
    )


def _read(node: Node, reading: _Reading | None) -> Any:
    """Return the node as plain data. A scalar of another type stays text, which validation then rejects."""
    if reading is None:
        reading = _TEXT
    if isinstance(node, Scalar):
        text = node.text
        if node.quoted:
            return text
        return reading.empty() if text in EMPTY else reading.plain(text)
    if isinstance(node, Mapping):
        properties, others = reading.properties, reading.others
        return {key: _read(value, properties.get(key, others)) for key, value in node.entries.items()}
    return [_read(item, reading.items) for item in node.items]


def _nothing() -> None:
    return None


def _integer(text: str) -> int | str:
    return int(text) if INTEGER.fullmatch(text) else text


def _number(text: str) -> float | str:
    return float(text) if NUMBER.fullmatch(text) else text


def _boolean(text: str) -> bool | str:
    return BOOLEANS.get(text, text)


# A union of types takes the first of these that it names.
_PLAIN: dict[str, Callable[[str], object]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
_TEXT = _Reading(plain=str, empty=_nothing)


def _yaml_value(text: str) -> object:
    """Return a plain scalar as YAML 1.1 types it, which cloud-init reads; what JSON cannot say stays text."""
    tag = _CONSTRUCTOR.resolve(yaml.ScalarNode, text, (True, False))
    if tag not in _JSON_TAGS:
        return text
    try:
        value = _CONSTRUCTOR.construct_object(yaml.ScalarNode(tag, text))
    except ValueError:  # 0b, or _ alone
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


_CONSTRUCTOR: Any = yaml.SafeLoader("")
_JSON_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float"))
#: A mapping that the schema does not describe.
_YAML = _Reading(plain=_yaml_value, empty=_nothing)
_YAML.others = _YAML.items = _YAML


def _testbed_problems(value: Any, document: Document, rules: TestbedRules) -> Iterator[Problem]:
    """Validate each machine's section against the fragment of its guest type only."""
    validation, schema = rules.validation, rules.schema
    if validation.is_valid(rules.whole, value):
        return
    for error in validation.errors(rules.frame, value):
        yield from explain(error, (), document, schema)
    machine = schema["properties"]["machines"]["items"]
    machines = value.get("machines") if isinstance(value, dict) else None
    for index, entry in enumerate(machines if isinstance(machines, list) else ()):
        path: Path = ("machines", index)
        for error in validation.errors(rules.machine, entry):
            yield from explain(error, path, document, schema)
        if not isinstance(entry, dict):
            continue
        present = [kind for kind in entry if kind in rules.guests]
        for kind in present:
            for error in validation.errors(rules.guests[kind], entry[kind]):
                yield from explain(error, (*path, kind), document, schema)
        if len(present) != 1:
            yield from _kind_problem(entry, path, document, present, tuple(rules.guests), machine)


def _with_machines(schema: Schema, machine: Schema | bool) -> Schema:
    """Return the schema with ``machine`` as the schema of each machine."""
    properties = schema["properties"]
    return schema | {"properties": properties | {"machines": properties["machines"] | {"items": machine}}}


def _one_of(kinds: tuple[str, ...]) -> Schema:
    """Return the schema of a machine with exactly one guest type."""
    return {"oneOf": [{"required": [kind]} for kind in kinds]}


def _kind_problem(
    entry: dict[str, Any],
    path: Path,
    document: Document,
    present: list[str],
    kinds: tuple[str, ...],
    machine: Schema,
) -> Iterator[Problem]:
    """Yield the problem of a machine with several guest types, or with none."""
    wanted = f"exactly one of {listed(kinds, 'and')}"
    if present:
        yield Problem(
            code="too-many-kinds",
            message="a machine can have only one guest type",
            location=document.locate((*path, present[1]), key=True),
            path=show_path(path),
            found=listed(present, "and"),
            wanted=wanted,
        )
        return
    unknown = (value for key, value in entry.items() if key not in machine["properties"])
    if any(value is None or isinstance(value, dict) for value in unknown):
        return  # probably a misspelt guest type, which is already reported as an unknown key
    yield Problem(
        code="no-kind",
        message="the machine is of no kind",
        location=document.locate(path),
        path=show_path(path),
        wanted=wanted,
    )


def _one_host(document: Document) -> Problem:
    """Return the problem of a file that is a host's entry: ``host.json`` of TestbedOS is one."""
    return Problem(
        code="missing-key",
        message="this is one testbed host, without the key 'testbed_host_ssh_config' around it",
        location=document.locate(()),
        hint='write {"testbed_host_ssh_config": {"NAME": …}} around it, with "is_main_host": true'
        " (see 'Migrate from TestbedOS' in the documentation)",
    )


def _unsupported(name: str, document: Document, schemas: Schemas) -> Problem:
    path: Path = ("network", name)
    return Problem(
        code="unsupported-dialect",
        message=f"networks of the dialect '{name}' are not supported yet",
        location=document.locate(path, key=True),
        path=show_path(path),
        wanted=listed(schemas.dialects, "or"),
        hint=schemas.unsupported_dialects()[name],
    )
