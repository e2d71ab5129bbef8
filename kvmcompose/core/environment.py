"""Environments of guests: the file that holds their secrets, and what may be said of their values elsewhere.

Grammar of an environment file, line by line (UTF-8, lines end in LF or CR LF):

- A line of blanks, or one whose first other character is ``#``, says nothing.
- Any other is ``NAME=value``. NAME is letters, digits and ``_``, not starting with a digit; blanks before it
  are passed over, blanks before ``=`` are not allowed.
- Blanks (spaces and tabs) around the value are no part of it. A value that begins with ``'`` or ``"`` has to
  end with the same character, and is what stands between the two. Nothing is expanded, there are no escapes,
  and ``#`` in a value is part of it.
- A name may be set once.

No message repeats a line: what is wrong in it may be the secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kvmcompose.core.errors import Location, Problem

#: The largest environment file, in bytes: the values have to fit into the environment of a process.
LARGEST_FILE = 2**17

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BLANKS = " \t"


def parse_environment(data: bytes, name: str) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """The variables of an environment file called ``name``, and everything that is wrong with it."""
    if len(data) > LARGEST_FILE:
        return {}, (_problem(Location(name), f"is larger than {LARGEST_FILE >> 10} KiB"),)
    found: dict[str, str] = {}
    places: dict[str, int] = {}
    problems = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            column = len(raw[: error.start].decode()) + 1
            problems.append(_problem(Location(name, number, column), "is not UTF-8"))
            continue
        line = line.removeprefix("\ufeff") if number == 1 else line
        try:
            pair = _parse_line(line.removesuffix("\r"))
        except _LineError as error:
            problems.append(_problem(Location(name, number, error.column), error.message, error.wanted))
            continue
        if pair is None:
            continue
        variable, value = pair
        if variable in places:
            message = f"{variable} is set already, in line {places[variable]}"
            problems.append(_problem(Location(name, number, line.index(variable) + 1), message))
        places.setdefault(variable, number)
        found[variable] = value
    return found, tuple(problems)


class _LineError(Exception):
    def __init__(self, column: int, message: str, wanted: str | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.message = message
        self.wanted = wanted


def _parse_line(line: str) -> tuple[str, str] | None:
    """The variable of a line, if it has one. Raises _LineError."""
    if control := _CONTROL.search(line):
        raise _LineError(control.start() + 1, "has a control character")
    start = len(line) - len(line.lstrip(_BLANKS))
    if start == len(line) or line[start] == "#":
        return None
    match = _NAME.match(line, start)
    if match is None:
        wanted = "a variable's name: letters, digits and '_', not starting with a digit"
        raise _LineError(start + 1, "does not start with a name", wanted)
    end = match.end()
    if line[end : end + 1] != "=":
        raise _LineError(end + 1, "has no '=' right after the name", "NAME=value")
    value = line[end + 1 :].strip(_BLANKS)
    quote = value[:1]
    if quote and quote in "'\"":
        if len(value) == 1 or value[-1] != quote:
            at = line.index(quote, end) + 1
            raise _LineError(at, f"has a value that starts with {quote} and does not end with it")
        value = value[1:-1]
    return match[0], value


def _problem(location: Location, message: str, wanted: str | None = None) -> Problem:
    return Problem(
        code="bad-environment-file",
        message=message,
        location=location,
        wanted=wanted,
        hint="write one NAME=value on each line; see 'Pass secrets' in docs/how-to/in-guests.md",
    )


@lru_cache(maxsize=64)  # clones have the file of their machine
def file_digest(data: bytes, name: str) -> str:
    """What ``state.json`` says of an environment file: the same for the same content under the same name.

    People commit it, and a password may be short, so each guess at it is made to cost.
    """
    digest = hashlib.scrypt(data, salt=f"kvm-compose {name}".encode(), n=2**12, r=8, p=1, dklen=16)
    return f"scrypt:{digest.hex()}"


def value_digest(name: str, value: str) -> str:
    """What ``state.json`` says of a value that the YAML gives."""
    return f"sha256:{hashlib.sha256(f'{name}={value}'.encode()).hexdigest()[:16]}"


_KEY = "environment"
#: In the section of cloud-init, values by key are no less secret.
_SECTION, _VALUES = "cloud_init", "values"
_MARKS = (b'"environment":{"', b'"cloud_init":{')


def without_values(definition: Any) -> Any:
    """A guest's definition as ``state.json`` has it: of secrets the names, and digests of values."""
    data = msgspec.json.encode(definition)
    if not any(mark in data for mark in _MARKS):
        return msgspec.Raw(data)
    return _without_values(msgspec.json.decode(data))


def _without_values(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_values(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_values_of(key, each) for key, each in value.items()}


def _without_values_of(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if key == _KEY:
            return digests(value)
        if key == _SECTION and isinstance(value.get(_VALUES), Mapping):
            return {**value, _VALUES: digests(value[_VALUES])}
    return _without_values(value)


def digests(environment: Mapping[str, Any]) -> dict[str, str]:
    """An environment with digests in place of its values."""
    return {name: value_digest(name, str(value)) for name, value in environment.items()}
