"""The default SSH key pair for guests: one per user, created when needed."""

from __future__ import annotations

from pathlib import Path

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.model import SshKeys
from kvmcompose.effects import process
from kvmcompose.effects.environment import xdg_folder
from kvmcompose.effects.files import expand


def default_keys() -> SshKeys:
    """Return the paths of this user's key pair, which may not exist yet, with ``~`` for the home folder."""
    home = Path.home()
    private = xdg_folder("data") / "keys" / "id_ed25519"
    shown = f"~/{private.relative_to(home)}" if private.is_relative_to(home) else str(private)
    return SshKeys(f"{shown}.pub", shown)


def make_keys(keys: SshKeys) -> None:
    """Create the key pair unless it exists. Raises KvmComposeError when ssh-keygen is not installed."""
    private = expand(keys.ssh_private_key_location)
    if expand(keys.ssh_public_key_location).exists():
        return
    private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # a fixed comment: by default it would be the names of the user and the machine
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kvm-compose", "-f", str(private)])
    except RefusedError as error:
        raise KvmComposeError(
            "guests need an SSH key, and ssh-keygen, which creates it, is not installed",
            hint="sudo apt-get install openssh-client, or name a key in kvm-compose-config.json",
        ) from error
