"""A project folder: its two files compiled, its ledger, and what to do with each of its artefacts."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from kvmcompose.build.base_images import Images, image_of, image_task
from kvmcompose.build.decide import Decider
from kvmcompose.build.decision import Decision, Disposition, Making, Options
from kvmcompose.build.ledger import Ledger, LedgerEntry, copy_of_ledger, open_ledger
from kvmcompose.build.lock import build_lock
from kvmcompose.build.make import Maker
from kvmcompose.build.outputs import PRIVATE_FOLDER
from kvmcompose.build.project_files import FolderFiles
from kvmcompose.build.project_inputs import Where, epoch, hashed, read_inputs, settings
from kvmcompose.build.recipes import Recipes
from kvmcompose.build.recovery import recover
from kvmcompose.build.template_check import template_problems
from kvmcompose.build.templates import templates
from kvmcompose.core.artefact import Artefact, BaseImage, Policy
from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem, RefusedError
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.effects.files import expand
from kvmcompose.effects.keys import default_keys
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.stat_cache import Remembered, StatCache
from kvmcompose.images.store import default_store, read_catalogue
from kvmcompose.pipeline.compile import Compiled, compile_project, understand
from kvmcompose.pipeline.hints import exposed_key_warnings, secret_warnings
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.render.templates import Templates

#: Folders that builds write to; a lab may have links in their place.
_OUTPUT_FOLDERS = ("artefacts", "artefacts/images")
_OUTSIDE = "is a link out of the project folder"
_ALLOW = "to build there, allow the place with --allow-path DIR"

#: What ends the life of a disk.
ENDING = (Disposition.REBUILD, Disposition.REMOVE)


class ImageStep(msgspec.Struct, frozen=True):
    """An image that artefacts need: whether something has to be done to have it."""

    task: str
    image: BaseImage
    action: Disposition
    reasons: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Return whether no action is needed."""
        return self.action is Disposition.KEEP


class Plan(msgspec.Struct, frozen=True):
    """What a build would do: with images, with artefacts in order, and with files that are no longer wanted.

    A ``partial`` plan is one for some names only; it keeps files that are no longer wanted.
    ``records`` are the ledger's entries that the decisions depend on.
    """

    images: tuple[ImageStep, ...]
    decisions: tuple[Making, ...]
    stale: tuple[Decision, ...]
    records: dict[str, LedgerEntry]
    partial: bool

    @property
    def notable(self) -> tuple[Making, ...]:
        """The decisions other than to keep a file as it is, which is what nearly all say."""
        return tuple(each for each in self.decisions if each.action is not Disposition.KEEP)

    @property
    def pending(self) -> tuple[Decision, ...]:
        """The decisions that a build has to act on."""
        return tuple(each for each in (*self.notable, *self.stale) if not each.settled)


class Project:
    """A project whose files could be read. They are validated when they are compiled."""

    def __init__(
        self,
        where: Where,
        options: Options = Options(),  # noqa: B008 (it is frozen)
        text: bytes | None = None,
    ) -> None:
        """``text`` is read in place of the YAML, under its name. Raises InputError."""
        self.began_ns = time.time_ns()
        self.where = where
        self.folder = where.directory.absolute()
        self.options = options
        self.testbed, self._config = read_inputs(self.folder, where, text)
        #: The digests of the two input files, the YAML first.
        self.hashed = hashed(self.folder, where, self.testbed, self._config)
        catalogue = read_catalogue()
        self._digests = StatCache(self._known_digests())
        allowed = [self.folder / expand(each) for each in where.allow_paths]
        store = default_store()
        self.files = FolderFiles(
            self.folder,
            self._digests,
            allowed,
            sorted({*catalogue.names(), *(image.name for image in store.list())}),
            default_keys().ssh_public_key_location,
            catalogue.archs(),
        )
        self.images = Images(store, catalogue, self.files)
        self.settings = settings(self.folder, where)

    @cached_property
    def compiled(self) -> Compiled:
        """The result of compiling the two files. Raises InputError with all problems."""
        return compile_project(self.testbed, self._config, schemas(), self.settings, self.files)

    def compiled_from(self, testbed: InputFile) -> Compiled:
        """Compile another YAML in this project. Raises InputError with all problems."""
        return compile_project(testbed, self._config, schemas(), self.settings, self.files)

    @cached_property
    def logical(self) -> tuple[LogicalTestbed, tuple[Problem, ...]]:
        """The testbed before anything has a host, and warnings. Raises InputError with all problems."""
        _, logical, warnings = understand(self.testbed, self._config, schemas(), self.settings, self.files)
        return logical, warnings

    def hints(self) -> tuple[Problem, ...]:
        """Return the problems that only ``validate`` reports, and that stop no build."""
        logical = self.compiled.placed.logical
        documents = Documents(self.testbed, self._config, schemas())
        return (
            *secret_warnings(logical, documents),
            *exposed_key_warnings(logical, documents, self.files),
        )

    def refusals(self) -> tuple[Problem, ...]:
        """Return what a build would refuse though both files are valid, as far as files show it."""
        folders = tuple(
            Problem(code="outside-project", message=_OUTSIDE, location=Location(name), hint=_ALLOW)
            for name in _OUTPUT_FOLDERS
            if not self.files.may_hold(name)
        )
        return (*folders, *template_problems(self.folder, lambda: self._templates, self.artefacts.values()))

    def read_again(self) -> Project:
        """Return the project as its files are now, with the same ledger. Raises InputError."""
        again = Project(self.where, self.options)
        again.ledger = self.ledger
        return again

    def is_edited(self) -> bool:
        """Return whether one of the two files has changed since it was read."""
        try:
            return hashed(self.folder, self.where, *read_inputs(self.folder, self.where)) != self.hashed
        except InputError:
            return True

    @cached_property
    def _templates(self) -> Templates:
        return templates(self.folder)

    @cached_property
    def _epoch(self) -> int:
        return epoch()

    @cached_property
    def recipes(self) -> Recipes:
        """Takes the recipes of this project's artefacts."""
        return Recipes(self.artefacts, self._templates, self.files, self.images, self._epoch)

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        """All artefacts by path."""
        return {artefact.path: artefact for artefact in self.compiled.artefacts}

    @cached_property
    def ledger(self) -> Ledger:
        """The project's ledger; a copy in memory unless this process holds the lock."""
        return copy_of_ledger(ledger_path(self.folder))

    def _known_digests(self) -> Iterator[tuple[str, Remembered]]:
        yield from self.ledger.file_digests()

    def _open_ledger(self) -> Ledger:
        try:
            return open_ledger(ledger_path(self.folder))
        except OSError as error:
            raise KvmComposeError(f"{str(self.folder / PRIVATE_FOLDER)!r}: {error.strerror}") from error

    @cached_property
    def maker(self) -> Maker:
        """Makes this project's artefacts."""
        return Maker(
            self.folder, self.ledger, self.recipes, self._templates, self.files, self.images, self._epoch
        )

    @cached_property
    def decider(self) -> Decider:
        """Decides on this project's artefacts."""
        return Decider(self.folder, self.ledger, self.recipes, self.maker.is_at, self.options)

    def locked(self, waiting: Callable[[str], None] | None) -> AbstractContextManager[None]:
        """Hold the project's build lock; see ``build_lock``."""
        for name in _OUTPUT_FOLDERS:
            if not self.files.may_hold(name):
                raise RefusedError(f"{name} {_OUTSIDE}", hint=_ALLOW)
        if "ledger" not in self.__dict__ or self.ledger.path is None:
            self.ledger = self._open_ledger()
            for dependent in ("decider", "maker"):
                self.__dict__.pop(dependent, None)
        if self.ledger.read_only:
            raise RefusedError(f"cannot write to {str(self.folder)!r}: {self.ledger.read_only}")
        return build_lock(self.folder / PRIVATE_FOLDER / "lock", waiting=waiting)

    def records(self, *, write: bool) -> dict[str, LedgerEntry]:
        """Return what was built, as recorded in the ledger."""
        return recover(self.ledger, self.folder, write=write)

    def tasks_named(self, names: Sequence[str]) -> list[str]:
        """The tasks of the named guests, tasks, groups or artefacts. Raises InputError for unknown ones."""
        return list(dict.fromkeys(self.artefacts[path].task for path in self._named(names)))

    def select(self, names: Sequence[str]) -> list[Artefact]:
        """The artefacts of the named guests or tasks, and those they need; all when no name is given."""
        everything = list(self.artefacts.values())
        if not names:
            return everything
        wanted = set(self._named(names))
        for path in sorted(wanted):
            wanted.update(self.artefacts[path].after)
        return [artefact for artefact in everything if artefact.path in wanted or artefact.task == "state"]

    def _named(self, names: Sequence[str]) -> list[str]:
        wanted: list[str] = []
        problems = []
        for name in names:
            machine = {
                guest.name for guest in self.compiled.placed.logical.guests if guest.machine.name == name
            }
            found = [
                artefact.path
                for artefact in self.artefacts.values()
                if name in (artefact.task, artefact.guest, artefact.path, artefact.task.partition(":")[0])
                or artefact.guest in machine
            ]
            if not found:
                problems.append(self._unknown(name))
            wanted += found
        if problems:
            raise InputError(problems)
        return wanted

    def _unknown(self, name: str) -> Problem:
        known = {artefact.task for artefact in self.artefacts.values()}
        known |= {guest.name for guest in self.compiled.placed.logical.guests}
        near = difflib.get_close_matches(name, known, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "kvm-compose list --all shows all tasks"
        return self.problem(f"there is no guest, task or artefact {name!r}", hint)

    def problem(self, message: str, hint: str | None = None) -> Problem:
        """A problem with a name on the command line."""
        return Problem(code="unknown-name", message=message, location=Location("command line"), hint=hint)

    def plan(self, names: Sequence[str] = (), *, write: bool = False) -> Plan:
        """Return what a build of ``names`` would do. The ledger is only repaired with ``write``."""
        records = self.records(write=write)
        selected = self.select(names)
        decisions = [self.decider.decide(each, records.get(each.path)) for each in selected]
        if names:
            decisions = list(_without_data_of_others(decisions, set(self._named(names))))
        stale = [] if names else [
            self.decider.left_over(record) for path, record in records.items() if path not in self.artefacts
        ]  # fmt: skip
        self._keep_backing_files(decisions, stale, records)
        steps = tuple(self.image_steps(decisions))
        return Plan(steps, tuple(decisions), tuple(stale), records, partial=bool(names))

    def _keep_backing_files(
        self, decisions: list[Making], stale: list[Decision], records: dict[str, LedgerEntry]
    ) -> None:
        going = {
            each.path
            for each in (*decisions, *stale)
            if each.policy is Policy.MUTABLE
            and each.action in ENDING
            and not (isinstance(each, Making) and each.resized)
        }
        kept = self.backing_files_in_use(going, records)
        if not kept:
            return
        decisions[:] = (_held(each, kept, Disposition.IN_USE) for each in decisions)
        stale[:] = (_held(each, kept, Disposition.LEFT_OVER) for each in stale)

    def backing_files_in_use(
        self, going: Container[str], records: Mapping[str, LedgerEntry]
    ) -> dict[str, str]:
        """Return the disks among ``going`` that must stay, each with a clone on it that has data."""
        found = {}
        for record in records.values() if going else ():
            if not record.task.startswith("clone:") or record.path in going:
                continue
            below = self.decider.below(record)
            if below is not None and below in going and self.decider.is_as_built(records.get(below)):
                found[below] = record.path
        return found

    def image_steps(self, decisions: Sequence[Making]) -> Iterator[ImageStep]:
        """Yield the images that artefacts need, with the action that provides each."""
        # by task: one guest may state the format of an image that another leaves to detection
        needed: dict[str, tuple[BaseImage, bool]] = {}
        for decision in decisions:
            image = image_of(decision.artefact)
            if image is not None:
                name = image_task(image)
                _, stale = needed.get(name, (image, False))
                needed[name] = image, stale or not decision.settled
        for name, (image, stale) in needed.items():
            resolved = self.images.resolve(image)
            if resolved is None:
                action = Disposition.CREATE if stale else Disposition.KEEP
                yield ImageStep(name, image, action, (self.images.why_absent(image),))
            elif not self.images.is_linked(resolved):
                yield ImageStep(name, image, Disposition.CREATE)
            else:
                yield ImageStep(name, image, Disposition.KEEP)

    def held(self) -> list[str]:
        """Return the files that are kept only because guests use them that the testbed no longer has."""
        return sorted(
            path
            for path in self.decider.in_use
            if path not in self.artefacts and os.path.lexists(self.folder / path)
        )

    def record_signatures(self) -> None:
        """Record new signatures of files that were found unchanged, so that they need not be read again."""
        self.ledger.refresh(self.decider.refreshed)
        self.decider.refreshed.clear()

    def finish(self) -> None:
        """Store the digests and signatures of files for the next build."""
        self.ledger.remember_files(self._digests.fresh.items())
        self.record_signatures()


_AnyDecision = TypeVar("_AnyDecision", bound=Decision)


def _without_data_of_others(decisions: Iterable[Making], named: Container[str]) -> Iterator[Making]:
    """Yield decisions on guests that were named: data that belongs to no guest is kept, as others have it."""
    for each in decisions:
        is_of_all = each.policy is Policy.MUTABLE and each.artefact.guest is None
        if is_of_all and each.path not in named and each.action is Disposition.REBUILD:
            reasons = (f"other guests have it, too: {each.task} names it",)
            yield msgspec.structs.replace(each, action=Disposition.KEEP, reasons=reasons)
        else:
            yield each


def _held(decision: _AnyDecision, kept: Mapping[str, str], action: Disposition) -> _AnyDecision:
    above = kept.get(decision.path)
    if above is None:
        return decision
    reasons = (f"it is the backing file of {above}, whose guest has run",)
    return msgspec.structs.replace(decision, action=action, reasons=reasons)


def ledger_path(folder: Path) -> Path:
    """Return the path of a project's ledger."""
    return folder / PRIVATE_FOLDER / "ledger.sqlite"
