"""The part of a plan that is about files."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kvmcompose.monitor.build import line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmcompose.build.decision import Decision, Disposition
    from kvmcompose.build.project import Plan, Project
    from kvmcompose.core.planned import PlannedFile
    from kvmcompose.monitor.console import Console


class FilePlan:
    """The part of a plan that is about files."""

    def __init__(self, project: Project, plan: Plan) -> None:
        self._project = project
        self._images = plan.images
        self._decisions: tuple[Decision, ...] = (*plan.decisions, *plan.stale)

    def _all(self) -> list[tuple[Disposition, str, str, tuple[str, ...]]]:
        """Return action, path, task and reasons of images and artefacts."""
        rows = [(step.action, step.task, step.task, step.reasons) for step in self._images]
        return rows + [(each.action, each.path, each.task, each.reasons) for each in self._decisions]

    def _pending(self) -> list[tuple[Disposition, str, str, tuple[str, ...]]]:
        from kvmcompose.build.decision import Disposition

        return [row for row in self._all() if row[0] not in (Disposition.KEEP, Disposition.ADOPT)]

    @property
    def changes(self) -> bool:
        """Whether a build has something to do."""
        from kvmcompose.build.decision import Disposition

        return any(row[0] not in (Disposition.CUSTOMISED, Disposition.LEFT_OVER) for row in self._pending())

    @property
    def fails(self) -> bool:
        """Whether a build could not make all of it."""
        from kvmcompose.build.decision import FAILING

        return any(each.action in FAILING for each in self._decisions)

    @property
    def in_use(self) -> tuple[Decision, ...]:
        """The disks that a build would have to make, but which have data."""
        from kvmcompose.build.decision import Disposition

        return tuple(each for each in self._decisions if each.action is Disposition.IN_USE)

    @property
    def to_write(self) -> set[str]:
        """The paths of artefacts that a build writes or removes."""
        from kvmcompose.build.decision import FAILING, SETTLED

        return {each.path for each in self._decisions if each.action not in SETTLED | FAILING}

    def diffs(self) -> dict[str, str]:
        """Return the differences of text artefacts, by path."""
        from kvmcompose.build.explain import difference

        return {each.path: difference(self._project, each) for each in self._decisions}

    def rows(self, diffs: Mapping[str, str]) -> tuple[PlannedFile, ...]:
        """Return all images and artefacts."""
        from kvmcompose.core.planned import PlannedFile

        return tuple(
            PlannedFile(
                action=action.value, path=path, task=task, reasons=reasons, diff=diffs.get(path) or None
            )
            for action, path, task, reasons in self._all()
        )

    def show(self, diffs: Mapping[str, str], console: Console, label: str = "") -> None:
        """Print what a build would do. ``label`` begins the summary."""
        for action, path, _task, reasons in self._all() if console.verbosity > 0 else self._pending():
            console.data(line(console, action.value, path, reasons))
            if diffs.get(path):
                console.verbatim(_coloured(console, diffs[path]))
        steps = [step.action for step in self._images if not step.settled]
        console.say(label + _summary([*steps, *(each.action for each in self._decisions)]))


def _summary(actions: list[Disposition]) -> str:
    from kvmcompose.build.decision import FAILING, SETTLED, Disposition

    counts: Counter[Disposition] = Counter(
        Disposition.KEEP if action is Disposition.ADOPT else action for action in actions
    )
    kept = counts.pop(Disposition.KEEP, 0)
    to_do = [action for action in Disposition if action in counts and action not in (*FAILING, *SETTLED)]
    parts = [f"{counts[action]} to {action.value}" for action in to_do]
    parts += [f"{counts.pop(Disposition.CUSTOMISED)} customised"] if Disposition.CUSTOMISED in counts else []
    parts += [f"{counts.pop(Disposition.LEFT_OVER)} left over"] if Disposition.LEFT_OVER in counts else []
    stuck = sum(counts[action] for action in FAILING)
    if stuck:
        parts.append(f"{stuck} would fail")
    return ", ".join([*(parts or ["nothing to do"]), f"{kept} up to date"])


def _coloured(console: Console, diff: str) -> str:
    colours = {"+": "green", "-": "red", "@": "blue"}
    lines = diff.rstrip("\n").split("\n")
    return "\n".join(console.paint(text, colours[text[0]]) if text[:1] in colours else text for text in lines)
