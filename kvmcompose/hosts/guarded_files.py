"""Files in the folders of projects on a host: scripts that work on one, and follow no link to it.

Programs do all the work, so that it also works on files of root's and on other hosts.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from kvmcompose.hosts.command import CommandRunner, Completed, failure
from kvmcompose.hosts.errors import DriverError

NO_FILE = "No such file or directory"
_NO_FOLDER = "Not a directory"
#: Exit status of the scripts below when they find a link; they print which.
A_LINK = 66
#: A project's folders in which files are changed. Those above them are up to the project's owner.
_INNER = ("artefacts", ".kvm-compose")
#: Arguments: folder of the project, relative path to a folder in it, file name. Enters that folder without
#: following a link; a later replacement of the folder has no effect. stat reports what does not exist.
ENTER = """\
stat -- "$1/$2/$3" >/dev/null || exit
cd -P -- "$1" || exit
top=${PWD%/}
cd -P -- "./$2" || exit
if [ "$PWD" != "$top${2:+/$2}" ]; then printf %s "${2%/}"; exit 66; fi
"""
#: Then checks that the name is a regular file with no other hard link.
CHECK = """\
here=$(stat --format="%F:%h:%d:%i" -- "./$3") || exit
case $here in
    "regular file:1:"* | "regular empty file:1:"*) ;;
    *) printf %s "${2:+$2/}$3"; exit 66 ;;
esac
"""
#: Then opens it, and checks that it is still the same file.
OPEN = """\
exec 3<"./$3"
if [ "$(stat -L --format="%F:%h:%d:%i" /proc/self/fd/3)" != "$here" ]; then printf %s "$3"; exit 66; fi
"""


def inside(script: str, path: Path, *words: str) -> list[str]:
    """Return a command that runs a script on a file, and follows no link to it. See ``ENTER``."""
    folder = _folder_of(path)
    way = path.parent.relative_to(folder).parts
    return ["sh", "-c", script, "sh", str(folder), "/".join(way), path.name, *words]


async def as_needed(runner: CommandRunner, argv: list[str]) -> Completed:
    """Run it with our own rights and, if they do not suffice, as root."""
    done = await runner.run(argv, check=False)
    if done.status in (0, A_LINK) or is_nothing(done):
        return done
    return await runner.run(argv, privileged=True, check=False)


def expect(
    runner: CommandRunner, path: Path, argv: list[str], done: Completed, *, privileged: bool = False
) -> None:
    """Raise DriverError for a failure."""
    if done.status == A_LINK:
        there = _folder_of(path) / done.text
        away = f"mv {shlex.quote(str(there))} {shlex.quote(f'{there}.found')}"
        raise DriverError(
            f"{there} on {runner.name} is a link, or not a regular file: it is left alone",
            hint=f"inspect it, and move it away: {away}",
        )
    if done.status != 0:
        raise failure(argv, done, runner.name, privileged=privileged)


def is_nothing(done: Completed) -> bool:
    """Return whether it failed because there is no such file."""
    return done.status != 0 and any(words in done.complaint for words in (NO_FILE, _NO_FOLDER))


def _folder_of(path: Path) -> Path:
    """Return the project's folder that has a file in one of its inner folders; else the file's own folder."""
    return next((each.parent for each in path.parents if each.name in _INNER), path.parent)
