"""What a user is asked to consent to, as data: for clients that show the question themselves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.privilege import Privilege, privileges_digest


class AskedPrivilege(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something on the host that a lab reaches (``core.privilege.Privilege``), and why that needs consent."""

    kind: str
    what: str
    where: str
    why: str
    digest: str = ""


class ConsentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a lab does to the host without consent so far.

    ``digest`` identifies exactly this list of this project: ``up --consent DIGEST`` consents to it.
    """

    digest: str
    privileges: tuple[AskedPrivilege, ...]


def consent_request(project: str, privileges: Sequence[Privilege]) -> ConsentRequest:
    """Return the question about privileges of a project."""
    return ConsentRequest(
        digest=privileges_digest(project, privileges),
        privileges=tuple(
            AskedPrivilege(
                kind=each.kind.value, what=each.what, where=each.where, why=each.why, digest=each.digest
            )
            for each in privileges
        ),
    )


class ConsentError(RefusedError):
    """Refused until the user consents to what ``request`` lists."""

    def __init__(self, message: str, *, hint: str, request: ConsentRequest) -> None:
        super().__init__(message, hint=hint)
        self.request = request
