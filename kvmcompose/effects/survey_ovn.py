"""Check what networks of OVN require of the main host, for ``kvm-compose doctor``."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.process import run
from kvmcompose.effects.survey import Finding

#: Where ovn-ctl(8) of Debian's packages puts the databases' sockets.
FOLDER = Path("/run/ovn")
#: Since then rows are inserted with given identities (NEWS of Open vSwitch).
OLDEST_OVSDB = (3, 1)
_INSTALL = "sudo apt-get install --no-install-recommends"
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


def survey_ovn(folder: Path = FOLDER) -> list[Finding]:
    """Check the central part and this host's own: programs, versions, daemons."""
    return [_central(folder), _controller(folder)]


def is_new_enough(version: str) -> bool:
    """Return whether an ovsdb-server inserts rows with given identities, by what it prints of its version."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST_OVSDB


def _central(folder: Path) -> Finding:
    start = "sudo systemctl enable --now ovn-central"
    if _find("ovn-northd") is None:
        return _finding("OVN central", f"{_INSTALL} ovn-central", "not installed")
    version = _version("ovsdb-server")
    if not is_new_enough(version):
        needed = ".".join(map(str, OLDEST_OVSDB))
        return _finding(
            "OVN central",
            f"install Open vSwitch {needed} or newer",
            f"{version or 'no ovsdb-server'}: too old",
        )
    for name in ("ovnnb_db.sock", "ovnsb_db.sock"):
        socket = folder / name
        if not folder.exists():
            return _finding("OVN central", start, f"does not run: there is no {folder}")
        if not os.access(folder, os.X_OK):
            return _finding("OVN central", "run the server as root", f"no access to {folder}")
        if not socket.exists():
            return _finding("OVN central", start, f"does not run: there is no {socket}")
        if not os.access(socket, os.W_OK):
            return _finding(
                "OVN central", "run the server as root", f"no access to {socket}, which is root's"
            )
    return _finding("OVN central", None, f"{_version('ovn-northd')}; databases in {folder}")


def _controller(folder: Path) -> Finding:
    if _find("ovn-controller") is None:
        return _finding("OVN controller", f"{_INSTALL} ovn-host", "not installed")
    if not _runs(folder / "ovn-controller.pid"):
        return _finding("OVN controller", "sudo systemctl enable --now ovn-controller", "does not run")
    return _finding("OVN controller", None, _version("ovn-controller"))


def _runs(pid_file: Path) -> bool:
    """Return whether the process of a pid file runs; what cannot be read does."""
    try:
        return Path("/proc", pid_file.read_text().strip()).exists()
    except PermissionError:
        return True
    except OSError:
        return False


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SBIN)


def _version(program: str) -> str:
    path = _find(program)
    if path is None:
        return ""
    try:
        lines = run([path, "--version"], timeout=10).stdout.decode(errors="replace").splitlines()
    except KvmComposeError as error:
        return error.message
    return lines[0] if lines else path


def _finding(name: str, mend: str | None, detail: str) -> Finding:
    return Finding(
        name=name, ok=mend is None, detail=f"{detail} (networks of OVN)", needed_for="extras", mend=mend
    )
