"""Opens SSH connections to guests: checks the host key, and logs in with ours."""

from __future__ import annotations

import asyncio
import socket

import asyncssh

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.ssh import bound_unsent, text_of
from kvmcompose.providers.guest.interface import Login
from kvmcompose.providers.guest.known_hosts import known_hosts

_CONNECT_SECONDS = 2.0
#: For key exchange and login, in seconds; many guests that boot under emulation are slow.
_LOGIN_SECONDS = 30.0
KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3
#: Those of dropbear and OpenSSH, shortest first.
_HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
)
_RSA = "ssh-rsa"


class _HostKeyCheck(asyncssh.SSHClient):
    """Compares the host key with the recorded one; at first contact, accepts any."""

    def __init__(self, noted: str | None) -> None:
        self.noted = noted
        self.shown = ""

    def connection_made(self, connection: asyncssh.SSHClientConnection) -> None:
        bound_unsent(connection)

    def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = " ".join(key.export_public_key("openssh").decode().split()[:2])
        return self.noted is None or self.shown == self.noted


async def connect(login: Login) -> asyncssh.SSHClientConnection:
    """Open a connection. Raises DriverError for a permanent failure, else OSError or asyncssh.Error."""
    known = known_hosts(login)
    identity = await in_thread(_identity, login)
    try:
        noted = await in_thread(known.key, login.alias, login.life)
    except OSError as error:
        raise DriverError(f"cannot read {login.known_hosts}: {error.strerror}") from error
    client = _HostKeyCheck(noted)
    endpoint = await reach(login)
    try:
        connection = await asyncssh.connect(
            login.address,
            sock=endpoint,
            client_factory=lambda: client,
            username=login.user,
            client_keys=[identity],
            # an empty file would mean the user's own; this way asyncssh asks the client about every key
            known_hosts=lambda *_: ([], [], []),
            server_host_key_algs=_algorithms(noted),
            preferred_auth="publickey",
            agent_path=None,
            config=None,
            gss_host=None,
            compression_algs=None,
            connect_timeout=_LOGIN_SECONDS,
            login_timeout=_LOGIN_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
            keepalive_count_max=_KEEPALIVE_COUNT,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        endpoint.close()
        raise _wrong_key(login, client) from error
    except BaseException:
        endpoint.close()
        raise
    if noted is None:
        try:
            await in_thread(known.note, login.alias, client.shown, login.life)
        except (OSError, ValueError) as error:
            connection.abort()
            raise DriverError(f"cannot write {login.known_hosts}: {text_of(error)}") from error
    return connection


def _identity(login: Login) -> asyncssh.SSHKey:
    try:
        if login.identity is not None:
            return asyncssh.import_private_key(login.identity.content)
        return asyncssh.read_private_key(login.identity_file)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise DriverError(
            f"cannot use the key {login.identity_file} to log in to {login.guest}: {text_of(error)}",
            hint="it must have no passphrase, because nobody can be asked for it",
        ) from error


async def reach(login: Login) -> socket.socket:
    """Return a connected socket, with a shorter timeout than that of a login. Raises OSError, DriverError."""
    if login.gate is not None:
        return await login.gate.connect(login.address, login.port)
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(endpoint, (login.address, login.port))
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _algorithms(noted: str | None) -> list[str]:
    """Return the types of host keys to request, that of the recorded key first."""
    kind = noted.split(" ", 1)[0] if noted else ""
    first = [name for name in _HOST_KEY_ALGORITHMS if name == kind or (kind == _RSA and "rsa" in name)]
    return list(dict.fromkeys([*first, *_HOST_KEY_ALGORITHMS]))


def _wrong_key(login: Login, client: _HostKeyCheck) -> DriverError:
    return DriverError(
        f"{login.address} has another host key than {login.guest} had at first contact:"
        f" {client.shown or 'a certificate'}, not {client.noted}",
        hint=f"if its disk was rebuilt by hand: ssh-keygen -R {login.alias} -f {login.known_hosts};"
        " otherwise another machine answers at its address",
    )
