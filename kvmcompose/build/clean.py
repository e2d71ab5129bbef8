"""Removes artefacts, but keeps what the user or a guest has changed."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kvmcompose.build.decide import is_behind_link
from kvmcompose.build.decision import Disposition
from kvmcompose.build.ledger import LedgerEntry
from kvmcompose.build.project import Project
from kvmcompose.core.artefact import Policy, is_shared_disk
from kvmcompose.core.errors import InputError, Problem, RefusedError
from kvmcompose.core.names import first_few
from kvmcompose.core.plain import plain
from kvmcompose.effects.files import is_readable, unreadable
from kvmcompose.hosts.in_use import WHY
from kvmcompose.hosts.transfer_plan import read_sent
from kvmcompose.images.locks import is_open_in_qemu


def clean_file(
    project: Project, path: str, records: dict[str, LedgerEntry], *, dryrun: bool, force: bool
) -> None:
    """Remove one artefact and forget it; ``force`` removes even what was changed since it was built."""
    file = project.folder / path
    record = records.get(path)
    decision = None
    if is_behind_link(project.folder, path) or not os.path.lexists(file):
        return
    in_use = path in project.decider.in_use or _is_open(file)
    if in_use or (file.is_dir() and not file.is_symlink()):
        _say(f"{path}: kept, {WHY if in_use else 'it is a folder'}")
        return
    if not force:
        if record is None:
            _say(f"{path}: kept, it is not known to be ours (--force removes it)")
            return
        decision = project.decider.left_over(record)
        if decision.action is not Disposition.REMOVE:
            _say(f"{path}: kept, {'; '.join(decision.reasons)}")
            return
        above = project.backing_files_in_use({path}, records).get(path)
        if above is not None:
            _say(f"{path}: kept, it is the backing file of {above}, whose guest has run")
            return
    if not dryrun:
        if decision is None:
            file.unlink()
        elif not project.maker.remove(decision):
            _say(f"{path}: kept, it was written to just now")
            return
        project.ledger.drop([path])
    _say(f"{path}: {'would be removed' if dryrun else 'removed'}")


def _say(text: str) -> None:
    sys.stdout.write(f"{plain(text)}\n")


def drop_left_overs(project: Project, names: Sequence[str], *, dry_run: bool) -> None:
    """Remove files of guests that the YAML no longer has, with all that these wrote.

    ``names`` are those of guests, files or artefacts. Raises InputError for unknown ones, and RefusedError,
    before anything is removed, for a disk that is in use.
    """
    records = project.records(write=not dry_run)
    wanted = _left_over(project, names, records)
    mine = {path: record for path, record in wanted.items() if os.path.lexists(project.folder / path)}
    for path, record in mine.items():
        _refuse_use(project, path, record)
    held = project.backing_files_in_use(mine.keys(), records)
    for path, above in held.items():
        raise RefusedError(
            f"{path} is the backing file of {above}, which has data",
            hint=f"kvm-compose clean --left-over {path} {above} drops both",
        )
    # what is an overlay on another goes first
    for path in sorted(wanted, key=lambda path: not wanted[path].task.startswith("clone:")):
        if is_behind_link(project.folder, path):
            _say(f"{path}: kept, a folder on the way to it is a link")
            continue
        if not dry_run:
            (project.folder / path).unlink(missing_ok=True)
            project.ledger.drop([path])
        _say(f"{path}: {'would be removed' if dry_run else 'removed'}")
    for host, sent in read_sent(project.folder).items():
        there = sorted(sent.files.keys() & wanted.keys())
        if there:
            _say(f"{there[0]}: {host} was sent it, too; kvm-compose down --purge removes all disks there")


def _left_over(
    project: Project, names: Sequence[str], records: Mapping[str, LedgerEntry]
) -> dict[str, LedgerEntry]:
    stale = {path: record for path, record in records.items() if path not in project.artefacts}
    wanted: dict[str, LedgerEntry] = {}
    problems = []
    for name in names:
        found = {path: record for path, record in stale.items() if name in _names_of(path, record)}
        if not found:
            problems.append(_no_left_over(project, name, stale))
        wanted |= found
    if problems:
        raise InputError(problems)
    return wanted


def _names_of(path: str, record: LedgerEntry) -> tuple[str, ...]:
    _, _, name = record.task.partition(":")
    return path, path.rpartition("/")[2], record.task, name, name.partition(":")[0]


def _no_left_over(project: Project, name: str, stale: Mapping[str, LedgerEntry]) -> Problem:
    known = [each for path, record in stale.items() for each in _names_of(path, record)]
    near = difflib.get_close_matches(name, known, 3)
    guests = dict.fromkeys(record.task.split(":")[1] for record in stale.values())
    hint = f"left over: {first_few(list(guests))}" if guests else "there are no left-over files"
    if name in {each for artefact in project.artefacts.values() for each in (artefact.guest, artefact.path)}:
        return project.problem(f"{name!r} is part of the testbed, not left over", hint)
    return project.problem(f"nothing left over is called {name!r}", _near(near) or hint)


def _near(names: Sequence[str]) -> str | None:
    return f"did you mean {' or '.join(names)}?" if names else None


def _refuse_use(project: Project, path: str, record: LedgerEntry) -> None:
    """Raise RefusedError for a file that a guest uses: one may run although the YAML no longer has it."""
    if path in project.decider.in_use:
        raise RefusedError(f"{path} is in use: its guest is up", hint="kvm-compose up, or down, stops it")
    file = project.folder / path
    if record.policy is not Policy.MUTABLE or file.is_symlink() or not file.is_file():
        return
    if not is_readable(file):  # QEMU's user has it while a guest runs, and keeps one that guests share
        hint = f"if no guest has it any more: sudo rm {shlex.quote(str(file))}"
        raise RefusedError(
            f"{path} may be in use: {unreadable(file)}",
            hint=hint if is_shared_disk(path) else "kvm-compose down",
        )
    if _is_open(file):
        raise RefusedError(f"{path} is in use: a guest has it", hint="kvm-compose down")


def _is_open(file: Path) -> bool:
    """Return whether a guest has a file open; not where that cannot be seen."""
    try:
        return file.is_file() and not file.is_symlink() and is_open_in_qemu(file)
    except OSError:
        return False


def remove_leftovers(folder: Path, inside: Iterable[Path]) -> None:
    """Remove what only makes sense beside artefacts: links to images without overlays, then empty folders.

    ``inside`` are the folders of artefacts in ``folder``.
    """
    images = folder / "images"
    if not any(
        {".img", ".qcow2"} & set(entry.suffixes) for entry in folder.glob("*")
    ):  # also those kept as .orig
        for link in images.glob("*"):
            if link.is_symlink():
                link.unlink()
    for entry in (images, *sorted(inside, reverse=True), folder):  # the ones below another before it
        with suppress(OSError):  # not empty, or not there
            entry.rmdir()
