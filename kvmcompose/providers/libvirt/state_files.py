"""State files that libvirt leaves on a host."""

from __future__ import annotations

from kvmcompose.hosts.command import CommandRunner


async def remove_state_files(runner: CommandRunner, *names: str) -> None:
    """Remove files, such as ``qemu/NAME.pid``, that libvirt left of something that does not run any more."""
    if all(name.count("/") == 1 for name in names):
        argv = ["rm", "-f", "--", *(f"/run/libvirt/{name}" for name in names)]
        await runner.run(argv, privileged=True, check=False)
