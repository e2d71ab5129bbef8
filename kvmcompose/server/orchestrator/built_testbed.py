"""The testbed that a build left in a project folder. What no build made is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import first_few
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from kvmcompose.server.orchestrator.testbed import LoadedTestbed


def read_testbed(source: ProjectFolder) -> LoadedTestbed:
    """The testbed of a project folder. Raises RefusedError when it has not been built."""
    folder = source.location
    try:
        document = source.read("state.json")
    except FileNotFoundError as error:
        raise RefusedError(
            f"{folder} is not built: it has no state.json",
            hint="kvm-compose up builds it and brings it up, kvm-compose generate only builds it",
        ) from error
    except OSError as error:
        raise RefusedError(
            f"{folder / 'state.json'} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="build the testbed first: kvm-compose generate",
        ) from error
    try:
        testbed = LoadedTestbed(source, document)
    except RefusedError:
        raise
    except (KvmComposeError, msgspec.MsgspecError, KeyError) as error:
        raise RefusedError(
            f"{folder / 'state.json'}: {error}", hint="build it again: kvm-compose generate"
        ) from error
    _refuse_what_was_not_built(testbed, folder)
    return testbed


def _refuse_what_was_not_built(testbed: LoadedTestbed, folder: Path) -> None:
    """Raise RefusedError for artefacts that are missing, or that lead elsewhere."""
    try:
        found = testbed.inspect()
    except KvmComposeError as error:
        raise RefusedError(error.message, hint=error.hint) from error
    except OSError as error:
        raise RefusedError(
            f"{folder / (error.filename or 'artefacts')} cannot be looked at: {error.strerror}",
            hint="build it again: kvm-compose generate",
        ) from error
    if found.foreign:
        there = " ".join([shlex.quote(str(folder / path)) for path in found.foreign][:20])
        raise RefusedError(
            "artefacts that no build made, and that are not used: "
            + first_few([f"{path} {what}" for path, what in found.foreign.items()], 3),
            hint=f"look at them, remove them, and build: rm -r {there} && kvm-compose generate",
        )
    if found.missing:
        raise RefusedError(
            f"artefacts are missing: {first_few(list(found.missing), 3)}",
            hint="build them: kvm-compose generate",
        )
