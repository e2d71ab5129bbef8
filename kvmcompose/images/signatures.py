"""Verify signatures of published checksum lists by ``gpgv``, with one given keyring.

Format of its output: GnuPG, doc/DETAILS, section "Format of the --status-fd output".
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects import process
from kvmcompose.images.catalogue import mirrored
from kvmcompose.images.download import fetch_small

if TYPE_CHECKING:
    from kvmcompose.images.catalogue import CatalogueImage, Signing

_TIMEOUT = 60.0  # seconds
#: What gpgv may report instead of a good signature.
_FAULTS = {
    "BADSIG": "the list was changed after it was signed",
    "EXPKEYSIG": "the key that signed it has expired",
    "EXPSIG": "the signature has expired",
    "REVKEYSIG": "the key that signed it was revoked",
    "NO_PUBKEY": "the key that signed it is not in the keyring",
    "ERRSIG": "the signature cannot be checked",
    "NODATA": "the file contains no signature",
}


def fetch_list(image: CatalogueImage, source: str, mirror: str | None) -> tuple[str, str]:
    """Return a published list, and a description of its signature.

    Raises KvmComposeError when a list that its publisher signs has no good signature.
    """
    data = fetch_small(source)
    text = data.decode(errors="replace")
    if image.signing is None:
        return text, "its publisher does not sign its list"
    if (why := obstacle(image.signing)) is not None:
        return text, f"not verified: {why}"
    at = mirrored(image.signing.url, mirror)
    try:
        signature = fetch_small(at)
    except KvmComposeError as error:
        raise KvmComposeError(
            f"{source} is signed by its publisher, but the signature cannot be fetched: {error.message}",
            hint="the mirror must have the signature beside the list" if mirror else error.hint,
        ) from error
    return text, f"verified: signed by {verify_list(data, signature, image.signing.keyring, source)}"


def obstacle(signing: Signing) -> str | None:
    """Why a signature cannot be verified on this machine, or None."""
    if shutil.which("gpgv") is None:
        return "gpgv is not installed (sudo apt-get install gpgv)"
    if not Path(signing.keyring).is_file():
        return f"the keyring {signing.keyring} does not exist (Debian package {signing.package})"
    return None


def verify_list(data: bytes, signature: bytes, keyring: str, source: str) -> str:
    """Return the fingerprint of the key that signed a list. Raises KvmComposeError for any other outcome.

    Of several signatures one must be good and none bad; those by keys outside the keyring do not count.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-compose-") as scratch:
        signed, detached = Path(scratch, "list"), Path(scratch, "signature")
        signed.write_bytes(data)
        detached.write_bytes(signature)
        argv = ["gpgv", "--homedir", scratch, "--status-fd", "1", "--keyring", keyring, "--"]
        ran = process.run([*argv, str(detached), str(signed)], timeout=_TIMEOUT, check=False)
    lines = [
        line.split()
        for line in ran.stdout.decode(errors="replace").splitlines()
        if line.startswith("[GNUPG:] ") and len(line.split()) > 1
    ]
    words = {line[1] for line in lines}
    valid = [line[2] for line in lines if line[1] == "VALIDSIG" and len(line) > 2]  # noqa: PLR2004
    fault = next((text for word, text in _FAULTS.items() if word in words), "gpgv finds no good signature")
    if "GOODSIG" in words and valid and "BADSIG" not in words:
        return _good(lines)
    raise KvmComposeError(
        f"the signature of {source} is wrong: {fault}",
        hint="nothing was fetched: the list may have been changed between the publisher and you, or the "
        f"keyring {keyring} is outdated; try again later or from another network",
    )


def _good(lines: list[list[str]]) -> str:
    """Return the fingerprint of the first good signature: gpgv prints GOODSIG, then its VALIDSIG."""
    good = False
    for line in lines:
        if line[1] in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG"):
            good = line[1] == "GOODSIG"
        elif line[1] == "VALIDSIG" and good:
            return line[2]
    raise KvmComposeError("gpgv names no key for a good signature")
