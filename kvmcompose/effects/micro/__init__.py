"""The micro guest: an image that is built here, of Debian's kernel, busybox, bash and dropbear.

It boots in seconds even where the processor is emulated, is content with 128 MiB of memory, and takes from
our seeds what cloud-init takes. ``initramfs-init`` and the tree below ``root/`` are the guest's own files.
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
from kvmcompose.effects.micro import disk, packages
from kvmcompose.effects.micro.kernel import loading_order, module_reader
from kvmcompose.effects.micro.nodes import Node, complete, cpio, file, folder, link
from kvmcompose.effects.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kvmcompose.images.store import ImageStore, StoredImage

NAME = "micro"
_KERNEL = "linux-image-cloud-amd64"
#: package -> what the guest has of it, by the place it gets there
_PROGRAMS = {
    "bash": {"usr/bin/bash": "bin/bash"},
    "busybox-static": {"usr/bin/busybox": "bin/busybox"},
    "coreutils": {"usr/bin/nohup": "usr/bin/nohup", "usr/bin/printenv": "usr/bin/printenv"},
    "dropbear-bin": {"usr/bin/dropbear": "usr/sbin/dropbear", "usr/bin/dropbearkey": "usr/bin/dropbearkey"},
    "e2fsprogs": {"usr/bin/resize2fs": "sbin/resize2fs"},
    # where dropbear looks for it
    "openssh-sftp-server": {"usr/lib/sftp-server": "usr/lib/openssh/sftp-server"},
}
_BUSYBOX = "usr/bin/busybox"
#: Busybox again, with root's rights, which it keeps for these and drops for all else.
_SET_UID = "usr/bin/busybox-setuid"
_SET_UID_NAMES = ("ping", "ping6", "su", "traceroute", "traceroute6")
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "isofs", "button", "evdev")
_OPTIONS = (
    "console=ttyS0 quiet net.ifnames=0"
    # what costs an emulated processor time and does nothing for a guest that lives behind our bridges
    " mitigations=off nokaslr no5lvl lsm=capability init_on_alloc=0 audit=0 cryptomgr.notests edd=off"
    # on a host with more to do than it can, timer interrupts come late: Linux would take the timer for broken
    # and stop, or measure the one of the processor wrongly
    " no_timer_check nolapic_timer panic=1"
)
_LAYOUT = disk.Layout(boot_size=24 * disk.MIB, root_size=1024 * disk.MIB)
_FOLDERS = (
    "dev", "etc/dropbear", "proc", "run", "sys", "tmp", "usr/local/bin", "var/lib/cloud/data",
    "var/log",
)  # fmt: skip
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/sbin": "bin"}
#: One script, which looks at its name.
_SHUTDOWN_NAMES = ("halt", "poweroff", "reboot")
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LIBRARY_LINE = re.compile(r"\s*([^/\s]+) => (?:(/\S+) \(0x.*|not found)")
_APT_PROGRAMS = {"apt-cache": "apt", "apt-get": "apt", "dpkg-deb": "dpkg"}
#: Not every user's PATH has the folders of the programs that make file systems.
_MORE_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def recipe_digest() -> str:
    """The SHA-256 of all files of this package: with Debian's packages they decide the image's bytes."""
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


def build_into(store: ImageStore, report: Callable[[str], None], *, refresh: bool = False) -> StoredImage:
    """The image in a store, built if it is not there or by another recipe; with ``refresh`` anyway.

    Raises as ``build`` does.
    """
    return store.build(NAME, recipe_digest(), lambda target: build(target, report), refresh=refresh)


def build(target: Path, report: Callable[[str], None]) -> None:
    """Write the image (qcow2) to ``target``, using its folder; ``report`` is told what is going on.

    Raises RefusedError where it cannot be built, KvmComposeError when it fails.
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
    """The paths of the programs that a build runs. Raises RefusedError, naming all that is lacking."""
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
    return {name: place for name, place in found.items() if place is not None}


def _initramfs(tree: Path) -> Iterable[Node]:
    modules = loading_order(_MODULES, module_reader(tree))
    yield file("init", _own("initramfs-init"))
    yield file("bin/busybox", (tree / _PROGRAMS["busybox-static"][_BUSYBOX]).read_bytes())
    for name, data in modules.items():
        yield file(f"modules/{name}.ko", data, 0o644)
    yield file("modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    for name in ("dev", "proc", "root"):
        yield folder(name)


def _root(tree: Path) -> list[Node]:
    """The root file system; what stands later replaces what stands earlier."""
    nodes = [*(folder(path) for path in _FOLDERS), folder("root", 0o700)]
    nodes += [link(path, goal) for path, goal in _LINKS.items()]
    programs = {place: tree / source for sources in _PROGRAMS.values() for place, source in sources.items()}
    busybox = programs[_BUSYBOX]
    nodes += [link(f"usr/bin/{name}", "busybox") for name in _applets(busybox) if name != "sh"]
    # busybox's own would run its applets itself, ping without root's rights
    nodes.append(link("usr/bin/sh", "bash"))
    for place, source in {**programs, **_libraries(tree, programs.values())}.items():
        nodes.append(file(place, source.read_bytes(), 0o755))
    nodes.append(file(_SET_UID, busybox.read_bytes(), 0o4755))
    nodes += [link(f"usr/bin/{name}", "busybox-setuid") for name in _SET_UID_NAMES]
    own = importlib.resources.files(__package__) / "root"
    nodes += [file(path, data, 0o600 if path == "etc/shadow" else None) for path, data in sorted(_files(own))]
    nodes += [link(f"usr/bin/{name}", "shutdown") for name in _SHUTDOWN_NAMES]
    nodes.append(file("var/lib/micro/sectors", b"%d\n" % (_LAYOUT.root_size // disk.SECTOR)))
    return nodes


def _own(name: str) -> bytes:
    return (importlib.resources.files(__package__) / name).read_bytes()


def _applets(busybox: Path) -> list[str]:
    names = run([str(busybox), "--list"], timeout=30).stdout.decode().split()
    return [name for name in names if name != "busybox"]


def _libraries(tree: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries of programs, by their places in the guest: as their own loader finds them."""
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
