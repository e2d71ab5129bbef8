"""What is inside containers: commands, files, and what they print."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kvmcompose.core.access import TerminalSize
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.hosts.terminal import Terminal


class ContainerInside(Protocol):
    """The inside of the containers on one host."""

    async def run(
        self,
        project: str,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str = "",
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command in a running container and return its exit status: 126 or 127 where it cannot start.

        ``user`` as in ``docker exec --user``; "" is the container's own. Cancelling ends the command and
        its children. Raises DriverError when the container does not run or ``seconds`` have passed. What
        ``stdin`` raises ends the command, and is raised here.
        """

    def terminal(
        self, project: str, name: str, argv: Sequence[str], size: TerminalSize
    ) -> AbstractAsyncContextManager[Terminal]:
        """Run a command with a terminal (``TERM``) in a running container, until the block ends.

        It runs as the container's user. Its exit status is 126 or 127 where it cannot start, and its output
        says why. Leaving ends it by SIGHUP, or SIGKILL after a second. Raises DriverError for a container
        that does not run.
        """

    def logs(
        self, project: str, name: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        """Yield the lines that the container has printed, in order.

        ``tail``: the last ones only. ``follow``: also those to come, until it ends. A line that is too long
        is split.
        """

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        """Extract a tar archive in a folder of the container. Owners are those in it.

        Docker raises NoSuchPathError for a folder that does not exist, Podman creates it.
        """

    def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        """Yield a tar archive of a file or folder of the container. Raises NoSuchPathError.

        Relative paths are below ``/``. Where the last part is a symbolic link, Docker yields the link, Podman
        what it refers to; with a slash at the end both do the latter.
        """
