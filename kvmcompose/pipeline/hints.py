"""Warnings that only ``validate`` gives: the input is valid, and a build does not mention them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.errors import Complaint, Problem, Severity
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.pipeline.logical import Documents, InputFile

_SECRET = re.compile(
    r"(?:^|_)(?:PASS|PASSWD|PASSWORD|PASSPHRASE|PWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_?KEY"
    r"|SECRET_?KEY|PRIVATE_?KEY|SIGNING_?KEY|ENCRYPTION_?KEY)(?:_|\d*$)",
    re.IGNORECASE,
)
#: Variables of these names say where a secret is, or how long it may be.
_ABOUT_ONE = re.compile(r"_(?:FILE|PATH|DIR|URL|NAME|ID|LENGTH|TTL|TIMEOUT|EXPIRY)$", re.IGNORECASE)
#: The names that shells give to folders.
_FOLDERS = frozenset({"PWD", "OLDPWD"})


def looks_secret(name: str) -> bool:
    """Return whether a variable's name suggests that its value is a secret."""
    return name not in _FOLDERS and _SECRET.search(name) is not None and _ABOUT_ONE.search(name) is None


def secret_warnings(
    logical: LogicalTestbed, testbed: InputFile, config: InputFile | None
) -> tuple[Problem, ...]:
    """Return a warning for each variable of the YAML whose name suggests a secret.

    Everyone who can read the YAML can read the values in it.
    """
    machines = {guest.machine.index: guest.machine for guest in logical.guests}
    complaints = [
        Complaint(
            code="secret-in-environment",
            path=("machines", machine.index, machine.kind, *path),
            message=f"the name {path[-1]} suggests a secret, and anyone with this file can read its value",
            hint=_secrets_hint(machine.body),
            at_key=True,
            severity=Severity.WARNING,
        )
        for machine in machines.values()
        for path in _named_variables(msgspec.to_builtins(machine.body))
        if looks_secret(str(path[-1])) and path[-2] == "environment"
    ]
    documents = Documents(testbed, config)
    return tuple(documents.problem(complaint) for complaint in complaints)


def _named_variables(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of all variables in a machine's section."""
    if not isinstance(value, dict):
        return
    for key, below in value.items():
        if key == "environment" and isinstance(below, dict):
            yield from ((key, name) for name, text in below.items() if text)
        else:
            yield from ((key, *path) for path in _named_variables(below))


def _secrets_hint(body: Any) -> str:
    key = "env_file" if hasattr(body, "env_file") else "environment_file"
    return f"put it as NAME=value into a file that is not committed, and set {key}: secrets.env"
