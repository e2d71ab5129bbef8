"""The key pair that guests are reached with when the config names none: one per user, made when needed."""

from __future__ import annotations

import os
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.model import SshKeys
from kvmcompose.effects import process
from kvmcompose.effects.files import expand


def default_keys() -> SshKeys:
    """Where this user's key pair is (or will be), with ``~`` for the home folder."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    home = Path.home()
    # a relative path there is invalid and to be ignored (XDG Base Directory Specification, "Basics")
    folder = data if data.is_absolute() else home / ".local" / "share"
    private = folder / "kvm-compose" / "keys" / "id_ed25519"
    shown = f"~/{private.relative_to(home)}" if private.is_relative_to(home) else str(private)
    return SshKeys(f"{shown}.pub", shown)


def make_keys(keys: SshKeys) -> None:
    """Make the key pair unless it is there. Raises KvmComposeError when ssh-keygen is not installed."""
    private = expand(keys.ssh_private_key_location)
    if expand(keys.ssh_public_key_location).exists():
        return
    private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # no comment: ssh-keygen would write the names of user and machine there
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kvm-compose", "-f", str(private)])
    except RefusedError as error:
        raise KvmComposeError(
            "guests need an SSH key, and ssh-keygen is not installed to make one",
            hint="sudo apt-get install openssh-client, or name a key in kvm-compose-config.json",
        ) from error
