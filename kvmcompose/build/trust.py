"""What a built project does to the host, and what its user has said yes to.

A yes is kept by content: by the exact list, in a file named by its digest in the user's own state folder. So
it follows a project that moves, and is none for another lab in the same folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from kvmcompose import privileges
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.privilege import Privilege, PrivilegeKind, privileges_digest
from kvmcompose.core.state import State
from kvmcompose.effects.environment import is_on
from kvmcompose.effects.files import digest_bytes, write_atomic
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.server_places import state_dir
from kvmcompose.guests import guest_kind
from kvmcompose.images.qcow2 import ImageHeader, read_header
from kvmcompose.images.store import default_store
from kvmcompose.networks import dialect
from kvmcompose.pipeline.stored import read_state

VARIABLE = "KVM_COMPOSE_TRUST"
HINT = (
    f"look at it with `kvm-compose trust`, which asks you; up --trust, or {VARIABLE}=1 where nobody is asked"
)
#: Templates of this ending make what libvirt is given; these make what guests read.
_HOST_TEMPLATE = ".xml.j2"
_GUEST_TEMPLATES = ("user-data.j2", "network-config.j2", "meta-data.j2")
_STATE_LIMIT, _XML_LIMIT = 256 << 20, 16 << 20
_CHAIN = 16


class Asked(msgspec.Struct, frozen=True):
    """What a project asks for; what of it was never said yes to is ``new``."""

    project: str
    privileges: tuple[Privilege, ...]
    new: tuple[Privilege, ...]

    @property
    def trusted(self) -> bool:
        """Whether nothing has to be asked."""
        return not self.new


class _Yes(msgspec.Struct, frozen=True):
    """A yes of the user: to what, of which project, and where that was."""

    project: str
    folder: str
    privileges: tuple[Privilege, ...]


def asked_by(folder: Path, allow_paths: Sequence[str] = ()) -> Asked:
    """What a built project asks for. Raises KvmComposeError; RefusedError when it is not built."""
    try:
        document = _read(folder / "state.json", _STATE_LIMIT)
    except OSError as error:
        raise RefusedError(
            f"{folder / 'state.json'} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="build the testbed first: kvm-compose generate",
        ) from error
    return asked_of(folder, read_state(document, schemas()), allow_paths)


def asked_of(
    folder: Path, state: State, allow_paths: Sequence[str] = (), unwritten: Container[str] = ()
) -> Asked:
    """What a project of this state, as read back, asks for. Raises KvmComposeError.

    ``unwritten`` are artefacts that are not looked at, as they will be written by templates.
    """
    wiring = dialect(state.network["dialect"]).wiring(state)
    found = [*privileges.of_state(state), *_templates(folder)]
    found += [Privilege(PrivilegeKind.FILE, repr(path), "--allow-path") for path in allow_paths]
    disks: list[str] = []
    for guest in state.testbed_guests.values():
        run = guest_kind(guest.kind).deployable(guest, state.shared)
        if run is not None:
            text = _text(folder, run.domain_xml) if run.domain_xml not in unwritten else None
            found += privileges.of_domain(text, guest, run, state, wiring) if text is not None else ()
            disks += privileges.disks_of(text or "", state)
            disks += [path for path in run.files if path != run.domain_xml and path not in unwritten]
    text = _text(folder, wiring.network.xml) if wiring.network.xml not in unwritten else None
    found += privileges.of_network(text, state, wiring) if text is not None else ()
    found += _disks(folder, disks)
    listed = tuple(sorted(set(found)))
    return Asked(state.project_name, listed, _new(folder, state.project_name, listed))


def record_yes(folder: Path, asked: Asked) -> None:
    """The user says yes to exactly this list. Raises KvmComposeError when that cannot be kept."""
    path = _path(asked.project, asked.privileges)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(
            path,
            msgspec.json.encode(_Yes(asked.project, str(folder.resolve()), asked.privileges)),
            mode=0o600,
        )
    except OSError as error:
        raise KvmComposeError(f"cannot keep in {path.parent} what is trusted: {error.strerror}") from error


def revoke(asked: Asked) -> None:
    """Take every yes for this project's name back."""
    for path, yes in _kept():
        if yes.project == asked.project:
            path.unlink(missing_ok=True)


def given_by_variable() -> bool:
    """Whether the environment says yes to everything."""
    return is_on(VARIABLE)


def refuse_untrusted(asked: Asked) -> None:
    """Raises RefusedError with the list unless the user has said yes."""
    if not asked.trusted and not given_by_variable():
        raise RefusedError(
            f"{asked.project} does this to the host, and you have not trusted it:\n{listed(asked.new)}",
            hint=HINT,
        )


def listed(items: Iterable[Privilege]) -> str:
    """A list for a terminal."""
    return "\n".join(f"  {each}" for each in items)


def _path(project: str, found: Sequence[Privilege]) -> Path:
    return _folder() / f"{privileges_digest(project, found)}.json"


def _folder() -> Path:
    return state_dir() / "trust"


def _kept() -> Iterator[tuple[Path, _Yes]]:
    with suppress(OSError):
        for path in sorted(_folder().glob("*.json")):
            with suppress(OSError, msgspec.MsgspecError):
                yield path, msgspec.json.decode(_read(path, _STATE_LIMIT), type=_Yes)


def _new(folder: Path, project: str, found: tuple[Privilege, ...]) -> tuple[Privilege, ...]:
    """What no yes covers: all that is new since a yes of the same project, in this folder or as a whole."""
    if not found or _path(project, found).is_file():
        return ()
    here = str(folder.resolve())
    known = [set(yes.privileges) for _, yes in _kept() if yes.project == project and yes.folder == here]
    # less than was said yes to is no news
    return min((tuple(each for each in found if each not in some) for some in known), key=len, default=found)


# -- the folder ------------------------------------------------------------------------------------------


def _read(path: Path, limit: int) -> bytes:
    """A regular file, and no pipe that would be waited for. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "it is no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"it is larger than {limit >> 20} MiB")
    return data


def _text(folder: Path, path: str) -> str | None:
    """The text of an artefact; None when it is not there, which ``up`` refuses."""
    try:
        return _read(folder / path, _XML_LIMIT).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return ""  # no XML that anybody should be given
    except OSError as error:
        raise KvmComposeError(f"{path} cannot be read: {error.strerror}") from error


def _templates(folder: Path) -> Iterator[Privilege]:
    """Templates that make what libvirt is given, with those that they may include."""
    found = {path.name: path for path in sorted((folder / "templates").glob("*.j2"))}
    if not any(name.endswith(_HOST_TEMPLATE) for name in found):
        return
    for name, path in found.items():
        if name not in _GUEST_TEMPLATES:
            with suppress(OSError):
                digest = digest_bytes(_read(path, _XML_LIMIT))
                yield Privilege(PrivilegeKind.TEMPLATE, name, f"templates/{name}", digest)


def _disks(folder: Path, disks: Iterable[str]) -> Iterator[Privilege]:
    """Files outside the project and the image store that disks lead to, by links and as backing files."""
    roots = (folder.resolve(), default_store().root.resolve())
    waiting = [(path, folder / path, 0) for path in dict.fromkeys(disks)]
    seen: set[Path] = set()
    while waiting:
        where, path, depth = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        real = _resolved(path)
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
        if header.backing_file is not None and not named:
            waiting.append((f"{where}, backing file", path.parent / header.backing_file, depth + 1))


def _hidden(path: Path) -> str | None:
    """Why a disk has no header to look at; empty for what is harmless all the same."""
    if not path.exists():
        return ""
    if not path.is_file():
        return "is no file"
    if not os.access(path, os.R_OK):
        # one that a guest runs on is libvirt's for the time being; one of the user's own hides something
        return "cannot be read" if path.stat().st_uid == os.getuid() else ""
    return None


def _named_in(header: ImageHeader, depth: int) -> Iterator[str]:
    """What an image names that is not followed further."""
    if header.data_file is not None:
        yield repr(header.data_file)
    backing = header.backing_file
    if backing is None:
        return
    if header.backing_format not in (None, "qcow2", "raw"):  # without one libvirt refuses all but raw
        yield f"{backing!r} as {header.backing_format!r}, a format that may name further files"
    elif ":" in backing.split("/")[0] or depth >= _CHAIN:  # a protocol of QEMU's, or options as JSON
        yield repr(backing)


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None
