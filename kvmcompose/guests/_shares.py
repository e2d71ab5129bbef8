"""Folders of the project that a libvirt guest sees, by virtiofs or 9p."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from kvmcompose.core.deployable import Mount
from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import FileKind, ProjectFiles
from kvmcompose.guests._mounts import check_mounts
from kvmcompose.render.filesystem import Filesystem

#: The longest tag of a 9p export in QEMU, in bytes; one of virtiofs has up to 36.
_LONGEST_TAG = 31
_DIGEST = 8
#: Folders without which a guest does not boot, or nobody can log in.
_OF_THE_GUEST = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var")
)
#: A target whose tag is its path with dashes in place of slashes: there are none in it.
_PLAIN = re.compile(r"[A-Za-z0-9_.]+(/[A-Za-z0-9_.]+)*")


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder of the project that the guest sees at ``target``.

    Without a ``driver`` it is virtiofs, or 9p for a folder that the guest only reads: libvirt exports no
    folder read-only by virtiofs before version 11.
    """

    source: str
    target: str
    readonly: bool = False
    driver: Literal["virtiofs", "9p"] | None = None

    @property
    def is_virtiofs(self) -> bool:
        """Whether it is exported by virtiofs."""
        return self.driver == "virtiofs" or (self.driver is None and not self.readonly)

    @property
    def tag(self) -> str:
        """The name by which the guest mounts it: ``srv-data`` for ``/srv/data``."""
        path = posixpath.normpath(self.target).strip("/")
        if _PLAIN.fullmatch(path) and len(path) <= _LONGEST_TAG:
            return path.replace("/", "-")
        digest = hashlib.sha256(path.encode()).hexdigest()[:_DIGEST]
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", path).strip("-")[: _LONGEST_TAG - _DIGEST - 1]
        return f"{name}-{digest}" if name else digest


def check_shares(section: str, shares: Sequence[Share], files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of the shares in the ``section`` of a machine."""
    yield from check_mounts((section, "shares"), "share", shares, files)
    for index, share in enumerate(shares):
        if files.is_inside(share.source) and files.kind(share.source) is FileKind.FILE:
            yield Complaint(
                code="bad-file",
                path=(section, "shares", index, "source"),
                message=f"{share.source!r} is a file, and only folders can be shared",
                wanted="a folder",
                hint="share the folder that it is in",
            )
        if _place(share) in _OF_THE_GUEST:
            yield Complaint(
                code="bad-value",
                path=(section, "shares", index, "target"),
                message="the guest has its own files there",
                found=repr(share.target),
                wanted="another folder: /srv/data",
            )


def _place(share: Share) -> str:
    """Return where the guest sees a share: its target in the usual form, with one slash at the beginning."""
    return "/" + posixpath.normpath(share.target).lstrip("/")


def filesystems(shares: Sequence[Share], project_folder: str) -> tuple[Filesystem, ...]:
    """Return the shares as the domain XML has them; ``project_folder`` is that on the host."""
    return tuple(
        Filesystem(
            source=posixpath.normpath(posixpath.join(project_folder, each.source)),
            tag=each.tag,
            virtiofs=each.is_virtiofs,
            readonly=each.readonly,
        )
        for each in shares
    )


def mounts(shares: Sequence[Share]) -> tuple[Mount, ...]:
    """Return the shares as the server knows them."""
    return tuple(Mount(each.source, each.target, each.readonly, virtiofs=each.is_virtiofs) for each in shares)


def mount_commands(shares: Sequence[Share]) -> tuple[tuple[str, ...], ...]:
    """Return the commands with which the guest mounts its shares, once at each boot, in this order."""
    return tuple(_mount_command(each) for each in _in_order(shares))


def _in_order(shares: Sequence[Share]) -> Sequence[Share]:
    """Return the shares such that none is hidden by one around it; as they are given where none would be."""
    places = [_place(each) for each in shares]
    if not any(_is_in(place, later) for i, place in enumerate(places) for later in places[i + 1 :]):
        return shares  # another order is another seed, for which guests restart
    return sorted(shares, key=lambda each: sum(_is_in(_place(each), place) for place in places))


def _is_in(place: str, other: str) -> bool:
    return place.startswith(f"{other}/")


def _mount_command(share: Share) -> tuple[str, ...]:
    options = [] if share.is_virtiofs else ["trans=virtio", "version=9p2000.L", "msize=262144"]
    options += ["ro"] if share.readonly else []
    kind = "virtiofs" if share.is_virtiofs else "9p"
    words = f"mount -t {kind}" + (f" -o {','.join(options)}" if options else "")
    return "sh", "-c", f'mkdir -p "$2" && {words} "$1" "$2"', "mount-share", share.tag, share.target
