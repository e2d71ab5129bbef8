"""The errors of kvmcompose: one class per reaction of the caller.

KvmComposeError             exit code 1: something failed
 ├── InputError             exit code 2: the input is wrong; carries every Problem of the phase
 └── RefusedError           exit code 3: refused before anything was changed

Only ``kvmcompose.cli`` turns these into text and exit codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec


class Severity(Enum):
    """The severity of a problem: errors stop a build, warnings do not."""

    ERROR = "error"
    WARNING = "warning"


class Location(msgspec.Struct, frozen=True, order=True):
    """A place in an input file. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return ``file:line:column``, the form that editors and compilers use."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error or a warning about the input.

    ``code`` is stable and may be matched by scripts; ``path`` is the place in the data
    (``machines[2].libvirt.memory_mb``).
    """

    code: str
    message: str
    location: Location
    path: str = ""
    found: str | None = None
    wanted: str | None = None
    hint: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """Return the location and the message in one line, and the hint in the next."""
        where = f"{self.location}: {self.path}" if self.path else str(self.location)
        where = where.replace("\n", "\\n").replace("\r", "\\r")  # keys and names of files may contain them
        text = f"{where}: {self.severity.value}: {self.message}"
        detail = []
        if self.found is not None:
            detail.append(f"found {self.found}")
        if self.wanted is not None:
            detail.append(f"wanted {self.wanted}")
        if detail:
            text += f" ({', '.join(detail)})"
        text += f" [{self.code}]"
        if self.hint:
            text += f"\n    hint: {self.hint}"
        return text


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """A problem at a path in the data, before its line and column are known.

    With ``at_key`` the last key of the path is wrong, not its value. ``location`` is set when the problem is
    in another file, which the value at the path names.
    """

    code: str
    path: tuple[str | int, ...]
    message: str
    found: str | None = None
    wanted: str | None = None
    hint: str | None = None
    at_key: bool = False
    severity: Severity = Severity.ERROR
    location: Location | None = None


class KvmComposeError(Exception):
    """Something failed. ``hint`` says how to fix it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(KvmComposeError):
    """The input is invalid: all problems that one phase found."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.location, problem.path)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RefusedError(KvmComposeError):
    """Refused before any change: another build runs, a tool is missing, data would be lost."""

    exit_code = 3


class ComplaintsError(Exception):
    """Complaints found inside a stage; the pipeline adds their locations in the files."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("; ".join(complaint.message for complaint in self.complaints))
