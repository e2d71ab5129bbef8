"""Images that qemu-img encrypts with LUKS."""

from __future__ import annotations

import subprocess
from pathlib import Path

#: qemu-img times itself, and sometimes it cannot: in a third of cases ("Unable to get accurate CPU usage").
_ATTEMPTS = 50


def create_encrypted(path: Path, form: str) -> None:
    """Create an encrypted image of 1 MiB in the format "luks" or "qcow2"."""
    options = "key-secret=s,iter-time=10"
    if form == "qcow2":
        options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    secret = "secret,id=s,data=abcdefgh"  # noqa: S105 (nothing is kept in it)
    argv = ["/usr/bin/qemu-img", "create", "-q", "--object", secret, "-f", form, "-o", options, path, "1M"]
    for _ in range(_ATTEMPTS):
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        if ran.returncode == 0:
            return
        assert "accurate CPU usage" in ran.stderr, ran.stderr
    raise AssertionError(f"qemu-img failed {_ATTEMPTS} times: {ran.stderr}")
