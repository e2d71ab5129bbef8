"""What a context carries into guests: its members, what is left out, and what cannot be carried."""

from __future__ import annotations

import difflib
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from kvmcompose.build.docker_ignore import DOCKER_IGNORE, read_docker_ignore
from kvmcompose.build.ignore_file import IGNORE_FILE, Ignored, read_ignore_file
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.project import Flaw

#: The largest file or context that is carried into a guest, in bytes.
CARRIED_LIMIT = 2**30
#: The most members of the context of an image: an engine unpacks them one by one.
MOST_MEMBERS = 100_000
#: So many things that cannot be carried are listed at the most.
_MOST_FLAWS = 20


class Member(msgspec.Struct, frozen=True):
    """A path below a folder that is carried into a guest: a "file", a "folder", or a "link" to ``target``.

    ``mode`` is what the YAML asks for, None for the usual mode, which depends on ``executable``.
    """

    path: Path
    name: str
    kind: str
    target: str
    executable: bool
    mode: int | None = None


class Listing(msgspec.Struct, frozen=True):
    """The members of a context, sorted; what cannot be carried; and every path that this depends on."""

    members: tuple[Member, ...]
    flaws: tuple[Flaw, ...]
    seen: frozenset[str]


class Surroundings(msgspec.Struct, frozen=True):
    """The project around a context. Both functions take a path without links.

    ``is_allowed`` is whether its content may go into a guest, ``is_output`` whether builds make it.
    """

    folder: Path
    is_allowed: Callable[[Path], bool]
    is_output: Callable[[Path], bool]

    def show(self, path: Path) -> str:
        """Return a path as messages show it: relative to the project folder if it is below it."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)


class Purpose(msgspec.Struct, frozen=True):
    """What a context is for, in messages: ``goal``, ``carried``; and what it leaves out.

    ``ignore_file`` is the name of the file that ``read`` reads. Members in ``kept`` are never left out.
    """

    goal: str
    carried: str
    ignore_file: str
    read: Callable[[Path], Ignored]
    kept: tuple[str, ...] = ()
    most: int | None = None

    @property
    def leave_out(self) -> str:
        """A hint."""
        return f"remove it, or list it in {self.ignore_file} of the context"


FOR_GUEST = Purpose("a seed", "copied into a guest", IGNORE_FILE, read_ignore_file)


def for_image(dockerfile: str) -> Purpose:
    """Return the purpose of a context that an image is built from."""
    kept = (DOCKER_IGNORE, dockerfile)
    return Purpose(
        "an image", "copied into an image", DOCKER_IGNORE, read_docker_ignore, kept, most=MOST_MEMBERS
    )


class _Unfit(Exception):  # noqa: N818 (it is caught where it is raised)
    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.flaw = Flaw(code, message, hint)


def list_context(
    whole: Path, around: Surroundings, modes: Mapping[str, str], purpose: Purpose = FOR_GUEST
) -> Listing:
    """List a context, a folder or just a file. Links are not followed.

    ``modes`` are permission bits in octal digits, by the path of a member. Raises OSError.
    """
    return _Lister(whole, around, modes, purpose).listing()


class _Lister:
    def __init__(self, whole: Path, around: Surroundings, modes: Mapping[str, str], purpose: Purpose) -> None:
        self._whole = whole
        self._purpose = purpose
        self._real = resolve(whole) or whole
        self._around = around
        self._modes = modes
        self._ignored = Ignored(())
        self._members: list[Member] = []
        self._flaws: list[Flaw] = []
        self._seen = {str(whole), str(self._real)}
        self._left_out: set[str] = set()
        self._total = 0

    def listing(self) -> Listing:
        if self._around.is_output(self._real):
            message = (
                f"{self._around.show(self._whole)!r} is made by builds,"
                f" and so cannot go into {self._purpose.goal}"
            )
            self._flaws.append(Flaw("bad-file", message, "copy what the guest needs into a folder of yours"))
        elif not self._whole.is_dir():
            self._add(self._whole.name, self._whole)
        else:
            self._walk()
        self._check_modes()
        return Listing(tuple(self._members), tuple(self._flaws), frozenset(self._seen))

    def _walk(self) -> None:
        """Add everything below the folder, sorted by name, each folder before what is in it."""
        purpose = self._purpose
        self._seen.add(str(self._whole / purpose.ignore_file))
        try:
            self._ignored = purpose.read(self._whole)
        except KvmComposeError as error:
            name = self._around.show(self._whole / purpose.ignore_file)
            self._flaws.append(Flaw("bad-file", f"{name!r} {error.message}", error.hint))
            return
        pending = self._children(self._whole, "")
        while pending and len(self._flaws) < _MOST_FLAWS and self._total <= CARRIED_LIMIT:
            name, entry = pending.pop()
            folder = entry.is_dir(follow_symlinks=False)
            if self._is_left_out(name, folder=folder):
                self._left_out.add(name)
                if folder and self._may_keep_below(name):
                    self._seen.add(entry.path)
                    pending += self._children(Path(entry.path), f"{name}/")
                continue
            if self._around.is_output(self._real / name):
                continue
            self._seen.add(entry.path)
            self._add_folders_of(name)
            self._add(name, Path(entry.path))
            if folder:
                pending += self._children(Path(entry.path), f"{name}/")
            if purpose.most is not None and len(self._members) > purpose.most:
                message = f"{self._around.show(self._whole)!r} has more than {purpose.most} files and folders"
                self._flaws.append(
                    Flaw("bad-file", message, f"list what is not needed in {purpose.ignore_file}")
                )
                return

    def _is_left_out(self, name: str, *, folder: bool) -> bool:
        ours = name == self._purpose.ignore_file
        matched = self._ignored.matches(name, folder=folder)  # in every case: it notes what folders are
        return (ours or matched) and name not in self._purpose.kept

    def _may_keep_below(self, folder: str) -> bool:
        """Return whether something in a folder that is left out may be carried."""
        is_on_the_way = any(each.startswith(f"{folder}/") for each in self._purpose.kept)
        return is_on_the_way or self._ignored.has_exceptions

    def _add_folders_of(self, name: str) -> None:
        """Add the folders above something that is carried although they are left out."""
        steps = name.split("/")[:-1]
        for count in range(1, len(steps) + 1):
            above = "/".join(steps[:count])
            if above in self._left_out:
                self._left_out.discard(above)
                self._add(above, self._whole / above)

    def _children(self, folder: Path, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """Return what is in a folder, the last one first."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if folder == self._whole:
                raise
            self._refuse(self._unreadable(folder, error))
            return []
        return [(prefix + entry.name, entry) for entry in found]

    def _unreadable(self, path: Path, error: OSError) -> _Unfit:
        shown = self._around.show(path)
        return _Unfit("bad-file", f"{shown!r} cannot be read: {error.strerror}", self._purpose.leave_out)

    def _refuse(self, unfit: _Unfit) -> None:
        self._flaws.append(unfit.flaw)

    def _add(self, name: str, path: Path) -> None:
        try:
            self._members.append(self._member(name, path))
        except _Unfit as unfit:
            self._refuse(unfit)
        except OSError as error:
            self._refuse(self._unreadable(path, error))

    def _member(self, name: str, path: Path) -> Member:
        """Return what a path of the context is. Raises _Unfit for what cannot be carried, OSError.

        A link within the folder stays a link; one that leads elsewhere in the project becomes the file
        it points to, as its target would be missing in the guest.
        """
        if path.is_symlink():
            target = os.readlink(path)  # noqa: PTH115 (the text of the link, unresolved)
            resolved = resolve(path)
            if path != self._whole and self._stays_inside(name, target, resolved):
                return Member(path, name, "link", target, executable=False)
            self._refuse_link(path, target, resolved)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Member(path, name, "folder", "", executable=True, mode=self._mode(name))
        if not stat.S_ISREG(status.st_mode):
            message = f"{self._around.show(path)!r} is neither a file nor a folder"
            raise _Unfit("bad-file", message, self._purpose.leave_out)
        if not os.access(path, os.R_OK):
            raise _Unfit("bad-file", f"{self._around.show(path)!r} cannot be read", self._purpose.leave_out)
        self._total += status.st_size
        if self._total > CARRIED_LIMIT:  # reading a terabyte of nothing takes an hour
            error = too_large(self._whole, self._purpose)
            raise _Unfit("bad-file", error.message, error.hint)
        executable = bool(status.st_mode & stat.S_IXUSR)
        return Member(path, name, "file", "", executable=executable, mode=self._mode(name))

    def _mode(self, name: str) -> int | None:
        return int(self._modes[name], 8) if name in self._modes else None

    def _stays_inside(self, name: str, target: str, resolved: Path | None) -> bool:
        """Return whether a link is the same in the guest: relative, and never out of the context.

        A way out and in again (``../context/file``) would need the name that the context has here.
        """
        if target.startswith("/") or _leaves(posixpath.dirname(name), target):
            return False
        # if its links go in a circle, it does no harm in the guest either
        return resolved is None or resolved.is_relative_to(self._real)

    def _refuse_link(self, path: Path, target: str, resolved: Path | None) -> None:
        """Raise _Unfit unless the link leads to a file of the project."""
        shown = repr(self._around.show(path))
        if resolved is None:
            raise _Unfit(
                "bad-file", f"{shown} is a link to {target!r}, which leads nowhere", self._purpose.leave_out
            )
        if not self._around.is_allowed(resolved):
            raise _Unfit(
                "outside-project",
                f"{shown} is a link out of the project folder and would be {self._purpose.carried}",
                "replace the link by what it points to, or allow the folder with --allow-path DIR",
            )
        self._seen.add(str(resolved))
        if self._around.is_output(resolved):
            message = (
                f"{shown} is a link to {target!r}, which is made by builds,"
                f" and so cannot go into {self._purpose.goal}"
            )
            raise _Unfit("bad-file", message, self._purpose.leave_out)
        if not resolved.is_file():
            what = "a folder outside the context" if resolved.is_dir() else "nothing"
            hint = "replace the link by what it points to" if resolved.is_dir() else self._purpose.leave_out
            raise _Unfit("bad-file", f"{shown} is a link to {target!r}: {what}", hint)

    def _check_modes(self) -> None:
        known = {each.name: each for each in self._members}
        for name in self._modes:
            member = known.get(name)
            if member is None and self._flaws:
                continue  # it may be what could not be listed
            if member is None:
                self._flaws.append(self._unknown(name, known))
            elif member.kind == "link":
                message = f"{name!r} is a link, which has no mode of its own"
                self._flaws.append(
                    Flaw("bad-file", message, f"name what it points to: {member.target}", at=("modes", name))
                )

    def _unknown(self, name: str, known: Iterable[str]) -> Flaw:
        if name in self._left_out:
            message, hint = f"{name!r} is left out by {self._purpose.ignore_file}", None
        else:
            near = difflib.get_close_matches(name, known, 1)
            message, hint = f"{name!r} is not in the context", f"did you mean {near[0]!r}?" if near else None
        return Flaw("missing-file", message, hint, at=("modes", name))


def _leaves(folder: str, target: str) -> bool:
    """Return whether a relative link in a ``folder`` of the context goes up further than the context."""
    depth = len(folder.split("/")) if folder else 0
    for step in target.split("/"):
        depth += -1 if step == ".." else step not in ("", ".")
        if depth < 0:
            return True
    return False


def resolve(path: Path) -> Path | None:
    """Return a path without links, or None if its links go in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def too_large(path: Path, purpose: Purpose = FOR_GUEST) -> KvmComposeError:
    """Return the error for a file or folder beyond ``CARRIED_LIMIT``."""
    return KvmComposeError(
        f"{str(path)!r} holds more than {CARRIED_LIMIT >> 30} GiB, too much for {purpose.goal}",
        hint="put large data on a separate disk image"
        if purpose is FOR_GUEST
        else f"list what is not needed in {purpose.ignore_file}",
    )
