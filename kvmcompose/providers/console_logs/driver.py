"""The files to which serial consoles of guests on a host are written."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.guarded_files import CHECK, ENTER, OPEN, as_needed, expect, inside, is_nothing
from kvmcompose.providers.console_logs.console_text import TextSearch

_TAIL_BYTES = 1 << 18
#: How much of a console is searched at a time, in bytes, and how long more of it is waited for, in seconds.
_SEARCHED, _SEARCH_SECONDS, _PAUSE_SECONDS = 1 << 16, 5, 0.2
_READ_TAIL = ENTER + CHECK + OPEN + 'tail -c "$4" <&3'
#: Prints where the part begins, then at most $5 bytes: from offset $4, or the end of the file for -1.
_READ_FROM = (
    ENTER
    + CHECK
    + OPEN
    + """\
size=$(stat -L --format=%s /proc/self/fd/3) || exit
start=$4
if [ "$start" -eq "$size" ] && [ "$6" -gt 0 ]; then
    # tail waits for events of the file; what it prints is read below
    timeout "$6" tail -f -c "+$((start + 1))" -- "./$3" 2>/dev/null | head -c 1 >/dev/null
    size=$(stat -L --format=%s /proc/self/fd/3) || exit
fi
[ "$start" -le "$size" ] || start=0
[ "$start" -ge 0 ] || start=$((size > $5 ? size - $5 : 0))
echo "$start"
tail -c "+$((start + 1))" <&3 | head -c "$5"
"""
)


class HostConsoleLogs:
    """See ``ConsoleLogs``."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def read_from(
        self, path: Path, after: int | None, most: int, *, wait: int = 0
    ) -> tuple[int, bytes]:
        argv = inside(_READ_FROM, path, str(-1 if after is None else after), str(most), str(wait))
        done = await as_needed(self._runner, argv)
        if is_nothing(done):
            return 0, b""
        expect(self._runner, path, argv, done, privileged=True)
        start, _, part = done.stdout.partition(b"\n")
        return int(start), part

    async def wait_for_text(self, path: Path, text: str) -> None:
        search, offset = TextSearch(text), 0
        while True:
            start, part = await self.read_from(path, offset, _SEARCHED, wait=_SEARCH_SECONDS)
            if start < offset:  # the guest was started again, or its log has become too long
                search = TextSearch(text)
            if search.feed(part):
                return
            offset = start + len(part)
            if not part:  # as of a file that is not there yet
                await asyncio.sleep(_PAUSE_SECONDS)

    async def read_tail(self, path: Path, lines: int) -> str:
        argv = inside(_READ_TAIL, path, str(_TAIL_BYTES))
        done = await as_needed(self._runner, argv)
        if is_nothing(done):
            return ""
        expect(self._runner, path, argv, done, privileged=True)
        return "".join(done.text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""
