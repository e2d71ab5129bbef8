"""Makes a bootable disk of Debian with Debian's own cloud-init; runs as root in namespaces of its own.

Called by debian_image. The system is put together on a tmpfs that only this process sees, so a build that
is killed leaves nothing but the unfinished target. The text of this module is part of the image's name in
the cache: a changed recipe makes a new image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from hosts import bootable
from hosts.mounts import mount

RELEASE = "bookworm"
PACKAGES = (
    "linux-image-amd64",  # the cloud kernel has no 9p
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "dbus",  # logind needs it to obey the power button, which is how a guest is shut down
    "cloud-init",
    "python3-cffi-backend",  # by name: debootstrap does not resolve the virtual package cryptography needs
    "cloud-guest-utils",  # growpart: the root file system grows with its disk
    "fdisk",
    "netplan.io",
    "openssh-server",
    "iproute2",
    "iputils-ping",
    "qemu-guest-agent",
    "sudo",
)
WORK = Path("/media")  # a mount point every Debian has and nothing here needs
BOOT_MIB = 64
ROOT_MIB = 1536
# Modules that a guest has no use for and whose loading takes seconds under emulation.
USELESS_MODULES = "kvm,kvm_amd,kvm_intel,aesni_intel,ghash_clmulni_intel,sha512_ssse3,powernow_k8"
OPTIONS = (
    f"root=PARTUUID={bootable.ROOT_PARTUUID} ro console=ttyS0 net.ifnames=0 mitigations=off "
    # What the micro image does without, too: each costs an emulated processor seconds.
    "nokaslr no5lvl lsm=capability init_on_alloc=0 audit=0 cryptomgr.notests noxsave noreplace-smp "
    # On a busy machine Linux would find both wanting, and ask a device for the time, which is slow.
    "tsc=reliable no_timer_check "
    f"module_blacklist={USELESS_MODULES}"
)
DEBOOTSTRAP_SECONDS = 1500
STEP_SECONDS = 300

FILES = {
    # The seed is a disk; asking every cloud's address for data first takes minutes.
    "etc/cloud/cloud.cfg.d/99_testbed.cfg": (
        "datasource_list: [NoCloud, None]\nssh_genkeytypes: [ed25519]\nlocale: false\n"
        # the image has no GRUB, and nobody reads its console for keys
        "grub_dpkg: {enabled: false}\nno_ssh_fingerprints: true\nssh: {emit_keys_to_console: false}\n"
    ),
    "etc/fstab": f"PARTUUID={bootable.ROOT_PARTUUID} / ext4 defaults 0 0\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/machine-id": "",
    # The program in Python only calls this one for `generate`, after seven seconds of importing.
    "usr/local/sbin/netplan": (
        '#!/bin/sh\n[ "$*" != generate ] || exec /lib/netplan/generate\nexec /usr/sbin/netplan "$@"\n'
    ),
    # On a busy machine udev takes longer than the 90 s after which there would be no login on the console.
    "etc/systemd/system/dev-ttyS0.device.d/timeout.conf": "[Unit]\nJobRunningTimeoutSec=15min\n",
}
# The modules of the kernel for what our virtual machines have: less to unpack, and less that udev reads
# at each boot of an emulated processor.
MODULES = (
    "crypto/crc32c*",
    "drivers/acpi/button.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/cdrom/cdrom.ko",  # isofs needs it
    "drivers/char/hw_random/*",
    "drivers/char/virtio_console.ko",
    "drivers/input/evdev.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio/*",
    "fs/9p/*",
    "fs/efivarfs/*",
    "fs/ext4/*",
    "fs/fscache/*",
    "fs/fuse/*",
    "fs/isofs/*",
    "fs/jbd2/*",
    "fs/mbcache.ko",
    "fs/netfs/*",
    "lib/*",
    "net/9p/*",
    "net/core/failover.ko",
)
# What dpkg leaves out, and what the initramfs has: it is read through the BIOS, and has only what is needed.
# The files are there before the packages are installed, so that the initramfs is made once.
BEFORE = {
    "etc/dpkg/dpkg.cfg.d/testbed": "".join(
        [
            "path-exclude=/lib/modules/*/kernel/*\n",
            *(f"path-include=/lib/modules/*/kernel/{name}\n" for name in MODULES),
            *(f"path-exclude=/usr/share/{name}/*\n" for name in ("doc", "locale", "man")),
        ]
    ),
    "etc/initramfs-tools/conf.d/virtio.conf": "MODULES=list\nCOMPRESS=zstd\n",
    "usr/share/initramfs-tools/modules.d/virtio": "crc32c_generic\next4\nvirtio_pci\nvirtio_blk\n",
}
# What neither cloud-init nor a test needs: to start any program takes an emulated processor long.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)
# What debootstrap took from this machine, what it cached, and what would make a first boot a second one.
SURPLUS = (
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh/ssh_host_*",
    "var/lib/cloud/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*.log",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*/",
    "usr/lib/udev/hwdb.*",  # names of hardware, which udev would look up for each device at each boot
)


def run(argv: list[str], seconds: float = STEP_SECONDS) -> str:
    done = subprocess.run(argv, check=True, timeout=seconds, stdout=subprocess.PIPE, text=True)
    return done.stdout


def mirror() -> list[str]:
    """The Debian mirror this machine's apt uses; none: debootstrap's default."""
    targets = run([
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ])  # fmt: skip
    found = [line.split() for line in targets.splitlines()]
    return [words[3] for words in found if words[:3] == ["Debian", RELEASE, "main"]][:1]


def proxy_environment() -> dict[str, str]:
    """apt's proxy settings, as the environment that wget (which debootstrap uses) obeys."""
    found = {}
    for scheme in ("http", "https"):
        dump = run(["apt-config", "dump", "--format", "%v%n", f"Acquire::{scheme}::Proxy"]).strip()
        if dump.startswith("http"):
            found[f"{scheme}_proxy"] = dump
    return found


def install(tree: Path, cache: Path) -> None:
    os.environ.update(proxy_environment())
    argv = [
        "debootstrap", "--variant=minbase", f"--cache-dir={cache}", f"--include={','.join(PACKAGES)}",
        RELEASE, str(tree), *mirror(),
    ]  # fmt: skip
    try:
        run(argv, DEBOOTSTRAP_SECONDS)
    except subprocess.CalledProcessError:
        log = tree / "debootstrap" / "debootstrap.log"
        if log.exists():
            sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-20:]))
        raise


def write(tree: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        if text.startswith("#!"):
            (tree / name).chmod(0o755)


def configure(tree: Path) -> None:
    write(tree, FILES)
    for unit in MASKED:
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    for pattern in SURPLUS:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def kernel_files(tree: Path) -> dict[str, Path]:
    """The names SYSLINUX loads -> the newest kernel and its initramfs."""
    stems = {"kernel": "vmlinuz", "initrd": "initrd.img"}
    return {name: max((tree / "boot").glob(f"{stem}-*")) for name, stem in stems.items()}


def end_with_caller() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    target, cache = Path(sys.argv[1]), Path(sys.argv[2])
    threading.Thread(target=end_with_caller, daemon=True).start()
    os.umask(0o022)
    mount("tmpfs", WORK, "tmpfs", 0, "size=4g,mode=755")
    tree, raw = WORK / "tree", WORK / "disk.raw"
    write(tree, BEFORE)
    install(tree, cache)
    configure(tree)
    root = bootable.Root(tree, ROOT_MIB)
    bootable.make_disk(raw, kernel_files(tree), OPTIONS, boot_mib=BOOT_MIB, root=root)
    shutil.rmtree(tree)
    # Not compressed: that takes long, and QEMU would decompress a cluster for each part of it that is read.
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)])
    target.chmod(0o444)


if __name__ == "__main__":
    main()
