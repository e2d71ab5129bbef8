"""Check the requirements of kvm-compose on this machine, for ``kvm-compose doctor``."""

from __future__ import annotations

import grp
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.capabilities import (
    OVS_MODULE,
    QEMU,
    datapath_type,
    kvm_works,
    probe_cache,
    user_name,
)
from kvmcompose.effects.process import ProcessError, run
from kvmcompose.effects.server_places import missing_modules

_ENGLISH = {"LC_ALL": "C"}  # for messages that are parsed here
ENOUGH_SPACE = 10 * 2**30  # bytes: a handful of cloud images, and what guests write


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement. ``mend`` is the command, or instruction, that satisfies it.

    ``needed_for``: ``generate`` builds artefacts, ``up`` brings testbeds up, ``extras`` are optional.
    """

    name: str
    ok: bool
    detail: str
    needed_for: Literal["generate", "up", "extras"]
    mend: str | None = None


def survey(store: Path, cache_dir: Path | None = None) -> list[Finding]:
    """Check all requirements of kvm-compose; ``store`` is the image store's folder."""
    return [
        _python(),
        _server_modules(),
        _libyaml(),
        _program("qemu-img", "generate", "qemu-utils", version="--version"),
        _program(QEMU, "up", "qemu-system-x86", version="--version"),
        _kvm(cache_dir),
        _libvirt(),
        _groups(),
        _rights(),
        _open_vswitch(),
        _datapath(),
        _program("ip", "up", "iproute2", version="-V"),
        _program("ethtool", "up", "ethtool", version="--version"),
        _program("dnsmasq", "up", "dnsmasq-base", version="--version"),
        _program("ssh", "up", "openssh-client", version="-V"),
        _space(store),
        _passage(store),
        _program("xorriso", "extras", "xorriso", version="--version"),
        _program("nft", "extras", "nftables", version="--version"),
        _program("tcpdump", "extras", "tcpdump", version="--version"),
        _program("dot", "extras", "graphviz", version="-V"),
    ]


def _python() -> Finding:
    return Finding(
        name="Python", ok=True, detail=platform.python_version(), needed_for="generate"
    )  # an older one does not get this far


def _server_modules() -> Finding:
    missing = missing_modules()
    return Finding(
        name="server",
        ok=not missing,
        detail=f"lacks {', '.join(missing)}" if missing else "this installation can be one",
        needed_for="up",
        mend="sudo apt-get install libvirt-dev pkg-config gcc python3-dev; pip install 'kvmcompose[server]'"
        if missing
        else None,
    )


def _libyaml() -> Finding:
    ok = importlib.util.find_spec("yaml._yaml") is not None
    return Finding(
        name="libyaml",
        ok=ok,
        detail="PyYAML has it" if ok else "PyYAML was built without it: large YAML files are read slowly",
        needed_for="extras",
        mend=None if ok else "sudo apt-get install libyaml-dev; pip install --force-reinstall pyyaml",
    )


def _program(
    name: str, needed_for: Literal["generate", "up", "extras"], package: str, *, version: str
) -> Finding:
    # daemons are in folders that not every user has in PATH
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    mend = f"sudo apt-get install --no-install-recommends {package}"
    if path is None:
        return Finding(name=name, ok=False, detail="not installed", needed_for=needed_for, mend=mend)
    try:
        done = run([path, version], timeout=10)
    except KvmComposeError as error:
        return Finding(name=name, ok=False, detail=error.message, needed_for=needed_for, mend=mend)
    said = (done.stdout or done.stderr).decode(errors="replace").splitlines()[:1]
    return Finding(name=name, ok=True, detail=said[0] if said else path, needed_for=needed_for)


def _kvm(cache_dir: Path | None) -> Finding:
    probe = kvm_works(cache_dir)
    where = probe_cache(cache_dir)
    return Finding(
        name="KVM",
        ok=probe.works,
        detail=probe.reason if probe.works else f"{probe.reason}; guests are emulated, which is slower",
        needed_for="extras",
        mend=None if probe.works else f"{probe.hint or 'see QEMU above'} (to probe again: rm -f {where})",
    )


def _libvirt() -> Finding:
    uri = "qemu:///system"
    try:
        done = run(["virsh", "-c", uri, "version"], env=_ENGLISH, timeout=10)
    except RefusedError as error:
        mend = "sudo apt-get install --no-install-recommends libvirt-daemon-system libvirt-clients"
        return Finding(name="libvirt", ok=False, detail=error.message, needed_for="up", mend=mend)
    except ProcessError as error:
        denied = "ermission denied" in error.stderr or "uthentication" in error.stderr
        return Finding(
            name="libvirt",
            ok=False,
            detail=f"{uri}: {error.message}",
            needed_for="up",
            mend=f"sudo usermod -aG libvirt {user_name()}, then log in again"
            if denied
            else "sudo systemctl enable --now libvirtd",
        )
    running = [line for line in done.stdout.decode(errors="replace").splitlines() if "Running" in line]
    return Finding(name="libvirt", ok=True, detail=f"{uri}: {' '.join(running)}", needed_for="up")


def _groups() -> Finding:
    if os.geteuid() == 0:
        return Finding(name="groups", ok=True, detail="root needs none", needed_for="up")
    mine = {*os.getgroups(), os.getegid()}
    lacking = [name for name in ("libvirt", "kvm") if _group_id(name) not in mine]
    return Finding(
        name="groups",
        ok=not lacking,
        detail=f"this session is not in {', '.join(lacking)}" if lacking else "libvirt, kvm",
        needed_for="up",
        mend=f"sudo usermod -aG {','.join(lacking)} {user_name()}, then log in again" if lacking else None,
    )


def _rights() -> Finding:
    """Creating bridges and network interfaces requires root."""
    if os.geteuid() == 0:
        return Finding(name="rights", ok=True, detail="root", needed_for="up")
    try:
        run(["sudo", "-n", "true"], timeout=10)
    except KvmComposeError as error:
        return Finding(
            name="rights",
            ok=False,
            detail=error.message,
            needed_for="up",
            mend="run the server as root, or allow this user to use sudo without a password",
        )
    return Finding(name="rights", ok=True, detail="sudo, without a password", needed_for="up")


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _open_vswitch() -> Finding:
    try:
        as_root = [] if os.geteuid() == 0 or shutil.which("sudo") is None else ["sudo", "-n"]
        run([*as_root, "ovs-vsctl", "--timeout=3", "show"], env=_ENGLISH, timeout=10)
    except RefusedError as error:
        mend = "sudo apt-get install --no-install-recommends openvswitch-switch"
        return Finding(name="Open vSwitch", ok=False, detail=error.message, needed_for="up", mend=mend)
    except ProcessError as error:
        denied = "ermission denied" in error.stderr
        return Finding(
            name="Open vSwitch",
            ok=False,
            detail=error.message,
            needed_for="up",
            mend="its database requires root: run the server with sudo"
            if denied
            else "sudo systemctl enable --now openvswitch-switch",
        )
    return Finding(name="Open vSwitch", ok=True, detail="its database answers", needed_for="up")


def _datapath() -> Finding:
    release = platform.release()
    loaded = OVS_MODULE.exists()
    here = datapath_type() == "system"
    return Finding(
        name="OVS datapath",
        ok=here,
        detail="kernel module" + ("" if loaded else ", not loaded yet")
        if here
        else f"kernel {release} has no openvswitch module: bridges run in userspace (datapath_type netdev)",
        needed_for="extras",
        mend=None if here else f"sudo apt-get install linux-modules-extra-{release} (where there is one)",
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing ancestor."""
    return next(above for above in (folder, *folder.parents) if os.access(above, os.F_OK))


def _space(store: Path) -> Finding:
    free = shutil.disk_usage(_existing(store)).free
    return Finding(
        name="disk space",
        ok=free >= ENOUGH_SPACE,
        detail=f"{free / 2**30:.1f} GiB free for images in {store}",
        needed_for="up",
        mend=None if free >= ENOUGH_SPACE else "kvm-compose cloud-images prune, or set KVM_COMPOSE_STORE",
    )


def _passage(store: Path) -> Finding:
    """Return whether QEMU, which libvirt runs as a user of its own, can reach the images."""
    folders = (folder for folder in (store, *store.parents) if os.access(folder, os.F_OK))
    shut = [folder for folder in folders if not folder.stat().st_mode & 0o001]
    return Finding(
        name="image access",
        ok=not shut,
        detail=f"other users (libvirt's QEMU) cannot enter {', '.join(map(str, shut))}"
        if shut
        else "other users (libvirt's QEMU) can enter the store",
        needed_for="up",
        mend=f"chmod o+x {' '.join(map(str, shut))}" if shut else None,
    )
