"""Signatures of published checksum lists, checked by ``gpgv`` with a keyring that is named, and no other.

The format is that of GnuPG's doc/DETAILS, section "Format of the --status-fd output".
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
#: What else than a good signature gpgv may find, in the words of this program.
_FAULTS = {
    "BADSIG": "the list was changed after it was signed",
    "EXPKEYSIG": "the key that signed it has expired",
    "EXPSIG": "the signature has expired",
    "REVKEYSIG": "the key that signed it was revoked",
    "NO_PUBKEY": "the key that signed it is not in the keyring",
    "ERRSIG": "the signature cannot be checked",
    "NODATA": "there is no signature in the file",
}


def fetch_list(image: CatalogueImage, source: str, mirror: str | None) -> tuple[str, str]:
    """A published list, and in words what is known of its signature.

    Raises KvmComposeError for a list that its publisher signs and that comes without a good signature.
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
            f"{source} is signed by its publisher, and the signature cannot be had: {error.message}",
            hint="a mirror has to have the signature beside the list" if mirror else error.hint,
        ) from error
    return text, f"verified: signed by {verify_list(data, signature, image.signing.keyring, source)}"


def obstacle(signing: Signing) -> str | None:
    """Why a signature cannot be verified on this machine, or None."""
    if shutil.which("gpgv") is None:
        return "gpgv is not installed (sudo apt-get install gpgv)"
    if not Path(signing.keyring).is_file():
        return f"there is no keyring {signing.keyring} (of the package {signing.package})"
    return None


def verify_list(data: bytes, signature: bytes, keyring: str, source: str) -> str:
    """The fingerprint of the key that signed a list. Raises KvmComposeError for any other outcome.

    Of several signatures one has to be good and none wrong; those of keys that are not in the keyring say
    nothing.
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
        hint="nothing was fetched: somebody between you and the publisher may have changed the list, or the "
        f"keyring {keyring} is old; try again later or from elsewhere",
    )


def _good(lines: list[list[str]]) -> str:
    """The fingerprint of the first good signature: gpgv writes GOODSIG, and VALIDSIG for it after that."""
    good = False
    for line in lines:
        if line[1] in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG"):
            good = line[1] == "GOODSIG"
        elif line[1] == "VALIDSIG" and good:
            return line[2]
    raise KvmComposeError("gpgv names no key for a good signature")
