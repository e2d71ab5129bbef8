"""The SSH connection to another testbed host: kept open, and opened again after a loss.

The host key must be known beforehand: from the configuration (``host_key``) or OpenSSH's known_hosts files.
The user's ``~/.ssh/config`` applies, as for ssh(1): aliases, ports, jump hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import time
from pathlib import Path

import asyncssh

from kvmcompose.core.model import Host
from kvmcompose.effects.files import expand
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.hosts.ssh import bound_unsent, text_of

log = logging.getLogger(__name__)

#: From the first packet to the end of the login, in seconds; a busy host is slow.
_CONNECT_SECONDS = 15.0
#: A host that was waited for in vain is not tried again so soon, in seconds: an action that looks at a host
#: in several ways, one after the other, would wait as often.
_AGAIN_SECONDS = 2.0
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3
#: sshd allows ten sessions per connection (MaxSessions); forwarded sockets do not count.
SESSIONS = 8
#: sshd drops connections when ten are logging in at once (MaxStartups).
_LOGINS = 4
#: The largest key, or file of known keys, in bytes.
_LARGEST_KEY = 1 << 20
_MEMBERS_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")


class _HostKeyRecorder(asyncssh.SSHClient):
    """Records the key of a host that is not the known one."""

    def __init__(self) -> None:
        self.shown: asyncssh.SSHKey | None = None

    def connection_made(self, connection: asyncssh.SSHClientConnection) -> None:
        bound_unsent(connection)

    def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False


class HostConnection:
    """A connection that ``get`` opens."""

    def __init__(self, host: Host, member: OwnerFiles | None = None) -> None:
        """``member`` is the user whose keys are used instead of those of the server's own user."""
        self.host = host
        self.member = member
        self.user = host.user or (member.name if member is not None else getpass.getuser())
        self.sessions = asyncio.Semaphore(SESSIONS)
        self.logins = asyncio.Semaphore(_LOGINS)
        self._guard = asyncio.Lock()
        self._open: asyncssh.SSHClientConnection | None = None
        #: Why it could not be opened, and until when that is the answer.
        self._failed: tuple[float, DriverError] | None = None

    @property
    def where(self) -> str:
        """The host as messages name it."""
        return f"{self.host.name} ({self.user}@{self.host.ip})"

    async def get(self) -> asyncssh.SSHClientConnection:
        """Return the open connection, or a new one.

        Raises HostLostError when the host does not answer, DriverError when it does but cannot be used.
        """
        asked = time.monotonic()
        async with self._guard:
            if self._open is None or self._open.is_closed():
                if self._failed is not None and self._failed[0] >= asked:
                    raise self._failed[1]  # the attempt that this one waited for has failed
                begun = time.monotonic()
                try:
                    self._open = await self._connect()
                except DriverError as error:
                    ended = time.monotonic()
                    self._failed = ended + (_AGAIN_SECONDS if ended - begun > _AGAIN_SECONDS else 0), error
                    raise
            return self._open

    def lost(self, error: Exception) -> HostLostError:
        """Return the error of a connection that was lost."""
        return HostLostError(
            f"the connection to {self.where} was lost: {text_of(error)}",
            hint="when the host is back, run the same command again: it resumes",
        )

    async def close(self) -> None:
        """Close it."""
        connection, self._open = self._open, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        client = _HostKeyRecorder()
        log.debug("connecting to %s", self.where)
        options = await in_thread(self._options)
        try:
            connection = await asyncssh.connect(
                self.host.ip,
                client_factory=lambda: client,
                gss_host=None,
                compression_algs=None,
                connect_timeout=_CONNECT_SECONDS,
                login_timeout=_CONNECT_SECONDS,
                keepalive_interval=_KEEPALIVE_SECONDS,
                keepalive_count_max=_KEEPALIVE_COUNT,
                **options,
            )
            self.user = str(connection.get_extra_info("username"))  # ~/.ssh/config may name another one
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._unknown_key(client, error) from error
        except asyncssh.PermissionDenied as error:
            raise DriverError(
                f"{self.where} denies access: {text_of(error)}",
                hint=self._key_hint(),
            ) from error
        except asyncssh.KeyExchangeFailed as error:
            raise DriverError(f"no common SSH algorithms with {self.where}: {text_of(error)}") from error
        except (ValueError, OSError, asyncssh.Error) as error:
            if isinstance(error, ValueError) or getattr(error, "filename", None) is not None:
                raise DriverError(
                    f"cannot read the SSH configuration for {self.where}: {text_of(error)}",
                    hint="check its entry in ~/.ssh/config",
                ) from error
            raise HostLostError(
                f"cannot reach {self.where} by SSH: {_why(error)}",
                hint=f"does this work? ssh {self.user}@{self.host.ip} true",
            ) from error
        return connection

    def _options(self) -> dict[str, object]:
        """Return the options that depend on the configuration and on files. Raises DriverError."""
        options: dict[str, object] = {}
        if self.member is not None:
            options |= {
                "username": self.user,
                "config": None,
                "agent_path": None,
                "client_keys": self._keys(),
            }
        if self.host.user is not None:
            options["username"] = self.host.user
        if self.host.ssh_port is not None:
            options["port"] = self.host.ssh_port
        if self.host.identity_file is not None and self.member is None:
            options["client_keys"] = [self._identity(expand(self.host.identity_file))]
        if self.host.host_key is not None:
            try:
                pinned = asyncssh.import_public_key(self.host.host_key)
            except asyncssh.KeyImportError as error:
                raise DriverError(
                    f"the host_key of {self.host.name} is not a valid public key: {text_of(error)}",
                    hint="it is the type and the key, as in a .pub file: ssh-ed25519 AAAA…",
                ) from error
            options["known_hosts"] = ([pinned], [], [])
        elif self.member is not None:
            options["known_hosts"] = asyncssh.import_known_hosts(self._known_to(self.member))
        else:
            files = [str(path) for name in _KNOWN_HOSTS if (path := Path(name).expanduser()).is_file()]
            try:
                options["known_hosts"] = asyncssh.read_known_hosts(files)
            except (OSError, ValueError) as error:
                raise DriverError(
                    f"cannot read the host key of {self.host.name} from {', '.join(files)}: {text_of(error)}",
                    hint="pin its key in kvm-compose-config.json: host_key",
                ) from error
        return options

    def _keys(self) -> list[asyncssh.SSHKey]:
        """Return the keys of a member: the configured one, or those that ssh(1) uses. Raises DriverError."""
        assert self.member is not None  # noqa: S101 (else the server's user has them)
        named = self.host.identity_file
        paths = [named] if named is not None else _MEMBERS_KEYS
        found: list[asyncssh.SSHKey] = []
        for path in paths:
            try:
                found.append(
                    asyncssh.import_private_key(self.member.read(self.member.expand(path), _LARGEST_KEY))
                )
            except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
                if named is not None:
                    raise DriverError(
                        f"cannot use the key {path} of {self.member.name} to log in to {self.host.name}:"
                        f" {text_of(error)}",
                        hint=f"{self.member.name} must be able to read it, and it must have no passphrase",
                    ) from error
        if not found:
            raise DriverError(
                f"{self.member.name} has no key to log in to {self.host.name}",
                hint="name one in kvm-compose-config.json: identity_file",
            )
        return found

    @staticmethod
    def _known_to(member: OwnerFiles) -> str:
        texts = []
        for name in _KNOWN_HOSTS:
            with contextlib.suppress(OSError):
                texts.append(member.read(member.expand(name), _LARGEST_KEY).decode(errors="replace"))
        return "\n".join(texts)

    def _identity(self, path: Path) -> asyncssh.SSHKey:
        try:
            return asyncssh.read_private_key(path)
        except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise DriverError(
                f"cannot use the key {path} to log in to {self.host.name}: {text_of(error)}",
                hint="it must have no passphrase; or omit identity_file, and load it: ssh-add",
            ) from error

    def _key_hint(self) -> str:
        if self.host.identity_file is not None:
            return f"ssh-copy-id -i {self.host.identity_file} {self.user}@{self.host.ip}"
        return f"configure a key for it (identity_file), or: ssh-copy-id {self.user}@{self.host.ip}"

    def _unknown_key(self, client: _HostKeyRecorder, error: Exception) -> DriverError:
        if client.shown is None:
            return DriverError(f"{self.where} has a host key that cannot be trusted: {text_of(error)}")
        key = " ".join(client.shown.export_public_key("openssh").decode().split()[:2])
        known = "host_key in kvm-compose-config.json" if self.host.host_key else "known_hosts"
        return DriverError(
            f"{self.where} has a host key that is not the one in {known}:"
            f" {key} ({client.shown.get_fingerprint()})",
            hint="if the host confirms it (ssh-keyscan there, on localhost), pin it in"
            f' kvm-compose-config.json: "host_key": "{key}"',
        )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number is not None and number > 0 else text_of(error)
