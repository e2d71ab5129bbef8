"""Writes a request to the audit log as soon as its outcome is known."""

from __future__ import annotations

import hashlib
from http import HTTPStatus

import msgspec
from starlette.types import Message, Scope

from kvmcompose.core.commands import Command, Exec, Test, command_name
from kvmcompose.core.deployment import ProblemDetails
from kvmcompose.server.api.authentication import address_of
from kvmcompose.server.audit import Audit, AuditRecord, short, source_of
from kvmcompose.server.clock import now
from kvmcompose.server.people import Asker, Peer

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Refusals, which are recorded for requests that only read, too.
_REFUSALS = frozenset({400, 401, 403, 408, 413, 414, 421, 431})
_LARGEST_PROBLEM = 64 * 1024


class RequestAudit:
    """The audit of one request."""

    def __init__(self, scope: Scope, audit: Audit | None) -> None:
        self._scope = scope
        self._audit = audit
        self._status: int | None = None
        self._body = b""
        self._done = audit is None

    def message(self, message: Message) -> None:
        """Observe an ASGI message of the response."""
        match message["type"]:
            case "websocket.accept":
                self._write(HTTPStatus.SWITCHING_PROTOCOLS, b"")
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
                if self._status < HTTPStatus.BAD_REQUEST:
                    self._write(self._status, b"")
            case _ if self._done:  # not the bodies of answers that have succeeded: a stream has no end
                return
            case "http.response.body" | "websocket.http.response.body" if self._status is not None:
                self._body = (self._body + message.get("body", b""))[:_LARGEST_PROBLEM]
                if not message.get("more_body", False):
                    self._write(self._status, self._body)

    def _write(self, status: int, body: bytes) -> None:
        if self._done or self._audit is None:
            return
        self._done = True
        scope = self._scope
        asker: Asker | None = scope.get("kvmcompose.asker")
        method = scope.get("method", "WEBSOCKET")
        changes = scope["type"] == "http" and method not in _SAFE
        foreign = asker is not None and asker.note.foreign
        # what is read of a guest's files
        copies = scope["type"] == "http" and asker is not None and asker.note.command is not None
        enters = asker is not None and asker.note.entered
        if not (changes or foreign or copies or enters or status in _REFUSALS):
            return
        good = status < HTTPStatus.BAD_REQUEST
        entry = self._entry(asker, method, status, None if good else _detail(body))
        if changes and good and asker is not None and asker.note.changed:
            self._audit.write(entry)
        else:
            self._audit.write_bounded(entry, source_of(asker, scope["state"]["peer"]))

    def _entry(self, asker: Asker | None, method: str, status: int, reason: str | None) -> AuditRecord:
        peer: Peer | None = self._scope["state"]["peer"]
        refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        note = asker.note if asker else None
        return AuditRecord(
            time=now(),
            event="request",
            outcome="refused" if refused else "failed" if failed else "allowed",
            status=status,
            reason=reason,
            method=method,
            path=short(str(self._scope["path"])),
            person=asker.person.name if asker else None,
            role=asker.person.role if asker else None,
            uid=asker.person.uid if asker else None,
            peer_uid=peer.uid if peer else None,
            pid=peer.pid if peer else None,
            address=address_of(self._scope),
            token=asker.token if asker else None,
            session=asker.session if asker else None,
            remark=asker.remark if asker else None,
            behalf=asker.behalf if asker else None,
            deployment=note.deployment if note else None,
            owner=note.owner if note else None,
            folder=short(note.folder) if note and note.folder else None,
            action=note.action if note else None,
            command=note.command if note else None,
        )


def summary(command: Command) -> dict[str, object]:
    """Return a command for the log; of an ``exec``, which may hold secrets, only word count and digest."""
    if isinstance(command, Exec):
        digest = hashlib.sha256(msgspec.json.encode(command.argv)).hexdigest()
        found = {"name": "exec", "guest": command.guest, "words": len(command.argv), "argv_sha256": digest}
        return found | ({"user": command.user} if command.user else {})
    if isinstance(command, Test):
        return {"name": "test", "questions": len(command.questions)}
    options = {key: value for key, value in msgspec.to_builtins(command).items() if key != "command"}
    return {"name": command_name(command), **options}


def _detail(body: bytes) -> str | None:
    try:
        return short(msgspec.json.decode(body, type=ProblemDetails).detail)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
