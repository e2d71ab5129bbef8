"""A project folder: its two files compiled, its ledger, and what to do with each of its artefacts."""

from __future__ import annotations

import difflib
import time
from array import array
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

import kvmcompose
from kvmcompose.core.artefact import Artefact, BaseImage, Policy
from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem, RefusedError
from kvmcompose.effects.files import expand
from kvmcompose.effects.image_store import default_store, read_catalogue
from kvmcompose.effects.keys import default_keys, make_keys
from kvmcompose.effects.ledger import Ledger, Record, open_ledger
from kvmcompose.effects.lock import build_lock
from kvmcompose.effects.machine import probe_cache
from kvmcompose.effects.project_files import FolderFiles
from kvmcompose.effects.resources import own_files, schemas, templates
from kvmcompose.effects.shape_memory import FolderMemory
from kvmcompose.effects.standing import (
    Standing,
    read_standing,
    rests,
    sign_inputs,
    sign_outputs,
    surroundings,
    write_standing,
)
from kvmcompose.effects.stat_cache import StatCache
from kvmcompose.pipeline.compile import Compiled, compile_project
from kvmcompose.tasks.decide import Action, Decider, Decision, Making, Options, recover
from kvmcompose.tasks.images import Images, image_of, image_task
from kvmcompose.tasks.inputs import Inputs
from kvmcompose.tasks.make import Maker
from kvmcompose.tasks.sources import Where, epoch, hashed, read_sources, settings

#: What kvm-compose keeps for itself in a project folder.
PRIVATE_FOLDER = ".kvm-compose"

#: What ends the life of a disk.
_ENDING = (Action.REBUILD, Action.REMOVE)


class ImageStep(msgspec.Struct, frozen=True):
    """An image that artefacts need: whether something has to be done to have it."""

    task: str
    image: BaseImage
    action: Action
    reasons: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return self.action is Action.KEEP


class Plan(msgspec.Struct, frozen=True):
    """What a build would do: with images, with artefacts in order, and with files nobody needs.

    A ``partial`` plan is one for some names only; it leaves the files that nobody needs alone.
    ``untouched`` artefacts are up to date without having been decided on. ``records`` are those that the
    decisions rest on.
    """

    images: tuple[ImageStep, ...]
    decisions: tuple[Making, ...]
    stale: tuple[Decision, ...]
    records: dict[str, Record]
    partial: bool
    untouched: int = 0

    @property
    def pending(self) -> tuple[Decision, ...]:
        """The decisions that a build has to act on."""
        return tuple(each for each in (*self.decisions, *self.stale) if not each.settled)


class Project:
    """A project that could be read and makes sense. Raises InputError with all problems when not."""

    def __init__(self, where: Where, options: Options = Options()) -> None:  # noqa: B008 (it is frozen)
        self._began_ns = time.time_ns()
        self._few: dict[str, Artefact] = {}
        self._standing: Standing | None = None
        self.folder = where.directory.absolute()
        self.options = options
        testbed, config = read_sources(self.folder, where)
        self._hashed = hashed(self.folder, where, testbed, config)
        catalogue = read_catalogue()
        known = self.ledger.file_digests() if ledger_path(self.folder).exists() else ()
        self._digests = StatCache(known)
        allowed = [self.folder / expand(each) for each in where.allow_paths]
        store = default_store()
        self.files = FolderFiles(
            self.folder, self._digests, allowed, (*catalogue.names(), *(image.name for image in store.list()))
        )
        self.images = Images(store, catalogue, self.files)
        self.compiled: Compiled = compile_project(
            testbed, config, schemas(), settings(self.folder, where), self.files, FolderMemory(self.folder)
        )
        self._templates = templates(self.folder)
        self._epoch = epoch()
        self.inputs = Inputs(self.artefact_at, self._templates, self.files, self.images, self._epoch)

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        """All artefacts by path."""
        return {artefact.path: artefact for artefact in self.compiled.artefacts}

    def artefact_at(self, path: str) -> Artefact:
        """The artefact of a path; without working out all the others when its guest is known."""
        return self._few.get(path) or self.artefacts[path]

    @cached_property
    def ledger(self) -> Ledger:
        """The project's ledger; an empty one in memory as long as nothing was ever built."""
        return self._open_ledger() if ledger_path(self.folder).exists() else Ledger(None)

    def _open_ledger(self) -> Ledger:
        try:
            return open_ledger(ledger_path(self.folder))
        except OSError as error:
            raise KvmComposeError(f"{str(self.folder / PRIVATE_FOLDER)!r}: {error.strerror}") from error

    @cached_property
    def maker(self) -> Maker:
        """Makes this project's artefacts."""
        return Maker(
            self.folder, self.ledger, self.inputs, self._templates, self.files, self.images, self._epoch
        )

    @cached_property
    def decider(self) -> Decider:
        """Decides on this project's artefacts."""
        return Decider(self.folder, self.ledger, self.inputs, self.maker.build, self.options)

    def locked(self, waiting: Callable[[str], None] | None) -> AbstractContextManager[None]:
        """Hold the project's build lock; see ``build_lock``."""
        if self.ledger.path is None:
            self.ledger = self._open_ledger()
        if self.ledger.read_only:
            raise RefusedError(f"cannot write to {str(self.folder)!r}")
        for name in (PRIVATE_FOLDER, "artefacts", "artefacts/images"):
            if not self.files.may_hold(name):
                raise RefusedError(
                    f"{name} is a link that leads out of the project folder",
                    hint="to build there, allow the place with --allow-path DIR",
                )
        return build_lock(self.folder / PRIVATE_FOLDER / "lock", waiting=waiting)

    def records(self, *, write: bool) -> dict[str, Record]:
        """What was built, as far as the ledger knows."""
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
        """What a build of ``names`` would do. Only with ``write`` the ledger is put in order."""
        records = self.records(write=write)
        selected = self.select(names)
        decisions = [self.decider.decide(each, records.get(each.path)) for each in selected]
        stale = [] if names else [
            self.decider.left_over(record) for path, record in records.items() if path not in self.artefacts
        ]  # fmt: skip
        self._keep_what_data_lies_on(decisions, stale, records)
        steps = tuple(self._image_steps(decisions))
        return Plan(steps, tuple(decisions), tuple(stale), records, partial=bool(names))

    def short_plan(self) -> Plan | None:
        """The plan, looking only at guests whose slice of the state has changed since the last build.

        None when that is not known to be enough: then ``plan`` looks at everything.
        """
        standing = read_standing(str(self.folder / PRIVATE_FOLDER))
        guests = self.compiled.state.testbed_guests
        if standing is None or self.options != Options() or self.ledger.intents():
            return None
        if not standing.groups.keys() - {""} <= guests.keys():
            return None  # what belonged to guests that are gone has to be looked for
        nothing: tuple[str, list[str]] = ("", [])
        slices = self.compiled.slice
        changed = {name for name in guests if standing.groups.get(name, nothing)[0] != slices(name)}
        changed |= {guests[name].extra_info.reference_image or name for name in changed}
        if len(changed) * 4 > len(guests) or not rests(standing, str(self.folder), self._around()):
            return None
        of_guests = (each for name in guests if name in changed for each in self.compiled.artefacts_of(name))
        wanted = {each.path: each for each in (*self.compiled.common_artefacts, *of_guests)}
        self._few = wanted
        before = {path for name in ("", *changed) for path in standing.groups.get(name, nothing)[1]}
        records = self.ledger.records(sorted(before | wanted.keys()))
        decisions = tuple(self.decider.decide(each, records.get(path)) for path, each in wanted.items())
        gone = sorted(before - wanted.keys())
        stale = tuple(self.decider.left_over(records[path]) for path in gone if path in records)
        if any(each.policy is Policy.MUTABLE and each.action in _ENDING for each in (*decisions, *stale)):
            return None  # other guests' disks may lie on it
        self._standing = standing
        steps = tuple(self._image_steps(decisions))
        untouched = len(standing.outputs()) - len(before)
        return Plan(steps, decisions, stale, records, partial=False, untouched=untouched)

    def _keep_what_data_lies_on(
        self, decisions: list[Making], stale: list[Decision], records: dict[str, Record]
    ) -> None:
        going = {
            each.path
            for each in (*decisions, *stale)
            if each.policy is Policy.MUTABLE and each.action in _ENDING
        }
        kept = self.lain_on(going, records)
        decisions[:] = (_held(each, kept, Action.IN_USE) for each in decisions)
        stale[:] = (_held(each, kept, Action.LEFT_OVER) for each in stale)

    def lain_on(self, going: Container[str], records: Mapping[str, Record]) -> dict[str, str]:
        """Which disks must not go, with a clone that keeps data and would lose it with them."""
        found = {}
        for record in records.values() if going else ():
            if not record.task.startswith("clone:") or record.path in going:
                continue
            below = self.decider.below(record)
            if below is not None and below in going and self.decider.is_as_built(records.get(below)):
                found[below] = record.path
        return found

    def _image_steps(self, decisions: Sequence[Making]) -> Iterator[ImageStep]:
        needed: dict[BaseImage, bool] = {}
        for decision in decisions:
            image = image_of(decision.artefact)
            if image is not None:
                needed[image] = needed.get(image, False) or not decision.settled
        for image, stale in needed.items():
            resolved = self.images.resolve(image)
            name = image_task(image)
            if resolved is None:
                action = Action.CREATE if stale else Action.KEEP
                yield ImageStep(name, image, action, ("not in the store: it will be fetched",))
            elif not self.images.is_linked(resolved):
                yield ImageStep(name, image, Action.CREATE)
            else:
                yield ImageStep(name, image, Action.KEEP)

    def make_keys(self) -> None:
        """Make this user's key pair, when the project uses it and it is not there."""
        if self.compiled.state.testbed_guest_shared_config == default_keys():
            make_keys(default_keys())

    def _around(self) -> dict[str, str]:
        return surroundings(str(Path(kvmcompose.__file__).parent))

    def stand(self, summary: str) -> None:
        """Note that nothing is left to do, and what that rests on; see ``effects.standing``."""
        templates_folder = self.folder / "templates"
        watched = self.files.seen() | own_files() | self.images.seen()
        watched.update((str(templates_folder), *(str(path) for path in templates_folder.glob("*"))))
        watched.add(str(probe_cache()))
        if self._standing is not None:
            watched.update(self._standing.inputs)
        root = str(self.folder)
        with suppress(OSError):  # the next build will look at everything, that is all
            inputs = sign_inputs(watched, self._began_ns)
            if inputs is None:
                return
            groups, numbers = self._groups(root)
            standing = Standing(self._around(), self._hashed, inputs, groups, numbers, summary)
            write_standing(str(self.folder / PRIVATE_FOLDER), standing)

    def _groups(self, root: str) -> tuple[dict[str, tuple[str, list[str]]], array[int]]:
        """The outputs by guest, and their signatures: for untouched ones those of the last build."""
        known = self._standing.groups if self._standing is not None else {}
        signed = self._standing.numbers_of() if self._standing is not None else {}
        fresh: dict[str, list[str]] = {}
        for path, artefact in (self._few if self._standing is not None else self.artefacts).items():
            fresh.setdefault(artefact.guest or "", []).append(path)
        groups = {}
        numbers = array("q")
        for name in ("", *self.compiled.state.testbed_guests):
            if name in known and name not in fresh:
                groups[name] = known[name]
                numbers.extend(signed[name])
            else:
                groups[name] = (self.compiled.slice(name) if name else "", fresh.get(name, []))
                numbers.extend(sign_outputs(root, groups[name][1]))
        return groups, numbers

    def finish(self) -> None:
        """Keep what was found out about files for the next build."""
        self.ledger.remember_files(self._digests.fresh.items())
        self.ledger.refresh(self.decider.refreshed)


_AnyDecision = TypeVar("_AnyDecision", bound=Decision)


def _held(decision: _AnyDecision, kept: Mapping[str, str], action: Action) -> _AnyDecision:
    above = kept.get(decision.path)
    if above is None:
        return decision
    reasons = (f"{above} lies on it, and its guest has run",)
    return msgspec.structs.replace(decision, action=action, reasons=reasons)


def ledger_path(folder: Path) -> Path:
    """Where a project's ledger lies."""
    return folder / PRIVATE_FOLDER / "ledger.sqlite"
