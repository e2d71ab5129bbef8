"""The schema files, and how to assemble them.

``kvm-compose.json`` is the frame. ``guests/<kind>.json`` describes the value of a machine's key ``<kind>``,
``networks/<dialect>.json`` the value of ``network``. The files are found by their names and listed nowhere.
In addition to JSON Schema draft 2020-12 they use:

``$ref: "network#/$defs/…"``  a part of the fragment of the network dialect that the testbed uses
``$ref: "<file>#/$defs/…"``   a part of another schema file; keys next to a ``$ref`` override its own
``$defs/machine_keys``        in a network fragment: the properties that it adds to each machine
``$defs/state``               in a network fragment: the network section of ``state.json``; in a guest's
                              fragment: the properties that a guest's section has only there
``x-recognised-by``           in a network fragment: the keys by which its dialect is recognised
``x-unsupported``             names of network dialects that are not implemented yet, each with a hint
``x-defaults``                what a property permits in ``defaults``, in place of its own schema
``x-plain: yaml``             for what is below a mapping of another program's: plain values have YAML's types
``x-wanted`` and others       see ``kvmcompose.pipeline.messages``

The type of a value comes from ``type``, that of its parts from ``properties``, ``additionalProperties`` and
``items``; so a fragment must not use ``patternProperties`` or ``prefixItems``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

DEFAULT_DIALECT = "bridges"
DEFAULTS = "defaults"
MACHINES = "machines"
_TESTBED = "kvm-compose.json"
_CONFIG = "config.json"
_STATE = "state.json"
_NETWORK = "network"  # in a $ref: the fragment of the dialect in use


@dataclass(frozen=True, slots=True, eq=False)
class Schemas:
    """The schema files: parsed JSON by file name relative to ``schemas/``.

    Compared by identity, for what is kept of them: ``shape`` and ``stored`` prepare the rules of each once.
    """

    files: Mapping[str, Schema]

    @property
    def guest_kinds(self) -> tuple[str, ...]:
        """The guest types, which are also the keys of a machine that hold their sections."""
        return self._stems("guests")

    @property
    def dialects(self) -> tuple[str, ...]:
        """The network dialects, the default one first."""
        others = (name for name in self._stems("networks") if name != DEFAULT_DIALECT)
        return (DEFAULT_DIALECT, *others)

    def _stems(self, folder: str) -> tuple[str, ...]:
        paths = (PurePosixPath(name) for name in self.files)
        return tuple(sorted(path.stem for path in paths if str(path.parent) == folder))

    def recognise(self, keys: Mapping[str, object]) -> str:
        """Return the dialect of a network section with these keys: the one that recognises most of them."""

        def known(dialect: str) -> int:
            marks = self.files[f"networks/{dialect}.json"].get("x-recognised-by", [dialect])
            return sum(mark in keys for mark in marks)

        return max(self.dialects, key=known)  # the first of equals: the default

    def unsupported_dialects(self) -> dict[str, str]:
        """Return the names of dialects that are not implemented yet, each with a hint."""
        named = self.files[_TESTBED]["properties"]["network"].get("x-unsupported", {})
        return {name: hint for name, hint in named.items() if name not in self.dialects}

    def config(self) -> Schema:
        """Return the schema of ``kvm-compose-config.json``, without references."""
        return _Inliner(self.files, {}).file(_CONFIG)

    def testbed(self, dialect: str) -> Schema:
        """Return the schema of a ``kvm-compose.yaml`` with this network dialect, without references.

        It permits the sections of several guest types in a machine: the caller checks that there is only one.
        """
        network = self.files[f"networks/{dialect}.json"]
        inliner = _Inliner(self.files, network)
        schema: Schema = inliner.file(_TESTBED)
        hints = "x-unknown-hints"
        section = inliner.file(f"networks/{dialect}.json")
        section[hints] = self.unsupported_dialects() | section.get(hints, {})
        schema["properties"]["network"] |= section
        machine = schema["properties"][MACHINES]["items"]
        added = inliner.schema(network.get("$defs", {}).get("machine_keys", {}), network)
        machine[hints] = machine.get(hints, {}) | added.get(hints, {})
        machine["required"] = machine.get("required", []) + added.get("required", [])
        guests = {kind: inliner.file(f"guests/{kind}.json") for kind in self.guest_kinds}
        machine["properties"] |= added.get("properties", {}) | guests
        schema["properties"][DEFAULTS] = schema["properties"][DEFAULTS] | _defaults(machine)
        return schema

    def state(self, dialect: str) -> Schema:
        """Return the schema of a ``state.json`` with this network dialect, without references.

        The sections of guests are described by ``guest_state``. A dialect without ``$defs/state`` (of a
        plug-in) does not restrict its section.
        """
        network = self.files[f"networks/{dialect}.json"]
        inliner = _Inliner(self.files, network)
        schema: Schema = inliner.file(_STATE)
        hosts = schema["properties"]["testbed_hosts"]
        host = hosts["additionalProperties"]
        # a host of the config has `hostname` or `ip`; one of the state has `ip`, and its name besides the key
        names = {key: value for key, value in host["properties"].items() if key != "hostname"}
        host = {key: value for key, value in host.items() if key != "oneOf"}
        hosts["additionalProperties"] = host | {
            "properties": {"name": hosts["propertyNames"]} | names,
            "required": ["name", "ip"],
        }
        section = network.get("$defs", {}).get("state", {"type": "object"})
        schema["properties"]["network"] = inliner.schema(section, network)
        return schema

    def guest_state(self, dialect: str, section: str) -> Schema:
        """Return the schema of a guest's ``section`` in ``state.json``: as in the YAML, without scaling."""
        network = self.files[f"networks/{dialect}.json"]
        whole = self.files[f"guests/{section}.json"]
        inliner = _Inliner(self.files, network)
        schema = inliner.file(f"guests/{section}.json")
        added = inliner.schema(whole.get("$defs", {}).get("state", {}), whole)
        schema.pop("dependentSchemas", None)
        schema.get("properties", {}).pop("scaling", None)
        merged: Schema = _stored(_merged(schema, added))
        return merged


@dataclass(frozen=True, slots=True)
class _Inliner:
    """Replaces each ``$ref`` by what it refers to: validation is faster without references."""

    files: Mapping[str, Schema]
    network: Schema

    def file(self, name: str) -> Schema:
        whole = self.files[name]
        top = {key: value for key, value in whole.items() if key not in ("$schema", "$id", "$defs")}
        inlined: Schema = self.schema(top, whole)
        return inlined

    def schema(self, part: Any, whole: Schema) -> Any:
        """Return a copy of ``part``, a part of the file ``whole``, without references."""
        if isinstance(part, list):
            return [self.schema(item, whole) for item in part]
        if not isinstance(part, dict):
            return part
        beside = {key: self.schema(value, whole) for key, value in part.items() if key != "$ref"}
        reference = part.get("$ref")
        if not isinstance(reference, str):  # a property may be called "$ref"
            return beside if reference is None else beside | {"$ref": self.schema(reference, whole)}
        file, _, pointer = reference.partition("#")
        target = {"": whole, _NETWORK: self.network}.get(file) or self.files[file]
        found: Any = target
        for step in pointer.strip("/").split("/"):
            found = found[step]
        inlined: Schema = self.schema(found, target) | beside
        return inlined


def _stored(part: Any) -> Any:
    """Return a schema of what the YAML says as the state has it: without the values that are defaults.

    So of a mapping that must not be empty there, nothing may be left. A choice keeps what is chosen.
    """
    if isinstance(part, list):
        return [_stored(each) for each in part]
    if not isinstance(part, dict):
        return part
    is_optional = isinstance(part.get("minProperties"), int) and "maxProperties" not in part
    return {key: _stored(each) for key, each in part.items() if not (is_optional and key == "minProperties")}


def _merged(schema: Any, added: Any) -> Any:
    """Return a schema with ``added`` merged in, recursively for mappings."""
    if not (isinstance(schema, dict) and isinstance(added, dict)):
        return added
    return schema | {
        key: _merged(schema[key], each) if key in schema else each for key, each in added.items()
    }


def _defaults(machine: Schema) -> Schema:
    """Return what ``defaults`` permits of a machine: no key is required."""
    partial: Schema = _partial(_shared(machine))
    return {key: each for key, each in partial.items() if key != "description"}


def _shared(part: Any) -> Any:
    """Return a schema with the properties as ``x-defaults`` has them: what machines can have in common."""
    if isinstance(part, list):
        return [_shared(each) for each in part]
    if not isinstance(part, dict):
        return part
    if "x-defaults" in part:
        return part["x-defaults"]
    return {key: _shared(each) for key, each in part.items()}


def _partial(schema: Any) -> Any:
    """Return the schema of a mapping that is merged with another one: no key is required.

    Items of lists stay as they are, because lists are replaced as a whole.
    """
    if not isinstance(schema, dict):
        return schema
    partial = {key: each for key, each in schema.items() if key not in ("required", "minProperties")}
    if "oneOf" in schema:
        none = {"not": {"anyOf": schema["oneOf"]}}
        partial["oneOf"] = [*schema["oneOf"], none]
    if "properties" in schema:
        partial["properties"] = {key: _partial(each) for key, each in schema["properties"].items()}
    if "additionalProperties" in schema:
        partial["additionalProperties"] = _partial(schema["additionalProperties"])
    return partial


def complete_schema(schemas: Schemas) -> Schema:
    """Return one self-contained JSON Schema (draft 2020-12) of ``kvm-compose.yaml``, for editors.

    It is stricter than its parts: a machine has exactly one guest type, and the network section selects the
    dialect of the rest.
    """
    frame = schemas.testbed(DEFAULT_DIALECT)
    definitions: Schema = {}
    choice: Schema = {}
    for dialect in schemas.dialects:
        sections = _with_definitions(schemas, dialect, definitions)
        if not choice:
            choice = sections
            continue
        marks = schemas.files[f"networks/{dialect}.json"].get("x-recognised-by", [dialect])
        network = {"anyOf": [{"required": [mark]} for mark in marks]}
        recognised = {"required": ["network"], "properties": {"network": network}}
        choice = {"if": recognised, "then": sections, "else": choice}
    for section in (DEFAULTS, MACHINES, "network"):
        frame["properties"][section] = {"description": frame["properties"][section]["description"]}
    complete: Schema = _without_annotations(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **frame,
            "allOf": [choice],
            "$defs": definitions,
        }
    )
    return complete


def _with_definitions(schemas: Schemas, dialect: str, definitions: Schema) -> Schema:
    """Return the schema of the sections that depend on the dialect, and add their parts to ``definitions``.

    What is required of a machine may be in the defaults, if there are any.
    """
    properties = schemas.testbed(dialect)["properties"]
    machines, network, defaults = properties[MACHINES], properties["network"], properties[DEFAULTS]
    machine = machines["items"]
    partial = _partial(machine) | {"required": machine["required"]}
    for each, suffix in ((machine, ""), (partial, "-with-defaults"), (defaults, "-default")):
        for kind in schemas.guest_kinds:
            name = f"{dialect}-{kind}{suffix}"
            definitions[name] = each["properties"][kind]
            each["properties"][kind] = {"$ref": f"#/$defs/{name}"}
    for each, suffix in ((machine, ""), (partial, "-with-defaults")):
        each["oneOf"] = [{"required": [kind]} for kind in schemas.guest_kinds]
        definitions[f"{dialect}-machine{suffix}"] = each
    definitions[f"{dialect}-network"] = network
    definitions[f"{dialect}-defaults"] = defaults

    def of(name: str) -> Schema:
        return {"properties": {MACHINES: machines | {"items": {"$ref": f"#/$defs/{dialect}-{name}"}}}}

    return {
        "properties": {
            DEFAULTS: {"$ref": f"#/$defs/{dialect}-defaults"},
            "network": {"$ref": f"#/$defs/{dialect}-network"},
        },
        "if": {"required": [DEFAULTS]},
        "then": of("machine-with-defaults"),
        "else": of("machine"),
    }


def _without_annotations(part: Any) -> Any:
    """Return ``part`` without the keywords that are specific to kvmcompose."""
    if isinstance(part, list):
        return [_without_annotations(item) for item in part]
    if part == {"type": "string"}:  # any text is valid, also one that an editor reads as a number
        return {"type": ["string", "number", "boolean"]}
    if isinstance(part, dict):
        return {key: _without_annotations(value) for key, value in part.items() if not key.startswith("x-")}
    return part
