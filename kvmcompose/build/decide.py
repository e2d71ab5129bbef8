"""Decides what to do with each artefact, and why, from the ledger, the file and the recipe alone.

``plan``, ``generate`` and doit all use this module, so they cannot disagree on what is up to date.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from kvmcompose.build.decision import Decision, Disposition, Making, Options
from kvmcompose.build.growth import Sizes
from kvmcompose.build.ledger import Ledger, LedgerEntry
from kvmcompose.build.offers import offered_recipe
from kvmcompose.build.recipe_words import reasons_between
from kvmcompose.build.recipes import Recipe, Recipes, changes
from kvmcompose.core.artefact import IMAGES, Artefact, Overlay, Policy
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.files import digest_file, digest_link, is_readable, unreadable
from kvmcompose.effects.stat_cache import Signature
from kvmcompose.hosts.in_use import WHY, read_in_use
from kvmcompose.images.qcow2 import ImageHeader, read_header
from kvmcompose.pipeline.compile import STATE_PATH

_AnyDecision = TypeVar("_AnyDecision", bound=Decision)


class Decider:
    """Decides on one project's artefacts. ``is_at`` says whether a file is what would be built."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        recipes: Recipes,
        is_at: Callable[[Path, Artefact], bool],
        options: Options,
    ) -> None:
        self._folder = folder
        self._root = str(folder)
        self._ledger = ledger
        self._recipes = recipes
        self._is_at = is_at
        self._options = options
        self._sizes = Sizes(folder, recipes)
        #: The files of guests that are up.
        self.in_use = read_in_use(folder)
        #: Unchanged files whose ``stat`` has changed, with their new signatures.
        self.refreshed: list[tuple[str, Signature]] = []
        #: Files with secrets that others may read, as version 0.1 or a clone of the project left them.
        self.exposed: list[str] = []

    def decide(self, artefact: Artefact, record: LedgerEntry | None) -> Making:
        """Decide on an artefact. Raises KvmComposeError if its inputs cannot be read."""
        path = artefact.path
        known = Making(path, artefact.task, artefact.policy, Disposition.KEEP, (), artefact=artefact)
        status = lstat(f"{self._root}/{path}")
        if status is not None:
            # what git or cp -r made has the usual mode; of one of ours a group may be meant
            others = 0o077 if record is None else 0o007
            if status.st_mode & others and not artefact.mode & others:
                self.exposed.append(path)
        if (
            record is not None
            and status is not None
            and (
                self._same_signature(status, record)
                and record.policy is artefact.policy
                and record.recipe == self._recipes.recipe(artefact).digest
            )
        ):
            return known  # as nearly all are, nearly always
        return self._look_closer(known, artefact, record, status)

    def _look_closer(
        self, known: Making, artefact: Artefact, record: LedgerEntry | None, status: os.stat_result | None
    ) -> Making:
        path = self._folder / artefact.path
        if status is None:
            reason = "it is not there" if record is not None else "new"
            return _as(known, Disposition.CREATE, reason)
        known = msgspec.structs.replace(known, seen=Signature.of(status))
        is_link = artefact.policy is Policy.LINK
        if not (stat.S_ISLNK(status.st_mode) if is_link else stat.S_ISREG(status.st_mode)):
            return _as(
                known,
                Disposition.BLOCKED,
                f"something other than a {'link' if is_link else 'file'} is in its place",
            )
        if record is None or record.policy is not artefact.policy:
            return self._unknown(known, artefact, path)
        recipe = self._recipes.recipe(artefact)
        if self._untouched(path, status, record):
            if record.recipe == recipe.digest:
                return known
            why = self._why(record, recipe)
            if self._only_image_missing(record, recipe):
                return _as(known, Disposition.KEEP, "its image is not in the store at present")
            if artefact.policy is Policy.MUTABLE and artefact.path in self.in_use:
                # what a guest writes next would go to a file that is gone
                return self._used(known, record, path, same=False, why=why)
            resized = artefact.policy is Policy.MUTABLE and self._sizes.earlier(known, record) is not None
            there = self._sizes.elsewhere(known, record) if resized else None
            reasons = (*([there] if there else []), *why)
            return msgspec.structs.replace(_as(known, Disposition.REBUILD, *reasons), resized=resized)
        return self._touched(known, artefact, record, path)

    def _touched(self, known: Making, artefact: Artefact, record: LedgerEntry, path: Path) -> Making:
        """Decide on a file that was changed since it was built."""
        recipe = self._recipes.recipe(artefact)
        same = record.recipe == recipe.digest or self._only_image_missing(record, recipe)
        why = () if same else self._why(record, recipe)
        if artefact.policy in (Policy.REPRODUCIBLE, Policy.LINK):
            return _as(known, Disposition.REBUILD, "it was changed since it was built", *why)
        if artefact.policy is Policy.MUTABLE:
            return self._used(known, record, path, same=same, why=why)
        if not is_readable(path):
            return _as(known, Disposition.BLOCKED, unreadable(path))
        if path.stat().st_size == 0:  # what a power cut leaves of a file; there is nothing to lose
            return _as(known, Disposition.REBUILD, "it is empty", *why)
        if self._options.overwrite:
            reason = "it was edited by hand; the edited file is kept as .orig"
            return msgspec.structs.replace(_as(known, Disposition.REBUILD, reason, *why), aside=True)
        if same:
            return _as(known, Disposition.CUSTOMISED, "edited by hand")
        if self._is_at(path, artefact):
            return _as(known, Disposition.ADOPT, "edited by hand into what would be built")
        if offered_recipe(record) == recipe.digest and not path.with_name(path.name + ".new").exists():
            return _as(
                known, Disposition.CUSTOMISED, "edited by hand; its .new file was settled by removing it"
            )
        changed = "; ".join(why)
        return _as(
            known, Disposition.CONFLICT, f"edited by hand, and what it is made of has changed ({changed})"
        )

    def _used(
        self,
        known: Making,
        record: LedgerEntry,
        path: Path,
        *,
        same: bool,
        why: Sequence[str],
    ) -> Making:
        """Decide on a disk that was written to: its guest has run, or it is damaged."""
        inside = _look_inside(path, known.artefact)
        damage = self._damage(known.artefact, path, inside, record.size, same=same)
        if damage is not None:
            aside = path.stat().st_size > 0
            reason = f"it is damaged: {damage}" + ("; the old file is kept as .orig" if aside else "")
            return msgspec.structs.replace(_as(known, Disposition.REBUILD, reason, *why), aside=aside)
        if self._options.provision:
            return _as(known, Disposition.REBUILD, "its guest is set up again", *why)
        resized = self._sizes.of_used(known, record, _header(inside))
        if resized is not None:
            return resized
        if same:
            return _as(known, Disposition.KEEP, "its guest has run")
        return _as(known, Disposition.IN_USE, "its guest has run, and a new disk would lose its data", *why)

    def _damage(
        self, artefact: Artefact, path: Path, inside: ImageHeader | str | None, smallest: int, *, same: bool
    ) -> str | None:
        """Return why a disk is damaged, None if it is not: qcow2 files only grow, and keep their header.

        A disk that cannot be read counts as sound: libvirt gives disks to QEMU's user while guests run.
        """
        if path.stat().st_size < smallest:
            return "it is shorter than it was"
        if not isinstance(inside, ImageHeader):
            return inside
        header = inside
        if header.format != "qcow2":
            return "it is not a qcow2 image"
        backing = self._backing(artefact)
        if same and backing is not None and (header.backing_file or "") != backing:
            return f"its backing file is {header.backing_file!r}, not {backing!r}"
        return None

    def _misfit(self, artefact: Artefact, path: Path, header: ImageHeader | None) -> str | None:
        """Return why a sound disk cannot be the wanted one, None if it can."""
        if header is None:
            return unreadable(path)
        wanted, found = self._recipes.size(artefact.content), header.virtual_size
        return None if wanted in (None, found) else f"it has {found} bytes, and not {wanted}"

    def _backing(self, artefact: Artefact) -> str | None:
        """Return the backing file that a disk should have, empty for none; None if its image is missing."""
        content = artefact.content
        return self._recipes.backing(content) if isinstance(content, Overlay) else ""

    def _unknown(self, known: Making, artefact: Artefact, path: Path) -> Making:
        """Decide on a file that the ledger does not know: committed, copied here, or the ledger was lost."""
        if artefact.policy is Policy.LINK:
            return _as(known, Disposition.REBUILD, "the ledger does not know this link")
        if artefact.policy is Policy.MUTABLE:
            return self._unknown_disk(known, artefact, path)
        if not is_readable(path):
            action = Disposition.BLOCKED if artefact.policy is Policy.TEXT else Disposition.REBUILD
            return _as(known, action, unreadable(path))
        if self._is_at(path, artefact):
            return _as(known, Disposition.ADOPT, "it is what would be built")
        reason = "it differs from what its inputs make, and the ledger does not know it"
        aside = artefact.policy is Policy.TEXT
        if aside:  # in one reason: without -v only the first is shown
            reason += "; the old file is kept as .orig"
        return msgspec.structs.replace(_as(known, Disposition.REBUILD, reason), aside=aside)

    def _unknown_disk(self, known: Making, artefact: Artefact, path: Path) -> Making:
        if not isinstance(artefact.content, IMAGES):
            return _as(known, Disposition.ADOPT, "it may be its guest's, unknown to the ledger")
        inside = _look_inside(path, artefact)
        damage = self._damage(artefact, path, inside, 0, same=True)
        if damage is None and not self._options.provision:
            grown = self._sizes.of_unknown(known, _header(inside))
            if grown is not None:
                return grown
        damage = damage or self._misfit(artefact, path, _header(inside))
        if damage is None and self._backing(artefact) is not None:
            return _as(known, Disposition.ADOPT, "a disk that may be the right one, unknown to the ledger")
        if self._options.provision or path.stat().st_size == 0:
            return _as(known, Disposition.REBUILD, "unknown to the ledger")
        return _as(known, Disposition.IN_USE, "a disk that the ledger does not know", damage or "")

    def _same_signature(self, status: os.stat_result, record: LedgerEntry) -> bool:
        return (
            # a disk that was taken in has none: what its guest wrote to it before is not known
            record.content != ""
            and status.st_ctime_ns == record.ctime_ns
            and status.st_mtime_ns == record.mtime_ns
            and status.st_size == record.size
            and status.st_ino == record.inode
            and not self._options.verify
        )

    def _untouched(self, path: Path, status: os.stat_result, record: LedgerEntry) -> bool:
        if self._same_signature(status, record):
            return True
        signature = Signature.of(status)
        known = record.signature
        if record.policy is Policy.LINK:
            same = digest_link(path) == record.content
        elif not is_readable(path):
            # to give a file to another user changes its ctime, to write to it its mtime, too
            same = record.content != "" and (signature.size, signature.mtime_ns, signature.inode) == (
                known.size,
                known.mtime_ns,
                known.inode,
            )
        else:
            # a disk in use is large; usually its size suffices, without reading it
            same = (
                record.content != "" and signature.size == known.size and digest_file(path) == record.content
            )
        if same and signature != record.signature:
            self.refreshed.append((record.path, signature.or_unsettled()))
        return same

    def _why(self, record: LedgerEntry, recipe: Recipe) -> tuple[str, ...]:
        before = self._ledger.inputs(record.path)
        if not record.recipe or not before:
            return ("it was to be forgotten, and made again",)
        if record.path == STATE_PATH:
            return ("the testbed that it describes has changed",)
        return reasons_between(before, recipe.inputs) or ("kvm-compose itself changed",)

    def _only_image_missing(self, record: LedgerEntry, recipe: Recipe) -> bool:
        """Return whether the only difference is that the image is missing and cannot be compared."""
        if record.policy is not Policy.MUTABLE or not record.recipe:
            return False
        found = changes(self._ledger.inputs(record.path) or b"{}", recipe.inputs)
        return all(change.after is None and ".image." in change.name for change in found)

    def below(self, record: LedgerEntry) -> str | None:
        """Return the artefact that a clone is an overlay on, if the clone contains data of a guest."""
        path = self._folder / record.path
        status = lstat(path)
        if status is None or not stat.S_ISREG(status.st_mode) or self._untouched(path, status, record):
            return None
        if not is_readable(path):
            return self._noted_below(record)
        try:
            return f"artefacts/{read_header(path).backing_file}"
        except KvmComposeError:
            return None

    def _noted_below(self, record: LedgerEntry) -> str | None:
        """Return the artefact that a clone is an overlay on, by its recipe."""
        inputs = msgspec.json.decode(self._ledger.inputs(record.path) or b"{}")
        on = inputs.get("overlay", {}).get("on", {})
        return str(on["path"]) if "path" in on else None

    def is_as_built(self, record: LedgerEntry | None) -> bool:
        """Return whether a file exists and is unchanged."""
        status = lstat(self._folder / record.path) if record is not None else None
        return (
            record is not None
            and status is not None
            and stat.S_ISREG(status.st_mode)
            and self._untouched(self._folder / record.path, status, record)
        )

    def left_over(self, record: LedgerEntry) -> Decision:
        """Decide on a file whose artefact is no longer wanted."""
        path = self._folder / record.path
        status = lstat(path)
        policy = record.policy
        gone = Decision(record.path, record.task, policy, Disposition.REMOVE, ())
        if status is None:
            return msgspec.structs.replace(gone, reasons=("it is not there any more",))
        if record.path in self.in_use:
            return _as(gone, Disposition.LEFT_OVER, WHY)
        if is_behind_link(self._folder, record.path):
            return _as(gone, Disposition.LEFT_OVER, "a folder on the way to it is a link")
        gone = msgspec.structs.replace(gone, seen=Signature.of(status))
        in_place = stat.S_IFMT(status.st_mode) == (stat.S_IFLNK if policy is Policy.LINK else stat.S_IFREG)
        if in_place and self._untouched(path, status, record):
            return msgspec.structs.replace(gone, reasons=("nothing in the YAML asks for it any more",))
        used = in_place and policy is Policy.MUTABLE
        if used and self._options.provision:
            return msgspec.structs.replace(gone, reasons=("its guest is gone, and its data may go",))
        what = (
            f"its guest has run: kvm-compose clean --left-over {record.task.partition(':')[2]} removes it"
            if used
            else "it was changed since it was built"
        )
        return _as(gone, Disposition.LEFT_OVER, what)


def _as(known: _AnyDecision, action: Disposition, *reasons: str) -> _AnyDecision:
    return msgspec.structs.replace(
        known, action=action, reasons=tuple(reason for reason in reasons if reason)
    )


def _look_inside(path: Path, artefact: Artefact) -> ImageHeader | str | None:
    """Return a disk's header, why it has none, or None for a file that cannot be read, or is no image."""
    if not isinstance(artefact.content, IMAGES) or not is_readable(path):
        return None
    try:
        return read_header(path)
    except KvmComposeError as error:
        return error.message


def _header(inside: ImageHeader | str | None) -> ImageHeader | None:
    return inside if isinstance(inside, ImageHeader) else None


def is_behind_link(folder: Path, path: str) -> bool:
    """Return whether a path below ``artefacts/`` that a ledger names leads elsewhere: a ledger may be forged.

    Of ``artefacts`` and ``artefacts/images`` the project sees to that itself, as these may be links.
    """
    *way, _ = path.split("/")
    above = ["/".join(way[:end]) for end in range(2, len(way) + 1)]
    return any((folder / each).is_symlink() for each in above if each != "artefacts/images")


def lstat(path: Path | str) -> os.stat_result | None:
    """Return the status of a path without following links, None if nothing is there. Raises OSError."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
