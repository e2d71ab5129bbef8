"""A testbed server as seen by its clients: a method for each thing that can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.deployment import (
    Action,
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
from kvmcompose.core.errors import InputError, KvmComposeError, RefusedError
from kvmcompose.effects.server_places import socket_path, state_dir, token_path

if TYPE_CHECKING:
    from kvmcompose.client.packets import PacketStream


class ServerError(KvmComposeError):
    """The server cannot be reached, or refuses. ``status`` is that of HTTP, None without an answer."""

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RefusedByServerError(ServerError, RefusedError):
    """Refused before anything was changed: something else runs, it is not allowed, no token."""


class WrongInputError(ServerError):
    """The server could make no sense of what it was asked for."""

    exit_code = InputError.exit_code


class Server:
    """A server that can be talked to. Every method raises ServerError."""

    def health(self) -> Health:
        """That it is there."""
        raise NotImplementedError

    def deployments(self) -> list[Deployment]:
        """All deployments it knows."""
        raise NotImplementedError

    def deployment(self, name: str) -> Deployment:
        """One of them; ServerError with status 404 when there is none of that name."""
        raise NotImplementedError

    def put(self, new: NewDeployment) -> Deployment:
        """Make a project known to it (no change when it is already)."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Have it forget a deployment and its history."""
        raise NotImplementedError

    def act(self, name: str, command: Command) -> str:
        """Ask for an action; its UUID."""
        raise NotImplementedError

    def cancel(self, name: str, uuid: str) -> None:
        """Stop an action; no error when it has ended already."""
        raise NotImplementedError

    def actions(self, name: str) -> list[Action]:
        """A deployment's actions, the latest first."""
        raise NotImplementedError

    def action(self, name: str, uuid: str) -> Action:
        """One action."""
        raise NotImplementedError

    def steps(self, name: str, uuid: str) -> list[Step]:
        """An action's steps so far."""
        raise NotImplementedError

    def follow(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """An action's log after line ``after``, until it ends; a lost connection is taken up again."""
        raise NotImplementedError

    def lines(self, name: str, uuid: str, after: int = 0) -> Iterator[LogLine]:
        """An action's log so far."""
        raise NotImplementedError

    def status(self, name: str) -> TestbedStatus:
        """A deployment and its guests as they are now."""
        raise NotImplementedError

    def access(self, name: str) -> list[GuestAccess]:
        """How its guests are reached."""
        raise NotImplementedError

    def snapshots(self, name: str, guest: str | None = None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all."""
        raise NotImplementedError

    def capture(self, name: str, wanted: Capture) -> PacketStream:
        """Begin to capture packets; they come for as long as the stream is open."""
        raise NotImplementedError

    def state(self, name: str) -> bytes:
        """The ``state.json`` of what is up."""
        raise NotImplementedError


def connect(
    address: str | None = None,
    *,
    token_file: str | None = None,
    ca_file: str | None = None,
    who: str | None = None,
    insecure: bool = False,
) -> Server:
    """The server at ``address`` (``unix:/path``, ``http://…``, ``https://…``).

    Without one: KVM_COMPOSE_SERVER in the environment, else the one on this user's usual socket; when none
    answers there, one is started that ends by itself. ``token_file`` holds the secret of a server that is
    reached by TCP (KVM_COMPOSE_TOKEN_FILE; for one on this machine that of this user's own server),
    ``ca_file`` the certificate that vouches for it (KVM_COMPOSE_CA_FILE), ``who`` is how the asker is
    called. Without TLS the token is given only to a server of this user or of root on this machine, unless
    ``insecure`` (KVM_COMPOSE_INSECURE). Raises ServerError.
    """
    # requests takes longer to import than many a command runs that needs no server
    from kvmcompose.client.address import Address  # noqa: PLC0415
    from kvmcompose.client.embedded import ensure  # noqa: PLC0415
    from kvmcompose.client.remote import RemoteServer, read_token  # noqa: PLC0415

    env = os.environ.get
    address = address or env("KVM_COMPOSE_SERVER")
    if not address:
        state = state_dir()
        usual = Address(socket=socket_path(state), own=True)
        ensure(state, usual)
        return RemoteServer(usual, who=who, revive=lambda: ensure(state, usual))
    place = Address.parse(address)
    token = None
    if place.socket is None:
        given = token_file or env("KVM_COMPOSE_TOKEN_FILE")
        own = token_path(state_dir())
        if given:
            token = read_token(Path(given).expanduser())
        elif place.loopback and os.access(own, os.R_OK):
            token = read_token(own)
    if (
        token is not None
        and not place.tls
        and not (insecure or env("KVM_COMPOSE_INSECURE", "") not in ("", "0"))
    ):
        if not place.loopback:
            raise RefusedByServerError(
                f"{place}: without TLS whoever listens on the way learns the token",
                hint="https://host:port, or --insecure (KVM_COMPOSE_INSECURE=1) if the network is trusted",
            )
        place = msgspec.structs.replace(place, own=True)
    return RemoteServer(place, token=token, ca_file=ca_file or env("KVM_COMPOSE_CA_FILE"), who=who)
