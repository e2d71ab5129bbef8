"""Checks what a user may do with a deployment, and with a folder."""

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
    """Return a deployment as far as a user may see it: only name, state and owner of others' deployments."""
    if person.is_admin or person.uid == owner_uid:
        return deployment
    return msgspec.structs.replace(
        deployment, project_location="", failed_command=None, last_action_uuid=None, condition=None, drift=0
    )


def check_owner(person: Person, deployment: Deployment, owner_uid: int) -> None:
    """Raise ApiError for a user who may not access a deployment."""
    if not person.is_admin and person.uid != owner_uid:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{deployment.name} belongs to {deployment.owner}: only that user and administrators may access"
            " it",
            hint="choose another name for your own: --project-name NAME",
        )


def check_change(asker: Asker) -> None:
    """Raise ApiError for a user with read-only access."""
    if asker.person.role is not Role.READ_ONLY:
        return
    if asker.token is not None:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"the token {asker.token!r} is read-only",
            hint="an administrator can create another: kvm-compose server token create NAME --role user",
        )
    own = login_name(os.geteuid())
    raise ApiError(
        HTTPStatus.FORBIDDEN,
        f"this server runs as {own} and cannot act with the rights of {asker.person.name}",
        hint="use your own server (unset KVM_COMPOSE_SERVER), or have this one started with --admin-group and"
        f" a group of which {asker.person.name} is a member",
    )


def project_folder(location: str, roots: tuple[Path, ...], asker: Person, owner: Person) -> Path:
    """Return the project folder with links resolved, if projects are allowed there and ``owner`` owns it.

    The folder is opened first and checked then, so links that change meanwhile do not matter. Raises
    ApiError, which does not tell a user who is not an administrator whether the folder exists.
    """
    try:
        return _checked_folder(location, roots, owner)
    except ApiError as error:
        if asker.is_admin:
            raise
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} is not a project folder of {owner.name} on this server",
            hint="the folder must belong to the user who brings it up, and be below a --project-root of the"
            " server",
        ) from error


def _checked_folder(location: str, roots: tuple[Path, ...], owner: Person) -> Path:
    folder, owner_uid = _opened(location)
    if not any(folder.is_relative_to(root) for root in roots):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} is not below a --project-root of this server",
            hint="start the server with --project-root and a folder above it",
        )
    if owner_uid is None:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: no such folder")
    if not owner.is_admin and owner_uid != owner.uid:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"{location!r} belongs to {login_name(owner_uid)}, not to {owner.name}",
            hint=f"chown -R {owner.name} {location}",
        )
    return folder


def _opened(location: str) -> tuple[Path, int | None]:
    """Return the folder that a path resolves to, and its owner; None when it does not exist."""
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
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{location!r}: invalid path: {error}")
