"""The short ways to a plan, for projects that stand and were changed a little since.

When nothing changed but the text of a few machines, their guests are worked out and nobody else: that is
an ``edit``. When more changed, all is compiled, and each guest's slice of the state tells whose artefacts to
look at. Everybody else's artefacts are as they were, which their signatures say. When those say otherwise,
or anything else is in doubt, there is no short way, and the plan looks at everything.
"""

from __future__ import annotations

from array import array
from collections.abc import Container
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import msgspec

import kvmcompose
from kvmcompose.build.decide import Options, look
from kvmcompose.build.overview import overview
from kvmcompose.build.project import ENDING, PRIVATE_FOLDER, Plan, Project
from kvmcompose.build.project_inputs import beyond_environment
from kvmcompose.build.stamp import (
    FILE_NAME,
    Standing,
    inputs_rest,
    read_standing,
    rests,
    sign_inputs,
    sign_outputs,
    surroundings,
    write_standing,
)
from kvmcompose.core.artefact import Artefact, Policy
from kvmcompose.core.errors import Problem
from kvmcompose.core.model import SshKeys
from kvmcompose.effects.machine import probe_cache
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.resources import own_files, schemas
from kvmcompose.effects.stat_cache import Signature
from kvmcompose.pipeline.amend import Amended, Built, amend
from kvmcompose.pipeline.compile import STATE_PATH, guest_artefacts, guest_slice, state_artefact

#: A group of artefacts: the digest of the slice that they are made of, and their paths.
_Group = tuple[str, list[str]]

_NOTHING = ("", 0)
#: When the artefacts of one guest in so many have to be looked at, all are.
_FEW = 4


class _Look(msgspec.Struct, frozen=True):
    """Whose artefacts to look at: the paths that were theirs, their groups as they are, what is wanted."""

    standing: Standing
    before: set[str]
    after: dict[str, _Group]
    wanted: dict[str, Artefact]

    @property
    def overview(self) -> str:
        """That of the last build as long as the tasks are the same. No disk gets another image this way."""
        return self.standing.overview if self.before == self.wanted.keys() else ""


class ShortWay:
    """The short ways through one project; also notes how it stands after a build, for the next."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._root = str(project.folder)
        self._private = str(project.folder / PRIVATE_FOLDER)
        self._look: _Look | None = None

    @cached_property
    def _around(self) -> dict[str, str]:
        package = str(Path(kvmcompose.__file__).parent)
        return surroundings(package, self._root) | beyond_environment(self._project.where)

    @cached_property
    def _standing(self) -> Standing | None:
        self._noted = self._note()
        return read_standing(self._private)

    def _note(self) -> Signature | None:
        """What tells that the standing is still the one that was read."""
        status = look(f"{self._private}/{FILE_NAME}")
        return Signature.of(status) if status is not None else None

    @cached_property
    def edit(self) -> Amended | None:
        """The new state when nothing but a few machines was edited, as far as that can be told in no time.

        Whether that holds is found out by ``plan``, under the lock.
        """
        project, standing = self._project, self._standing
        if standing is None or project.options != Options():
            return None
        testbed, *others = project.hashed.items()
        if testbed in standing.hashed.items() or others != list(standing.hashed.items())[1:]:
            return None
        if not inputs_rest(standing, self._around):
            return None
        try:
            state = read_regular(project.folder / STATE_PATH, limit=DOCUMENT_LIMIT)
        except OSError:
            return None
        built = Built(standing.text, standing.machines, state)
        return amend(built, project.testbed.data, project.settings.project, schemas(), project.files)

    @property
    def keys(self) -> SshKeys:
        """The key pair of the guests."""
        if self.edit is not None:
            return self.edit.shared.guest_config
        return self._project.compiled.state.testbed_guest_shared_config

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is odd about the project; of one that stands, nothing is."""
        return () if self.edit is not None else self._project.compiled.warnings

    def plan(self) -> Plan | None:
        """The plan, looking only at guests that changed since the last build.

        None when that is not known to be enough: then the project's own plan looks at everything.
        """
        found = self._planned()
        if found is None:
            self.edit = None
            self._project.few = {}
        return found

    def _planned(self) -> Plan | None:
        project, standing = self._project, self._standing
        if standing is None or self._noted != self._note() or project.options != Options():
            return None
        if project.ledger.intents():
            return None
        found = self._edited(standing, self.edit) if self.edit is not None else self._sliced(standing)
        if found is None or not rests(standing, self._root, self._around):
            return None
        project.few = found.wanted
        records = project.ledger.records(sorted(found.before | found.wanted.keys()))
        if not found.before <= records.keys():
            return None  # the ledger has lost something
        decide = project.decider.decide
        decisions = tuple(decide(each, records.get(path)) for path, each in found.wanted.items())
        gone = sorted(found.before - found.wanted.keys())
        stale = tuple(project.decider.left_over(records[path]) for path in gone)
        if any(each.policy is Policy.MUTABLE and each.action in ENDING for each in (*decisions, *stale)):
            return None  # other guests' disks may lie on it
        self._look = found
        steps = tuple(project.image_steps(decisions))
        untouched = len(standing.outputs) - len(found.before)
        return Plan(steps, decisions, stale, records, partial=False, untouched=untouched)

    def _edited(self, standing: Standing, edit: Amended) -> _Look:
        """The guests of edited machines, and the state; what else belongs to no guest is as it was."""
        wanted = {STATE_PATH: state_artefact(edit.state)}
        start, end = standing.spans(("",))[""]
        after = {"": ("", standing.outputs[start:end])}
        for name, guest in edit.guests.items():
            made = guest_artefacts(guest, edit.shared)
            wanted |= {each.path: each for each in made}
            after[name] = (guest_slice(guest, edit.shared, edit.guests), [each.path for each in made])
        before = {STATE_PATH, *_outputs_of(standing, edit.guests)}
        return _Look(standing, before, after, wanted)

    def _sliced(self, standing: Standing) -> _Look | None:
        """The guests whose slices are not what they were; None when that is most of them."""
        compiled = self._project.compiled
        guests = compiled.state.testbed_guests
        if not standing.groups.keys() - {""} <= guests.keys():
            return None  # what belonged to guests that are gone has to be looked for
        slices = compiled.slice
        changed = {name for name in guests if standing.groups.get(name, _NOTHING)[0] != slices(name)}
        changed |= {guests[name].extra_info.reference_image or name for name in changed}
        if len(changed) * _FEW > len(guests):
            return None
        wanted = {each.path: each for each in compiled.common_artefacts}
        after = {"": ("", list(wanted))}
        for name in guests:
            if name in changed:
                made = compiled.artefacts_of(name)
                wanted |= {each.path: each for each in made}
                after[name] = (slices(name), [each.path for each in made])
        return _Look(standing, _outputs_of(standing, after), after, wanted)

    def stand(self, summary: str) -> None:
        """Note that nothing is left to do, and what that rests on; see ``build.stamp``."""
        project, found = self._project, self._look
        watched = project.files.seen() | project.images.seen()
        if found is None:
            templates = project.folder / "templates"
            watched |= own_files() | {str(templates), *(str(path) for path in templates.glob("*"))}
            watched.add(str(probe_cache()))
        else:
            watched |= found.standing.inputs.keys()
        with suppress(OSError):  # the next build will look at everything, that is all
            inputs = sign_inputs(watched, project.began_ns)
            if inputs is None:
                return
            machines = found.standing.machines if found and self.edit else self._project.compiled.machines
            groups, outputs, numbers = self._groups(found)
            standing = Standing(
                around=self._around,
                hashed=project.hashed,
                inputs=inputs,
                groups=groups,
                outputs=outputs,
                numbers=numbers,
                summary=summary,
                overview=found.overview if found and self.edit else overview(project.artefacts.values()),
                text=project.testbed.data,
                machines=machines,
            )
            write_standing(self._private, standing)

    def _groups(self, found: _Look | None) -> tuple[dict[str, tuple[str, int]], list[str], array[int]]:
        """The outputs by guest, and their signatures: for untouched ones those of the last build."""
        groups: dict[str, tuple[str, int]] = {}
        outputs: list[str] = []
        numbers: array[int] = array("q")
        spans: dict[str, tuple[int, int]] = {}
        looked_at = found.after if found is not None else self._all_groups()
        if found is not None:
            groups, outputs, numbers = found.standing.groups, found.standing.outputs, found.standing.numbers
            spans = found.standing.spans(looked_at)
        # from the back, so that what stands before keeps its place; who is new comes last
        for name in sorted(looked_at, key=lambda each: spans.get(each, (len(outputs),)), reverse=True):
            digest, paths = looked_at[name]
            start, end = spans.get(name, (len(outputs), len(outputs)))
            groups[name] = (digest, len(paths))
            outputs[start:end] = paths
            numbers[4 * start : 4 * end] = sign_outputs(self._root, paths)
        return groups, outputs, numbers

    def _all_groups(self) -> dict[str, _Group]:
        compiled = self._project.compiled
        groups: dict[str, _Group] = {"": ("", [])}
        groups.update((name, (compiled.slice(name), [])) for name in compiled.state.testbed_guests)
        for artefact in compiled.artefacts:
            groups[artefact.guest or ""][1].append(artefact.path)
        return groups


def _outputs_of(standing: Standing, names: Container[str]) -> set[str]:
    spans = standing.spans(names).values()
    return {path for start, end in spans for path in standing.outputs[start:end]}
