"""Validate a ``state.json`` that is read back, by the rules of the files that it is made from.

The file may come from an untrusted source: its names end up in command lines and on terminals, and the server
logs in to its addresses. So it must be one that ``kvm-compose generate`` could have written, by the same
schemas and the same checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from kvmcompose.core.document import Path, show_path
from kvmcompose.core.errors import Complaint, KvmComposeError, Problem
from kvmcompose.core.model import PROJECTS_ROOT, Host
from kvmcompose.core.plain import plain
from kvmcompose.core.state import GUEST_KEYS, GuestState, State, decode_document, state_of
from kvmcompose.guests import guest_kind, kinds
from kvmcompose.networks import dialect
from kvmcompose.pipeline.config import check_hosts
from kvmcompose.pipeline.messages import explain
from kvmcompose.pipeline.order import cycles, in_words
from kvmcompose.pipeline.read import read_json
from kvmcompose.pipeline.schemas import Schema, Schemas
from kvmcompose.pipeline.text import UNPRINTABLE
from kvmcompose.pipeline.validation import Validation

if TYPE_CHECKING:
    from jsonschema import ValidationError

NAME = "state.json"
#: How many problems a message lists; the others are counted.
_SHOWN = 3
#: An escaped control character in JSON as msgspec encodes it, except tab and line breaks.
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u00|b|f)")


class _Rules:
    """The schemas of a state with one network dialect, prepared once for all that are read."""

    def __init__(self, schemas: Schemas, known: str) -> None:
        self.schema = schemas.state(known)
        self.validation = Validation()
        self._schemas, self._known = schemas, known
        self._guests: dict[str, Schema] = {}

    def guest(self, section: str) -> Schema:
        """Return the schema of a guest's section."""
        found = self._guests.get(section)
        if found is None:
            found = self._guests[section] = self._schemas.guest_state(self._known, section)
        return found


@lru_cache(maxsize=8)
def _rules(schemas: Schemas, known: str) -> _Rules:
    return _Rules(schemas, known)


def read_state(data: bytes, schemas: Schemas, *, whole: bool = True) -> State:
    """Decode and validate ``state.json``. Raises KvmComposeError for one that no build could have written.

    Without ``whole`` its parts need not be consistent with each other. That is for the record of a testbed
    that is up, which may contain guests that the project no longer has.
    """
    return check_document(read_document(data), data, schemas, whole=whole)


def read_document(data: bytes) -> Any:
    """Decode the JSON of ``state.json``, whatever it says. Raises KvmComposeError for what is none."""
    try:
        return decode_document(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal([str(error)]) from error


def check_document(document: Any, data: bytes, schemas: Schemas, *, whole: bool) -> State:
    """Return the state of a document, validated as by ``read_state``. ``data`` is where it was read from."""
    try:
        known = document["network"]["dialect"]
        if known not in schemas.dialects:
            raise _refusal([f"network.dialect: there is no dialect {known!r}"])
    except (AttributeError, KeyError, TypeError) as error:
        raise _refusal([f"the key {error} is missing"]) from error
    _check_shape(data, document, schemas, known)
    state = state_of(document)
    if whole:
        complaints = [*_check_parts(state), *dialect(known).check_state(state)]
        if complaints:
            raise _refusal([_format(each) for each in complaints])
    return state


def sound_hosts(document: Any, schemas: Schemas) -> dict[str, Host]:
    """Return the valid hosts of a state that is otherwise invalid, so that ``down`` can reach them."""
    rules = _rules(schemas, schemas.dialects[0])
    hosts = rules.schema["properties"]["testbed_hosts"]
    entries = document.get("testbed_hosts") if isinstance(document, dict) else None
    found = {}
    for name, host in (entries if isinstance(entries, dict) else {}).items():
        with suppress(msgspec.ValidationError):  # for a libvirt URI that is not permitted
            if not list(rules.validation.errors(hosts, {name: host})) and host["name"] == name:
                found[name] = msgspec.convert(host, Host)
    return found


def _refusal(wrong: list[str]) -> KvmComposeError:
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return KvmComposeError(
        f"{NAME} is not as a build writes it: {'; '.join(wrong[:_SHOWN])}{more}",
        hint="rebuild it: kvm-compose generate",
    )


def _format(problem: Problem | Complaint) -> str:
    path = problem.path if isinstance(problem.path, str) else show_path(problem.path)
    detail = [f"found {problem.found}"] if problem.found else []
    detail += [f"wanted {problem.wanted}"] if problem.wanted else []
    details = f" ({', '.join(detail)})" if detail else ""
    return plain(f"{path or NAME}: {problem.message}{details}")


def _check_shape(data: bytes, document: Any, schemas: Schemas, known: str) -> None:
    """Validate each value against the schemas. Raises KvmComposeError."""
    rules = _rules(schemas, known)
    schema, validation = rules.schema, rules.validation
    guests = document.get("testbed_guests")
    guests = guests if isinstance(guests, dict) else {}
    bare = {name: _bare(guest) for name, guest in guests.items()}
    checked = document if not guests else {**document, "testbed_guests": bare}
    # part by part: in one text of megabytes, a search would stop all threads for a fifth of a second
    others = {key: part for key, part in document.items() if part is not guests}
    if any(map(_has_controls, (others, *guests, *guests.values()))):
        read_json(data, NAME)  # raises the error, with its location
    errors: list[tuple[Path, ValidationError]] = [((), error) for error in validation.errors(schema, checked)]
    for name, guest in guests.items():
        path: Path = ("testbed_guests", name)
        section = _section(guest)
        if section is None or f"guests/{section}.json" not in schemas.files:
            raise _refusal([f"{show_path(path)}: unknown guest type"])
        if guest.keys() - GUEST_KEYS != {section}:
            raise _refusal([f"{show_path(path)}: it has keys that its guest type does not have"])
        errors += [
            ((*path, section), error) for error in validation.errors(rules.guest(section), guest[section])
        ]
    if errors:
        located = read_json(data, NAME)
        problems = [each for base, error in errors for each in explain(error, base, located, schema)]
        raise _refusal([_format(each) for each in problems] or ["it has the wrong shape"])


def _has_controls(value: Any) -> bool:
    """Return whether a value has characters that no build writes."""
    text = msgspec.json.encode(value).decode()
    return UNPRINTABLE.search(text) is not None or ("\\" in text and _ESCAPED.search(text) is not None)


def _bare(guest: Any) -> Any:
    return {key: guest[key] for key in guest if key in GUEST_KEYS} if isinstance(guest, dict) else guest


def _section(guest: Any) -> str | None:
    """Return the key of a guest's section, or None for an unknown guest type."""
    kind = guest.get("kind") if isinstance(guest, dict) else None
    return guest_kind(kind).SECTION if isinstance(kind, str) and kind in kinds() else None


def _check_parts(state: State) -> Iterator[Complaint]:
    """Check whether the parts are consistent with each other, except the network."""
    for complaint in check_hosts(tuple(state.testbed_hosts.values()), None, None):
        yield msgspec.structs.replace(complaint, path=("testbed_hosts", *complaint.path[1:]))
    project = state.project_name
    folder = f"{PROJECTS_ROOT}/{project}"
    if state.testbed_host_shared_config.project_folder != folder:
        at: Path = ("testbed_host_shared_config", "project_folder")
        yield _wrong(at, "not the project's folder on its hosts", folder)
    for name, host in state.testbed_hosts.items():
        if host.name != name:
            yield _wrong(("testbed_hosts", name, "name"), "not the host's name", name)
    yield from _check_guests(state)


def _check_guests(state: State) -> Iterator[Complaint]:
    project = state.project_name
    identities: set[str] = set()
    for name, guest in state.testbed_guests.items():
        at: Path = ("testbed_guests", name)
        if guest.name != name:
            yield _wrong((*at, "name"), "not the guest's name", name)
        if guest.identity in identities or (guest.id is not None and guest.id in state.testbed_guests):
            yield _wrong((*at, "id"), f"{guest.identity!r} is another guest's, too", "an id of its own")
        identities.add(guest.identity)
        if guest.hostname != f"{project}-{name}":
            yield _wrong((*at, "hostname"), "not the guest's host name", f"{project}-{name}")
        if guest.testbed_host not in state.testbed_hosts:
            known = f"one of: {', '.join(state.testbed_hosts)}"
            yield _wrong((*at, "testbed_host"), f"there is no testbed host {guest.testbed_host!r}", known)
        yield from _check_golden(state, guest, (*at, "extra_info"))
    yield from _check_order(state)


def _check_order(state: State) -> Iterator[Complaint]:
    """Yield guests that depend on themselves or on each other: nothing could start them in order."""
    guests = state.testbed_guests
    for name, guest in guests.items():
        if name in guest.depends_on:
            yield _wrong(
                ("testbed_guests", name, "depends_on"), "the guest depends on itself", "other guests"
            )
    after = {
        name: [other for other in guest.depends_on if other in guests and other != name]
        for name, guest in guests.items()
    }
    for cycle in cycles(after):
        at: Path = ("testbed_guests", cycle[0], "depends_on")
        yield _wrong(at, in_words(cycle, "guests"), "an order in which they can start")


def _check_golden(state: State, guest: GuestState, at: Path) -> Iterator[Complaint]:
    info = guest.extra_info
    if info.reference_image is None:
        return
    golden = state.testbed_guests.get(info.reference_image)
    if golden is None or not golden.is_golden_image:
        yield _wrong(at, f"{info.reference_image!r} is not a golden image", "a golden image of the state")
    elif info.golden_identity != golden.identity:
        yield _wrong((*at, "reference_id"), "not the id of its golden image", golden.identity)


def _wrong(path: Path, message: str, wanted: str) -> Complaint:
    return Complaint(code="bad-value", path=path, message=message, wanted=wanted)
