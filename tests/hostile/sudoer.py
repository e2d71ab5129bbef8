"""A user who may become root, as the drivers of a server of that user's see the machine."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.local import LocalRunner


class Sudoer(LocalRunner):
    """This machine, as a user sees it who may use sudo."""

    def __init__(self, uid: int) -> None:
        super().__init__("main")
        self._uid = uid

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        rights = [] if privileged else ["setpriv", f"--reuid={self._uid}", "--regid=61000", "--clear-groups"]
        return await super().run([*rights, *argv], stdin=stdin, seconds=seconds, check=check)
