"""The whole story: from two files to a placed testbed, its state, and the artefacts to be made.

read -> shape -> logical testbed -> placement -> state -> artefacts; each stage has types of its own,
changes nothing it was given, and reports all problems it finds at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Literal, Policy
from kvmcompose.core.errors import ComplaintsError, InputError, KvmComposeError, Problem
from kvmcompose.core.model import PROJECTS_ROOT, PlacedTestbed
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import (
    STATE_VERSION,
    ExtraInfo,
    GuestState,
    HostSharedConfig,
    State,
    encode_state,
)
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.pipeline.logical import Documents, Settings, logical_testbed
from kvmcompose.pipeline.read import read_document
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.pipeline.shape import shape_config, shape_testbed
from kvmcompose.placement import strategy

STATE_PATH = "state.json"


class Source(msgspec.Struct, frozen=True):
    """An input file: its name as the user knows it, and its bytes."""

    name: str
    data: bytes


class Compiled(msgspec.Struct, frozen=True):
    """What a project comes to."""

    placed: PlacedTestbed
    state: State
    artefacts: tuple[Artefact, ...]
    warnings: tuple[Problem, ...]


def compile_project(
    testbed: Source, config: Source | None, schemas: Schemas, settings: Settings, files: ProjectFiles
) -> Compiled:
    """Everything that can be known before anything is made. Raises InputError with all problems."""
    documents, value, config_value, network = _read(testbed, config, schemas)
    logical, warnings = logical_testbed(value, config_value, network, settings, documents, files)
    try:
        placed = PlacedTestbed(logical, strategy(logical.strategy).place(logical))
        state = _state(placed)
    except ComplaintsError as error:
        documents.refuse(error.complaints)
        raise
    return Compiled(placed, state, tuple(_artefacts(state)), warnings)


def _read(
    testbed: Source, config: Source | None, schemas: Schemas
) -> tuple[Documents, dict[str, Any], dict[str, Any] | None, str]:
    """Both files, so that a problem in one does not hide those of the other."""
    problems: list[Problem] = []
    documents = []
    for source in (testbed, config):
        try:
            documents.append(read_document(source.data, source.name) if source is not None else None)
        except InputError as error:
            documents.append(None)
            problems += error.problems
    document, config_document = documents
    value: dict[str, Any] = {}
    config_value = None
    if document is not None:
        value, found = shape_testbed(document, schemas)
        problems += found
    if config_document is not None:
        config_value, found = shape_config(config_document, schemas)
        problems += found
    if problems or document is None:
        raise InputError(problems)
    return (
        Documents(document, config_document),
        value,
        config_value,
        schemas.recognise(value.get("network") or {}),
    )


def _state(placed: PlacedTestbed) -> State:
    logical = placed.logical
    network, interfaces, external = dialect(logical.dialect).specialise(placed)
    hosts = {host.name: host for host in logical.hosts}
    return State(
        version=STATE_VERSION,
        project_name=logical.project,
        testbed_hosts=hosts,
        testbed_guests={
            guest.name: GuestState(
                name=guest.name,
                kind=guest.kind,
                section=guest_kind(guest.kind).SECTION,
                hostname=f"{logical.project}-{guest.name}",
                guest_id=number,
                testbed_host=placed.placement.guests[guest.name],
                virt_type=hosts[placed.placement.guests[guest.name]].virt_type,
                is_golden_image=guest.is_golden_image,
                extra_info=ExtraInfo(guest.golden_image),
                interfaces=interfaces[guest.name],
                definition=guest.definition,
            )
            for number, guest in enumerate(logical.guests)
        },
        testbed_host_shared_config=HostSharedConfig(external, f"{PROJECTS_ROOT}/{logical.project}"),
        testbed_guest_shared_config=logical.keys,
        network=network,
    )


def _artefacts(state: State) -> Iterator[Artefact]:
    """The state first: everything else is made from it."""
    yield Artefact(
        task="state",
        path=STATE_PATH,
        policy=Policy.TEXT,
        content=Literal(encode_state(state)),
        summary="state of the testbed",
    )
    yield from dialect(state.network.dialect).artefacts(state)
    paths: set[str] = set()
    for guest in state.testbed_guests.values():
        for artefact in guest_kind(guest.kind).artefacts(guest, state):
            check_path(artefact.path, paths)
            yield artefact


def check_path(path: str, taken: set[str]) -> None:
    """An artefact lies below ``artefacts/`` and is made once: the last door before the disk."""
    steps = path.split("/")
    if steps[0] != "artefacts" or len(steps) < 2 or any(step in ("", ".", "..") for step in steps):  # noqa: PLR2004
        raise KvmComposeError(f"{path!r} would lie outside artefacts/")
    if path in taken:
        raise KvmComposeError(f"two artefacts would be written to {path!r}")
    taken.add(path)
