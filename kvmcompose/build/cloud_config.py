"""What cloud-init's own schema says of a cloud-config, where cloud-init is installed.

Its package contains the schema as a file, in draft 4 of JSON Schema. ``cloud-init schema`` takes a third of a
second and prints all errors in one line of prose; here each has its path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

#: Where distributions have modules of their Python, and the schema among those of cloud-init.
_LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"))
_SCHEMAS = "python3*/*-packages/cloudinit/config/schemas/schema-cloud-config-v*.json"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Of a message, in characters: it may list all keys of a mapping.
_LONGEST = 300
#: Of a number, in characters: numbers to the base of 60 (1:59:59) take the square of their length.
_LONGEST_NUMBER = 100
#: What PyYAML raises beside its own errors: for values that are not what their tags say, and large numbers.
_NO_VALUE = (ValueError, TypeError, RecursionError, ArithmeticError, LookupError, AttributeError)


def _short(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a constructor of numbers that leaves long ones text."""

    def constructed(loader: Any, node: Any) -> Any:
        is_long = len(node.value) > _LONGEST_NUMBER
        return loader.construct_yaml_str(node) if is_long else construct(loader, node)

    return constructed


class _Loader(_LOADER):  # type: ignore[misc, valid-type]
    yaml_constructors = _LOADER.yaml_constructors | {
        "tag:yaml.org,2002:int": _short(_LOADER.construct_yaml_int),
        "tag:yaml.org,2002:float": _short(_LOADER.construct_yaml_float),
    }


class CloudConfigSchema:
    """The schema of the cloud-init that is installed, which is read when it is needed first."""

    def __init__(self) -> None:
        self._validator: Any = None

    def errors(self, data: bytes) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the path of each value that the schema does not permit, and why; none without cloud-init.

        No message shows a value, which may be a password. ``data`` is YAML that is valid, and small when its
        aliases are expanded.
        """
        if self._validator is None:
            self._validator = _validator()
        with suppress(yaml.YAMLError, *_NO_VALUE):  # such as keys that are lists
            value = msgspec.to_builtins(yaml.load(data, _Loader), str_keys=True)  # noqa: S506 (it is a safe one)
            for error in self._validator.iter_errors(value):
                message = error.message.strip()
                yield (
                    tuple(error.instance_path),
                    message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…",
                )


def _validator() -> Any:
    from jsonschema_rs import Draft4Validator  # noqa: PLC0415 (few testbeds have a cloud-config)

    found = sorted(path for library in _LIBRARIES for path in library.glob(_SCHEMAS))
    with suppress(OSError, ValueError, IndexError):
        schema = json.loads(read_regular(found[-1], limit=DOCUMENT_LIMIT))
        # formats are hints to cloud-init, of which it checks those that other packages let it
        return Draft4Validator(schema, mask="", validate_formats=False)
    return Draft4Validator({})
