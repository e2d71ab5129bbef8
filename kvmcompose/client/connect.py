"""Finds the server to talk to, and starts one for a user who has none."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kvmcompose.client.address import Address
from kvmcompose.client.embedded import ensure
from kvmcompose.client.errors import RefusedByServerError
from kvmcompose.client.remote import RemoteServer, read_token
from kvmcompose.effects.server_places import socket_path, state_dir, token_path


def connect(
    address: str | None = None,
    *,
    token_file: str | None = None,
    ca_file: str | None = None,
    who: str | None = None,
    insecure: bool = False,
) -> RemoteServer:
    """Return the server at ``address`` (``unix:/path``, ``http://…``, ``https://…``).

    The default is KVM_COMPOSE_SERVER in the environment, else the server on this user's socket, which is
    started if it does not run, and ends by itself. ``token_file`` holds the token for TCP
    (KVM_COMPOSE_TOKEN_FILE; on this machine the default is that of this user's own server), ``ca_file`` the
    certificates to trust (KVM_COMPOSE_CA_FILE). ``who`` is what the client calls itself. Without TLS the
    token is sent only to a server of this user or of root on this machine, unless ``insecure``
    (KVM_COMPOSE_INSECURE). Raises ServerError.
    """
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
                f"{place}: refusing to send the token without TLS",
                hint="https://host:port, or --insecure (KVM_COMPOSE_INSECURE=1) if the network is trusted",
            )
        place = msgspec.structs.replace(place, own=True)
    return RemoteServer(place, token=token, ca_file=ca_file or env("KVM_COMPOSE_CA_FILE"), who=who)
