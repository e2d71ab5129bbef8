"""What a shell in the guest cannot use: scripts that it cannot start, and variables that it sets itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

import msgspec

from kvmcompose.core.errors import Complaint, Location, Severity

_Path = tuple[str | int, ...]

#: How much of a script is checked, in bytes.
CHECKED = 2**16

#: Its byte-order marks, or ASCII in it.
_UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|(?:[\t-\x7f]\0){2}|(?:\0[\t-\x7f]){2}")
_UTF_8_MARK = b"\xef\xbb\xbf"
_SHELLS = re.compile(
    rb"#!\s*(?:\S*/)?(?:env\s+(?:-S\s*)?)?(?:\S*/)?(?:busybox\s+)?(?:ba|da|a|k|mk|z)?sh(?:\s|$)"
)

#: What a script may be instead: its beginning, what it is, and what to do.
_NO_SCRIPTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the script", "fetch the script: git lfs pull"),
    (b"<!doctype", "a web page, not a script", "fetch the script itself"),
    (b"<html", "a web page, not a script", "fetch the script itself"),
    (b"\x7felf", "a program, not a script", "put it into the context, and start it from a script"),
)
#: A first line with an argument for the interpreter: all after the first blanks is one (execve(2)).
_ENV_WITH_ARGUMENTS = re.compile(rb"#![ \t]*\S*/env[ \t]+(?!-)\S+[ \t]+\S")

#: Variables that bash makes read-only: setting one ends a shell that is called ``sh`` (POSIX, section 2.8.1).
_READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
#: Variables that bash sets itself, so that another value never reaches a script, and those that have to be
#: numbers in some shell (found by trying every name in bash(1) with bash, dash and busybox).
_SET_BY_SHELLS = frozenset(
    {
        "_", "BASHPID", "BASH_ALIASES", "BASH_ARGC", "BASH_ARGV", "BASH_ARGV0", "BASH_CMDS", "BASH_LINENO",
        "BASH_SOURCE", "BASH_SUBSHELL", "COMP_WORDBREAKS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS",
        "FUNCNAME", "GROUPS", "HISTCMD", "LINENO", "OPTIND", "PIPESTATUS", "RANDOM", "SECONDS", "SHLVL",
        "SRANDOM",
    }
)  # fmt: skip


_RESERVED = _READ_ONLY | _SET_BY_SHELLS


class ScriptFlaw(msgspec.Struct, frozen=True):
    """Why a script fails, or may fail with a warning; ``line`` and ``column`` count from 1."""

    line: int
    column: int
    message: str
    hint: str
    severity: Severity = Severity.ERROR


def script_flaw(data: bytes, name: str) -> ScriptFlaw | None:
    """Return why a guest cannot run a script called ``name``, given its first ``CHECKED`` bytes."""
    name = shlex.quote(name)
    if _UTF_16.match(data):
        hint = f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {name}"
        return ScriptFlaw(1, 1, "the script is UTF-16, which no guest can execute", hint)
    if data.startswith(_UTF_8_MARK):
        message = (
            "the script starts with a byte-order mark, so that its first line means nothing to the guest"
        )
        return ScriptFlaw(1, 1, message, f"remove it: sed -i '1s/^\\xef\\xbb\\xbf//' {name}")
    first, *others = data.split(b"\n")
    hint = f"convert its line ends: sed -i 's/\\r$//' {name}; in .gitattributes: *.sh text eol=lf"
    if first.startswith(b"#!") and b"\r" in first:
        column = first.index(b"\r") + 1
        message = "the script has line ends of Windows (CR LF), so that the guest cannot execute it"
        if not first.endswith(b"\r"):
            message = "the script has line ends that are a CR alone, so that the guest cannot execute it"
            hint = f"convert its line ends: tr '\\r' '\\n' <{name}"
        return ScriptFlaw(1, column, message, hint)
    if flaw := _not_started(data, first):
        return ScriptFlaw(1, 1, *flaw)
    if b"\0" in data or (first.startswith(b"#!") and not _SHELLS.match(first)):
        return None  # a program, or a script for something that takes such lines
    lines = [first, *others]
    wrong = next((number for number, line in enumerate(lines) if line.endswith(b"\r")), None)
    if wrong is None:
        return None
    everywhere = all(line.endswith(b"\r") for line in lines if line)
    message = "a shell takes the CR at the end of this line for a part of its last word"
    severity = Severity.ERROR if everywhere else Severity.WARNING  # text in it may be meant to have some
    return ScriptFlaw(wrong + 1, len(lines[wrong]), message, hint, severity)


def _not_started(data: bytes, first: bytes) -> tuple[str, str] | None:
    """Return why neither the kernel nor ``sh`` starts a script with this ``first`` line, and a hint."""
    for mark, what, hint in _NO_SCRIPTS:
        if data[:64].lstrip().lower().startswith(mark):
            return f"this is {what}", hint
    if not first.startswith(b"#!"):
        if b"\0" not in first:
            return None
        return "this is a binary file, which sh does not run", "let a script with a line #!/bin/sh start it"
    interpreter, *_ = first[2:].strip(b" \t").split(None, 1) or [b""]
    if interpreter and not interpreter.startswith(b"/"):
        return "the first line does not name the path of a program", "write #!/bin/sh"
    if b"\xc2\xa0" in first:
        return "the first line has a no-break space (U+00A0) in it", "write a usual space, or none"
    if _ENV_WITH_ARGUMENTS.match(first):
        return "env takes all the rest of the first line for the name of a program", "write env -S"
    return None


def reserved_variables(
    at: _Path, in_yaml: Mapping[str, str], in_file: Mapping[str, str], file: tuple[str, bytes] | None
) -> Iterator[Complaint]:
    """Yield variables of ``environment`` and ``environment_file`` (its name and content) that shells set.

    ``at`` is the path of the section that has both keys.
    """
    for name in sorted(_RESERVED & (in_yaml.keys() | in_file.keys())):
        if name in in_yaml:
            yield _reserved(name, (*at, "environment", name), None)
        if name in in_file and file is not None:
            yield _reserved(name, (*at, "environment_file"), _place(name, *file))


def _place(name: str, file: str, data: bytes) -> Location:
    """Return where an environment file sets a variable."""
    found = re.search(rb"^(?:\xef\xbb\xbf)?[ \t]*" + re.escape(name.encode()) + rb"=", data, re.MULTILINE)
    if found is None:
        return Location(file)
    start = found.end() - len(name) - 1
    line = data.rfind(b"\n", 0, start) + 1
    return Location(file, data.count(b"\n", 0, start) + 1, start - line + 1)


def _reserved(name: str, path: _Path, location: Location | None) -> Complaint:
    if name in _READ_ONLY:
        message = f"{name} is read-only in bash: setting it ends every script before its first line"
    else:
        message = f"{name} is set by the guest's shell, so that this value would not reach scripts"
    return Complaint(
        code="reserved-variable",
        path=path,
        message=message,
        hint=f"use another name, for example GUEST_{name.lstrip('_') or 'VALUE'}",
        at_key=location is None,
        location=location,
    )
