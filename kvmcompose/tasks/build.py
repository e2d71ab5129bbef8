"""A build: acts on the decisions, one artefact at a time, and tells a listener what it does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kvmcompose.core.artefact import Policy
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.event import Done, Failed, Listener, Noticed, Transferred
from kvmcompose.effects.ledger import Record
from kvmcompose.effects.qcow2 import read_header
from kvmcompose.tasks.decide import FAILING, Action, Decision, Making
from kvmcompose.tasks.project import ImageStep, Plan, Project, image_of


class Build:
    """Acts for doit's tasks. Every method may be called from several threads."""

    def __init__(self, project: Project, listener: Listener) -> None:
        self.project = project
        self.listener = listener
        self._guard = threading.Lock()
        self._records: dict[str, Record] = {}
        self.made = 0
        self.kept = 0
        self.failed = 0

    def begin(self, names: Sequence[str] = ()) -> Plan:
        """Take stock under the lock, and take in what needs no work."""
        self.project.make_keys()
        plan = self.project.plan(names, write=True)
        self._records = self.project.records(write=False)
        adopted = [each for each in plan.decisions if each.action is Action.ADOPT]
        self.project.ledger.record(self.project.maker.adopt(each) for each in adopted)
        self.project.ledger.record(self._settled(plan))
        if self.project.ledger.notice:
            self.listener(Noticed(self.project.ledger.notice))
        for each in (*plan.decisions, *plan.stale):
            if each.action in (Action.CUSTOMISED, Action.LEFT_OVER):
                self.listener(Done(each.path, each.task, each.action.value, each.reasons))
        self.kept = sum(each.settled for each in plan.decisions)
        return plan

    def _settled(self, plan: Plan) -> Iterator[Record]:
        """Edited files whose ``.new`` the user removed: they count as made of what there is now."""
        for each in plan.decisions:
            record = self._records.get(each.path)
            if each.action is not Action.CUSTOMISED or record is None:
                continue
            if record.recipe != each.recipe.digest:
                yield msgspec.structs.replace(
                    record, recipe=each.recipe.digest, inputs=each.recipe.inputs, offered=None
                )

    def fetch(self, step: ImageStep) -> bool:
        """Have an image in the store, and its link in place. False when it failed, which is told."""
        return self._attempt(step.task, lambda: self._fetch(step))

    def _fetch(self, step: ImageStep) -> None:
        def progress(done: int, total: int | None) -> None:
            self.listener(Transferred(step.task, done, total))

        images = self.project.images
        resolved = images.fetch(step.image, progress)
        if not images.is_linked(resolved):
            images.link(step.image, resolved)
        self._count(Done(f"artefacts/{resolved.link}", step.task, "link", step.reasons))

    def make(self, decision: Making) -> bool:
        """Make one artefact. False when it failed, which is told."""
        return self._attempt(decision.task, lambda: self._make(decision))

    def _make(self, decision: Making) -> None:
        artefact = decision.artefact
        if image_of(artefact) is not None:
            # the image may have been fetched since
            self.project.inputs.forget(artefact.path)
            decision = self.project.decider.decide(artefact, self._records.get(artefact.path))
        if decision.action in FAILING:
            self._refuse(decision)
        if not decision.settled:
            self.project.maker.make(decision)
        self._count(Done(decision.path, decision.task, decision.action.value, decision.reasons))

    def _refuse(self, decision: Making) -> None:
        reasons = "; ".join(decision.reasons)
        if decision.action is Action.CONFLICT:
            self.project.maker.offer(decision, self._records[decision.path])
            raise KvmComposeError(
                f"{decision.path} is kept as it is: {reasons}",
                hint=f"the new version is {decision.path}.new: take over what you need and remove it, "
                "or let --overwrite take it (your file is then kept as .orig)",
            )
        hint = "--provision makes a new disk" if decision.action is Action.IN_USE else "move it away"
        raise KvmComposeError(f"{decision.path} is kept as it is: {reasons}", hint=hint)

    def remove(self, decision: Decision) -> bool:
        """Remove a file that nobody needs any more. False when it failed, which is told."""
        return self._attempt(decision.task, lambda: self._remove(decision))

    def _remove(self, decision: Decision) -> None:
        path = self.project.folder / decision.path
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise KvmComposeError(f"cannot remove {decision.path}: {error.strerror}") from error
        self.project.ledger.drop([decision.path])
        self._count(Done(decision.path, decision.task, decision.action.value, decision.reasons))

    def _attempt(self, task: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except KvmComposeError as error:
            with self._guard:
                self.failed += 1
            self.listener(Failed(task, error))
            return False
        return True

    def _count(self, event: Done) -> None:
        with self._guard:
            self.made += 1
        self.listener(event)

    def end(self, plan: Plan) -> None:
        """Note what was found out about files, and remove links to images that no disk needs."""
        self.project.finish()
        if plan.partial:
            return
        used = set(self._links_in_use(plan))
        folder = self.project.folder / "artefacts" / "images"
        if folder.is_dir():
            for link in folder.iterdir():
                if link.is_symlink() and f"images/{link.name}" not in used:
                    link.unlink()

    def _links_in_use(self, plan: Plan) -> Iterator[str]:
        for artefact in self.project.artefacts.values():
            image = image_of(artefact)
            if image is None:
                continue
            resolved = self.project.images.resolve(image)
            if resolved is not None:
                yield resolved.link
            else:  # gone from the store, but there may be a disk that was made on it
                with contextlib.suppress(KvmComposeError):
                    yield read_header(self.project.folder / artefact.path).backing_file or ""
        for decision in (*plan.decisions, *plan.stale):
            if decision.policy is Policy.MUTABLE and decision.action in (Action.IN_USE, Action.LEFT_OVER):
                with contextlib.suppress(KvmComposeError):  # a file that is no disk lies on nothing
                    yield read_header(self.project.folder / decision.path).backing_file or ""
