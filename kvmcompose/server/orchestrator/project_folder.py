"""A project folder as the server may read it: with its own rights, or with those of a member."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast

from kvmcompose.core.planned import FileToMake
from kvmcompose.effects import private
from kvmcompose.effects.artefacts import Inspection, inspect
from kvmcompose.effects.files import digest_file, expand
from kvmcompose.effects.opening import DOCUMENT_LIMIT, open_regular, read_regular
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.stat_cache import StatMemo
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.transfer_plan import backing_file
from kvmcompose.images.qcow2 import HEAD_BYTES, parse_header, read_header
from kvmcompose.providers.guest.interface import Secret

_LARGEST_KEY = 1 << 20
_LONGEST_CHAIN = 64
#: Artefacts are asked for by every look at what is up.
_digests = StatMemo(digest_file, 100_000)
#: A member's file that is read at several offsets is copied: in memory up to this size, at most up to that.
_IN_MEMORY, _LARGEST_COPY = 1 << 23, 1 << 32


class ProjectFolder:
    """Paths are relative to the project. ``work`` is where the main host has its files, and the server its
    notes; ``location`` is the folder itself.
    """

    #: Whether a build comes before anything is done with the files; it also makes the default keys.
    before_build = False
    #: Files that a build has yet to make, by path: what is in their place is not what they will be.
    to_be_made: Mapping[str, FileToMake] = MappingProxyType({})

    def __init__(self, location: Path, work: Path | None = None, member: OwnerFiles | None = None) -> None:
        self.location = location
        self.work = work or location
        self.member = member

    def read(self, path: str) -> bytes:
        """The content of a file. Raises OSError."""
        if self.member is not None:
            return self.member.read(self.location / path)
        return read_regular(self.location / path, limit=DOCUMENT_LIMIT)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading at any offset. Raises OSError."""
        if self.member is None:
            return os.fdopen(open_regular(self.location / path), "rb")
        copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (the caller closes it)
        try:
            for offset, piece in self.member.pieces(self.location / path, _LARGEST_COPY):
                copy.seek(offset)
                copy.write(piece)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return cast("BinaryIO", copy)

    def is_file(self, path: str | Path) -> bool:
        """Whether there is a regular file that may be read."""
        if self.member is None:
            return (self.location / path).is_file()
        try:
            self.member.see(self.location / path)
        except OSError:
            return False
        return True

    def inspect(self, paths: Iterable[str]) -> Inspection:
        """Which artefacts are not there, or not as a build leaves them; a member's links are the member's.

        Raises OSError, or KvmComposeError for what is in the place of our own notes.
        """
        if self.member is not None:
            return Inspection(tuple(path for path in paths if not self.is_file(path)), {})
        private.refuse_foreign(self.location / ".kvm-compose")
        return inspect(self.location, paths)

    def digest(self, path: str, handle: int | None = None) -> str:
        """The SHA-256 of a file, which may be open as ``handle``. Raises OSError."""
        if self.member is not None:
            return self.member.digest(self.location / path)
        # pathlib takes most of the time
        return _digests.get(os.path.join(self.location, path), handle)  # noqa: PTH118

    def backing_file(self, path: str) -> str | None:
        """What a disk lies on. Raises KvmComposeError, or OSError."""
        return backing_file(str(self.location / path), self.member)

    def image_size(self, path: str) -> int:
        """The size of the image that a disk lies on in the end, in bytes, as a guest sees it.

        Raises KvmComposeError, or OSError.
        """
        for _ in range(_LONGEST_CHAIN):
            backing = self.backing_file(path)
            if backing is None:
                break
            path = os.path.normpath(os.path.join(os.path.dirname(path), backing))  # noqa: PTH118, PTH120
        if self.member is None:
            return read_header(self.location / path).virtual_size
        file = self.location / path
        header = parse_header(self.member.read(file, HEAD_BYTES))
        return header.virtual_size if header is not None else self.member.see(file).size

    def key_path(self, path: str) -> Path:
        """Where a private key is that the state names."""
        return self.location / (self.member.expand(path) if self.member is not None else expand(path))

    def secret(self, path: Path) -> Secret | None:
        """A private key that a member must be able to read; None: the server reads it itself.

        Raises DriverError.
        """
        if self.member is None:
            return None
        try:
            return Secret(self.member.read(path, _LARGEST_KEY))
        except OSError as error:
            raise DriverError(
                f"cannot use the key {path}: {self.member.name} cannot read it: {error.strerror}",
                hint="a key of the owner's is needed (ssh_private_key_location)",
            ) from error
