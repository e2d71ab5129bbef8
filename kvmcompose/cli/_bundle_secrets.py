"""Finds the secrets of a project, and removes them from texts that leave the machine."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kvmcompose.core.environment import LARGEST_FILE, parse_environment
from kvmcompose.effects.files import expand
from kvmcompose.effects.keys import default_keys
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.server_places import state_dir, token_path

if TYPE_CHECKING:
    import argparse

_REMOVED = b"(left out)"
#: Shorter values are words that occur everywhere, and no secrets that would keep.
_SHORTEST = 4
_WORDS = (b"true", b"false", b"null", b"none")
#: Private keys; digests of values, from which short ones can be guessed; passwords in XML; tokens in headers.
_ALWAYS = (
    re.compile(
        rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
    ),
    re.compile(rb"(?<=sha256:)[0-9a-f]{16}(?![0-9a-f])|(?<=scrypt:)[0-9a-f]{32}"),
    re.compile(rb"(?<=passwd=')[^']*|(?<=passwd=\")[^\"]*"),
    re.compile(rb"(?<=Bearer )\S+"),
)
_DEEPEST = 100
_VALUES = ("environment", "env")
_FILES = ("environment_file", "env_file")
#: Files of which each line is a secret.
_WHOLE = ("hashed_passwd_file", "password_file")
_KEYS = ("ssh_private_key_location", "identity_file")
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Secrets:
    """Values that must not be shown."""

    def __init__(self, values: Iterator[bytes]) -> None:
        wanted = {value for value in values if len(value) >= _SHORTEST and value not in _WORDS}
        longest_first = sorted(wanted, key=lambda value: (-len(value), value))
        self._values = re.compile(b"|".join(map(re.escape, longest_first))) if wanted else None

    def remove(self, data: bytes) -> bytes:
        """Return a text without them."""
        for pattern in (*_ALWAYS, *([self._values] if self._values else [])):
            data = pattern.sub(_REMOVED, data)
        return data


def find_secrets(arguments: argparse.Namespace) -> Secrets:
    """Return what the YAML, the config, the files that they name and the environment of this process have."""
    return Secrets(_forms(_values(arguments)))


def _forms(values: Iterator[bytes]) -> Iterator[bytes]:
    """Yield values as they are, line by line, and as in JSON."""
    for value in values:
        yield value
        yield from value.splitlines()
        text = value.decode(errors="replace")
        yield text.encode("unicode_escape")
        yield html.escape(text, quote=False).encode()
        yield html.escape(text).encode()
        yield text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode()


def _values(arguments: argparse.Namespace) -> Iterator[bytes]:
    folder: Path = arguments.directory
    yaml_file = folder / (arguments.input or "kvm-compose.yaml")
    config_file = folder / (arguments.config or "kvm-compose-config.json")
    keys = [default_keys().ssh_private_key_location]
    for key, value in (*_pairs(_load(yaml_file), {}), *_pairs(_load(config_file), {})):
        if key in _VALUES and isinstance(value, Mapping):
            yield from (str(each).encode() for each in value.values())
        elif key in _FILES and isinstance(value, str):
            data = _read(folder / expand(value), LARGEST_FILE)
            yield from (each.encode() for each in parse_environment(data, value)[0].values())
        elif key in _WHOLE and isinstance(value, str):
            yield from _read(folder / expand(value), LARGEST_FILE).splitlines()
        elif key in _KEYS and isinstance(value, str):
            keys.append(value)
    for name in keys:
        yield from _read(folder / expand(name), DOCUMENT_LIMIT).splitlines()
    token_file = getattr(arguments, "token_file", None)  # commands that ask no server have no such option
    files = [token_path(state_dir()), *([Path(token_file)] if token_file else [])]
    yield from (_read(path, LARGEST_FILE).strip() for path in files)
    yield from (
        os.fsencode(value) for name, value in os.environ.items() if "TOKEN" in name or "PASSW" in name
    )


def _load(path: Path) -> Any:
    data = _read(path, DOCUMENT_LIMIT)
    with suppress(yaml.YAMLError, RecursionError):
        return None if _is_deep(data) else yaml.load(data, Loader=_LOADER)  # noqa: S506 (text only)
    return None


def _is_deep(data: bytes) -> bool:
    """Return whether a document is nested as no project's is: libyaml's composer would overflow the stack."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            return True
    return False


def _read(path: Path, limit: int) -> bytes:
    with suppress(OSError):
        return read_regular(path, limit=limit)
    return b""


def _pairs(value: Any, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of all mappings with their values; what aliases refer to is visited once."""
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, dict):
        yield from ((str(key), each) for key, each in value.items())
    for each in value.values() if isinstance(value, dict) else value:
        yield from _pairs(each, seen)
