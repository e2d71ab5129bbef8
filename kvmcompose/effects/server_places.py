"""Where a testbed server keeps its memory and where it listens: what servers and clients both have to know.

``KVM_COMPOSE_STATE_DIR`` names another folder, and with that another server: its socket is in there.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

STATE_VARIABLE = "KVM_COMPOSE_STATE_DIR"
_SOCKET = "server.sock"

#: What the extra ``server`` installs, as far as it is imported; the rest is for real hosts only.
_MODULES = ("fastapi", "uvicorn", "websockets")
_REAL_MODULES = ("asyncssh", "libvirt")


def _absolute(variable: str) -> Path | None:
    """A folder named by the environment; a relative one is invalid (XDG Base Directory, "Basics")."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _usual_state_dir() -> Path:
    if os.geteuid() == 0:
        # beside the links to projects; no project's name begins with a dot
        return Path("/var/lib/kvm-compose/.server")
    return (_absolute("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kvm-compose"


def state_dir() -> Path:
    """The folder of this user's server: its memory, its token, its lock, the log of an embedded one."""
    named = os.environ.get(STATE_VARIABLE)
    return Path(named).absolute() if named else _usual_state_dir()


def socket_path(state: Path) -> Path:
    """Where the server with this state folder listens unless told otherwise."""
    if state != _usual_state_dir():
        return state / _SOCKET
    if os.geteuid() == 0:
        return Path("/run/kvm-compose") / _SOCKET
    runtime = _absolute("XDG_RUNTIME_DIR")
    return runtime / "kvm-compose" / _SOCKET if runtime else state / _SOCKET


def lock_path(state: Path) -> Path:
    """The file whose lock a running server holds; it names the process."""
    return state / "server.lock"


def token_path(state: Path) -> Path:
    """The secret that clients who come by TCP have to know, unless the server was given another."""
    return state / "token"


def embedded_log(state: Path) -> Path:
    """What an embedded server says."""
    return state / "embedded.log"


def this_machine() -> str:
    """How others may know the machine we are on: its name, and what tells it from others of that name."""
    try:
        number = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        number = ""
    return f"{os.uname().nodename} {number}".strip()


def missing_modules(*, fake: bool = False) -> list[str]:
    """What an installation lacks to run a server in: with ``fake`` one that only pretends to have a host."""
    needed = _MODULES if fake else (*_MODULES, *_REAL_MODULES)
    return [name for name in needed if importlib.util.find_spec(name) is None]
