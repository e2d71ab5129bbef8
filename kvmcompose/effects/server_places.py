"""The state folder and the socket of a testbed server, which both the server and its clients have to find.

``KVM_COMPOSE_STATE_DIR`` names another state folder, and so another server, whose socket is in that folder.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from kvmcompose.effects.environment import absolute_folder, xdg_folder

STATE_VARIABLE = "KVM_COMPOSE_STATE_DIR"
_SOCKET = "server.sock"

#: The modules that the extra ``server`` installs, first those that a server of fake hosts needs, too.
_MODULES = ("fastapi", "uvicorn", "websockets")
_REAL_MODULES = ("asyncssh", "libvirt")


def _usual_state_dir() -> Path:
    if os.geteuid() == 0:
        # in the folder of links to projects, whose names never begin with a dot
        return Path("/var/lib/kvm-compose/.server")
    return xdg_folder("state")


def state_dir() -> Path:
    """Return the folder of this user's server: its database, token, lock, and log if it is embedded."""
    named = os.environ.get(STATE_VARIABLE)
    return Path(named).absolute() if named else _usual_state_dir()


def socket_path(state: Path) -> Path:
    """Return the default socket of the server with this state folder."""
    if state != _usual_state_dir():
        return state / _SOCKET
    if os.geteuid() == 0:
        return Path("/run/kvm-compose") / _SOCKET
    runtime = absolute_folder("XDG_RUNTIME_DIR")
    return runtime / "kvm-compose" / _SOCKET if runtime else state / _SOCKET


def was_used() -> bool:
    """Return whether a server of this user has run, so that it may know testbeds."""
    return any(state_dir().glob("*.db"))


def lock_path(state: Path) -> Path:
    """Return the file that a running server keeps locked, and that contains its process number."""
    return state / "server.lock"


def token_path(state: Path) -> Path:
    """Return the file of the default token, with which clients authenticate over TCP."""
    return state / "token"


def embedded_log(state: Path) -> Path:
    """Return the log file of an embedded server."""
    return state / "embedded.log"


def this_machine() -> str:
    """Return the host name and part of the machine ID, which distinguishes machines of the same name."""
    try:
        number = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        number = ""
    return f"{os.uname().nodename} {number}".strip()


def missing_modules(*, fake: bool = False) -> list[str]:
    """Return the modules that a server needs and that are not installed; with ``fake``, one of fake hosts."""
    needed = _MODULES if fake else (*_MODULES, *_REAL_MODULES)
    return [name for name in needed if importlib.util.find_spec(name) is None]
