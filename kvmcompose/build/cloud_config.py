"""What cloud-init's own schema says of a cloud-config, where cloud-init is installed.

It takes a third of a second for each, so that answers are remembered, per user and by content.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects import process
from kvmcompose.effects.environment import xdg_folder
from kvmcompose.effects.files import digest_bytes, write_atomic
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

_PROGRAM = "cloud-init"
#: Seconds for one answer.
_TIMEOUT = 20
_MOST_ANSWERS = 1000
#: Before version 23 the first line of all errors, since then a line of its own.
_ERRORS = re.compile(r"^(?:Error: *)?Cloud config schema errors: (.*)", re.MULTILINE | re.DOTALL)
#: Each begins with its path: ``ntp.servers: 'x' is not of type 'array'``.
_ONE = re.compile(r"(?:^|, )([A-Za-z_][\w-]*(?:\.[\w-]+)*): ")
_VERDICT = re.compile(r" ((?:is not|is too|is less|is greater|is a|does not|has|should) )")
_LONGEST = 300

_Errors = tuple[tuple[str, str], ...]


class _Record(msgspec.Struct, frozen=True):
    """Answers by the digest of the content; ``program`` is what gave them."""

    program: str
    answers: dict[str, _Errors]


class CloudConfigSchema:
    """Asks cloud-init. Answers of an earlier process are read when they are needed first."""

    def __init__(self) -> None:
        self._path = xdg_folder("cache") / "cloud-config-schema.json"
        self._answers: dict[str, _Errors] | None = None

    def errors(self, data: bytes) -> _Errors:
        """Return errors by their path (``users.0.name``); none where cloud-init is not installed."""
        program = shutil.which(_PROGRAM)
        if program is None:
            return ()
        known = _identity(program)
        if self._answers is None:
            self._answers = self._read(known)
        digest = digest_bytes(data)
        if digest not in self._answers:
            found = _ask(data)
            if found is None:
                return ()
            self._answers = dict([*self._answers.items(), (digest, found)][-_MOST_ANSWERS:])
            self._keep(_Record(known, self._answers))
        return self._answers[digest]

    def _read(self, program: str) -> dict[str, _Errors]:
        with suppress(OSError, msgspec.MsgspecError):
            record = msgspec.json.decode(read_regular(self._path, limit=DOCUMENT_LIMIT), type=_Record)
            return record.answers if record.program == program else {}
        return {}

    def _keep(self, record: _Record) -> None:
        with suppress(OSError, UnicodeEncodeError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._path, msgspec.json.encode(record), mode=0o600)


def _identity(program: str) -> str:
    status = Path(program).resolve().stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _ask(data: bytes) -> _Errors | None:
    """Return what cloud-init says; None if it says nothing that is understood."""
    with tempfile.NamedTemporaryFile(prefix="cloud-config-") as file:
        file.write(data)
        file.flush()
        argv = [_PROGRAM, "schema", "--config-file", file.name]
        try:
            done = process.run(argv, timeout=_TIMEOUT, check=False, env={"LC_ALL": "C.UTF-8"})
        except KvmComposeError:
            return None
    if done.returncode == 0:
        return ()
    found = _ERRORS.search((done.stdout + b"\n" + done.stderr).decode(errors="replace"))
    return tuple(_split(found[1])) if found is not None else None


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield path and message of each error, which cloud-init prints in one line."""
    marks = [*_ONE.finditer(text.partition("\n\n")[0].strip())]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        yield mark[1], _without_value(" ".join(text[mark.end() : end].split()))


def _without_value(message: str) -> str:
    """Return a message of jsonschema without the value that it begins with: that may be a password."""
    if not message.startswith("Additional properties"):
        verdicts = [*_VERDICT.finditer(message)]
        message = message[verdicts[-1].start(1) :] if verdicts else "is not valid"
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
