"""Scripts inside guests. They came with the seed; here they are run, and it is noted that they were.

What has run is noted in the guest itself: it stays true whatever becomes of the server, and goes with the
disk when that is recreated or reverted to a snapshot. Scripts that changed since the guest booted are sent to
it, with all else that its seed has for ``/etc/nocloud``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import PurePosixPath

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.server.orchestrator.script_records import Ran, decode_ran, encode_ran

#: Where it is noted, by guest: a clone has its golden image's disk below its own.
_DONE = "/etc/nocloud/done"

#: The digest of what was sent. cloud-init removes the folder when it unpacks another seed.
_SENT = "/etc/nocloud/setup/.sent"
#: The status of a script that was not run, as something else was sent than what is wanted now.
_STALE = 113
_LONGEST_ANSWER = 1 << 20

#: A script without ``#!`` is one for sh. It finds the context in its working directory and the environment
#: of the YAML in its own.
_RUN = f"""\
if [ -n "$2" ] && [ -e {_SENT} ] && [ "$(cat {_SENT})" != "$2" ]; then exit {_STALE}; fi
mkdir -p /etc/nocloud/context && cd /etc/nocloud/context || exit
if [ -e ../environment ]; then set -a; . ../environment; set +a; fi
if [ "$(head -c 2 "$1")" = "#!" ]; then exec "$1"; else exec sh "$1"; fi
"""

#: Before a golden image is shut down: what must not be the same in all clones, or not be theirs already.
_SEAL = """\
rm -f /etc/nocloud/ready
if [ -s /etc/machine-id ]; then : >/etc/machine-id; fi
sync
"""


#: Prints what was sent, and then on a line each the names and contents of the files about what has run.
_LOOK = f"""\
echo "$(cat {_SENT} 2>/dev/null)"
cd "$1" 2>/dev/null || exit 0
for name in *; do if [ -f "$name" ]; then printf '%s\\t%s\\n' "$name" "$(cat "$name")"; fi; done
"""

#: Writes a file whole, or not at all.
_NOTE = 'mkdir -p "${1%/*}" && cat >"${1%/*}/.new" && mv "${1%/*}/.new" "$1"'

#: As the seed's user-data does it; what is there stays until all has arrived.
_SEND = f"""\
mkdir -p /etc/nocloud && cd /etc/nocloud && rm -rf .new && mkdir .new && tar -xf - -C .new || exit
rm -rf context setup run && mv .new/* . && rmdir .new && mkdir -p setup && printf %s "$1" >{_SENT}
"""


class Inside(msgspec.Struct, frozen=True):
    """What a guest says. ``ran``: what its set-up scripts ran as, None for one of which that is not known;
    ``sent``: the digest of the archive that was sent to it, empty while it has what came with its seed.
    """

    ran: dict[str, Ran | None]
    sent: str


def marker(guest: str, script: str) -> str:
    """The file in the guest that tells what a set-up script ran as in this guest's life."""
    return f"{_DONE}/{guest}/{PurePosixPath(script).name}"


async def run_script(
    entrance: Entrance, script: str, output: Callable[[str], None], archive: str = ""
) -> bool:
    """Run a script of the seed as root. Raises DriverError when it fails.

    With ``archive``, the digest of what it should belong to, it may not be run, as something else was sent to
    the guest: False.
    """
    argv = ["sh", "-c", _RUN, "kvm-compose", script, archive]
    status = await entrance.run(argv, output, user="root")
    if status == _STALE and archive and (await look_inside(entrance)).sent not in ("", archive):
        return False
    if status != 0:
        name = PurePosixPath(script).name.partition("-")[2]
        raise DriverError(
            f"{name} ended with status {status}",
            hint=f"to inspect the guest: {entrance.by_hand}; the script is {script}",
        )
    return True


async def look_inside(entrance: Entrance) -> Inside:
    """Ask a guest what has run in its life, and what was sent to it. Raises DriverError."""
    printed: list[str] = []
    size = 0

    def keep(line: str) -> None:
        nonlocal size
        size += len(line)
        if size > _LONGEST_ANSWER:
            raise DriverError(
                f"{entrance.guest} says too much about what has run in it", hint=f"see {_DONE} in it"
            )
        printed.append(line)

    argv = ["sh", "-c", _LOOK, "kvm-compose", f"{_DONE}/{entrance.notes}"]
    await _must(entrance, argv, keep)
    ran = [line.rpartition("\t") for line in printed[1:]]
    return Inside({name: decode_ran(text) for name, _, text in ran if name}, "".join(printed[:1]).strip())


async def note_run(entrance: Entrance, script: str, ran: Ran) -> None:
    """Note what a set-up script ran as."""

    async def content() -> AsyncIterator[bytes]:
        yield encode_ran(ran).encode()

    path = marker(entrance.notes, script)
    await _must(entrance, ["sh", "-c", _NOTE, "kvm-compose", path], stdin=content())


async def forget_runs(entrance: Entrance) -> None:
    """Let no set-up script have run."""
    await _must(entrance, ["rm", "-rf", f"{_DONE}/{entrance.notes}"])


async def send(entrance: Entrance, archive: Pieces, digest: str) -> None:
    """Put an archive in the place of the one that came with the seed."""
    await _must(entrance, ["sh", "-c", _SEND, "kvm-compose", digest], stdin=archive)


async def seal(entrance: Entrance) -> None:
    """Make a golden image ready to be cloned; to be shut down next."""
    await _must(entrance, ["sh", "-c", _SEAL])


async def _must(
    entrance: Entrance,
    argv: list[str],
    on_line: Callable[[str], None] | None = None,
    stdin: Pieces | None = None,
) -> None:
    printed: list[str] = []
    status = await entrance.run(argv, on_line or printed.append, user="root", stdin=stdin)
    if status != 0:
        said = printed[-1] if printed else f"status {status}"
        raise DriverError(f"a command of kvm-compose's own failed in {entrance.guest}: {said}")
