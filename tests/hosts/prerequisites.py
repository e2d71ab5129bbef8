"""The programs that the real tests require, and the command that installs the missing ones."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# An ordinary user's PATH on Debian has no sbin; the daemons live there.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

HOST_PROGRAMS = {
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "libvirtd": "libvirt-daemon-system",
    "nft": "nftables",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-switch",
    "prlimit": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "tini": "tini",
    "unshare": "util-linux",
    "virsh": "libvirt-clients",
    "virtlogd": "libvirt-daemon-system",
}

OVN_PROGRAMS = {
    "ethtool": "ethtool",
    "ovn-controller": "ovn-host",
    "ovn-nbctl": "ovn-common",
    "ovn-northd": "ovn-central",
}

#: What each engine requires.
ENGINE_PROGRAMS = {
    "docker": {"containerd": "containerd", "dockerd": "docker.io", "ethtool": "ethtool", "runc": "runc"},
    "podman": {"conmon": "conmon", "ethtool": "ethtool", "podman": "podman", "runc": "runc"},
    "rootless": {"conmon": "conmon", "newuidmap": "uidmap", "podman": "podman", "runc": "runc"},
}

IMAGE_PROGRAMS = {
    "debootstrap": "debootstrap",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "qemu-img": "qemu-utils",
    "sfdisk": "fdisk",
    "syslinux": "syslinux",
    "tini": "tini",
    "unshare": "util-linux",
    "xorriso": "xorriso",
}


class MissingPrograms(Exception):  # noqa: N818 - it names what is wrong
    """Programs are missing; the message contains the command that installs them."""

    def __init__(self, programs: Iterable[str], packages: Iterable[str]) -> None:
        super().__init__(
            f"not installed: {', '.join(sorted(programs))}\n"
            f"hint: sudo apt-get install --no-install-recommends {' '.join(sorted(set(packages)))}\n"
            "      (or everything the tests need: scripts/system-packages test)"
        )


def find_program(name: str) -> str | None:
    """Return the full path of a program; the sbin folders are searched too."""
    return shutil.which(name, path=SEARCH_PATH)


def require(programs: dict[str, str]) -> None:
    """Raise MissingPrograms when one of ``programs`` (program -> Debian package) is not installed."""
    wanted = dict(programs)
    if os.geteuid() != 0:
        wanted["sudo"] = "sudo"
    missing = [name for name in wanted if find_program(name) is None]
    if missing:
        raise MissingPrograms(missing, [wanted[name] for name in missing])


def as_root(argv: list[str]) -> list[str]:
    """Return the command that runs ``argv`` as root: itself, or sudo without a password prompt."""
    return argv if os.geteuid() == 0 else ["sudo", "-n", *argv]
