"""Explain one artefact (``why``), and show differences of text (``plan --diff``)."""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from kvmcompose.build.decision import Decision, Making
from kvmcompose.build.project import Project
from kvmcompose.build.recipes import changes, leaves
from kvmcompose.core.artefact import Artefact, Literal, Rendered
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.explained import Explanation
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.pipeline.compile import STATE_PATH


def explain(project: Project, name: str) -> Explanation:
    """The explanation of the artefact of that path or task.

    The inputs shown are those that the digest is taken of: one document, made by one walk.
    """
    matching = [
        artefact
        for artefact in project.compiled.artefacts
        if name in (artefact.path, artefact.task, artefact.path.removeprefix("artefacts/"))
    ]
    if not matching:
        named = project.select([name])  # raises InputError with near names when there is nothing at all
        tasks = ", ".join(artefact.task for artefact in named if artefact.task != "state")
        raise InputError([project.problem(f"{name!r} refers to several artefacts: use one of {tasks}")])
    return _explanation(project, matching[0])


def explain_guest(project: Project, guest: str) -> tuple[Explanation, ...] | None:
    """Return the explanations of all artefacts of a guest; None when there is no guest of that name."""
    if guest not in project.compiled.state.testbed_guests:
        return None
    return tuple(_explanation(project, each) for each in project.artefacts.values() if each.guest == guest)


def _explanation(project: Project, artefact: Artefact) -> Explanation:
    record = project.records(write=False).get(artefact.path)
    decision = project.decider.decide(artefact, record)
    recipe = project.recipes.recipe(artefact)
    inputs = recipe.inputs
    built_from = project.ledger.inputs(artefact.path) if record is not None and record.recipe else None
    if artefact.path == STATE_PATH and isinstance(artefact.content, Literal):
        # the inputs of the state are the state itself, so the file has the old ones
        inputs = artefact.content.data
        built_from = _json_in(project.folder / artefact.path)
    return Explanation(
        path=artefact.path,
        task=artefact.task,
        action=decision.action.value,
        reasons=decision.reasons,
        recipe=recipe.digest,
        built_from=record.recipe if record is not None and record.recipe else None,
        inputs=dict(leaves(msgspec.json.decode(inputs))),
        changed=tuple(changes(built_from, inputs)) if built_from else (),
    )


def _json_in(path: Path) -> bytes | None:
    try:
        data = read_regular(path, limit=DOCUMENT_LIMIT)
        msgspec.json.decode(data)
    except (OSError, msgspec.DecodeError):
        return None
    return data


def difference(project: Project, decision: Decision) -> str:
    """Return what a build would change in a text artefact, as a unified diff; empty for other artefacts."""
    if decision.settled:
        return ""
    path = project.folder / decision.path
    after: list[str] = []
    if isinstance(decision, Making):
        content = decision.artefact.content
        if not isinstance(content, Literal) and not (
            isinstance(content, Rendered) and content.renderer == "xml"
        ):
            return ""
        after = project.maker.build(decision.artefact).decode().splitlines(keepends=True)
    elif not decision.path.endswith((".xml", ".json")):
        return ""
    if not project.files.may_hold(decision.path):  # a lab's link to a file of the user's, for a log of CI
        return ""
    try:
        before = read_regular(path, limit=DOCUMENT_LIMIT).decode().splitlines(keepends=True)
    except FileNotFoundError:
        before = []
    except (OSError, UnicodeDecodeError) as error:
        raise KvmComposeError(f"cannot read {decision.path}: {error}") from error
    old, new = f"a/{decision.path}", f"b/{decision.path}"
    return "".join(
        difflib.unified_diff(
            before,
            after,
            old if before else "/dev/null",
            new if isinstance(decision, Making) else "/dev/null",
        )
    )
