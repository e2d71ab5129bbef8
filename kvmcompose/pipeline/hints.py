"""Warnings that only ``validate`` gives: the input is valid, and a build does not mention them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.errors import Complaint, Problem, Severity
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.names import first_few
from kvmcompose.core.project import ProjectFiles
from kvmcompose.pipeline.logical import Documents

_SECRET = re.compile(
    r"(?:^|_)(?:PASS|PASSWD|PASSWORD|PASSPHRASE|PWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_?KEY"
    r"|SECRET_?KEY|PRIVATE_?KEY|SIGNING_?KEY|ENCRYPTION_?KEY)(?:_|\d*$)",
    re.IGNORECASE,
)
#: Variables of these names say where a secret is, or how long it may be.
_ABOUT_ONE = re.compile(r"_(?:FILE|PATH|DIR|URL|NAME|ID|LENGTH|TTL|TIMEOUT|EXPIRY)$", re.IGNORECASE)
#: The names that shells give to folders.
_FOLDERS = frozenset({"PWD", "OLDPWD"})

#: So many keys a hint writes out.
_SHOWN = 6


def looks_secret(name: str) -> bool:
    """Return whether a variable's name suggests that its value is a secret."""
    return name not in _FOLDERS and _SECRET.search(name) is not None and _ABOUT_ONE.search(name) is None


def secret_warnings(logical: LogicalTestbed, documents: Documents) -> tuple[Problem, ...]:
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
    return documents.refuse(complaints)


def exposed_key_warnings(
    logical: LogicalTestbed, documents: Documents, files: ProjectFiles
) -> tuple[Problem, ...]:
    """Return warnings of private keys in contexts that every user of a guest could read."""
    machines = {guest.machine.index: guest.machine for guest in logical.guests}
    complaints = []
    for machine in machines.values():
        for path, context in _contexts(msgspec.to_builtins(machine.body)):
            folder, modes = (
                (context, {}) if isinstance(context, str) else (context["path"], context.get("modes", {}))
            )
            names = files.exposed_keys(folder, modes)
            if not names:
                continue
            what = f"key {names[0]}" if len(names) == 1 else f"keys {first_few(names)}"
            wanted = ", ".join(f'{json.dumps(name)}: "0600"' for name in names[:_SHOWN])
            complaints.append(
                Complaint(
                    code="open-private-key",
                    path=("machines", machine.index, machine.kind, *path),
                    message=f"every user of the guest can read the private {what} of this context",
                    hint=f"set their mode: context: {{path: {json.dumps(folder)}, modes: {{{wanted}}}}}",
                    severity=Severity.WARNING,
                )
            )
    return documents.refuse(complaints)


def _contexts(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the contexts in a machine's section, each with its path there."""
    if not isinstance(value, dict):
        return
    for key, below in value.items():
        if key == "context" and below:
            yield (key,), below
        else:
            yield from (((key, *path), context) for path, context in _contexts(below))


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
