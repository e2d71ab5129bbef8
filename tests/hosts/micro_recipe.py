"""Makes the micro guest's disk: Debian's cloud kernel, busybox, bash, dropbear; runs as root.

The kernel comes from its Debian package, the programs from this machine.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from hosts import bootable
from hosts.debian_recipe import WORK, end_with_caller, run
from hosts.inside import mount

PARTS = Path(__file__).resolve().parent / "micro"
BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("/bin/bash", "/usr/sbin/dropbear", "/usr/bin/dropbearkey", "/usr/lib/openssh/sftp-server")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "isofs", "button", "evdev", "af_packet")
BOOT_MIB = 24
ROOT_MIB = 64
OPTIONS = "console=ttyS0 quiet net.ifnames=0 mitigations=off"
SET_UID = 0o4755

# part -> its place in the root file system
PLACES = {
    "inittab": "etc/inittab",
    "rc": "etc/rc",
    "network.awk": "etc/network.awk",
    "udhcpc": "etc/udhcpc",
    "sudo": "usr/bin/sudo",
    "cloud-init": "usr/bin/cloud-init",
}
TEXTS = {
    "etc/hostname": "micro\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\nusers:x:100:\n",
    "etc/shadow": "root::1:0:99999:7:::\n",  # su asks for none; dropbear takes keys only
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/acpi/PWRF/00000080": "#!/bin/sh\npoweroff\n",
}
FOLDERS = (
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "var/log",
    "etc/dropbear",
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
)


def unpack_kernel(target: Path, packages: Path) -> Path:
    """Unpack Debian's cloud kernel, downloaded if no image was made with it before; returns vmlinuz."""
    pattern = "linux-image-*-cloud-amd64_*.deb"
    if not list(packages.glob(pattern)):
        depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"])
        name = re.search(r"Depends: (linux-image-\S+)", depends)
        if not name:
            raise SystemExit("apt knows no linux-image-cloud-amd64; try: apt-get update")
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", name[1]]
        subprocess.run(download, check=True, cwd=packages, timeout=600)
    run(["dpkg-deb", "-x", str(max(packages.glob(pattern))), str(target)])
    return next((target / "boot").glob("vmlinuz-*"))


def ordered_modules(tree: Path) -> list[Path]:
    """The files of MODULES and of what they need, each after what it needs."""
    folder = next((tree / "lib/modules").iterdir())
    run(["depmod", "-b", str(tree), folder.name])
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[Path(file).name.split(".")[0].replace("-", "_")] = [file, *rest.split()]
    found: list[str] = []
    for name in MODULES:
        # what is not there as a module is built in; modules.dep has the last needed first
        found += [file for file in reversed(needs.get(name, [])) if file not in found]
    return [folder / file for file in found]


def make_initramfs(target: Path, tree: Path, modules: list[Path]) -> None:
    for folder in ("bin", "dev", "proc", "root", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    shutil.copy(PARTS / "initramfs-init", tree / "init")
    (tree / "init").chmod(0o755)
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],  # noqa: S607
        input=names.encode(),
        cwd=tree,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    target.write_bytes(gzip.compress(packed.stdout, mtime=0))


def libraries(program: str) -> set[str]:
    """The shared libraries a program loads, its loader included."""
    return set(re.findall(r"(/\S+) \(0x", run(["ldd", program])))


def make_root(tree: Path) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    for applet in run(["busybox", "--list-full"]).split():
        link = tree / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.name != BUSYBOX.name:
            link.symlink_to("/bin/busybox")
    (tree / "bin/su").unlink()
    shutil.copy(BUSYBOX, tree / "bin/su")
    (tree / "bin/su").chmod(SET_UID)
    for file in sorted({*PROGRAMS, *(name for program in PROGRAMS for name in libraries(program))}):
        place = tree / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        shutil.copy(file, place)
    (tree / "usr/lib/sftp-server").symlink_to("openssh/sftp-server")  # where dropbear looks for it
    for name, text in TEXTS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for name, place_name in PLACES.items():
        (tree / place_name).unlink(missing_ok=True)
        shutil.copy(PARTS / name, tree / place_name)
        (tree / place_name).chmod(0o755)
    (tree / "etc/acpi/PWRF/00000080").chmod(0o755)
    (tree / "etc/shadow").chmod(0o600)


def main() -> None:
    target, packages = Path(sys.argv[1]), Path(sys.argv[2])
    threading.Thread(target=end_with_caller, daemon=True).start()
    os.umask(0o022)
    mount("tmpfs", WORK, "tmpfs", 0, "size=1g,mode=755")
    kernel_tree, root, initramfs, raw = (WORK / name for name in ("kernel", "root", "initramfs", "disk.raw"))
    kernel = unpack_kernel(kernel_tree, packages)
    make_initramfs(WORK / "initrd", initramfs, ordered_modules(kernel_tree))
    make_root(root)
    files = {"kernel": kernel, "initrd": WORK / "initrd"}
    bootable.make_disk(raw, files, OPTIONS, boot_mib=BOOT_MIB, root=bootable.Root(root, ROOT_MIB))
    run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(target)])
    target.chmod(0o444)


if __name__ == "__main__":
    main()
