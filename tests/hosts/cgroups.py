"""Control groups of a host that runs container engines: below one group of the machine's, in its own view.

Both versions are served (cgroups(7)): whichever the machine has mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hosts.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, unmount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hosts.spec import Spec


ROOT = Path("/sys/fs/cgroup")
CLONE_NEWCGROUP = 0x02000000
FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC


def group_of(spec: Spec, name: str) -> str:
    """Return the name of a host's group among the machine's."""
    return f"kvmc-{hashlib.sha256(spec.directory.encode()).hexdigest()[:12]}-{name}"


def mounted() -> Iterator[tuple[Path, str]]:
    """Yield where control groups are mounted, and what is mounted there: cgroup or cgroup2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, _ = line.split(" ", 3)
        if kind in ("cgroup", "cgroup2"):
            yield Path(target), kind


def enter(group: str) -> None:
    """Become a process of the group, which is the root of all groups that are seen from here on.

    /sys must be one that was mounted here: the control groups of the machine are not below it.
    """
    old = Path("/proc/self/cgroup").read_text()
    for target, _ in mounted():
        unmount(target)  # runc would take a mount elsewhere, which shows the machine's groups
    hierarchies = [names for _, names, _ in (line.split(":", 2) for line in old.splitlines()) if names]
    views = _mount_all(hierarchies)
    for view in views:
        _join(view / group)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), "unshare of the control groups")
    for view in reversed(views):
        unmount(view)
    if hierarchies:
        unmount(ROOT)
    for view in _mount_all(hierarchies):
        _delegate(view)


def _mount_all(hierarchies: list[str]) -> list[Path]:
    """Mount the hierarchies of version 1, or the one of version 2 where there are none."""
    if not hierarchies:
        mount("cgroup2", ROOT, "cgroup2", FLAGS)
        return [ROOT]
    mount("tmpfs", ROOT, "tmpfs", FLAGS, "mode=755")
    views = []
    for names in hierarchies:
        view = ROOT / names.removeprefix("name=")
        view.mkdir()
        mount("cgroup", view, "cgroup", FLAGS, f"none,{names}" if names.startswith("name=") else names)
        views.append(view)
    return views


def _join(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # of version 1: empty ones accept no process
        file = folder / name
        if (folder / "tasks").exists() and file.exists():
            file.write_text((folder.parent / name).read_text())
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _delegate(view: Path) -> None:
    """Make room for groups beside this process: in version 2 a group with processes has no controllers."""
    controllers = view / "cgroup.controllers"
    if not controllers.exists():
        return
    (view / "init").mkdir()
    (view / "init" / "cgroup.procs").write_text(str(os.getpid()))
    wanted = " ".join(f"+{name}" for name in controllers.read_text().split())
    (view / "cgroup.subtree_control").write_text(wanted)


def remove(group: str) -> None:
    """Remove the group of a host that has ended, with all groups below it."""
    for target, _ in mounted():
        with contextlib.suppress(OSError):  # a group is busy until the kernel has forgotten its processes
            for folder, _, _ in os.walk(target / group, topdown=False):
                Path(folder).rmdir()
