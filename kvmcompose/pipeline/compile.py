"""The whole story: from two files to a placed testbed, its state, and the artefacts to be made.

read -> shape -> logical testbed -> placement -> state -> artefacts; each stage has types of its own,
changes nothing it was given, and reports all problems it finds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from kvmcompose.pipeline.logical import Documents, Settings, Source, logical_testbed
from kvmcompose.pipeline.pieces import Memory, shape_in_pieces
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.pipeline.shape import Shaped, shape_config, shape_testbed
from kvmcompose.placement import strategy

STATE_PATH = "state.json"


class Compiled(msgspec.Struct, frozen=True):
    """What a project comes to."""

    placed: PlacedTestbed
    state: State
    artefacts: tuple[Artefact, ...]
    warnings: tuple[Problem, ...]


def compile_project(
    testbed: Source,
    config: Source | None,
    schemas: Schemas,
    settings: Settings,
    files: ProjectFiles,
    memory: Memory,
) -> Compiled:
    """Everything that can be known before anything is made. Raises InputError with all problems."""
    documents, value, config_value, network = _read(testbed, config, schemas, memory)
    logical, warnings = logical_testbed(value, config_value, network, settings, documents, files)
    try:
        placed = PlacedTestbed(logical, strategy(logical.strategy).place(logical))
        state = _state(placed)
    except ComplaintsError as error:
        documents.refuse(error.complaints)
        raise
    return Compiled(placed, state, tuple(_artefacts(state)), warnings)


def _read(
    testbed: Source, config: Source | None, schemas: Schemas, memory: Memory
) -> tuple[Documents, dict[str, Any], dict[str, Any] | None, str]:
    """Both files, so that a problem in one does not hide those of the other."""
    documents = Documents(testbed, config)
    problems: list[Problem] = []
    value = shape_in_pieces(testbed.data, testbed.name, schemas, memory)
    if value is None:
        value = _shaped(lambda: shape_testbed(documents.testbed, schemas), problems)
    config_value = None
    if config is not None:
        config_value = _shaped(lambda: shape_config(documents.config, schemas), problems)
    if problems:
        raise InputError(problems)
    return documents, value, config_value, schemas.recognise(value.get("network") or {})


def _shaped(shape: Callable[[], Shaped], problems: list[Problem]) -> dict[str, Any]:
    try:
        value, found = shape()
    except InputError as error:
        value, found = {}, error.problems
    problems += found
    return value


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
                datapath_type=hosts[placed.placement.guests[guest.name]].datapath_type,
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
