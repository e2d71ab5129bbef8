"""A plan in a file, and the ``up`` that does what it says or nothing."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli import _what_runs as what_runs
from kvmcompose.cli._file_plan import FilePlan
from kvmcompose.cli._server import usage_error
from kvmcompose.cli._up_options import up_command
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import first_few

if TYPE_CHECKING:
    import argparse

    from kvmcompose.build.project import Project
    from kvmcompose.core.commands import Up
    from kvmcompose.core.planned import PlanDocument, PlannedFile, TestbedPlan

#: The most differences in a message.
_SHOWN = 5


def document(
    arguments: argparse.Namespace,
    project: Project,
    options: Up,
    files: tuple[PlannedFile, ...],
    testbed: TestbedPlan | None,
    unseen: KvmComposeError | None,
) -> PlanDocument:
    """Return a plan as data."""
    from kvmcompose.core.planned import PLAN_VERSION, PlanDocument

    recipes = hashlib.sha256()
    for artefact in project.artefacts.values():
        recipes.update(f"{artefact.path} {project.recipes.recipe(artefact).digest}\n".encode())
    return PlanDocument(
        version=PLAN_VERSION,
        project=project.compiled.state.project_name,
        options=options,
        allow_moves=arguments.allow_moves,
        recipes=recipes.hexdigest(),
        files=files,
        testbed=testbed,
        unseen=unseen.message if unseen is not None else None,
    )


def store(path: Path, made: PlanDocument, unseen: KvmComposeError | None) -> None:
    """Write a plan, for its user alone. Raises KvmComposeError where it does not say all that is needed."""
    import msgspec

    from kvmcompose.cli._output_file import write_output

    if unseen is not None and not isinstance(unseen, what_runs.NothingUpError):
        raise KvmComposeError(f"no plan is written: what runs is not seen: {unseen.message}")
    files = tuple(msgspec.structs.replace(each, diff=None) for each in made.files)
    data = msgspec.json.encode(msgspec.structs.replace(made, files=files))
    write_output(path, msgspec.json.format(data, indent=2) + b"\n", mode=0o600)


def load(arguments: argparse.Namespace) -> PlanDocument:
    """Return the plan that ``up`` is to carry out. Raises InputError for another file, or more options."""
    import msgspec

    from kvmcompose.core.commands import Up
    from kvmcompose.core.planned import PLAN_VERSION, PlanDocument

    path: Path = arguments.plan
    given = up_command(arguments, arguments.guests)
    extra = arguments.no_generate or arguments.watch or arguments.allow_moves
    if extra or given != Up(keep_going=given.keep_going):
        raise usage_error("--plan excludes names and options that select changes: the plan has them")
    try:
        found = msgspec.json.decode(_content(path), type=PlanDocument)
    except OSError as error:
        raise usage_error(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise usage_error(
            f"{str(path)!r} is no plan: {error}", "kvm-compose plan --out writes one"
        ) from error
    if found.version != PLAN_VERSION:
        raise usage_error(f"{str(path)!r} was made by another version of kvm-compose")
    return found


def _content(path: Path) -> bytes:
    """Return a stored plan, as given: ``-`` is standard input. Raises OSError."""
    from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

    if str(path) == "-":
        return sys.stdin.buffer.read(DOCUMENT_LIMIT)
    return read_regular(path, limit=DOCUMENT_LIMIT)


def check(arguments: argparse.Namespace, project: Project, planned: PlanDocument) -> None:
    """Raise RefusedError when a plan that is made now would differ from one that was made before."""
    plan = project.plan()
    testbed, unseen = None, None
    try:
        testbed = what_runs.ask(arguments, project, plan, planned.options)
    except what_runs.UnseenError as error:
        unseen = error
    rows = FilePlan(project, plan).rows({})
    now = document(arguments, project, planned.options, rows, testbed, unseen)
    found = list(_differences(planned, now))
    if found:
        raise RefusedError(
            f"something has changed since {_named(arguments.plan)} was made:\n"
            + "\n".join(f"  {each}" for each in found[:_SHOWN])
            + (f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""),
            hint="make another plan: kvm-compose plan --out FILE",
        )


def _named(path: Path) -> str:
    return "the plan" if str(path) == "-" else repr(str(path))


def _differences(planned: PlanDocument, now: PlanDocument) -> list[str]:
    if planned.project != now.project:
        return [f"it is a plan of {planned.project}, and this is {now.project}"]
    before, after = _lines(planned), _lines(now)
    found = [f"no longer planned: {line}" for line in before if line not in after]
    found += [f"now planned: {line}" for line in after if line not in before]
    if not found and planned.recipes != now.recipes:
        found.append("what files are made of has changed")
    digests = [each.testbed.digest if each.testbed is not None else None for each in (planned, now)]
    if not found and digests[0] != digests[1]:
        found.append("what runs has changed")
    return found


def _lines(made: PlanDocument) -> dict[str, None]:
    """Return what would be done and what is in the way of it, each on a line."""
    settled = ("keep", "adopt", "keep customised", "left over")
    files = [
        f"{each.action} {each.path}" + (f" ({first_few(list(each.reasons), 2)})" if each.reasons else "")
        for each in made.files
        if each.action not in settled
    ]
    if made.testbed is None:
        return dict.fromkeys([*files, f"what runs is not seen: {made.unseen}"])
    due = [each for each in made.testbed.due if not each.follows]
    changes = [f"{each.verb} {each.subject}: {', '.join(each.because)}" for each in due]
    refusals = [f"refused: {each.message}" for each in made.testbed.refusals]
    return dict.fromkeys([*files, *changes, *refusals])
