"""Named tokens for clients that connect by TCP: a file in the state folder with their digests."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.locking import lock
from kvmcompose.server.people import Person, Role, login_name

#: Lets scanners recognise a token where it should not be, in a repository for example.
PREFIX = "kvmc_"
DEFAULT_EXPIRY = "90d"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EXPIRY = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
#: The use of a token is recorded at most once in so many seconds.
_NOTED_SECONDS = 60
_LARGEST = 4 * 1024 * 1024  # bytes


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """The stored data of a token. Times are in RFC 3339 format, UTC; ``expires`` None means never.

    ``user`` and ``uid`` are the local user whose rights it grants; None for an administrator's token.
    """

    name: str
    role: Role
    sha256: str
    created: str
    expires: str | None = None
    user: str | None = None
    uid: int | None = None

    @property
    def expired(self) -> bool:
        """Whether the token has expired."""
        return self.expires is not None and datetime.fromisoformat(self.expires) <= datetime.now(UTC)

    def person(self) -> Person | None:
        """Return the user who presents it; None when that user no longer has an account of that name."""
        if self.role is Role.ADMIN:
            return Person(name="administrator", role=Role.ADMIN, uid=os.geteuid())
        if self.user is None or self.uid is None or login_name(self.uid) != self.user:
            return None
        return Person(name=self.user, role=self.role, uid=self.uid)


class Tokens:
    """The tokens of a state folder. Changes by other processes take effect at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "tokens.json"
        self._used_path = folder / "tokens-used.json"
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()
        self._noted: dict[str, datetime] = {}

    def all(self) -> tuple[Token, ...]:
        """Return all tokens. Raises KvmComposeError, and RefusedError for a file that others can read."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        except OSError as error:
            raise KvmComposeError(f"cannot read {self._path}: {error.strerror}") from error
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & 0o077 or found.st_uid != os.geteuid():
                raise RefusedError(
                    f"{self._path}: other users can read or write the tokens", hint=f"chmod 600 {self._path}"
                )
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                try:
                    self._tokens = msgspec.json.decode(file.read(_LARGEST), type=tuple[Token, ...])
                except msgspec.DecodeError as error:
                    raise KvmComposeError(
                        f"{self._path} is corrupt: {error}", hint="remove it and create the tokens again"
                    ) from error
                self._seen = seen
        return self._tokens

    def find(self, secret: str) -> Token | None:
        """Return the token with this secret, even if it has expired, or None."""
        wanted = digest(secret)
        found = None
        for each in self.all():  # no early exit: the time taken reveals nothing
            if hmac.compare_digest(each.sha256, wanted):
                found = each
        return found

    def is_good(self, token: Token) -> bool:
        """Return whether a token that was valid still is."""
        return not token.expired and token in self.all() and token.person() is not None

    def create(self, name: str, role: Role, user: tuple[str, int] | None, expires: str | None) -> str:
        """Create a token and return its secret, which is not stored. Raises RefusedError."""
        if _NAME.fullmatch(name) is None:
            raise RefusedError(
                f"invalid token name {name!r}",
                hint="use at most 63 letters, digits, '.', '_' and '-', with a letter or digit first",
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        token = Token(
            name=name,
            role=role,
            sha256=digest(secret),
            created=_text(datetime.now(UTC)),
            expires=expires,
            user=user[0] if user else None,
            uid=user[1] if user else None,
        )
        with self._changing():
            known = self.all()
            if any(each.name == name for each in known):
                raise RefusedError(
                    f"the token {name!r} already exists", hint=f"kvm-compose server token revoke {name}"
                )
            self._write((*known, token))
        return secret

    def revoke(self, name: str) -> None:
        """Invalidate a token. Raises RefusedError when there is none of that name."""
        with self._changing():
            known = self.all()
            kept = tuple(each for each in known if each.name != name)
            if kept == known:
                raise RefusedError(f"no such token: {name!r}", hint="kvm-compose server token list")
            self._write(kept)

    def note_use(self, token: Token) -> None:
        """Record that a token was used, at most once a minute."""
        now = datetime.now(UTC)
        last = self._noted.get(token.name)
        if last is not None and (now - last).total_seconds() < _NOTED_SECONDS:
            return
        self._noted[token.name] = now
        used = {**self.last_used(), token.name: _text(now)}
        names = {each.name for each in self.all()}
        kept = {name: time for name, time in used.items() if name in names}
        with contextlib.suppress(OSError):  # a full disk must not lock anybody out
            write_atomic(self._used_path, msgspec.json.encode(kept), mode=0o600)

    def last_used(self) -> dict[str, str]:
        """Return when each token was used last, by name, to the minute."""
        try:
            return msgspec.json.decode(self._used_path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock for changes. Raises KvmComposeError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._folder / "tokens.lock", flags, 0o600)
        except OSError as error:
            raise KvmComposeError(
                f"cannot change the tokens in {self._folder}: {error.strerror}",
                hint="run this as the server's user (with sudo if it runs as root)",
            ) from error
        try:
            lock(handle, self._folder / "tokens.lock")
            yield
        finally:
            os.close(handle)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        try:
            write_atomic(self._path, msgspec.json.format(msgspec.json.encode(tokens)) + b"\n", mode=0o600)
        except OSError as error:
            raise KvmComposeError(f"cannot write {self._path}: {error.strerror}") from error


def expiry(text: str) -> str | None:
    """Return the time ``30d``, ``12h`` or ``15m`` from now as RFC 3339; None for ``never``.

    Raises RefusedError.
    """
    if text == "never":
        return None
    found = _EXPIRY.fullmatch(text)
    if found is None:
        raise RefusedError(f"invalid duration {text!r}", hint="30d, 12h, 15m, or never")
    return _text(datetime.now(UTC) + timedelta(**{_UNITS[found.group(2)]: int(found.group(1))}))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret that has too many random bits to be guessed."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
