"""A disk for aarch64 with Debian's kernel."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

from hosts import image_cache
from microimage.filetree import cpio, file, folder

_ARM_KERNEL = "linux-image-cloud-arm64"
ARM_READY = "guest: ready on aarch64, UEFI: yes"
_ARM_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
[ -d /sys/firmware/efi ] && efi=yes
echo "guest: ready on $(/bin/busybox uname -m), UEFI: ${efi:-no}"
while :; do /bin/busybox sleep 1000; done
"""


def _run(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def arm_image(target: Path) -> None:
    """Write a disk that UEFI for aarch64 boots from a script of its shell; its guest prints ``ARM_READY``."""
    work = target.with_suffix(".d")
    work.mkdir()
    tree = _arm_files()
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    entries = [
        *(folder(name) for name in ("bin", "proc", "sys", "dev")),
        file("init", _ARM_INIT.encode(), 0o755),
    ]
    entries.append(file("bin/busybox", (tree / "bin/busybox").read_bytes(), 0o755))
    (work / "initrd").write_bytes(gzip.compress(cpio(entries, mtime=0)))
    (work / "startup.nsh").write_bytes(b"Image initrd=\\initrd quiet panic=1 nokaslr\r\n")
    shutil.copy(kernel, work / "Image")
    fat = work / "fat"
    with fat.open("wb") as disk:
        disk.truncate(64 << 20)
    _run("mkfs.vfat", "-n", "BOOT", fat)
    _run("mcopy", "-i", fat, *(work / name for name in ("Image", "initrd", "startup.nsh")), "::")
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", fat, target)
    shutil.rmtree(work)


def _arm_files() -> Path:
    """Return a folder with the files of Debian's kernel and busybox for arm64, which apt gets once."""
    place = image_cache.cache_directory() / "arm64"
    tree = place / "tree"
    if (place / "complete").exists():
        return tree
    shutil.rmtree(place, ignore_errors=True)
    for each in ("state/lists/partial", "cache/archives/partial", "tree"):
        (place / each).mkdir(parents=True)
    options = [
        f"{name}={value}"
        for name, value in {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "root",
            "Dir::State": place / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": place / "cache",
        }.items()
    ]
    apt = [word for option in options for word in ("-o", option)]
    _run("apt-get", *apt, "-q", "update")
    depends = _run("apt-cache", *apt, "depends", _ARM_KERNEL)
    (kernel,) = (line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    _run("apt-get", *apt, "-q", "download", kernel, "busybox-static", cwd=place)
    for package in place.glob("*.deb"):
        _run("dpkg-deb", "-x", package, tree)
    (place / "complete").touch()
    return tree
