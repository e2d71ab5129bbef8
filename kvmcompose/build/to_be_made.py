"""What a build would make, for the server: it compares a testbed that is not built yet with what runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from kvmcompose.build.decision import Disposition, Making
from kvmcompose.build.project import Plan, Project
from kvmcompose.core.artefact import DeepCopy, LinkTo, Literal, Overlay, Policy, Rendered
from kvmcompose.core.commands import Up
from kvmcompose.core.planned import FileToMake, PlanRequest

#: What changes a file.
_MAKING = frozenset({Disposition.CREATE, Disposition.REBUILD, Disposition.GROW})


def plan_request(project: Project, plan: Plan, options: Up, *, compared: bool) -> PlanRequest:
    """Return the request for the plan of what runs, after this build. Nothing is written.

    ``compared`` is whether there is something to compare it with: then seeds are made in memory, as only
    their content tells whether they differ. Raises KvmComposeError for an artefact that cannot be made.
    """
    making = [each for each in plan.decisions if each.action in _MAKING]
    state = next((each.artefact.content for each in making if each.task == "state"), None)
    return PlanRequest(
        options=options,
        state=msgspec.Raw(state.data if isinstance(state, Literal) else b"null"),
        files=dict(_files(project, making, compared=compared)),
    )


def _files(project: Project, making: list[Making], *, compared: bool) -> Iterator[tuple[str, FileToMake]]:
    for decision in making:
        if decision.task != "state":
            yield decision.path, _file(project, decision, compared=compared)


def _file(project: Project, decision: Making, *, compared: bool) -> FileToMake:
    content = decision.artefact.content
    if isinstance(content, Rendered):
        if content.renderer == "xml":
            return FileToMake(text=project.maker.build(decision.artefact).decode())
        if not compared or project.maker.needs_file_to_come(content):
            return FileToMake()
        return project.maker.preview(decision.artefact)
    if isinstance(content, LinkTo):
        image = project.images.resolve(content.image)
        return FileToMake(digest=image.digest if image is not None else None, link=True)
    if isinstance(content, Literal):
        return FileToMake(digest=hashlib.sha256(content.data).hexdigest(), size=len(content.data))
    disk_size = project.recipes.size(content)
    grows = decision.policy is Policy.MUTABLE and (decision.resized or decision.action is Disposition.GROW)
    return FileToMake(
        backing=project.recipes.backing(content) if isinstance(content, Overlay) else None,
        size=disk_size if isinstance(content, DeepCopy) and disk_size is not None else 0,
        grows_to=disk_size if grows else None,
    )
