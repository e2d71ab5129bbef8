"""Collects the parts of a bundle: what other commands print, and files of the project."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.commands import GuestName
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects import process
from kvmcompose.effects.opening import open_folder, read_below

if TYPE_CHECKING:
    import argparse

    from kvmcompose.monitor.console import Console

#: The most that is kept of a part, in bytes: its end.
_MOST = 2 << 20
_SECONDS = 60.0
#: One guest that does not answer must not delay the others for long.
_GUEST_SECONDS = 20.0
_SIDE_BY_SIDE = 8
#: Of more guests than these, consoles and logs would be too large.
_MOST_GUESTS = 64

#: The parts that are the output of commands, by name.
_COMMANDS = {
    "config.json": ("config", "--json"),
    "validate.json": ("validate", "--json"),
    "plan.txt": ("plan", "--verbose"),
    "status.json": ("status", "--json"),
    "status.txt": ("status",),
    "errors.txt": ("errors",),
    "log.txt": ("logs", "--timestamps"),
    "actions.txt": ("logs", "--list"),
    "doctor.txt": ("doctor",),
}
_PROGRAMS = {
    "kernel": ("uname", "-a"),
    "QEMU": ("qemu-system-x86_64", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "libvirt": ("virsh", "--version=long"),
    "Open vSwitch": ("ovs-vsctl", "--version"),
    "system": ("cat", "/etc/os-release"),
}
_CLOUD_INIT = """\
for log in /var/log/cloud-init.log /var/log/cloud-init-output.log /var/log/micro.log; do
    [ -f "$log" ] || continue
    echo "== $log"
    tail -c 300000 "$log" 2>/dev/null || sudo -n tail -c 300000 "$log"
done
command -v cloud-init >/dev/null && cloud-init status --long
true
"""


class Part(msgspec.Struct, frozen=True):
    """A file of the bundle; ``said`` is how it was made, or why it could not be."""

    name: str
    data: bytes
    good: bool
    said: str


class _UpGuest(msgspec.Struct, frozen=True):
    name: GuestName


class _Up(msgspec.Struct, frozen=True):
    guests: tuple[_UpGuest, ...]


class _Built(msgspec.Struct, frozen=True):
    testbed_guests: dict[GuestName, msgspec.Raw]


def collect(arguments: argparse.Namespace, console: Console) -> list[Part]:
    """Return all parts. What fails is reported in the part, and the others follow."""
    found = []
    for name, words in _COMMANDS.items():
        console.status(f"bundle: {name}")
        found.append(_command(arguments, name, words))
    found += [_versions(), *_files(arguments)]
    guests = _guests(found)
    console.status(f"bundle: {len(guests)} guests")
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        found += pool.map(lambda guest: _console(arguments, guest), guests)
        found += pool.map(lambda guest: _cloud_init(arguments, guest), guests)
    console.status("")
    return found


def _command(
    arguments: argparse.Namespace, name: str, words: tuple[str, ...], seconds: float = _SECONDS
) -> Part:
    """Run a command of ours on the same project and server, as the user would."""
    shown = f"kvm-compose {' '.join(words[:3])}"
    argv = [sys.executable, "-P", "-m", "kvmcompose", *_options(arguments), words[0]]
    if words[0] not in ("config", "validate", "plan", "doctor"):
        argv += _server_options(arguments)
    try:
        done = process.run([*argv, *words[1:]], timeout=seconds, check=False, env={"NO_COLOR": "1"})
    except KvmComposeError as error:
        return Part(
            name, b"", good=False, said=f"{shown}: did not end within {seconds:g} s ({error.message})"[:300]
        )
    talk = done.stderr.decode(errors="replace").strip()
    data = done.stdout[-_MOST:]
    if talk:
        data += b"\n== what it said\n" + done.stderr[-_MOST:] if not name.endswith(".json") else b""
    said = f"{shown}: status {done.returncode}"
    if not data:
        said += f", {talk.splitlines()[0]}" if talk else ", nothing was printed"
    return Part(name, data, good=bool(data), said=said)


def _options(arguments: argparse.Namespace) -> list[str]:
    found = ["--directory", str(arguments.directory)]
    found += [word for path in arguments.allow_path for word in ("--allow-path", path)]
    for option in ("input", "config", "project_name"):
        value = getattr(arguments, option)
        found += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    return found


def _server_options(arguments: argparse.Namespace) -> list[str]:
    found = ["--insecure"] if arguments.insecure else []
    for option in ("server", "token_file", "ca_file"):
        value = getattr(arguments, option)
        found += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    return found


def _versions() -> Part:
    from kvmcompose import __version__

    lines = [f"== kvm-compose\n{__version__}", f"== Python\n{sys.version}"]
    for name, argv in _PROGRAMS.items():
        try:
            said = process.run(argv, timeout=10, check=False).stdout.decode(errors="replace").strip()
        except KvmComposeError as error:
            said = error.message
        lines.append(f"== {name}\n{said}")
    return Part("versions.txt", "\n".join([*lines, ""]).encode(), good=True, said="programs of this machine")


def _files(arguments: argparse.Namespace) -> Iterator[Part]:
    """Yield state and XML as they were built. A link in a lab's folder could lead to files of the user."""
    project = open_folder(arguments.directory, follow=True)
    try:
        yield _file(project, "state.json")
        try:
            artefacts = open_folder("artefacts", within=project)
        except OSError as error:
            yield Part("artefacts", b"", good=False, said=error.strerror or str(error))
            return
        try:
            names = sorted(name for name in os.listdir(artefacts) if name.endswith(".xml"))  # noqa: PTH208
        finally:
            os.close(artefacts)
        for name in names[: 2 * _MOST_GUESTS]:
            yield _file(project, f"artefacts/{name}")
    finally:
        os.close(project)


def _file(project: int, path: str) -> Part:
    try:
        return Part(path, read_below(project, path, limit=_MOST), good=True, said="as built")
    except OSError as error:
        return Part(path, b"", good=False, said=error.strerror or str(error))


def _guests(parts: list[Part]) -> list[str]:
    """Return the guests of the testbed that is up, else of the one that was built.

    Their names become names of files.
    """
    documents = {part.name: part.data for part in parts}
    with suppress(msgspec.DecodeError, KeyError):
        return [each.name for each in msgspec.json.decode(documents["status.json"], type=_Up).guests][
            :_MOST_GUESTS
        ]
    with suppress(msgspec.DecodeError, KeyError):
        return list(msgspec.json.decode(documents["state.json"], type=_Built).testbed_guests)[:_MOST_GUESTS]
    return []


def _console(arguments: argparse.Namespace, guest: str) -> Part:
    return _command(arguments, f"consoles/{guest}.txt", ("logs", "--tail", "5000", guest))


def _cloud_init(arguments: argparse.Namespace, guest: str) -> Part:
    name = f"cloud-init/{guest}.txt"
    words = (
        "ssh",
        guest,
        "--",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "BatchMode=yes",
        "sh",
        "-c",
        shlex.quote(_CLOUD_INIT),
    )
    return _command(arguments, name, words, _GUEST_SECONDS)
