"""A server that is reached by HTTP: over TCP, with TLS or without, or a Unix socket."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from kvmcompose.client.address import CONNECT_SECONDS, Address
from kvmcompose.client.errors import UNAUTHORIZED, RefusedByServerError, ServerError, error_of
from kvmcompose.client.packets import PacketStream, open_stream
from kvmcompose.client.stream import follow
from kvmcompose.client.unix import PlainAdapter
from kvmcompose.core.deployment import (
    Action,
    ActionAccepted,
    Capture,
    Command,
    Deployment,
    GuestAccess,
    Health,
    LogLine,
    NewDeployment,
    SnapshotStatus,
    Step,
    TestbedStatus,
)
from kvmcompose.effects.opening import read_descriptor, read_regular

#: For an answer. What takes the server long are actions, and these it only begins.
ANSWER_SECONDS = 60.0
_LINES = 1000
#: What a shell hands over as a file, open: no lab can put anything there.
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")

T = TypeVar("T")


class RemoteServer:
    """A server, a method for each request. May be used from several threads at once.

    Every method raises ServerError.

    ``revive`` is called when nobody listens (any more); it returns when somebody does, or raises
    ServerError.
    """

    def __init__(
        self,
        address: Address,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        who: str | None = None,
        revive: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._ca_file = ca_file
        self._revive = revive
        self._headers = {"Host": address.authority, "X-Kvm-Compose-Who": who or _myself()}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, no passwords from ~/.netrc
        self._session.auth = _NoAuth()
        adapter = HTTPAdapter() if address.tls else PlainAdapter(address)
        self._session.mount(self._url(""), adapter)

    def _url(self, path: str) -> str:
        scheme = "https" if self.address.tls else "http"
        return f"{scheme}://{self.address.authority}{path}"

    # -- requests

    def _ask(
        self, method: str, path: str, *, body: object = None, query: dict[str, str | int] | None = None
    ) -> bytes:
        """One request and its answer's body. Raises ServerError."""
        encoded = None if body is None else msgspec.json.encode(body)
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        for attempt in (1, 2):
            try:
                response = self._session.request(
                    method,
                    self._url(path),
                    params=query,
                    data=encoded,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                    allow_redirects=False,
                    verify=self._ca_file or True,
                )
            except requests.ConnectionError as error:
                # once more, but only what did not get there, or does nothing there
                again = self._revive is not None and (method == "GET" or _not_connected(error))
                if self._revive is None or not again or attempt > 1:
                    raise self.unreachable(error) from error
                self._revive()
            except (requests.RequestException, OSError) as error:
                raise self.unreachable(error) from error
            else:
                return self._checked(response.status_code, response.content)
        raise AssertionError  # the second attempt returns or raises

    def _checked(self, status: int, body: bytes) -> bytes:
        if 200 <= status < 300:  # noqa: PLR2004
            return body
        raise error_of(status, body, str(self.address))

    def unreachable(self, error: Exception) -> ServerError:
        """What to say when there was no answer."""
        if isinstance(error, requests.Timeout | TimeoutError):
            return ServerError(f"the server on {self.address} does not answer", hint="see its log")
        if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
            return ServerError(
                f"the server on {self.address} is not to be believed: {_cause(error)}",
                hint="name the certificate that vouches for it: KVM_COMPOSE_CA_FILE, or --ca-file",
            )
        hint = "is it running? `kvm-compose server` starts one; without an address one is started as needed"
        return ServerError(f"no server can be reached on {self.address}: {_cause(error)}", hint=hint)

    def _get(self, path: str, kind: type[T], query: dict[str, str | int] | None = None) -> T:
        return self._decoded(self._ask("GET", path, query=query), kind)

    def _decoded(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise ServerError(
                f"the server on {self.address} gave an answer that is none: {error}",
                hint="is it a kvm-compose server of this version? compare `kvm-compose --version`",
            ) from error

    # -- what can be asked

    def health(self) -> Health:
        """Return what the server says about itself."""
        body = self._ask("GET", "/api/health")
        if body == b'{"status":"ok"}':
            raise error_of(UNAUTHORIZED, b"", str(self.address))
        return self._decoded(body, Health)

    def deployments(self) -> list[Deployment]:
        """All deployments it knows."""
        return self._get("/api/deployments", list[Deployment])

    def deployment(self, name: str) -> Deployment:
        """One of them; ServerError with status 404 when there is none of that name."""
        return self._get(_path(name), Deployment)

    def put(self, new: NewDeployment) -> Deployment:
        """Make a project known to the server; no change when it is known already."""
        return self._decoded(self._ask("PUT", _path(new.name), body=new), Deployment)

    def remove(self, name: str) -> None:
        """Remove a deployment and its history from the server."""
        self._ask("DELETE", _path(name))

    def act(self, name: str, command: Command) -> str:
        """Ask for an action; its UUID."""
        return self._decoded(self._ask("POST", _path(name, "action"), body=command), ActionAccepted).uuid

    def cancel(self, name: str, uuid: str) -> None:
        """Stop an action; no error when it has ended already."""
        self._ask("POST", _path(name, "actions", uuid, "cancel"))

    def actions(self, name: str) -> list[Action]:
        """A deployment's actions, the latest first."""
        return self._get(_path(name, "actions"), list[Action])

    def action(self, name: str, uuid: str) -> Action:
        """One action."""
        return self._get(_path(name, "actions", uuid), Action)

    def steps(self, name: str, uuid: str) -> list[Step]:
        """An action's steps so far."""
        return self._get(_path(name, "actions", uuid, "steps"), list[Step])

    def follow(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """An action's log until it ends; a lost connection is taken up again."""
        target = _path(name, "actions", uuid, "logs")
        return follow(self.address, target, self._headers, after, ca_file=self._ca_file, revive=self._revive)

    def lines(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """An action's log so far."""
        path = _path(name, "actions", uuid, "lines")
        while True:
            found = self._get(path, list[LogLine], {"after": after, "limit": _LINES})
            yield from found
            if len(found) < _LINES:
                return
            after = found[-1].sequence

    def status(self, name: str) -> TestbedStatus:
        """A deployment and its guests as they are now."""
        return self._get(_path(name, "status"), TestbedStatus)

    def access(self, name: str) -> list[GuestAccess]:
        """How the guests of a deployment are reached."""
        return self._get(_path(name, "access"), list[GuestAccess])

    def snapshots(self, name: str, guest: str | None = None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all."""
        query: dict[str, str | int] | None = None if guest is None else {"guest": guest}
        return self._get(_path(name, "snapshots"), list[SnapshotStatus], query)

    def capture(self, name: str, wanted: Capture) -> PacketStream:
        """Begin to capture packets; they come for as long as the stream is open."""
        given = {key: value for key, value in msgspec.to_builtins(wanted).items() if value is not None}
        target = f"{_path(name, 'capture')}?{urlencode(given)}"
        try:
            return open_stream(
                self.address, target, self._headers, ca_file=self._ca_file, revive=self._revive
            )
        except OSError as error:
            raise self.unreachable(error) from error

    def state(self, name: str) -> bytes:
        """The ``state.json`` of what is up."""
        return self._ask("GET", _path(name, "state"))


class _NoAuth(AuthBase):
    """Leaves the header that is there."""

    def __call__(self, request: Any) -> Any:
        return request


#: What a file with a token may have at the most, in bytes.
TOKEN_LIMIT = 4096


def read_token(path: str | Path) -> str:
    """The token in a file. Raises ServerError."""
    try:
        token = _bytes_of(os.fspath(path)).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedByServerError(f"cannot read the token from {path}: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise RefusedByServerError(f"{path}: there is no token in it")
    return token


def _bytes_of(path: str) -> bytes:
    """A file's bytes, or those of a pipe that the shell opened: ``--token-file <(pass show lab)``."""
    if not path.startswith(_OPEN_ALREADY):
        return read_regular(path, limit=TOKEN_LIMIT)
    with open(path, "rb", buffering=0) as pipe:  # noqa: PTH123
        return read_descriptor(pipe.fileno(), TOKEN_LIMIT, path)


def _path(name: str, *words: str) -> str:
    return "/".join(["/api/deployments", *(quote(word, safe="") for word in (name, *words))])


def _not_connected(error: requests.ConnectionError) -> bool:
    """Whether the request has not left this machine."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
            return True
        cause = cause.__context__
    return False


def _cause(error: BaseException) -> str:
    """The innermost reason, which is the one that tells something."""
    found = error
    while (inner := found.__cause__ or found.__context__) is not None:
        found = inner
    return getattr(found, "strerror", None) or str(found)


def _myself() -> str:
    """How this client calls itself: the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()
