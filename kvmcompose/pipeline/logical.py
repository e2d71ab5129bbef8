"""Build the logical testbed from data of the right shape, and check what a schema cannot express."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from kvmcompose.core.document import Document, show_path
from kvmcompose.core.errors import Complaint, InputError, Location, Problem, Severity
from kvmcompose.core.expectation import parse_expectations
from kvmcompose.core.model import Constraints, Guest, Host, LogicalTestbed, Machine, SshKeys
from kvmcompose.core.names import HOSTNAME_LIMIT, first_few
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import guest_kind, kinds
from kvmcompose.networks import Dialect, check_management, dialect
from kvmcompose.pipeline.config import check_hosts, check_keys, parse_hosts, parse_keys
from kvmcompose.pipeline.defaults import heir, origin, with_defaults
from kvmcompose.pipeline.expectations import check_expectations
from kvmcompose.pipeline.management import check_exceptions, management
from kvmcompose.pipeline.order import check_order, depends_on, healthcheck
from kvmcompose.pipeline.ovn_config import OVN_KEYS, check_remotes, parse_remotes
from kvmcompose.pipeline.read import read_document
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.placement import check_constraints, strategies

_CONFIG_KEYS = frozenset(
    {
        "testbed_host_ssh_config",
        "ssh_public_key_location",
        "ssh_private_key_location",
        "ovn_northbound",
        "ovn_southbound",
        *OVN_KEYS,
    }
)


class InputFile(msgspec.Struct, frozen=True):
    """An input file: its name as shown to the user, and its bytes."""

    name: str
    data: bytes


class Documents:
    """The two files that define a testbed, parsed on first use.

    Without a config, this machine is the only host.
    """

    def __init__(self, testbed: InputFile, config: InputFile | None, schemas: Schemas) -> None:
        self._testbed = testbed
        self._config = config
        self._schemas = schemas

    @cached_property
    def testbed(self) -> Document:
        """The YAML, with the defaults in each machine. Raises InputError."""
        return with_defaults(read_document(self._testbed.data, self._testbed.name), self._schemas)

    @cached_property
    def config(self) -> Document:
        """The config, or an empty document without one. Raises InputError."""
        return read_document(self._config.data, self._config.name) if self._config else Document("", None)

    def problem(self, complaint: Complaint) -> Problem:
        """Return a complaint with its location in the file that it is about."""
        document = self.testbed
        if complaint.path and complaint.path[0] in _CONFIG_KEYS and self._config is not None:
            document = self.config
        return Problem(
            code=complaint.code,
            message=complaint.message,
            location=complaint.location or document.locate(complaint.path, key=complaint.at_key),
            path=show_path(origin(document, complaint.path)),
            found=complaint.found,
            wanted=complaint.wanted,
            hint=complaint.hint,
            severity=complaint.severity,
        )

    def refuse(self, complaints: Iterable[Complaint]) -> tuple[Problem, ...]:
        """Return the complaints as warnings. Raises InputError with all of them when one is an error.

        What is wrong in another file or in the defaults is said once, however many machines have it.
        """
        seen: set[tuple[Location, str]] = set()
        #: For each problem, the machines that inherit it; those that none inherits are numbered, to keep all.
        found: dict[tuple[Problem, int | None], list[str]] = {}
        for number, complaint in enumerate(complaints):
            if complaint.location is not None:
                if (complaint.location, complaint.message) in seen:
                    continue
                seen.add((complaint.location, complaint.message))
            machine = heir(self.testbed, complaint.path)
            key = self.problem(complaint), number if machine is None else None
            found.setdefault(key, []).extend([] if machine is None else [machine])
        problems = [_of_machines(problem, machines) for (problem, _), machines in found.items()]
        if any(problem.severity is Severity.ERROR for problem in problems):
            raise InputError(problems)
        return tuple(problems)


def _of_machines(problem: Problem, machines: list[str]) -> Problem:
    """Return a problem of the defaults with the machines that have it."""
    if not machines:
        return problem
    names = first_few(list(dict.fromkeys(machines)))
    return msgspec.structs.replace(problem, message=f"{problem.message} (machines: {names})")


class Settings(msgspec.Struct, frozen=True):
    """What the files do not contain: the project's name, and the hosts and keys to use without a config.

    ``resolve`` replaces ``auto`` in a host's ``virt_type`` and ``datapath_type`` by what the host supports.
    """

    project: str
    hosts: tuple[Host, ...]
    keys: SshKeys
    resolve: Callable[[Host], Host]


def logical_testbed(
    value: dict[str, Any],
    config: dict[str, Any] | None,
    network_dialect: str,
    settings: Settings,
    documents: Documents,
    files: ProjectFiles,
) -> tuple[LogicalTestbed, tuple[Problem, ...]]:
    """Return the testbed with scaling expanded, and warnings. Raises InputError with all problems."""
    network_module = dialect(network_dialect)
    hosts = settings.hosts if config is None else parse_hosts(config)
    keys = settings.keys if config is None else parse_keys(config, settings.keys)
    machines = tuple(_machines(value, network_module))
    section = value.get("network") or {}
    network = network_module.parse(section)
    options = value.get("testbed_options") or {}
    chosen = options.get("load_balancing", "round_robin")
    constraints = msgspec.convert(options.get("placement") or {}, Constraints)
    lines = value.get("expect") or ()
    expectations = parse_expectations(lines)
    guests: list[Guest] = []
    complaints: list[Complaint] = [
        *check_hosts(hosts, config, files),
        *check_keys(keys, settings.keys, config, files),
        *check_remotes(config, files),
        *_check_strategy(chosen),
        *network_module.check(network, machines, hosts),
    ]
    for each in machines:
        module = guest_kind(each.kind)
        complaints += [
            msgspec.structs.replace(complaint, path=("machines", each.index, *complaint.path))
            for complaint in module.check(each, files)
        ]
        guests += (_with_id(module.complete(guest, files)) for guest in module.expand(each))
    for kind in dict.fromkeys(each.kind for each in machines):
        complaints += guest_kind(kind).check_together([each for each in machines if each.kind == kind])
    complaints += _check_guests(settings.project, guests)
    complaints += check_order(machines, guests)
    topology = network_module.topology(network)
    complaints += check_constraints(constraints, guests, topology, hosts)
    complaints += check_expectations(lines, expectations, guests)
    complaints += check_exceptions(options.get("management"), guests)
    managed = management(options.get("management"), guests)
    if managed is not None:
        complaints += check_management(network_dialect, network, guests, managed)
    warnings = documents.refuse(complaints)
    testbed = LogicalTestbed(
        project=settings.project,
        guests=tuple(guests),
        dialect=network_dialect,
        network=network,
        topology=topology,
        hosts=tuple(settings.resolve(host) for host in hosts),
        keys=keys,
        strategy=chosen,
        constraints=constraints,
        ovn=parse_remotes(config) if config is not None else None,
        expectations=expectations,
        management=managed,
    )
    return testbed, warnings


def _machines(value: dict[str, Any], network: Dialect) -> Iterator[Machine]:
    for index, entry in enumerate(value.get("machines") or ()):
        yield machine(entry, index, network)


def machine(entry: dict[str, Any], index: int, network: Dialect) -> Machine:
    """Return an entry of ``machines`` as a ``Machine``; the entry has the right shape."""
    kind = next(key for key in entry if key in kinds())
    section = entry[kind] or {}
    scaling = section.get("scaling") or {}
    return Machine(
        name=entry["name"],
        kind=kind,
        body=msgspec.convert(section, guest_kind(kind).Definition),
        attachments=network.attachments(entry),
        scaled=network.scaled(scaling.get("interfaces") or ()),
        index=index,
        labels=entry.get("labels") or {},
        id=None if entry.get("id") == entry["name"] else entry.get("id"),
        depends_on=depends_on(entry.get("depends_on")),
        depends_on_is_map=isinstance(entry.get("depends_on"), dict),
        healthcheck=healthcheck(entry.get("healthcheck")),
        interfaces_key=network.INTERFACES,
    )


def _with_id(guest: Guest) -> Guest:
    """Return a guest with the ``id`` of its machine; a clone's has its number."""
    own = guest.machine.id
    if own is None:
        return guest
    return msgspec.structs.replace(guest, id=own + guest.name.removeprefix(guest.machine.name))


def _check_strategy(chosen: str) -> Iterator[Complaint]:
    known = strategies()
    if chosen not in known:
        near = difflib.get_close_matches(chosen, known, 1)
        yield Complaint(
            code="unknown-strategy",
            path=("testbed_options", "load_balancing"),
            message=f"there is no placement strategy {chosen!r}",
            wanted=f"one of: {', '.join(known)}",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )


def _check_guests(project: str, guests: Sequence[Guest]) -> Iterator[Complaint]:
    owners: dict[str, Guest] = {}
    for guest in guests:
        path: tuple[str | int, ...] = ("machines", guest.machine.index, "name")
        other = owners.setdefault(guest.name, guest)
        if other is not guest:
            owner = "a machine" if other.machine.name == other.name else f"a clone of {other.machine.name!r}"
            yield Complaint(
                code="duplicate-name",
                path=path,
                message=f"{guest.name!r} is already the name of {owner} (machines[{other.machine.index}])",
            )
        yield from _check_length("host name", f"{project}-{guest.name}", path)
    yield from _check_ids(project, guests, owners)


def _check_ids(project: str, guests: Sequence[Guest], owners: Mapping[str, Guest]) -> Iterator[Complaint]:
    """Check that no two guests have the same id, and none the name of another."""
    known: dict[str, Guest] = {}
    for guest in guests:
        if guest.id is None:
            continue
        path: tuple[str | int, ...] = ("machines", guest.machine.index, "id")
        owner = owners.get(guest.id) or known.setdefault(guest.id, guest)
        if owner is not guest:
            what = "name" if owner.name == guest.id else "id"
            yield Complaint(
                code="duplicate-name",
                path=path,
                message=f"{guest.id!r} is already the {what} of {_called(owner)}"
                f" (machines[{owner.machine.index}])",
                hint="an id is the earlier name of a machine that was renamed" if what == "name" else None,
            )
        yield from _check_length("domain's name", f"{project}-{guest.id}", path)


def _called(guest: Guest) -> str:
    clone = guest.machine.name != guest.name
    return f"a clone of {guest.machine.name!r}" if clone else f"the machine {guest.name!r}"


def _check_length(what: str, name: str, path: tuple[str | int, ...]) -> Iterator[Complaint]:
    if len(name) > HOSTNAME_LIMIT:
        yield Complaint(
            code="name-too-long",
            path=path,
            message=f"the {what} {name!r} has {len(name)} characters",
            wanted=f"at most {HOSTNAME_LIMIT}, the project's name and a dash included",
            hint="shorten the name, or the project's with --project-name",
        )
