"""What a guest reads from its seed, as text for people."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from email import message_from_bytes
from email.message import Message

_LEFT_OUT = "(left out)"
_NAMES = (
    r"hashed[_-]passwd|passwd|plain[_-]text[_-]passwd|password|admin[_-]pass(?:word)?|passphrase|secret|token"
    r"|[a-z]+_private|privatekey|private[_-]key"
)
#: A value behind such a key: in JSON, or the rest of a line of YAML.
_QUOTED = re.compile(rf'("(?:{_NAMES})"\s*:\s*)"(?:[^"\\]|\\.)*"', re.IGNORECASE)
_PLAIN = re.compile(rf"(?m)^(\s*(?:-\s+)?(?:{_NAMES})\s*:[ \t]+)(?![|>\"])[^\s#].*$", re.IGNORECASE)
#: A hash of a password (crypt(5)), wherever it is.
_HASH = re.compile(r"\$(?:y|gy|7|2[abxy]|6|5|1|sha1)\$[./A-Za-z0-9$=,*]{8,}")
_FILE = re.compile(r'(?m)^  - (\{"path": .*\})$')
_OTHERS_READ = 0o004


def readable(data: bytes) -> str:
    """Return the text of a file; parts of a MIME archive are decoded, and keep their headers."""
    if not data.startswith(b"Content-Type: multipart/"):
        return data.decode(errors="replace")
    message = message_from_bytes(data)
    if not message.is_multipart():
        return data.decode(errors="replace")
    boundary = message.get_boundary()
    parts = "".join(f"--{boundary}\n{_part(part)}" for part in message.get_payload())
    return f"{_headers(message)}\n{parts}--{boundary}--\n"


def _part(part: Message | str) -> str:
    if isinstance(part, str) or part.is_multipart():
        return f"{part}\n"
    payload = part.get_payload(decode=True)
    text = payload.decode(errors="replace") if isinstance(payload, bytes) else ""
    return f"{_headers(part)}\n{text.rstrip()}\n\n"


def _headers(message: Message) -> str:
    return "".join(f"{name}: {value}\n" for name, value in message.items())


def without_secrets(text: str) -> str:
    """Return a text without passwords, their hashes, private keys, and files that not everyone may read."""
    text = _FILE.sub(_without_content, text)
    text = _QUOTED.sub(rf'\1"{_LEFT_OUT}"', text)
    text = _PLAIN.sub(rf"\1{_LEFT_OUT}", text)
    return _HASH.sub(_LEFT_OUT, text)


def _without_content(found: re.Match[str]) -> str:
    with suppress(ValueError):
        file = json.loads(found[1])
        if "content" in file and not int(file.get("permissions", "0644"), 8) & _OTHERS_READ:
            return f"  - {json.dumps({**file, 'content': _LEFT_OUT})}"
    return found[0]
