"""Build the micro image: a small guest made of Debian's kernel, busybox, bash and dropbear.

The guest boots in seconds even on an emulated processor, needs 128 MiB of memory, and applies the seeds of
kvmcompose as cloud-init does. ``initramfs-init`` and the tree below ``root/`` are files of the guest;
the modules are the builder, which ``kvm-compose cloud-images build micro`` calls.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.process import run
from microimage import disk, packages
from microimage.filetree import TreeEntry, complete, cpio, file, folder, link
from microimage.kernel import loading_order, module_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NAME = "micro"
_KERNEL = "linux-image-cloud-amd64"
#: Debian package -> {path in the guest: path in the package}
_PROGRAMS = {
    "bash": {"usr/bin/bash": "bin/bash"},
    "busybox-static": {"usr/bin/busybox": "bin/busybox"},
    "coreutils": {"usr/bin/nohup": "usr/bin/nohup", "usr/bin/printenv": "usr/bin/printenv"},
    "dropbear-bin": {"usr/bin/dropbear": "usr/sbin/dropbear", "usr/bin/dropbearkey": "usr/bin/dropbearkey"},
    "e2fsprogs": {"usr/bin/resize2fs": "sbin/resize2fs"},
    "qemu-guest-agent": {"usr/bin/qemu-ga": "usr/sbin/qemu-ga"},
    # dropbear expects it at this path
    "openssh-sftp-server": {"usr/lib/sftp-server": "usr/lib/openssh/sftp-server"},
}
_BUSYBOX = "usr/bin/busybox"
#: A setuid copy of busybox, which keeps root's rights for these applets and drops them for all others.
_SET_UID = "usr/bin/busybox-setuid"
_SET_UID_NAMES = ("ping", "ping6", "su", "traceroute", "traceroute6")
_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "virtiofs",
    "isofs",
    "button",
    "evdev",
)
_OPTIONS = (
    "console=ttyS0 quiet net.ifnames=0"
    # these cost an emulated processor time, and a guest behind our bridges gains nothing from them
    " mitigations=off nokaslr no5lvl lsm=capability init_on_alloc=0 audit=0 cryptomgr.notests edd=off"
    # no AVX, whose registers every change from one process to another would save and load
    " noxsave"
    # QEMU translates code in pieces that end where SMAP is switched, and repeats string instructions by bytes
    " clearcpuid=erms,smap,smep"
    # nor are the locks of several processors patched out, thousands of places one by one; they cost nothing
    " noreplace-smp"
    # on an overloaded host timer interrupts arrive late: Linux would consider the timer broken and panic, or
    # calibrate the local APIC timer wrongly
    " no_timer_check nolapic_timer panic=1"
)
_LAYOUT = disk.Layout(boot_size=24 * disk.MIB, root_size=1024 * disk.MIB)
_FOLDERS = (
    "dev", "etc/dropbear", "proc", "run", "sys", "tmp", "usr/local/bin", "var/lib/cloud/data",
    "var/log",
)  # fmt: skip
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/sbin": "bin"}
#: Names of one script, which acts by the name it is called with.
_SHUTDOWN_NAMES = ("halt", "poweroff", "reboot")
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LIBRARY_LINE = re.compile(r"\s*([^/\s]+) => (?:(/.+) \(0x[0-9a-f]+\)|not found)")
_APT_PROGRAMS = {"apt-cache": "apt", "apt-get": "apt", "dpkg-deb": "dpkg"}
#: The folders of mkfs and the like, which are not in every user's PATH.
_MORE_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def recipe_digest() -> str:
    """Return the SHA-256 of all files of this package.

    They and Debian's packages determine the bytes of the image.
    """
    digest = hashlib.sha256()
    for name, data in sorted(_files(importlib.resources.files(__package__))):
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _files(place: importlib.resources.abc.Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in place.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def build(target: Path, report: Callable[[str], None]) -> None:
    """Write the image (qcow2) to ``target``; temporary files go to its folder.

    ``report`` is called with a line of text at each step. Raises RefusedError on a machine that cannot build
    the image, KvmComposeError when the build fails.
    """
    programs = find_programs()
    with tempfile.TemporaryDirectory(prefix="micro-", dir=target.parent) as name:
        work = Path(name)
        tree, debs = work / "packages", work / "debs"
        for each in (tree, debs):
            each.mkdir()
        kernel_package = packages.dependencies([_KERNEL])[_KERNEL][0]
        wanted = packages.with_libraries([kernel_package, *_PROGRAMS])
        report(f"fetching {len(wanted)} Debian packages, {kernel_package} among them")
        found = packages.fetch(wanted, debs)
        report("unpacking them")
        for package in found:
            packages.unpack(package, tree)
        report("making the disk")
        image = work / "image.qcow2"
        kernel = max((tree / "boot").glob("vmlinuz-*"))
        mtime = int(kernel.stat().st_mtime)
        disk.make_disk(
            image,
            layout=_LAYOUT,
            boot={"kernel": kernel.read_bytes(), "initrd": cpio(_initramfs(tree), mtime=mtime)},
            options=_OPTIONS,
            root=complete(_root(tree)),
            programs=programs,
            mtime=mtime,
        )
        image.replace(target)


def find_programs() -> dict[str, str]:
    """Return the paths of the programs that a build runs, by name.

    Raises RefusedError that lists all missing programs.
    """
    if platform.machine() != "x86_64":
        raise RefusedError(
            f"the micro image is made of x86_64 programs; this machine is {platform.machine()}"
        )
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), _MORE_FOLDERS])
    wanted = {**disk.PROGRAMS, **_APT_PROGRAMS}
    found = {name: shutil.which(name, path=path) for name in wanted}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise RefusedError(
            f"the micro image cannot be built here: {', '.join(missing)} not installed",
            hint="sudo apt-get install --no-install-recommends "
            + " ".join(sorted({wanted[name] for name in missing}))
            if not _APT_PROGRAMS.keys() & set(missing)
            else "build it on a machine with Debian, and here: kvm-compose cloud-images add micro FILE",
        )
    disk.boot_code()
    disk.efi_files()
    return {name: place for name, place in found.items() if place is not None}


def _initramfs(tree: Path) -> Iterable[TreeEntry]:
    modules = loading_order(_MODULES, module_reader(tree))
    yield file("init", _own("initramfs-init"))
    yield file("bin/busybox", (tree / _PROGRAMS["busybox-static"][_BUSYBOX]).read_bytes())
    for name, data in modules.items():
        yield file(f"modules/{name}.ko", data, 0o644)
    yield file("modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    for name in ("dev", "proc", "root"):
        yield folder(name)


def _root(tree: Path) -> list[TreeEntry]:
    """Return the root file system; a later entry replaces an earlier one with the same path."""
    entries = [*(folder(path) for path in _FOLDERS), folder("root", 0o700)]
    entries += [link(path, goal) for path, goal in _LINKS.items()]
    programs = {place: tree / source for sources in _PROGRAMS.values() for place, source in sources.items()}
    busybox = programs[_BUSYBOX]
    entries += [link(f"usr/bin/{name}", "busybox") for name in _applets(busybox) if name != "sh"]
    # busybox's shell would run applets in its own process, and so ping without root's rights
    entries.append(link("usr/bin/sh", "bash"))
    for place, source in {**programs, **_libraries(tree, programs.values())}.items():
        entries.append(file(place, source.read_bytes(), 0o755))
    entries.append(file(_SET_UID, busybox.read_bytes(), 0o4755))
    entries += [link(f"usr/bin/{name}", "busybox-setuid") for name in _SET_UID_NAMES]
    own = importlib.resources.files(__package__) / "root"
    entries += [
        file(path, data, 0o600 if path == "etc/shadow" else None) for path, data in sorted(_files(own))
    ]
    entries += [link(f"usr/bin/{name}", "shutdown") for name in _SHUTDOWN_NAMES]
    entries.append(file("var/lib/micro/sectors", b"%d\n" % (_LAYOUT.root_size // disk.SECTOR)))
    return entries


def _own(name: str) -> bytes:
    return (importlib.resources.files(__package__) / name).read_bytes()


def _applets(busybox: Path) -> list[str]:
    names = run([str(busybox), "--list"], timeout=30).stdout.decode().split()
    return [name for name in names if name != "busybox"]


def _libraries(tree: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """Return the shared libraries of programs by their paths in the guest; the guest's loader finds them."""
    folders = [tree / "lib/x86_64-linux-gnu", tree / "usr/lib/x86_64-linux-gnu"]
    loader = next(
        path
        for place in ("usr/lib64", "lib64", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
        for path in [tree / place / "ld-linux-x86-64.so.2"]
        if path.is_file()
    )
    found = {_LOADER: loader}
    for program in programs:
        argv = [str(loader), "--library-path", ":".join(map(str, folders)), "--list", str(program)]
        for line in run(argv, timeout=30, check=False).stdout.decode().splitlines():
            if match := _LIBRARY_LINE.match(line):
                if match[2] is None:
                    raise KvmComposeError(f"{program.name} needs {match[1]}, which none of the packages has")
                found[f"{_LIBRARIES}/{match[1]}"] = Path(match[2])
    return found
