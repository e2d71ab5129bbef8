"""What a person may do with which deployment, and with which folder."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Deployment
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.people import Asker, Person, Role, login_name


def view(person: Person, deployment: Deployment, owner_uid: int) -> Deployment:
    """As much of a deployment as a person may see: others' only by name, state and owner."""
    if person.is_admin or person.uid == owner_uid:
        return deployment
    return msgspec.structs.replace(
        deployment, project_location="", failed_command=None, last_action_uuid=None
    )


def check_owner(person: Person, deployment: Deployment, owner_uid: int) -> None:
    """Raises ApiError for a person who has no business with a deployment."""
    if not person.is_admin and person.uid != owner_uid:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{deployment.name} is a deployment of {deployment.owner}: only that user and administrators"
            " may look at it or change it",
            hint="for one of your own take another name: --project-name NAME",
        )


def check_change(asker: Asker) -> None:
    """Raises ApiError for whoever may only look."""
    if asker.person.role is not Role.READ_ONLY:
        return
    if asker.token is not None:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"the token {asker.token!r} is for looking only",
            hint="an administrator makes another: kvm-compose server token create NAME --role user",
        )
    own = login_name(os.geteuid())
    raise ApiError(
        HTTPStatus.FORBIDDEN,
        f"this server runs as {own} and cannot act with the rights of {asker.person.name}",
        hint="use a server of your own (unset KVM_COMPOSE_SERVER), or have this one started with"
        f" --admin-group and a group that {asker.person.name} is in",
    )


def project_folder(location: str, roots: tuple[Path, ...], asker: Person, owner: Person) -> Path:
    """The project's folder with links resolved, if projects may be there and ``owner`` may have this one.

    What is checked is the folder that was opened, wherever links lead meanwhile. Raises ApiError: for an
    asker who is no administrator without saying more than that it is not theirs, as whether a folder exists
    is not for everybody to know.
    """
    try:
        return _checked_folder(location, roots, owner)
    except ApiError as error:
        if asker.is_admin:
            raise
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} is no folder of {owner.name} in which this server runs projects",
            hint="a project belongs to the user who has it brought up, and lies in a --project-root of the"
            " server",
        ) from error


def _checked_folder(location: str, roots: tuple[Path, ...], owner: Person) -> Path:
    folder, owner_uid = _opened(location)
    if not any(folder.is_relative_to(root) for root in roots):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} is not in a folder whose projects this server runs",
            hint="start the server with --project-root and a folder that the project lies in",
        )
    if owner_uid is None:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: there is no such folder")
    if not owner.is_admin and owner_uid != owner.uid:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} belongs to {login_name(owner_uid)}, not to {owner.name}",
            hint=f"chown -R {owner.name} {location}",
        )
    return folder


def _opened(location: str) -> tuple[Path, int | None]:
    """Where a path leads, and whose the folder there is; None when there is none."""
    try:
        handle = os.open(location, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return _resolved(location), None
    except (OSError, ValueError) as error:
        raise _impossible(location, error) from error
    try:
        return Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_uid
    finally:
        os.close(handle)


def _resolved(location: str) -> Path:
    try:
        return Path(location).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise _impossible(location, error) from error


def _impossible(location: str, error: Exception) -> KvmComposeError:
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: no folder can be there: {error}")
