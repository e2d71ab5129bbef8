"""Public keys in the format of ``authorized_keys`` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").

A line has options, which may be missing, the type of the key, the key in base64, and a comment. Keys are
encoded as in RFC 4253, section 6.6, RFC 5656, RFC 8709 and OpenSSH's PROTOCOL.u2f.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterator

from kvmcompose.core.errors import Location, Problem

#: The largest file of public keys, in bytes.
LARGEST_KEY_FILE = 2**20

_POINTS = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_RSA_BITS = range(1024, 16385)  # what OpenSSH accepts
_ED25519_BYTES = 32
_CERTIFICATE = "-cert-v01@openssh.com"
_TYPES = (
    "ssh-ed25519", "ssh-rsa", "ssh-dss", *(f"ecdsa-sha2-{curve}" for curve in _POINTS),
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
_FLAGS = frozenset(
    {
        "agent-forwarding", "cert-authority", "no-agent-forwarding", "no-port-forwarding", "no-pty",
        "no-touch-required", "no-user-rc", "no-x11-forwarding", "port-forwarding", "pty", "restrict",
        "user-rc", "verify-required", "x11-forwarding",
    }
)  # fmt: skip
_SETTINGS = frozenset(
    {
        "command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals",
        "tunnel",
    }
)  # fmt: skip
_OPTION = re.compile(r'([A-Za-z0-9-]+)(=("(?:\\"|[^"])*"))?')
_BLANKS = " \t"
_BASE64_ONLY = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_OTHER_FORMATS = (
    ("---- BEGIN SSH2 PUBLIC KEY", "an RFC 4716 key", "ssh-keygen -i -f {name}"),
    ("-----BEGIN RSA PUBLIC KEY", "a PEM key", "ssh-keygen -i -m PEM -f {name}"),
    ("-----BEGIN PUBLIC KEY", "a PKCS#8 key", "ssh-keygen -i -m PKCS8 -f {name}"),
)
_WANTED = "an OpenSSH public key on each line: ssh-ed25519 AAAA… comment"


class _LineError(Exception):
    def __init__(self, column: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.message = message
        self.hint = hint


def parse_public_keys(data: bytes, name: str) -> tuple[list[str], tuple[Problem, ...]]:
    """Return the keys of the file ``name``, each as its line, and everything that is wrong with it."""
    shown = shlex.quote(name)
    if whole := _wrong_file(data, shown):
        return [], (_problem(name, 1, whole),)
    keys: list[str] = []
    problems: list[Problem] = []
    cut = False  # whether the last line was a key that is not complete
    # only these end lines and separate words for sshd, not all that Python takes for blank
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", data.decode(errors="replace")), 1):
        line = raw.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        if cut and _BASE64_ONLY.fullmatch(line):
            continue  # the rest of a key that is wrapped, which has been reported
        try:
            _check_line(line)
        except _LineError as error:
            error.column += len(raw) - len(raw.lstrip(_BLANKS))
            problems.append(_problem(name, number, error))
            cut = True
            continue
        cut = False
        keys.append(line)
    if not keys and not problems:
        problems.append(_problem(name, 1, _LineError(1, "the file has no public key in it")))
    return keys, tuple(problems)


def _problem(name: str, line: int, error: _LineError) -> Problem:
    return Problem(
        code="bad-public-key",
        message=error.message,
        location=Location(name, line, error.column),
        wanted=_WANTED,
        hint=error.hint,
    )


def _wrong_file(data: bytes, name: str) -> _LineError | None:
    """Return why a file as a whole cannot be a list of public keys."""
    if len(data) > LARGEST_KEY_FILE:
        return _LineError(1, f"the file is larger than {LARGEST_KEY_FILE >> 20} MiB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        return _LineError(1, "the file is UTF-16 or binary, not text", f"iconv -f UTF-16 -t UTF-8 {name}")
    if data.startswith(b"\xef\xbb\xbf"):
        hint = f"remove it: sed -i '1s/^\\xef\\xbb\\xbf//' {name}"
        return _LineError(1, "the file starts with a byte-order mark", hint)
    if b"PRIVATE KEY" in data or data.startswith(b"PuTTY-User-Key-File"):
        message = "the file is a private key, which must not leave this machine"
        return _LineError(1, message, "name the file that ends in .pub")
    text = data.lstrip()
    for mark, what, command in _OTHER_FORMATS:
        if text.startswith(mark.encode()):
            return _LineError(1, f"the file is {what}", f"convert it: {command.format(name=name)}")
    return None


def _check_line(line: str) -> None:
    """Raise _LineError for a line that sshd does not accept."""
    start = 0
    if _words(line, 1)[0].removesuffix(_CERTIFICATE) not in _TYPES:
        start = _check_options(line)
    words = _words(line[start:], 2)
    kind = words[0]
    if kind.endswith(_CERTIFICATE):
        hint = "name the key itself, or the key of the authority after the option cert-authority"
        raise _LineError(start + 1, "a certificate is no key that sshd accepts", hint)
    if len(words) == 1:
        raise _LineError(start + len(kind) + 1, f"there is no key after {kind}")
    column = line.index(words[1], start + len(kind)) + 1
    _check_blob(kind, words[1], column)


def _check_options(line: str) -> int:
    """Check the options at the beginning of a line; return where the type of the key starts."""
    position = 0
    while True:
        option = _OPTION.match(line, position)
        known = option is not None and (
            option[1].lower() in _SETTINGS if option[3] else option[1].lower() in _FLAGS and not option[2]
        )
        if option is None or not known:
            word = re.split(r"[ \t,=]", line[position:], maxsplit=1)[0]
            if position and not word:
                raise _LineError(position + 1, "there is a blank between the options", "remove it")
            raise _LineError(
                position + 1, f"{_short(word)} is neither the type of a key nor an option of sshd"
            )
        position = option.end()
        if line[position : position + 1] != ",":
            break
        position += 1
    rest = line[position:]
    start = position + len(rest) - len(rest.lstrip(_BLANKS))
    word = _words(line[start:], 1)[0]
    if start == position or word.removesuffix(_CERTIFICATE) not in _TYPES:
        raise _LineError(start + 1, f"no type of a key follows the options, but {_short(word)}")
    return start


def _words(text: str, splits: int) -> list[str]:
    return re.split(f"[{_BLANKS}]+", text.strip(_BLANKS), maxsplit=splits)


def _short(word: str) -> str:
    return repr(word if len(word) <= 40 else f"{word[:40]}…")  # noqa: PLR2004


def _check_blob(kind: str, text: str, column: int) -> None:
    cut = "the key is not complete; it may be cut off, or wrapped: a key is one line"
    try:
        blob = base64.b64decode(text, validate=True)
        fields = list(_fields(blob))
    except (binascii.Error, ValueError):
        raise _LineError(column, cut) from None
    if base64.b64encode(blob).decode() != text:  # sshd refuses what Python's decoder ignores
        raise _LineError(column, "the key has characters after its end", "remove them: '=' ends a key")
    if not fields or fields[0] != kind.encode():
        raise _LineError(column, f"the key is not of the type {kind}" if fields else cut)
    if not _has_shape(kind, fields[1:]):
        raise _LineError(column, cut if len(fields) < _least(kind) else f"the key is no valid {kind} key")


def _fields(blob: bytes) -> Iterator[bytes]:
    """Yield the strings of RFC 4251, section 5, that a key consists of. Raises ValueError."""
    position = 0
    while position < len(blob):
        length = int.from_bytes(blob[position : position + 4], "big")
        position += 4 + length
        if position > len(blob):
            raise ValueError
        yield blob[position - length : position]


def _least(kind: str) -> int:
    """The number of strings in a key of this type."""
    if kind == "ssh-dss":
        return 5
    return (2 if "ed25519" in kind else 3) + kind.startswith("sk-")


def _has_shape(kind: str, fields: list[bytes]) -> bool:
    if len(fields) + 1 != _least(kind):
        return False
    if kind == "ssh-rsa":
        return all(map(_is_positive, fields)) and int.from_bytes(fields[1], "big").bit_length() in _RSA_BITS
    if kind == "ssh-dss":
        return all(map(_is_positive, fields))
    if "ed25519" in kind:
        return len(fields[0]) == _ED25519_BYTES
    curve, point = fields[0].decode(errors="replace"), fields[1]
    return f"-{curve}" in kind and len(point) == _POINTS.get(curve) and point.startswith(b"\4")


def _is_positive(number: bytes) -> bool:
    """Whether an mpint is positive and has no more zeros in front than it needs."""
    return bool(number) and number[0] < 0x80 and (number[0] > 0 or number[1:2] > b"\x7f")  # noqa: PLR2004
