"""Explain validation errors: turn each failed keyword of a schema into a ``Problem`` with message and hint.

A schema can have these annotations:

``x-wanted``         a description of valid values; the default is made from type, limits and choices
``x-hint``           the hint for a value that is wrong or missing
``x-problem``        the message for a value that is wrong
``x-codes``          a problem's code by keyword, where the default is too general
``x-unknown-hints``  hints for keys that users try here and that do not exist
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvmcompose.core.document import Document, Mapping, Node, Path, Scalar, Sequence, show_path
from kvmcompose.core.errors import Problem
from kvmcompose.pipeline.defaults import origin
from kvmcompose.pipeline.key_hints import meant, unknown_key_hint
from kvmcompose.pipeline.text import EMPTY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jsonschema import ValidationError

    from kvmcompose.pipeline.schemas import Schema

INTEGER = re.compile("-?(?:0|[1-9][0-9]{0,999})")
"""Plain scalars that are whole numbers in every version of YAML, and in JSON."""
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][-+]?[0-9]{1,2})?")
"""Plain scalars that are numbers in JSON, and small enough for a float."""
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""Plain scalars that are booleans in every version of YAML."""

_MAX_SHOWN = 60
#: How many unknown keys of one mapping get a hint: searching for the key that was meant takes time.
_MAX_HINTS = 100
_CODES = {
    "additionalProperties": "unknown-key",
    "enum": "bad-value",
    "exclusiveMaximum": "out-of-range",
    "exclusiveMinimum": "out-of-range",
    "maxItems": "too-many",
    "maxLength": "too-long",
    "maxProperties": "too-many",
    "maximum": "out-of-range",
    "minItems": "too-few",
    "minLength": "empty-value",
    "minProperties": "too-few",
    "minimum": "out-of-range",
    "not": "not-allowed",
    "required": "missing-key",
    "type": "wrong-type",
}
_MESSAGES = {
    "bad-name": "not a valid name",
    "empty-value": "the value is empty",
    "no-machines": "the testbed has no machines",
    "no-kind": "nothing is chosen",
    "not-allowed": "not allowed here",
    "out-of-range": "out of range",
    "too-few": "too few",
    "too-long": "too long",
    "too-many": "too many",
    "too-many-kinds": "more than one is chosen",
    "wrong-type": "the wrong type of value",
}
_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}
_CLASSES: dict[str, type | tuple[type, ...]] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}
_NOT_QUITE_BOOLEANS = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}


def explain(error: ValidationError, base: Path, document: Document, schema: Schema) -> Iterator[Problem]:
    """Yield the problems that one error of ``jsonschema`` represents.

    ``base`` is the path of the value that was validated, ``schema`` the one of the whole document.
    """
    path = (*base, *error.absolute_path)
    trail = list(error.relative_schema_path)
    finding = _Finding(
        keyword=str(error.validator),
        argument=error.validator_value,
        instance=error.instance,
        schema=error.schema if isinstance(error.schema, dict) else {},
        path=path,
        document=document,
        whole=schema,
        is_key="propertyNames" in trail,
    )
    yield from _EXPLAINED.get(finding.keyword, _wrong_value)(finding)


@dataclass(frozen=True, slots=True)
class _Finding:
    """A failed keyword, with everything that its message may need."""

    keyword: str
    argument: Any
    instance: Any
    schema: Schema
    path: Path
    document: Document
    whole: Schema
    is_key: bool  # the instance is not the value at ``path`` but a key in it

    def problem(
        self,
        message: str,
        *,
        key: str | None = None,
        found: str | None = None,
        wanted: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> Problem:
        """Return a problem at the value, or at its ``key``."""
        path = self.path if key is None else (*self.path, key)
        return Problem(
            code=code or self.code,
            message=message,
            location=self.document.locate(path, key=key is not None),
            path=show_path(origin(self.document, path)),
            found=found,
            wanted=wanted,
            hint=hint,
        )

    @property
    def code(self) -> str:
        """The problem's code: the schema's own, or the default of the keyword."""
        codes = self.schema.get("x-codes", {})
        return str(codes.get(self.keyword) or _CODES.get(self.keyword, "bad-value"))

    @property
    def message(self) -> str:
        """The default message: the schema's own, or that of the code."""
        return str(self.schema.get("x-problem") or _MESSAGES.get(self.code, "not a valid value"))

    @property
    def hint(self) -> str | None:
        """The schema's own hint."""
        return self.schema.get("x-hint")

    def node(self) -> Node | None:
        """Return the value as the user wrote it."""
        return _node_at(self.document, self.path)


def _node_at(document: Document, path: Path) -> Node | None:
    node = document.root
    for step in path:
        if isinstance(node, Mapping):
            node = node.entries.get(str(step))
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def _unknown_keys(finding: _Finding) -> Iterator[Problem]:
    unknown = [key for key in finding.instance if key not in finding.schema.get("properties", {})]
    for number, key in enumerate(unknown):
        hint = None
        if number < _MAX_HINTS:
            hint = unknown_key_hint(key, finding.path, finding.schema, finding.whole)
        yield finding.problem(f"unknown key '{_cut(key)}'", key=key, hint=hint)


def _missing_keys(finding: _Finding) -> Iterator[Problem]:
    # jsonschema has one error for each key, and names the key in prose only: report all keys for each error.
    known = finding.schema.get("properties", {})
    unknown = [key for key in finding.instance if key not in known][:_MAX_HINTS]
    hints = {unknown_key_hint(key, finding.path, finding.schema, finding.whole) for key in unknown}
    for key in finding.argument:
        if key not in finding.instance and meant(key) not in hints:
            schema = known.get(key, {})
            hint = schema.get("x-hint")
            yield finding.problem(f"the key '{key}' is missing", wanted=describe(schema), hint=hint)


def _wrong_choice_of_keys(finding: _Finding) -> Iterator[Problem]:
    """Explain ``oneOf``, which our schemas use for a choice between keys: one ``required`` in each branch."""
    if not isinstance(finding.instance, dict):
        return  # that it is no mapping is reported anyway
    choice = [key for branch in finding.argument for key in branch.get("required", ())]
    present = [key for key in choice if key in finding.instance]
    wanted = f"exactly one of {listed(choice, 'and')}"
    if len(present) > 1:
        message = f"{listed(present, 'and', quote=True)} exclude each other"
        yield finding.problem(message, key=present[1], wanted=wanted, code="too-many-keys")
    elif choice:
        message = f"the key {listed(choice, 'or', quote=True)} is missing"
        yield finding.problem(message, wanted=wanted, code="missing-key")
    else:
        yield from _wrong_value(finding)


def _wrong_number_of_keys(finding: _Finding) -> Iterator[Problem]:
    keys = [key for key in finding.instance if key in finding.schema.get("properties", {key})]
    extra = None
    if finding.keyword == "maxProperties":
        if len(keys) <= finding.argument:
            return  # it is the unknown keys that make them too many, and those are named anyway
        extra = keys[finding.argument]
    found = listed(keys, "and") if keys else "nothing"
    wanted = describe(finding.schema)
    yield finding.problem(finding.message, key=extra, found=found, wanted=wanted, hint=finding.hint)


def _wrong_type(finding: _Finding) -> Iterator[Problem]:
    node = finding.node()
    types = _types(finding.schema)
    hint = _type_hint(node, types) or finding.hint
    message = "the value is missing" if finding.instance is None else finding.message
    yield finding.problem(message, found=show(node), wanted=describe(finding.schema), hint=hint)


def _type_hint(node: Node | None, types: tuple[str, ...]) -> str | None:
    if isinstance(node, Scalar):
        for each in types:
            if each in _SCALAR_HINTS and (hint := _SCALAR_HINTS[each](node)):
                return hint
    if "array" in types and not isinstance(node, Sequence):
        return "write a list: [first, second], or one item on each line after '- '"
    return None


def _integer_hint(node: Scalar) -> str | None:
    text = node.text.strip()
    if node.quoted:
        return f"drop the quotes: {text}" if INTEGER.fullmatch(text) else None
    for pattern, base in _INTEGERS:
        if pattern.fullmatch(text):
            return f"write {int(text.replace('_', ''), base)}"
    if found := _WHOLE_FLOAT.fullmatch(text):
        return f"write {int(found[1]) * 10 ** int(found[2] or 0)}"
    return None


def _boolean_hint(node: Scalar) -> str | None:
    word = node.text.lower()
    if node.quoted and word in ("true", "false"):
        return f"drop the quotes: {word}"
    return f"write {_NOT_QUITE_BOOLEANS[word]}" if word in _NOT_QUITE_BOOLEANS else None


def _string_hint(node: Scalar) -> str | None:
    return f'quote it if text is meant: "{node.text}"' if node.text else None


def _mapping_hint(node: Scalar) -> str | None:
    key, colon, value = node.text.partition(":")
    if colon and value and not node.quoted and not value[0].isspace() and not value.startswith("//"):
        return f"a space belongs after the ':': {key}: {_cut(value)}"
    return None


_INTEGERS = (
    (re.compile(r"[-+]?[0-9](_?[0-9]){0,17}"), 10),
    (re.compile(r"[-+]?0x[0-9a-fA-F]{1,15}"), 16),
    (re.compile(r"[-+]?0o[0-7]{1,20}"), 8),
    (re.compile(r"[-+]?0b[01]{1,60}"), 2),
)
_WHOLE_FLOAT = re.compile(r"([0-9]{1,9})(?:\.0+)?(?:[eE]\+?([0-9]))?")
_SCALAR_HINTS: dict[str, Callable[[Scalar], str | None]] = {
    "boolean": _boolean_hint,
    "integer": _integer_hint,
    "object": _mapping_hint,
    "string": _string_hint,
}


def _wrong_choice(finding: _Finding) -> Iterator[Problem]:
    if not _is_of(finding.instance, _types(finding.schema)):
        return  # that it is of another type is reported anyway
    choice = [str(each) for each in finding.argument]
    word = str(finding.instance).lower()
    # true and false have no spelling in common with what they may mean
    is_word = word not in _NOT_QUITE_BOOLEANS and word not in _NOT_QUITE_BOOLEANS.values()
    near = difflib.get_close_matches(word, choice, 1) if is_word else []
    hint = f"did you mean '{near[0]}'?" if near else finding.hint
    yield finding.problem(
        "not one of the choices", found=_found(finding), wanted=describe(finding.schema), hint=hint
    )


def _wrong_text(finding: _Finding) -> Iterator[Problem]:
    text = str(finding.instance)
    pattern = finding.argument if finding.keyword == "pattern" else finding.schema.get("pattern", "")
    tried = _rewritten(text, is_name=finding.code == "bad-name")
    nearby = next((each for each in tried if each != text and re.search(pattern, each)), None)
    hint = f"write '{_cut(nearby)}'" if nearby and finding.keyword == "pattern" else finding.hint
    key = text if finding.is_key else None
    wanted = describe(finding.schema)
    yield finding.problem(finding.message, key=key, found=_found(finding), wanted=wanted, hint=hint)


def _rewritten(text: str, *, is_name: bool) -> Iterator[str]:
    """Yield corrections of common mistakes in a text, and more of those in a name, which people choose."""
    yield text.strip()
    yield text.lower()
    yield re.sub(r"\s*,\s*", ",", text)
    if not is_name:
        return
    for each in (text.replace(" ", "-"), text.lower().replace(" ", "-"), text.replace(" ", "")):
        yield each
        yield each.replace("_", "-")
        yield each.replace("-", "_")


def _not_allowed(finding: _Finding) -> Iterator[Problem]:
    yield finding.problem(finding.message, hint=finding.hint)


def _wrong_value(finding: _Finding) -> Iterator[Problem]:
    wanted = describe(finding.schema)
    yield finding.problem(finding.message, found=_found(finding), wanted=wanted, hint=finding.hint)


_EXPLAINED: dict[str, Callable[[_Finding], Iterable[Problem]]] = {
    "additionalProperties": _unknown_keys,
    "enum": _wrong_choice,
    "maxLength": _wrong_text,
    "maxProperties": _wrong_number_of_keys,
    "minLength": _wrong_text,
    "minProperties": _wrong_number_of_keys,
    "not": _not_allowed,
    "oneOf": _wrong_choice_of_keys,
    "pattern": _wrong_text,
    "required": _missing_keys,
    "type": _wrong_type,
}


def _found(finding: _Finding) -> str:
    return f"'{_cut(str(finding.instance))}'" if finding.is_key else show(finding.node())


def show(node: Node | None) -> str:
    """Return a value for a message: short, with quotes around a quoted scalar."""
    match node:
        case Scalar(text=text, quoted=False) if text in EMPTY:
            return "nothing"
        case Scalar(text=text, quoted=False):
            return _cut(text)
        case Scalar(text=text):
            return f'"{_cut(text)}"'
        case Sequence(items=items):
            return f"a list of {len(items)}" if items else "an empty list"
        case Mapping(entries=entries):
            return "a mapping" if entries else "an empty mapping"
    return "nothing"


def describe(schema: Schema) -> str:
    """Return a description of the values that a schema permits."""
    if wanted := schema.get("x-wanted"):
        return str(wanted)
    if "enum" in schema:
        return listed([str(each) for each in schema["enum"]], "or")
    types = _types(schema)
    text = listed([_TYPES[each] for each in types], "or") or "something else"
    if types == ("array",) and "maxItems" in schema:
        return f"{text} of at most {schema['maxItems']}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{text} from {low} to {high}"
    if low is not None:
        return f"{text}, at least {low}"
    return text if high is None else f"{text}, at most {high}"


def _is_of(value: object, types: tuple[str, ...]) -> bool:
    """Return whether a value is of one of the types of JSON Schema; of any where there are none."""
    return not types or any(
        isinstance(value, _CLASSES[each]) and (each == "boolean" or not isinstance(value, bool))
        for each in types
    )


def _types(schema: Schema) -> tuple[str, ...]:
    types = schema.get("type", ())
    return (types,) if isinstance(types, str) else tuple(types)


def listed(words: Iterable[str], last: str, *, quote: bool = False) -> str:
    """Return ``a, b or c``, where ``last`` is the conjunction."""
    each = [f"'{_cut(word)}'" if quote else _cut(word) for word in words]
    return f" {last} ".join([", ".join(each[:-1]), each[-1]] if len(each) > 1 else each)


def _cut(text: str) -> str:
    """Return ``text`` in one line, cut if it is long."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= _MAX_SHOWN else f"{line[: _MAX_SHOWN - 1]}…"
