"""This machine as the drivers see it on a server whose user may use sudo."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.local import LocalRunner


class Sudoer(LocalRunner):
    """This machine, for a user who may use sudo."""

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
