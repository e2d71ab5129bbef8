"""Scripts and variables that a guest's shell cannot use. Real shells and the kernel are the judges."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kvmcompose.core.environment import parse_environment
from kvmcompose.core.errors import Severity
from kvmcompose.guests._shell import _READ_ONLY, _SET_BY_SHELLS, reserved_variables, script_flaw
from kvmcompose.server.orchestrator.scripts import _RUN

#: What may be ``sh`` in a guest. Each has to be here: scripts/system-packages installs it.
SHELLS = {"dash": ["/bin/dash"], "bash": ["/bin/bash"], "busybox": ["/bin/busybox", "sh"]}
#: Names that bash(1) and POSIX give a meaning, and that may be set.
ORDINARY = (
    "BASH", "BASH_COMMAND", "BASH_COMPAT", "BASH_ENV", "BASH_REMATCH", "BASH_VERSION", "CDPATH",
    "COLUMNS", "COMP_LINE", "ENV", "FUNCNEST", "GLOBIGNORE", "HISTFILE", "HISTSIZE", "HOME", "HOSTNAME",
    "HOSTTYPE", "IFS", "IGNOREEOF", "LANG", "LINES", "LOGNAME", "MACHTYPE", "MAIL", "MAPFILE", "OLDPWD",
    "OPTARG", "OPTERR", "OSTYPE", "POSIXLY_CORRECT", "PROMPT_COMMAND", "PS1", "PS4", "PWD", "REPLY",
    "SHELL", "TERM", "TIMEFORMAT", "TMOUT", "TMPDIR", "USER", "status", "x", "_x", "Some_Name1",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder as /etc/nocloud is."""
    (tmp_path / "context").mkdir()
    bash = tmp_path / "bin"
    bash.mkdir()
    (bash / "sh").symlink_to("/bin/bash")
    return tmp_path


def run(place: Path, shell: str, script: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as the orchestrator does, with the environment of the folder."""
    code = _RUN.replace("/etc/nocloud", str(place))
    argv = [str(place / "bin/sh")] if shell == "bash" else SHELLS[shell]  # bash as sh is POSIX bash
    return subprocess.run(
        [*argv, "-c", code, "kvm-compose", str(script)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def arrives(place: Path, shell: str, name: str, value: str) -> bool:
    (place / "environment").write_text(f"{name}={shlex.quote(value)}\n")
    script = place / "script"
    script.write_text(
        '#!/usr/bin/python3 -I\nimport os,sys\nsys.stdout.write("%s" % os.environ.get("NAME"))\n'.replace(
            "NAME", name
        )
    )
    script.chmod(0o755)
    return run(place, shell, script).stdout == value


def refused(name: str) -> bool:
    return bool(list(reserved_variables((), {name: "1"}, {}, None)))


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_every_name_that_is_allowed_arrives(place: Path, shell: str) -> None:
    missing = [name for name in ORDINARY if not arrives(place, shell, name, "/some text")]
    assert missing == []
    assert not [name for name in ORDINARY if refused(name)]


def test_every_name_that_is_refused_would_not(place: Path) -> None:
    for name in sorted(_READ_ONLY | _SET_BY_SHELLS):
        assert refused(name)
        assert not arrives(place, "bash", name, "/some text"), name
    said = subprocess.run(
        [SHELLS["bash"][0], "--posix", "-c", "readonly -p"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^readonly (?:-\w+ )?(\w+)", said.stdout, re.MULTILINE)) == _READ_ONLY


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"UID=1\n", "secrets.env:1:1"),
        (b"A=1\r\n\n  # UID=1\r\n \tUID=1\r\n", "secrets.env:4:3"),
        (b"\xef\xbb\xbfUID=1\n", "secrets.env:1:4"),
        (b"MY_UID=1\nUID=2\n", "secrets.env:2:1"),
    ],
)
def test_the_place_in_a_file(data: bytes, place: str) -> None:
    variables, problems = parse_environment(data, "secrets.env")
    assert problems == ()
    (complaint,) = reserved_variables(("libvirt",), {}, variables, ("secrets.env", data))
    assert str(complaint.location) == place
    assert complaint.path == ("libvirt", "environment_file")


FINE = [
    b"",
    b"#!/bin/sh\ntrue\n",
    b"true",
    b"#!/usr/bin/env python3\r\n"[:-2] + b"\nprint(1)\r\n",
    b"#!\ntrue\n",
    b"#!/usr/bin/env -S sh -e\ntrue\n",
    b"#!/bin/sh\nexit 0\n\0\0",
    b"#!/bin/sh\nprintf 'a\\r\\n'\n",
]
WRONG = [
    (b"#!/bin/sh\r\ntrue\r\n", 1, 10, "Windows"),
    (b"#!/usr/bin/env python3\r\nprint(1)\r\n", 1, 23, "Windows"),
    (b"#!/bin/sh\r\n", 1, 10, "Windows"),
    (b"#!/bin/sh\r", 1, 10, "Windows"),
    (b"#!/bin/sh\rtrue\r", 1, 10, "CR"),
    (b"\xef\xbb\xbf#!/bin/sh\ntrue\n", 1, 1, "byte-order mark"),
    (b"\xef\xbb\xbftrue\n", 1, 1, "byte-order mark"),
    ("#!/bin/sh\ntrue\n".encode("utf-16"), 1, 1, "UTF-16"),
    ("#!/bin/sh\ntrue\n".encode("utf-16-le"), 1, 1, "UTF-16"),
    ("#!/bin/sh\ntrue\n".encode("utf-16-be"), 1, 1, "UTF-16"),
    (b"cd /tmp\r\nls\r\n", 1, 8, "CR"),
    ("echo one\n".encode("utf-16-le"), 1, 1, "UTF-16"),
    ("echo one\n".encode("utf-16-be"), 1, 1, "UTF-16"),
    (b"\x7fELF\1\1\0\0\n", 1, 1, "a program"),
    (b"\xca\xfe\xba\xbe\0\0\n", 1, 1, "a binary file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 1, 1, "Git LFS"),
    (b"<!DOCTYPE html>\n<title>404</title>\n", 1, 1, "web page"),
    (b"#!sh\ntrue\n", 1, 1, "path of a program"),
    (b"#!bin/sh\ntrue\n", 1, 1, "path of a program"),
    (b"#!/bin/sh\xc2\xa0\ntrue\n", 1, 1, "no-break space"),
    (b"#!/usr/bin/env sh -e\ntrue\n", 1, 1, "env takes all"),
]


@pytest.mark.parametrize("data", FINE)
def test_scripts_that_can_be_run(data: bytes) -> None:
    assert script_flaw(data, "setup.sh") is None


@pytest.mark.parametrize(("data", "line", "column", "said"), WRONG)
def test_scripts_that_cannot_be_run(place: Path, data: bytes, line: int, column: int, said: str) -> None:
    flaw = script_flaw(data, "setup.sh")
    assert flaw is not None
    assert (flaw.line, flaw.column, flaw.severity) == (line, column, Severity.ERROR)
    assert said in flaw.message
    script = place / "script"
    script.write_bytes(data)
    script.chmod(0o755)
    done = run(place, next(iter(SHELLS)), script)
    # sh goes on behind a first line that it does not understand, and says nothing of zero bytes
    assert done.returncode != 0 or done.stderr or b"\0" in data


@pytest.mark.parametrize(("data", "line", "column", "said"), WRONG[:3] + WRONG[5:7])
def test_the_hint_can_be_pasted(tmp_path: Path, data: bytes, line: int, column: int, said: str) -> None:
    script = tmp_path / "with space.sh"
    script.write_bytes(data)
    flaw = script_flaw(data, script.name)
    assert flaw is not None
    command = flaw.hint.partition(": ")[2].partition(";")[0]
    subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}
    )
    assert script_flaw(script.read_bytes(), script.name) is None


@pytest.mark.parametrize(
    "data",
    [
        b"#!/bin/sh\nprintf %s 'HTTP/1.1 200 OK\r\n\r\n'\n",
        b"#!/usr/bin/env bash\ncat <<END\none\r\nEND\n",
        b"cat <<END\none\r\nEND\n",
    ],
)
def test_some_lines_of_a_shell_script_are_a_warning(data: bytes) -> None:
    flaw = script_flaw(data, "setup.sh")
    assert flaw is not None
    assert flaw.severity is Severity.WARNING
    assert data.split(b"\n")[flaw.line - 1].endswith(b"\r")
