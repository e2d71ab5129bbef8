"""Files of a project that were found to ask for nothing, so that they are not judged again while unchanged.

Remembered per user and project, outside the project: a lab from elsewhere cannot bring such a record along.
An entry holds while ``stat`` shows no change of the file and everything else that the judgement depends on is
the same. What asks for something is judged every time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from kvmcompose.effects.environment import xdg_folder
from kvmcompose.effects.files import digest_bytes, write_atomic
from kvmcompose.effects.opening import DOCUMENT_LIMIT, open_regular, read_descriptor
from kvmcompose.effects.resources import code_digest
from kvmcompose.effects.stat_cache import Signature

#: The code that judges.
_MODULES = (
    "kvmcompose.build.trust",
    "kvmcompose.build.harmless",
    "kvmcompose.images.qcow2",
    "kvmcompose.privileges.__init__",
    "kvmcompose.privileges._domain",
    "kvmcompose.privileges._grammar",
)


class _Judged(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file that asks for nothing; ``names`` are the files that it names, which are judged in turn."""

    signature: Signature
    context: str
    names: tuple[str, ...]


class _Record(msgspec.Struct, frozen=True):
    """What is stored. ``code`` is the digest of what judged."""

    code: str
    files: Mapping[str, _Judged]


class HarmlessFiles:
    """Those of a project. ``roots`` are the folders that its files may be in."""

    def __init__(self, *roots: Path) -> None:
        name = digest_bytes(b"\0".join(os.fsencode(root) for root in roots))
        self._path = xdg_folder("cache") / "harmless" / f"{name}.json"
        self._code = code_digest(_MODULES)
        self._known = self._read()
        self._found: dict[str, _Judged] = {}
        self._looks: dict[str, tuple[int, Signature]] = {}

    def names(self, path: str, context: str = "") -> tuple[str, ...] | None:
        """Return the files that a file names which asks for nothing; None if it has to be judged.

        ``path`` is absolute; ``context`` is what the judgement depends on beside the file.
        """
        try:
            signature = Signature.of(os.stat(path))  # noqa: PTH116
        except OSError:
            return None
        known = self._known.get(path)
        if known is None or known.signature != signature or known.context != context:
            self._looks[path] = time.time_ns(), signature
            return None
        self._found[path] = known
        return known.names

    def add(self, path: str, names: tuple[str, ...], context: str = "") -> None:
        """Take in that a file asks for nothing, which was asked for before it was read."""
        if path not in self._looks:
            return
        began, signature = self._looks.pop(path)
        with suppress(OSError):
            if signature.settled(began) and Signature.of(os.stat(path)) == signature:  # noqa: PTH116
                self._found[path] = _Judged(signature, context, names)

    def keep(self) -> None:
        """Store what was found, if it can be stored; what is not in use any more is forgotten."""
        if self._found == self._known:
            return
        with suppress(OSError, UnicodeEncodeError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._path, msgspec.json.encode(_Record(self._code, self._found)), mode=0o600)

    def _read(self) -> Mapping[str, _Judged]:
        with suppress(OSError, msgspec.MsgspecError):
            handle = open_regular(self._path, follow=False)
            try:
                # with another user's home folder, as sudo may leave it, it may be that user's
                if os.fstat(handle).st_uid == os.geteuid():
                    text = read_descriptor(handle, DOCUMENT_LIMIT, self._path.name)
                    record = msgspec.json.decode(text, type=_Record)
                    return record.files if record.code == self._code else {}
            finally:
                os.close(handle)
        return {}
