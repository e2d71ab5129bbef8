"""A build: acts on the decisions, and reports to a listener what it does."""

from __future__ import annotations

import array
import contextlib
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

import kvmcompose
from kvmcompose.build.base_images import image_of
from kvmcompose.build.decide import lstat
from kvmcompose.build.decision import FAILING, Decision, Disposition, Making
from kvmcompose.build.ledger import LedgerEntry
from kvmcompose.build.leftovers import sweep
from kvmcompose.build.make import Staged
from kvmcompose.build.offers import use_or_remove
from kvmcompose.build.outputs import PRIVATE_FOLDER
from kvmcompose.build.overview import overview
from kvmcompose.build.project import ImageStep, Plan, Project
from kvmcompose.build.project_inputs import beyond_environment
from kvmcompose.build.stamp import (
    BuildStamp,
    drop_stamp,
    input_signatures,
    output_signatures,
    surroundings,
    write_stamp,
)
from kvmcompose.core.artefact import BaseImage, Policy
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.event import Done, Failed, Listener, Noticed, Transferred
from kvmcompose.effects.capabilities import probe_cache
from kvmcompose.effects.files import is_readable, restrict
from kvmcompose.effects.keys import default_keys, make_keys
from kvmcompose.effects.resources import own_files
from kvmcompose.effects.stat_cache import Signature
from kvmcompose.images.qcow2 import read_header

#: Prepares artefacts; see ``Build.stage``.
Stage = Callable[[Sequence[Making]], Sequence[Staged | KvmComposeError]]


class Build:
    """Performs doit's tasks. Every method may be called from several threads."""

    def __init__(self, project: Project, listener: Listener) -> None:
        self.project = project
        self.listener = listener
        self._guard = threading.Lock()
        self._records: dict[str, LedgerEntry] = {}
        self.made = 0
        self.removed = 0
        self.kept = 0
        self.failed = 0
        #: Disks that grow once their guests are off.
        self.deferred = 0

    def begin(self, names: Sequence[str] = (), *, alone: bool = True) -> Plan:
        """Make the plan under the lock, and record what needs no work.

        Without ``alone`` other processes of this build may have files staged, which are left to them.
        """
        if self.project.compiled.state.testbed_guest_shared_config == default_keys():
            make_keys(default_keys())
        if alone:
            self.sweep()
        plan = self.project.plan(names, write=True)
        notable = plan.notable
        adopted = [each for each in notable if each.action is Disposition.ADOPT]
        if plan.pending or adopted or not all(step.settled for step in plan.images):
            drop_stamp(str(self.project.folder / PRIVATE_FOLDER))
        self._follow()
        self._records = plan.records
        self._close()
        # before anything is made: afterwards rebuilt files have another signature
        self.project.record_signatures()
        self.project.ledger.rename(
            (path, artefact.task)
            for path, artefact in self.project.artefacts.items()
            if path in self._records and self._records[path].task != artefact.task
        )
        self.project.ledger.record(self.project.maker.adopt(each) for each in adopted)
        self.project.ledger.record(self._settled(plan))
        if self.project.ledger.notice:
            self.listener(Noticed(self.project.ledger.notice))
        for each in (*notable, *plan.stale):
            if each.action in (Disposition.CUSTOMISED, Disposition.LEFT_OVER):
                self.listener(Done(each.path, each.task, each.action.value, each.reasons))
        self.kept = len(plan.decisions) - sum(not each.settled for each in notable)
        return plan

    def _close(self) -> None:
        """Remove access by others to files that version 0.1 let them read. Content and mtime stay."""
        project = self.project
        for name in project.decider.exposed:
            record = self._records.get(name)
            known = record is not None and lstat(project.folder / name)
            changed = restrict(project.folder / name)
            if changed is None or record is None or not known:
                continue
            if Signature.of(known) == record.signature:
                project.decider.refreshed.append((name, Signature.of(changed).or_unsettled()))
        project.decider.exposed.clear()

    def _follow(self) -> None:
        """Record in the image store where this project is; it may have moved."""
        try:
            self.project.images.follow()
        except KvmComposeError as error:
            self.listener(
                Noticed(
                    f"{error.message}: cloud-images prune does not know that this project uses its images"
                )
            )

    def sweep(self) -> None:
        """Remove what a build that was killed or interrupted had staged."""
        sweep(self.project.folder)

    def _settled(self, plan: Plan) -> Iterator[LedgerEntry]:
        """Yield entries of edited files whose ``.new`` the user removed, with the current recipe."""
        for each in plan.notable:
            record = self._records.get(each.path)
            if each.action is not Disposition.CUSTOMISED or record is None:
                continue
            recipe = self.project.recipes.recipe(each.artefact)
            if record.recipe != recipe.digest:
                yield msgspec.structs.replace(
                    record, recipe=recipe.digest, inputs=recipe.inputs, offered=None
                )

    def fetch(self, step: ImageStep) -> bool:
        """Fetch an image into the store and link to it. Returns False on failure (already reported)."""

        def progress(done: int, total: int | None) -> None:
            self.listener(Transferred(step.task, done, total))

        images = self.project.images
        try:
            resolved = images.fetch(step.image, progress)
            if not images.is_linked(resolved):
                images.link(step.image, resolved)
        except OSError as error:
            self._fail(
                step.task, KvmComposeError(f"cannot write below artefacts/images: {error.strerror or error}")
            )
            return False
        except KvmComposeError as error:
            self._fail(step.task, error)
            return False
        self._count(Done(f"artefacts/{resolved.link}", step.task, step.action.value, step.reasons))
        return True

    def make(self, decisions: Sequence[Making], stage: Stage | None = None) -> bool:
        """Make artefacts and put them in place together. Returns False if one failed (already reported).

        ``stage`` prepares them, in other processes perhaps; without it that is done here.
        """
        ready = []
        failed = self.failed
        for decision in map(self._current, decisions):
            if decision.action in FAILING:
                self._refuse(decision)
            elif decision.action is Disposition.GROW:
                self._grow(decision)
            elif not decision.settled:
                ready.append(decision)
        try:
            outcomes = (stage or self.stage)(ready)
        except KvmComposeError as error:
            self._fail(decisions[0].task, error)
            return False
        staged = []
        for decision, outcome in zip(ready, outcomes, strict=True):
            if isinstance(outcome, KvmComposeError):
                self._fail(decision.task, outcome)
            else:
                staged.append(outcome)
        disturbed = self._place(ready, staged)
        done = {each.intent.path for each in staged} - {each.path for each in disturbed}
        for decision in ready:
            if decision.path in done:
                self._count(Done(decision.path, decision.task, decision.action.value, decision.reasons))
        self._decide_again(disturbed)
        return self.failed == failed

    def _grow(self, decision: Making) -> None:
        """Enlarge a disk in place; while its guest runs only say that it will grow."""
        try:
            later = self.project.maker.grow(decision, self._records.get(decision.path))
        except KvmComposeError as error:
            self._fail(decision.task, error)
            return
        if later is None:
            self._count(Done(decision.path, decision.task, decision.action.value, decision.reasons))
            return
        self.deferred += 1
        self.listener(Noticed(f"{decision.path} {'; '.join(decision.reasons)}, {later}"))

    def _place(self, ready: Sequence[Making], staged: Sequence[Staged]) -> list[Making]:
        """Put what was staged in place. Returns the artefacts whose place was written to meanwhile."""
        try:
            placed = self.project.maker.commit(staged)
        except KvmComposeError as error:
            self._fail(ready[0].task, error)
            self.project.maker.discard(staged)
            return []
        for name in placed.kept:
            hint = use_or_remove(self.project.folder, name)
            self.listener(Noticed(f"{name} is kept, as it is not what was offered: {hint}"))
        self.project.maker.discard(placed.disturbed)
        paths = {each.intent.path for each in placed.disturbed}
        return [decision for decision in ready if decision.path in paths]

    def _decide_again(self, disturbed: Sequence[Making]) -> None:
        """Decide again on files that were written to while their successors were made."""
        for decision in disturbed:
            self.project.recipes.forget(decision.path)
            again = self.project.decider.decide(decision.artefact, self._records.get(decision.path))
            if not again.settled and again.action not in FAILING:
                message = f"{decision.path} was written to while it was being made: it is kept as it is"
                self._fail(decision.task, KvmComposeError(message, hint="kvm-compose generate"))
            elif again.action in FAILING:
                self._refuse(again)

    def stage(self, decisions: Iterable[Making]) -> list[Staged | KvmComposeError]:
        """Stage artefacts; for each return what was staged, or why it could not be made."""
        outcomes: list[Staged | KvmComposeError] = []
        for decision in decisions:
            try:
                outcomes.append(self.project.maker.stage(decision))
            except KvmComposeError as error:
                outcomes.append(error)
        return outcomes

    def _current(self, decision: Making) -> Making:
        """Repeat the decision if it depends on an image that may have been fetched meanwhile."""
        artefact = decision.artefact
        if image_of(artefact) is None:
            return decision
        self.project.recipes.forget(artefact.path)
        again = self.project.decider.decide(artefact, self._records.get(artefact.path))
        # only the plan knows of the clones that need it
        kept = decision.action is Disposition.IN_USE and again.action is Disposition.REBUILD
        return decision if kept else again

    def _refuse(self, decision: Making) -> None:
        reasons = "; ".join(decision.reasons)
        message = f"{decision.path} is kept as it is: {reasons}"
        hint = "move it away"
        if decision.action is Disposition.CONFLICT:
            hint = (
                f"the new version is {decision.path}.new: take over what you need and remove it, "
                "or let --overwrite take it (your file is then kept as .orig)"
            )
            try:
                if not self.project.maker.offer(decision, self._records[decision.path]):
                    new = f"{decision.path}.new"
                    hint = f"{new} is yours and kept, too: {use_or_remove(self.project.folder, new)}"
            except KvmComposeError as error:
                message, hint = error.message, error.hint or hint
        elif decision.action is Disposition.IN_USE:
            hint = decision.hint or "--provision makes a new disk"
        self._fail(decision.task, KvmComposeError(message, hint=hint))

    def remove(self, decisions: Sequence[Decision]) -> bool:
        """Remove files that are no longer wanted. Returns False if one failed (already reported)."""
        removed = []
        for decision in decisions:
            try:
                gone = self.project.maker.remove(decision)
            except OSError as error:
                message = f"cannot remove {decision.path}: {error.strerror}"
                self._fail(decision.task, KvmComposeError(message))
                continue
            if not gone:
                message = f"{decision.path} is kept: it has been written to since it was checked"
                self._fail(decision.task, KvmComposeError(message, hint="kvm-compose generate"))
                continue
            removed.append(decision)
        self.project.ledger.drop(each.path for each in removed)
        with self._guard:
            self.removed += len(removed)
        for decision in removed:
            self.listener(Done(decision.path, decision.task, decision.action.value, decision.reasons))
        return len(removed) == len(decisions)

    def _fail(self, task: str, error: KvmComposeError) -> None:
        with self._guard:
            self.failed += 1
        self.listener(Failed(task, error))

    def _count(self, event: Done) -> None:
        with self._guard:
            self.made += 1
        self.listener(event)

    def end(self, plan: Plan, *, complete: bool) -> None:
        """Record what was learned about files, and remove links to images that no disk needs.

        ``complete`` is False for a build that was interrupted.
        """
        self.project.finish()
        if plan.partial:
            return
        loud = {Disposition.CUSTOMISED, Disposition.LEFT_OVER}  # every build reports these
        quiet = not any(each.action in loud for each in (*plan.notable, *plan.stale))
        if (
            complete
            and quiet
            and not self.failed
            and not self.deferred
            and not self.project.compiled.warnings
        ):
            self._stand(plan)
        self._remove_unused_links(plan)

    def _stand(self, plan: Plan) -> None:
        """Write the build stamp: nothing is left to do, and on which files that depends."""
        project = self.project
        templates = project.folder / "templates"
        watched = project.files.seen() | project.images.seen() | own_files()
        watched |= {str(probe_cache()), str(templates), *map(str, templates.glob("*"))}
        with contextlib.suppress(OSError):  # then the next build checks everything
            inputs = input_signatures(watched, project.began_ns)
            if inputs is None:
                return
            root = str(project.folder)
            package = str(Path(kvmcompose.__file__).parent)
            stamp = BuildStamp(
                around=surroundings(package, root) | beyond_environment(project.where),
                hashed=project.hashed,
                inputs=inputs,
                outputs=[each.path for each in plan.decisions],
                numbers=_signatures(root, plan),
                summary=f"{len(plan.decisions)} up to date",
                overview=overview(project.artefacts.values()),
            )
            write_stamp(str(project.folder / PRIVATE_FOLDER), stamp)

    def _remove_unused_links(self, plan: Plan) -> None:
        folder = self.project.folder / "artefacts" / "images"
        images = {image for image in map(image_of, self.project.artefacts.values()) if image is not None}
        resolved = {image: self.project.images.resolve(image) for image in images}
        used = {found.link for found in resolved.values() if found is not None}
        unused = [
            link
            for link in (folder.iterdir() if folder.is_dir() else ())
            if link.is_symlink() and f"images/{link.name}" not in used
        ]
        if not unused or any(self._is_hidden(each) for each in (*plan.decisions, *plan.stale)):
            return  # the backing file of a disk that QEMU's user owns cannot be read
        missing = {image for image, found in resolved.items() if found is None}
        used = set(self._backing_files(plan, missing))
        for link in unused:
            if f"images/{link.name}" not in used:
                link.unlink()

    def _is_hidden(self, decision: Decision) -> bool:
        path = self.project.folder / decision.path
        return decision.policy is Policy.MUTABLE and path.exists() and not is_readable(path)

    def _backing_files(self, plan: Plan, missing: Container[BaseImage]) -> Iterator[str]:
        """Yield the backing files of disks that are kept, or whose image is no longer in the store."""
        folder = self.project.folder
        kept = (Disposition.IN_USE, Disposition.LEFT_OVER)
        disks = [
            *(folder / path for path, each in self.project.artefacts.items() if image_of(each) in missing),
            *(
                folder / each.path
                for each in (*plan.decisions, *plan.stale)
                if each.policy is Policy.MUTABLE and each.action in kept
            ),
            *(folder / "artefacts").glob("*.orig*"),  # damaged disks are kept so
        ]
        for path in disks:
            with contextlib.suppress(KvmComposeError):  # a file that is not a disk has no backing file
                yield read_header(path).backing_file or ""


def _signatures(root: str, plan: Plan) -> array.array[int]:
    """Return the signatures of all artefacts, for the build stamp. Raises OSError.

    That of a file which was found unchanged is in the ledger. If it was written to since, it has another one
    now, and the next build checks everything.
    """
    numbers: list[int] = []
    for each in plan.decisions:
        if each.action is Disposition.KEEP and each.seen is None:
            known = plan.records[each.path]
            numbers += (known.ctime_ns, known.mtime_ns, known.size, known.inode)
        else:
            numbers += output_signatures(root, [each.path])
    return array.array("q", numbers)
