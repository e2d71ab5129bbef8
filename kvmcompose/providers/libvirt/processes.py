"""The QEMU processes of a host."""

from __future__ import annotations

import re

from kvmcompose.hosts.command import CommandRunner

#: A QEMU process that libvirt started, in the output of ps: its age in seconds and its guest's name.
_QEMU = re.compile(r"^\s*(\d+)\s+(\d+)\s+\S*qemu\S* -name guest=([^,\s]+)", re.MULTILINE)


async def qemu_processes(runner: CommandRunner) -> dict[str, tuple[str, float]]:
    """Return the host's QEMU processes and their ages in seconds, by guest."""
    columns = ["-o", "pid=", "-o", "etimes=", "-o", "args="]
    shown = await runner.run(["ps", "-ww", "-e", *columns], check=False)
    return parsed(shown.text)


def parsed(shown: str) -> dict[str, tuple[str, float]]:
    """Parse ``ps -e -o pid= -o etimes= -o args=``: QEMU processes and their ages in seconds, by guest."""
    return {match[3]: (match[1], float(match[2])) for match in _QEMU.finditer(shown)}
