"""What cloud-init's own schema says of a cloud-config, where cloud-init is installed.

Its package contains the schema as a file, in draft 4 of JSON Schema. ``cloud-init schema`` takes a third of a
second and prints all errors in one line of prose; here each has its path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        with suppress(yaml.YAMLError, ValueError, TypeError, RecursionError):  # such as keys that are lists
            value = msgspec.to_builtins(yaml.load(data, _LOADER), str_keys=True)  # noqa: S506 (it is a safe one)
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
