"""Compile a project: from its two files to a placed testbed, its state, and the artefacts to make.

read -> shape -> logical testbed -> placement -> state -> artefacts. Each stage has its own types, does not
change its input, and reports all problems that it finds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Literal, Policy
from kvmcompose.core.errors import Complaint, ComplaintsError, InputError, KvmComposeError, Problem
from kvmcompose.core.model import PROJECTS_ROOT, Guest, LogicalTestbed, PlacedTestbed
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import (
    STATE_VERSION,
    ExtraInfo,
    GuestState,
    HostSharedConfig,
    Interface,
    State,
    encode_state,
)
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.pipeline.ignored import ignored_keys
from kvmcompose.pipeline.logical import Documents, InputFile, Settings, logical_testbed
from kvmcompose.pipeline.order import dependencies
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.pipeline.shape import Shaped, config_rules, shape_config, shape_testbed, testbed_rules
from kvmcompose.placement import place

STATE_PATH = "state.json"
#: The folder of all other artefacts.
ARTEFACTS = "artefacts"
_NO_NAMES = frozenset({"", ".", ".."})


class Compiled:
    """The result of compiling a project. Artefacts are computed on first use."""

    def __init__(self, placed: PlacedTestbed, state: State, warnings: tuple[Problem, ...]) -> None:
        self.placed = placed
        self.state = state
        self.warnings = warnings

    @cached_property
    def artefacts(self) -> tuple[Artefact, ...]:
        """All artefacts. The state is the first one, because the others are made from it."""
        network = dialect(self.state.network.dialect).artefacts(self.state)
        shared = self.state.shared
        guests = (
            each
            for guest in self.state.testbed_guests.values()
            for each in guest_kind(guest.kind).artefacts(guest, shared)
        )
        found = {STATE_PATH: state_artefact(encode_state(self.state))}
        for each in (*_checked(network), *_checked(guests)):
            # guests may share one, such as what an image is built from
            if found.setdefault(each.path, each) is not each and found[each.path] != each:
                raise KvmComposeError(f"two artefacts have the same path {each.path!r}")
        return tuple(found.values())


def state_artefact(data: bytes) -> Artefact:
    """Return ``state.json`` as an artefact; ``data`` are its bytes."""
    return Artefact(
        task="state",
        path=STATE_PATH,
        policy=Policy.TEXT,
        content=Literal(data),
        summary="state of the testbed",
        # it contains the paths of keys and the digests of secrets
        mode=0o600,
    )


def compile_project(
    testbed: InputFile,
    config: InputFile | None,
    schemas: Schemas,
    settings: Settings,
    files: ProjectFiles,
) -> Compiled:
    """Compile a project. Nothing is made yet. Raises InputError with all problems."""
    documents, logical, warnings = understand(testbed, config, schemas, settings, files)
    try:
        placed = PlacedTestbed(logical, place(logical, logical.strategy))
        state = specialised(placed)
    except ComplaintsError as error:
        documents.refuse(error.complaints)
        raise
    return Compiled(placed, state, (*warnings, *documents.refuse(_of_interfaces(logical, state, files))))


def _of_interfaces(logical: LogicalTestbed, state: State, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield what the interfaces of guests show; of the clones of a machine, those of one."""
    told: set[int] = set()
    for guest in logical.guests:
        if guest.machine.index not in told:
            interfaces = state.testbed_guests[guest.name].interfaces
            for complaint in guest_kind(guest.kind).check_interfaces(guest, interfaces, files):
                told.add(guest.machine.index)
                yield complaint


def understand(
    testbed: InputFile,
    config: InputFile | None,
    schemas: Schemas,
    settings: Settings,
    files: ProjectFiles,
) -> tuple[Documents, LogicalTestbed, tuple[Problem, ...]]:
    """Return the testbed before placement, and warnings. Raises InputError with all problems."""
    documents, value, config_value, network = _read(testbed, config, schemas)
    logical, warnings = logical_testbed(value, config_value, network, settings, documents, files)
    ignored = [
        *ignored_keys(value, testbed_rules(schemas, network).schema),
        *ignored_keys(config_value, config_rules(schemas).schema),
    ]
    return documents, logical, (*warnings, *documents.refuse(ignored))


def _read(
    testbed: InputFile, config: InputFile | None, schemas: Schemas
) -> tuple[Documents, dict[str, Any], dict[str, Any] | None, str]:
    """Read both files before reporting, so that a problem in one does not hide those of the other."""
    documents = Documents(testbed, config, schemas)
    problems: list[Problem] = []
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


def specialised(placed: PlacedTestbed) -> State:
    """Return the state of a placed testbed. Raises ComplaintsError when its addresses cannot all be used."""
    logical = placed.logical
    network, interfaces, external = dialect(logical.dialect).specialise(placed)
    unknown = [each for guest in logical.guests for each in _unknown_addresses(guest, interfaces[guest.name])]
    if unknown:
        raise ComplaintsError(unknown)
    hosts = {host.name: host for host in logical.hosts}
    needed = dependencies(logical.guests)
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
                virt_type=hosts[placed.placement.guests[guest.name]].virt_type_of(guest.arch),
                datapath_type=hosts[placed.placement.guests[guest.name]].datapath_type,
                is_golden_image=guest.is_golden_image,
                extra_info=ExtraInfo(guest.golden_image, _golden_id(guest)),
                interfaces=interfaces[guest.name],
                definition=guest.definition,
                labels=guest.machine.labels,
                id=guest.id,
                depends_on=needed.get(guest.name, {}),
                healthcheck=None if guest.is_golden_image else guest.machine.healthcheck,
            )
            for number, guest in enumerate(logical.guests)
        },
        testbed_host_shared_config=HostSharedConfig(external, f"{PROJECTS_ROOT}/{logical.project}"),
        testbed_guest_shared_config=logical.keys,
        network=network,
    )


def _unknown_addresses(guest: Guest, interfaces: Sequence[Interface]) -> Iterator[Complaint]:
    """Yield the interfaces of a guest without a DHCP client whose addresses only DHCP would give."""
    if guest_kind(guest.kind).HAS_DHCP_CLIENT:
        return
    for index, nic in enumerate(interfaces):
        if "dynamic" in (nic.ip, nic.ipv6) and not nic.leases:
            alone = guest.name == guest.machine.name
            yield Complaint(
                code="needs-address",
                path=(*guest.interfaces_path, *((index, "ip") if alone else ())),
                at_key=not alone,
                message=f"{guest.name!r} has no DHCP client: nothing in a container asks for an address",
                found="dynamic",
                wanted="an address, or no 'ip' for one that follows from the name",
            )


def _golden_id(guest: Guest) -> str | msgspec.UnsetType:
    """Return the id of a clone's golden image, which is that of its machine, if it has one."""
    own = guest.machine.id if guest.golden_image is not None else None
    return msgspec.UNSET if own is None else own


def _checked(artefacts: Iterable[Artefact]) -> Iterator[Artefact]:
    """Yield the artefacts. Raises KvmComposeError for one outside ``artefacts/``, as a plug-in could make."""
    for artefact in artefacts:
        steps = artefact.path.split("/")
        if steps[0] != ARTEFACTS or len(steps) < 2 or not _NO_NAMES.isdisjoint(steps):  # noqa: PLR2004
            raise KvmComposeError(f"{artefact.path!r} is outside artefacts/")
        yield artefact
