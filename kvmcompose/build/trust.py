"""What a built project does to the host (its privileges), and which of it the user trusts.

Consent is recorded by content: the exact list, in a file named by its digest in the user's state folder. So
it stays valid when the project moves, and does not apply to another lab in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from kvmcompose import privileges
from kvmcompose.build.harmless import HarmlessFiles
from kvmcompose.core.artefact import is_shared_disk
from kvmcompose.core.consent import ConsentError, ConsentRequest, consent_request
from kvmcompose.core.deployable import ContainerGuest, DomainGuest, NetworkPlan
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.privilege import Privilege, PrivilegeKind, privileges_digest
from kvmcompose.core.state import GuestState, State
from kvmcompose.effects.environment import is_on
from kvmcompose.effects.files import digest_bytes, write_atomic
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.server_places import state_dir
from kvmcompose.guests import guest_kind
from kvmcompose.images.qcow2 import ImageHeader, read_header
from kvmcompose.images.store import default_store
from kvmcompose.networks import dialect
from kvmcompose.pipeline.stored import read_state

VARIABLE = "KVM_COMPOSE_TRUST"
#: A project that is not built as it is now has nothing, or what it had before, for `trust` to show.
_REVIEW = "kvm-compose generate && kvm-compose trust"
HINT = f"review it with `{_REVIEW}`; without a terminal: up --trust, or {VARIABLE}=1"
#: The ending of templates for libvirt's XML, and the names of those for guests.
_HOST_TEMPLATE = ".xml.j2"
_GUEST_TEMPLATES = ("user-data.j2", "network-config.j2", "meta-data.j2")
_XML_LIMIT = 16 << 20
_CHAIN = 16


class Asked(msgspec.Struct, frozen=True):
    """The privileges that a project asks for; ``new`` are those without consent."""

    project: str
    privileges: tuple[Privilege, ...]
    new: tuple[Privilege, ...]

    @property
    def trusted(self) -> bool:
        """Whether the user has consented to everything."""
        return not self.new

    @property
    def request(self) -> ConsentRequest:
        """The question to the user about what is new."""
        return consent_request(self.project, self.new)


class _Consent(msgspec.Struct, frozen=True):
    """The user's consent to the privileges of a project in a folder."""

    project: str
    folder: str
    privileges: tuple[Privilege, ...]


def asked_by(folder: Path, allow_paths: Sequence[str] = ()) -> Asked:
    """Return what a built project asks for. Raises KvmComposeError; RefusedError when it is not built."""
    try:
        document = read_regular(folder / "state.json", limit=DOCUMENT_LIMIT)
    except OSError as error:
        raise RefusedError(
            f"{folder / 'state.json'} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="build the testbed first: kvm-compose generate",
        ) from error
    return asked_of(folder, read_state(document, schemas()), allow_paths)


def asked_of(
    folder: Path, state: State, allow_paths: Sequence[str] = (), unwritten: Container[str] = ()
) -> Asked:
    """Return what a project with this state, as read from its file, asks for. Raises KvmComposeError.

    ``unwritten`` are artefacts that are not read, as templates are yet to write them.
    """
    folder = folder.resolve()
    network_plan = dialect(state.network["dialect"]).network_plan(state)
    found = [*privileges.of_state(state), *_templates(folder)]
    found += [Privilege(PrivilegeKind.FILE, repr(path), "--allow-path") for path in allow_paths]
    harmless = HarmlessFiles(folder, default_store().root.resolve())
    disks: list[str] = []
    binds: list[tuple[str, privileges.Bind]] = []
    for guest in state.testbed_guests.values():
        run = guest_kind(guest.kind).deployable(guest, state.shared)
        if run is not None:
            if isinstance(run, DomainGuest) and run.domain_xml not in unwritten:
                asks, named = _of_domain(folder, guest, run, state, network_plan, harmless)
                shares = privileges.shares_of(run)
                found += [*asks, *_linked(folder, shares, run.domain_xml)]
                binds += [(run.domain_xml, each) for each in shares]
                disks += named
            elif isinstance(run, ContainerGuest) and run.request not in unwritten:
                asks, mounted = _of_container(folder, run, state)
                found += asks
                binds += [(run.request, each) for each in mounted]
            disks += [path for path in run.files if path != run.read_here and path not in unwritten]
    network = network_plan.network
    if network is not None and network.xml not in unwritten:
        xml = _xml(folder, network.xml)
        found += privileges.of_network(xml, state, network) if xml is not None else ()
    found += privileges.replaceable(binds)
    found += _disks(folder, disks, harmless)
    harmless.keep()
    listed = tuple(sorted(set(found)))
    return Asked(state.project_name, listed, _new(folder, state.project_name, listed))


def record_consent(folder: Path, asked: Asked) -> None:
    """Record the user's consent to exactly this list. Raises KvmComposeError when it cannot be written."""
    path = _path(asked.project, asked.privileges)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(
            path,
            msgspec.json.encode(_Consent(asked.project, str(folder.resolve()), asked.privileges)),
            mode=0o600,
        )
    except OSError as error:
        raise KvmComposeError(f"cannot record in {path.parent} what is trusted: {error.strerror}") from error


def revoke(asked: Asked) -> None:
    """Remove all consent recorded for projects of this name."""
    for path, consent in _recorded():
        if consent.project == asked.project:
            path.unlink(missing_ok=True)


def given_by_variable() -> bool:
    """Return whether the environment (KVM_COMPOSE_TRUST) consents to everything."""
    return is_on(VARIABLE)


def refuse_untrusted(asked: Asked) -> None:
    """Raise ConsentError with the list unless the user has consented."""
    if not asked.trusted and not given_by_variable():
        raise ConsentError(
            f"{asked.project} does this to the host, and you have not trusted it:\n{listed(asked.new)}",
            hint=HINT,
            request=asked.request,
        )


def listed(items: Iterable[Privilege]) -> str:
    """Format a list for a terminal."""
    return "\n".join(f"  {each}" for each in items)


def _path(project: str, found: Sequence[Privilege]) -> Path:
    return _folder() / f"{privileges_digest(project, found)}.json"


def _folder() -> Path:
    return state_dir() / "trust"


def _recorded() -> Iterator[tuple[Path, _Consent]]:
    with suppress(OSError):
        for path in sorted(_folder().glob("*.json")):
            with suppress(OSError, msgspec.MsgspecError):
                yield path, msgspec.json.decode(read_regular(path, limit=DOCUMENT_LIMIT), type=_Consent)


def _new(folder: Path, project: str, found: tuple[Privilege, ...]) -> tuple[Privilege, ...]:
    """Return what no consent covers: all that is new since consent to this project in this folder."""
    if not found or _path(project, found).is_file():
        return ()
    here = str(folder)
    known = [
        set(consent.privileges)
        for _, consent in _recorded()
        if consent.project == project and consent.folder == here
    ]
    # fewer privileges than those consented to need no further consent
    return min((tuple(each for each in found if each not in some) for some in known), key=len, default=found)


# -- the folder ------------------------------------------------------------------------------------------


def _xml(folder: Path, path: str) -> privileges.Xml | None:
    """Return an artefact; None if it does not exist, which ``up`` refuses."""
    try:
        return privileges.Xml(read_regular(folder / path, limit=_XML_LIMIT).decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return privileges.Xml("")  # not XML, so it has no privileges that could be shown
    except OSError as error:
        raise KvmComposeError(f"{path} cannot be read: {error.strerror}") from error


def _of_domain(
    folder: Path,
    guest: GuestState,
    run: DomainGuest,
    state: State,
    network_plan: NetworkPlan,
    harmless: HarmlessFiles,
) -> tuple[Sequence[Privilege], Sequence[str]]:
    """Return what a guest's domain XML asks for, and the artefacts that are its disks."""
    path = f"{folder}/{run.domain_xml}"
    owned = privileges.owned_by(guest, run, state, network_plan)
    context = digest_bytes(msgspec.json.encode(owned, order="deterministic"))
    disks = harmless.names(path, context)
    if disks is not None:
        return (), disks
    xml = _xml(folder, run.domain_xml)
    if xml is None:
        return (), ()
    asks = list(privileges.of_domain(xml, guest, run, state, network_plan))
    disks = tuple(privileges.disks_of(xml, state))
    if not asks:
        harmless.add(path, disks, context)
    return asks, disks


def _of_container(
    folder: Path, run: ContainerGuest, state: State
) -> tuple[Sequence[Privilege], Sequence[privileges.Bind]]:
    """Return what the request for a container asks for, links in its mounts included, and these mounts."""
    try:
        data = read_regular(folder / run.request, limit=privileges.REQUEST_LIMIT)
    except FileNotFoundError:
        return (), ()  # which ``up`` refuses
    except OSError as error:
        raise KvmComposeError(f"{run.request} cannot be read: {error.strerror}") from error
    asks = list(privileges.of_container(data, run, state))
    binds = privileges.binds_of(data, run, state)
    return [*asks, *_linked(folder, binds, run.request)], binds


def _linked(folder: Path, binds: Iterable[privileges.Bind], where: str) -> Iterator[Privilege]:
    """Yield what mounts lead to by links, where that is outside the project."""
    for each in binds:
        real = _resolved(folder / each.path)
        if real is None or not real.is_relative_to(folder):
            yield Privilege(PrivilegeKind.FILE, f"{str(real or each.path)!r}", where)


def _templates(folder: Path) -> Iterator[Privilege]:
    """Yield the project's templates for libvirt's XML, and those that they may include."""
    found = {path.name: path for path in sorted((folder / "templates").glob("*.j2"))}
    if not any(name.endswith(_HOST_TEMPLATE) for name in found):
        return
    for name, path in found.items():
        if name not in _GUEST_TEMPLATES:
            with suppress(OSError):
                digest = digest_bytes(read_regular(path, limit=_XML_LIMIT))
                yield Privilege(PrivilegeKind.TEMPLATE, name, f"templates/{name}", digest)


def _disks(folder: Path, disks: Iterable[str], harmless: HarmlessFiles) -> Iterator[Privilege]:
    """Yield files outside the project and the image store that disks reach by links and backing files."""
    roots = (folder, default_store().root.resolve())
    # those that guests share are raw, whatever is in them: taken for images, they could name any file
    own = (path for path in dict.fromkeys(disks) if not is_shared_disk(path))
    waiting = [(path, f"{folder}/{path}", 0) for path in own]
    seen: set[str] = set()
    while waiting:
        where, name, depth = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        backing = harmless.names(name) if depth < _CHAIN else None
        if backing is not None:
            waiting += [(f"{where}, backing file", each, depth + 1) for each in backing]
            continue
        path = Path(name)
        real = _resolved(path)
        if real is not None and real.is_relative_to(folder) and is_shared_disk(str(real.relative_to(folder))):
            yield Privilege(PrivilegeKind.FILE, f"{str(real)!r}, which guests share, as an image", where)
            continue
        if real is None or not any(real.is_relative_to(root) for root in roots):
            yield Privilege(PrivilegeKind.FILE, f"{str(real or path)!r}", where)
            continue
        hidden = _hidden(real)
        if hidden is not None:
            if hidden:
                yield Privilege(PrivilegeKind.FILE, f"{str(real)!r}, which {hidden}", where)
            continue
        header = read_header(real)
        named = list(_named_in(header, depth))
        yield from (Privilege(PrivilegeKind.FILE, each, where) for each in named)
        if named:
            continue
        backing = () if header.backing_file is None else (str(path.parent / header.backing_file),)
        waiting += [(f"{where}, backing file", each, depth + 1) for each in backing]
        harmless.add(name, backing)


def _hidden(path: Path) -> str | None:
    """Describe why a disk's header cannot be read; return "" if that is harmless, None if it can."""
    if not path.exists():
        return ""
    if not path.is_file():
        return "is not a file"
    if not os.access(path, os.R_OK):
        # libvirt owns a disk while a guest runs; an unreadable one that the user owns may hide something
        return "cannot be read" if path.stat().st_uid == os.getuid() else ""
    return None


def _named_in(header: ImageHeader, depth: int) -> Iterator[str]:
    """Yield file names in an image's header that are not followed further."""
    if header.data_file is not None:
        yield repr(header.data_file)
    backing = header.backing_file
    if backing is None:
        return
    if header.backing_format not in (None, "qcow2", "raw"):  # without one libvirt accepts raw only
        yield f"{backing!r} as {header.backing_format!r}, a format that may name further files"
    elif ":" in backing.split("/")[0] or depth >= _CHAIN:  # a protocol of QEMU, or options in JSON
        yield repr(backing)


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None
