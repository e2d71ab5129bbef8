"""What is in the seed of a guest, without building it (``seed``)."""

from __future__ import annotations

from kvmcompose.build.project import Project
from kvmcompose.core.artefact import Rendered
from kvmcompose.core.errors import InputError, RefusedError


def seed_files(project: Project, guest: str) -> dict[str, bytes]:
    """Return the files that a guest reads from its seed, by their paths; the archive is not one of them.

    They are those that a build would make of the files as they are now. Raises InputError for a guest that
    is unknown or has no seed, RefusedError.
    """
    artefacts = [each for each in project.artefacts.values() if each.task == f"seed-iso:{guest}"]
    if not artefacts:
        project.select([guest])  # raises InputError with near names
        raise InputError([project.problem(f"{guest!r} is no guest with a seed: a cloud_image has one")])
    content = artefacts[0].content
    assert isinstance(content, Rendered)  # noqa: S101 (a seed is)
    if project.maker.needs_file_to_come(content):
        raise RefusedError("the key of the guests is not made yet", hint="kvm-compose generate makes it")
    return project.maker.seed_files(content)
