"""Whether the templates of a project can be rendered: for ``validate``, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Rendered
from kvmcompose.core.errors import KvmComposeError, Location, Problem
from kvmcompose.render.seed import SeedValues
from kvmcompose.render.templates import Templates

#: As errors of templates begin.
_PLACE = re.compile(r"(templates/[^:]+)(?::(\d+))?: (.*)", re.DOTALL)
#: What the seed's renderer adds to the values; no template depends on what these are.
_ADDED = {"ssh_authorized_keys": ["ssh-ed25519 AAAA"], "instance_id": "none"}


def template_problems(
    folder: Path, templates: Callable[[], Templates], artefacts: Iterable[Artefact]
) -> tuple[Problem, ...]:
    """Return why templates of the project in ``folder`` cannot be rendered, one problem for each template."""
    if next((folder / "templates").glob("*.j2"), None) is None:
        return ()
    try:
        known = templates()
    except KvmComposeError as error:
        return (_problem(error, Location("templates")),)
    failed: dict[str, Problem] = {}
    for name, values in _renderings(artefacts):
        if name in failed:
            continue
        try:
            (known.xml if name.endswith(".xml.j2") else known.yaml)(name, values)
        except KvmComposeError as error:
            failed[name] = _problem(error, Location(f"templates/{name}"))
    return tuple(failed.values())


def _renderings(artefacts: Iterable[Artefact]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every template that artefacts are made from, with its values."""
    for artefact in artefacts:
        content = artefact.content
        if isinstance(content, Rendered):
            values = msgspec.to_builtins(content.values)
            added = _ADDED if isinstance(content.values, SeedValues) else {}
            yield from ((name, values | added) for name in content.templates)


def _problem(error: KvmComposeError, location: Location) -> Problem:
    message = error.message
    if place := _PLACE.fullmatch(message):
        location, message = Location(place[1], int(place[2] or 0), 1 if place[2] else 0), place[3]
    return Problem(code="bad-template", message=message, location=location, hint=error.hint)
