"""The API of a server, over TCP, with TLS or without, or a Unix socket."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from kvmcompose.client.address import CONNECT_SECONDS, Address
from kvmcompose.client.byte_stream import ByteStream, open_stream, send_stream
from kvmcompose.client.command_input import CommandInput
from kvmcompose.client.errors import (
    UNAUTHORIZED,
    RefusedByServerError,
    ServerError,
    WrongInputError,
    error_of,
)
from kvmcompose.client.guest_connection import connect_guest
from kvmcompose.client.guest_shell import run_shell
from kvmcompose.client.stream import EventStream
from kvmcompose.client.unix import KEPT_CONNECTIONS, PlainAdapter
from kvmcompose.core.access import ConsolePart, GuestAccess, TerminalSize
from kvmcompose.core.commands import Capture, Command
from kvmcompose.core.deployment import (
    Action,
    ActionAccepted,
    Deployment,
    Health,
    LogLine,
    NewDeployment,
    SnapshotStatus,
    Step,
    TestbedStatus,
)
from kvmcompose.core.deployment_event import DeploymentEvent, LineAdded
from kvmcompose.core.planned import PlanRequest, TestbedPlan
from kvmcompose.core.session import LinkUse, NewLink, SignInLink
from kvmcompose.effects.opening import read_descriptor, read_regular

#: The limit for a response. Whatever takes the server longer is an action, which it only starts.
ANSWER_SECONDS = 60.0
_LINES = 1000
#: The status of an answer to a parameter that the server does not know.
_UNPROCESSABLE = 422
#: Files that the shell has opened: no project can put anything there.
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")

T = TypeVar("T")


class RemoteServer:
    """A server, a method for each request. May be used from several threads at once.

    Every method raises ServerError.

    ``revive`` is called when no server accepts connections; it returns when one does, or raises ServerError.
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
        self._can_wait = True
        self._headers = {"Host": address.authority, "X-Kvm-Compose-Who": who or _myself()}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, no passwords from ~/.netrc
        self._session.auth = _NoAuth()
        adapter = HTTPAdapter(pool_maxsize=KEPT_CONNECTIONS) if address.tls else PlainAdapter(address)
        self._session.mount(self._url(""), adapter)

    def _url(self, path: str) -> str:
        scheme = "https" if self.address.tls else "http"
        return f"{scheme}://{self.address.authority}{path}"

    # -- requests

    def _ask(
        self, method: str, path: str, *, body: object = None, query: dict[str, str | int] | None = None
    ) -> bytes:
        """Send a request and return the body of the response. Raises ServerError."""
        try:
            encoded = None if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError as error:  # of an argument of the command line
            text = error.object[max(0, error.start - 20) : error.end + 20]
            raise WrongInputError(f"not encoded in UTF-8: {text!r}") from error
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
                # retry once, but only what did not arrive, or changes nothing
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
        """Return the error for a request without a response."""
        if isinstance(error, requests.Timeout | TimeoutError):
            return ServerError(f"the server on {self.address} does not respond", hint="see its log")
        if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
            return ServerError(
                f"cannot verify the server on {self.address}: {_cause(error)}",
                hint="name the certificate to trust: KVM_COMPOSE_CA_FILE, or --ca-file",
            )
        hint = "is it running? `kvm-compose server` starts one; without an address one is started as needed"
        return ServerError(f"cannot reach a server on {self.address}: {_cause(error)}", hint=hint)

    def _get(self, path: str, kind: type[T], query: dict[str, str | int] | None = None) -> T:
        return self._decoded(self._ask("GET", path, query=query), kind)

    def _decoded(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise ServerError(
                f"the server on {self.address} sent an invalid response: {error}",
                hint="is it a kvm-compose server of this version? compare `kvm-compose --version`",
            ) from error

    # -- the API

    def health(self) -> Health:
        """Return what the server says about itself."""
        body = self._ask("GET", "/api/health")
        if body == b'{"status":"ok"}':
            raise error_of(UNAUTHORIZED, b"", str(self.address))
        return self._decoded(body, Health)

    def make_link(self, user: str | None = None) -> SignInLink:
        """Return a link that signs in the browser of a user of the server's machine (default: this one's)."""
        return self._decoded(self._ask("POST", "/api/links", body=NewLink(user=user)), SignInLink)

    def link_use(self, uuid: str, wait: int = 0) -> LinkUse:
        """Return what has become of a link, at the latest after ``wait`` seconds while it is open."""
        return self._get(f"/api/links/{quote(uuid, safe='')}", LinkUse, {"wait": wait})

    def deployments(self, *, look: bool = False) -> list[Deployment]:
        """Return all deployments; with ``look``, after a look at which of them are degraded."""
        if look:
            try:
                return self._get("/api/deployments", list[Deployment], {"look": "true"})
            except ServerError as error:
                if error.status != _UNPROCESSABLE:  # that of a server of an earlier version
                    raise
        return self._get("/api/deployments", list[Deployment])

    def deployment(self, name: str) -> Deployment:
        """Return a deployment. Raises ServerError with status 404 when there is none of that name."""
        return self._get(_path(name), Deployment)

    def put(self, new: NewDeployment) -> Deployment:
        """Register a project with the server; no change if it is registered already."""
        return self._decoded(self._ask("PUT", _path(new.name), body=new), Deployment)

    def remove(self, name: str) -> None:
        """Remove a deployment and its history from the server."""
        self._ask("DELETE", _path(name))

    def plan(self, name: str, request: PlanRequest) -> TestbedPlan:
        """Return what an ``up`` would change on hosts."""
        return self._decoded(self._ask("POST", _path(name, "plan"), body=request), TestbedPlan)

    def act(self, name: str, command: Command) -> str:
        """Start an action, and return its UUID."""
        return self._decoded(self._ask("POST", _path(name, "action"), body=command), ActionAccepted).uuid

    def send_input(self, name: str, uuid: str, source: int, failed: Callable[[ServerError], None]) -> None:
        """Send what a file descriptor holds to the command of an ``exec``, in the background."""
        CommandInput(
            self.address,
            _path(name, "actions", uuid, "input"),
            self._headers,
            ca_file=self._ca_file,
            source=source,
            failed=failed,
        ).start()

    def connect_guest(self, name: str, guest: str, source: int, target: int) -> None:
        """Connect two file descriptors to the SSH server of a guest, until either side ends."""
        path = _path(name, "guests", guest, "ssh")
        connect_guest(self.address, path, self._headers, self._ca_file, source=source, target=target)

    def run_shell(
        self,
        name: str,
        guest: str,
        *,
        source: int,
        target: int,
        resized: int,
        size: Callable[[], TerminalSize],
    ) -> int | None:
        """Connect a terminal to a new shell in a guest, until either ends; see ``guest_shell.run_shell``."""
        path = _path(name, "guests", guest, "shell")
        files = {"source": source, "target": target, "resized": resized}
        return run_shell(self.address, path, self._headers, self._ca_file, size=size, **files)

    def cancel(self, name: str, uuid: str) -> None:
        """Stop an action; no error when it has ended already."""
        self._ask("POST", _path(name, "actions", uuid, "cancel"))

    def actions(self, name: str) -> list[Action]:
        """Return a deployment's actions, the latest first."""
        return self._get(_path(name, "actions"), list[Action])

    def action(self, name: str, uuid: str) -> Action:
        """Return an action."""
        return self._get(_path(name, "actions", uuid), Action)

    def steps(self, name: str, uuid: str) -> list[Step]:
        """Return an action's steps so far."""
        return self._get(_path(name, "actions", uuid, "steps"), list[Step])

    def events(
        self, name: str, *, action: str | None = None, status: bool = False, after: int | None = None
    ) -> Iterator[DeploymentEvent]:
        """Yield the events of a deployment after number ``after``, or from now on; until an ``action`` ends.

        With ``status`` the live status is among them, every few seconds. A lost connection is re-established.
        """
        query = {"action": action} if action is not None else {}
        return EventStream(
            self.address,
            _path(name, "events"),
            self._headers,
            query=query | ({"status": "true"} if status else {}),
            after=after,
            ca_file=self._ca_file,
            revive=self._revive,
        ).events()

    def follow(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """Yield an action's log from the line after number ``after`` until the action ends."""
        for event in self.events(name, action=uuid, after=0):
            if isinstance(event, LineAdded) and event.line.sequence > after:
                yield event.line

    def lines(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """Yield an action's log so far."""
        path = _path(name, "actions", uuid, "lines")
        while True:
            found = self._get(path, list[LogLine], {"after": after, "limit": _LINES})
            yield from found
            if len(found) < _LINES:
                return
            after = found[-1].sequence

    def status(self, name: str) -> TestbedStatus:
        """Return a deployment and the current state of its guests."""
        return self._get(_path(name, "status"), TestbedStatus)

    def access(self, name: str) -> list[GuestAccess]:
        """Return how to reach the guests of a deployment."""
        return self._get(_path(name, "access"), list[GuestAccess])

    def snapshots(self, name: str, guest: str | None = None) -> list[SnapshotStatus]:
        """Return the snapshots of one guest, or of all."""
        query: dict[str, str | int] | None = None if guest is None else {"guest": guest}
        return self._get(_path(name, "snapshots"), list[SnapshotStatus], query)

    def console(self, name: str, guest: str, after: int | None = None, wait: int = 0) -> ConsolePart:
        """Return what a guest's console has printed from an offset, or the end of it.

        Where it has printed nothing since, this waits for it, at most ``wait`` seconds.
        """
        query: dict[str, str | int] = {"guest": guest} | ({} if after is None else {"after": after})
        if wait and self._can_wait:
            try:
                return self._get(_path(name, "console"), ConsolePart, {**query, "wait": wait})
            except ServerError as error:
                if error.status != _UNPROCESSABLE:
                    raise
                self._can_wait = False  # a server of an earlier version, which answers at once
        return self._get(_path(name, "console"), ConsolePart, query)

    def capture(self, name: str, wanted: Capture) -> ByteStream:
        """Start to capture packets, until the stream is closed."""
        given = {key: value for key, value in msgspec.to_builtins(wanted).items() if value is not None}
        return self._stream(f"{_path(name, 'capture')}?{urlencode(given)}", "the capture")

    def get_files(self, name: str, guest: str, path: str) -> ByteStream:
        """Start to read a file or folder of a guest: a tar archive, with it as the first entry."""
        return self._stream(_files(name, guest, path), "the copy")

    def put_files(self, name: str, guest: str, folder: str, archive: Iterable[bytes]) -> None:
        """Extract a tar archive in a folder of a guest. Raises what ``archive`` raises, too."""
        target = _files(name, guest, folder)
        headers = {**self._headers, "Content-Type": "application/x-tar"}
        try:
            send_stream(self.address, target, headers, archive, ca_file=self._ca_file, revive=self._revive)
        except OSError as error:
            raise self.unreachable(error) from error

    def _stream(self, target: str, what: str) -> ByteStream:
        try:
            return open_stream(
                self.address, target, self._headers, ca_file=self._ca_file, revive=self._revive, what=what
            )
        except OSError as error:
            raise self.unreachable(error) from error

    def state(self, name: str) -> bytes:
        """Return the ``state.json`` of what is up."""
        return self._ask("GET", _path(name, "state"))


class _NoAuth(AuthBase):
    """Keeps the Authorization header that is set."""

    def __call__(self, request: Any) -> Any:
        return request


#: The largest size of a file with a token, in bytes.
TOKEN_LIMIT = 4096


def read_token(path: str | Path) -> str:
    """Read the token from a file. Raises ServerError."""
    try:
        token = _bytes_of(os.fspath(path)).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedByServerError(f"cannot read the token from {path}: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise RefusedByServerError(f"{path} does not hold a token")
    return token


def _bytes_of(path: str) -> bytes:
    """Read a file, or a pipe that the shell opened: ``--token-file <(pass show lab)``."""
    if not path.startswith(_OPEN_ALREADY):
        return read_regular(path, limit=TOKEN_LIMIT)
    with open(path, "rb", buffering=0) as pipe:  # noqa: PTH123
        return read_descriptor(pipe.fileno(), TOKEN_LIMIT, path)


def _path(name: str, *words: str) -> str:
    return "/".join(["/api/deployments", *(quote(word, safe="") for word in (name, *words))])


def _files(name: str, guest: str, path: str) -> str:
    """Return the target for files of a guest. Raises WrongInputError for a path that is not UTF-8."""
    try:
        return f"{_path(name, 'guests', guest, 'files')}?{urlencode({'path': path})}"
    except UnicodeEncodeError as error:  # of the command line, or of a link in the guest
        raise WrongInputError(f"not encoded in UTF-8: {path!r}") from error


def _not_connected(error: requests.ConnectionError) -> bool:
    """Return whether the request has not left this machine."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
            return True
        cause = cause.__context__
    return False


def _cause(error: BaseException) -> str:
    """Return the innermost reason, which is the most specific one."""
    found = error
    while (inner := found.__cause__ or found.__context__) is not None:
        found = inner
    return getattr(found, "strerror", None) or str(found)


def _myself() -> str:
    """Return what this client calls itself: the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()
