"""What the virtualisation of this machine is capable of: whether KVM runs guests, which datapath OVS has.

That /dev/kvm exists, opens and even boots a few instructions does not prove it usable: on some machines it is
emulated at a few million instructions a second, and a guest's kernel seems to hang. So the probe gives a
guest work that takes real KVM a moment, and a time limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.environment import xdg_folder
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.process import ProcessError, find_program, run

log = logging.getLogger(__name__)

QEMU = "qemu-system-x86_64"
#: Exists while the kernel module of Open vSwitch is loaded.
OVS_MODULE = Path("/sys/module/openvswitch")
_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBE_SECONDS = 10.0

#: isa-debug-exit ends QEMU with this status, value * 2 + 1, when the guest writes 0x10 to its port.
PROBE_SUCCEEDED = 33
#: A boot sector, loaded at 0x7c00, that enters 64-bit mode (Intel SDM, volume 3A, section 10.8.5).
BOOT_SECTOR = bytes.fromhex(
    "fa fc"  # cli; cld
    "31c0 8ed8 8ec0"  # ds = es = 0
    "bf0010 b90018 f3ab"  # clear 0x1000 to 0x3fff for the page tables
    "c70600100320"  # level 4 at 0x1000 -> 0x2000
    "c70600200330"  # level 3 at 0x2000 -> 0x3000
    "c70600308300"  # level 2 at 0x3000 -> the first 2 MiB, as one page
    "66b800100000 0f22d8"  # cr3 = 0x1000
    "66b820000000 0f22e0"  # cr4 = PAE
    "66b9800000c0 0f32 0d0001 0f30"  # EFER |= long mode
    "660f0116787c"  # lgdt [0x7c78]
    "66b801000080 0f22c0"  # cr0 = paging, protection
    "ea557c0800"  # jump to 0x7c55 in the 64-bit segment
    "b900000008"  # 0x7c55: ecx = 2**27
    "ffc9 75fc"  # count down to 0: about 0.1 s on any processor, a minute where KVM is emulated
    "66baf400 b010 ee"  # out 0xf4, 0x10
    "f4 ebfd"  # hlt, again and again
    "0000000000000000 00000000009a2000"  # 0x7c68: the GDT: null, 64-bit code
    "0f00687c0000"  # 0x7c78: its limit and address
).ljust(510, b"\0") + bytes.fromhex("55aa")


class Probe(msgspec.Struct, frozen=True):
    """Whether KVM works on this machine, the reason, and what would fix it."""

    works: bool
    reason: str
    hint: str | None = None


class _CachedProbe(msgspec.Struct, frozen=True):
    """A probe, and the boot of the machine and the QEMU that it is valid for."""

    boot_id: str
    qemu: str
    qemu_mtime_ns: int
    probe: Probe


def kvm_works(cache_dir: Path | None = None) -> Probe:
    """Find out whether guests run under KVM. Boots one, once per boot of the machine, and caches the answer.

    The cache is ``kvm.json`` in ``cache_dir`` (default: ``kvm-compose`` in the XDG cache folder).
    """
    obstacle = _kvm_obstacle()
    if obstacle is not None:
        return obstacle
    try:
        qemu = find_program(QEMU)
    except RefusedError as error:
        return Probe(works=False, reason=error.message, hint=error.hint)
    cache = probe_cache(cache_dir)
    key = (_boot_id(), qemu, Path(qemu).stat().st_mtime_ns)
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        known = msgspec.json.decode(cache.read_bytes(), type=_CachedProbe)
        if key[0] and (known.boot_id, known.qemu, known.qemu_mtime_ns) == key:
            return known.probe
    log.warning("finding out whether KVM works: once per boot of this machine, up to %d s", PROBE_SECONDS)
    probe = boot_probe("kvm")
    with contextlib.suppress(OSError):  # without a cache the next call probes again
        data = msgspec.json.format(msgspec.json.encode(_CachedProbe(*key, probe)))
        write_atomic(cache, data + b"\n")
    return probe


def virt_type(cache_dir: Path | None = None) -> tuple[Literal["kvm", "qemu"], str]:
    """Return how guests run best on this machine, and why: the value of ``virt_type: auto``."""
    probe = kvm_works(cache_dir)
    return ("kvm" if probe.works else "qemu"), probe.reason


def probe_command(accelerator: Literal["kvm", "tcg"]) -> list[str]:
    """Return the command that boots a disk with ``BOOT_SECTOR``; to be added: ``-drive``."""
    argv = [QEMU, "-accel", accelerator, "-m", "16", "-no-user-config", "-nodefaults", "-display", "none"]
    return [*argv, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]


def boot_probe(accelerator: Literal["kvm", "tcg"], *, seconds: float = PROBE_SECONDS) -> Probe:
    """Boot a guest that enters 64-bit mode, counts to 2**27 and ends; kill it after ``seconds``."""
    with tempfile.TemporaryDirectory(prefix="kvm-compose-") as folder:
        disk = Path(folder, "probe.img")
        disk.write_bytes(BOOT_SECTOR)
        argv = [*probe_command(accelerator), "-drive", f"file={disk},format=raw"]
        try:
            done = run(argv, timeout=seconds, check=False)
        except ProcessError:
            return Probe(
                works=False,
                reason=f"{accelerator} starts, but a guest did not finish within {seconds:g} s; "
                "where it works, that takes a moment",
                hint="if this is itself a virtual machine, switch nested virtualisation on in its host",
            )
        except KvmComposeError as error:
            return Probe(works=False, reason=error.message, hint=error.hint)
    if done.returncode == PROBE_SUCCEEDED:
        return Probe(works=True, reason=f"a guest was booted under {accelerator}")
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return Probe(works=False, reason=f"QEMU cannot run a guest under {accelerator}: {said[0]}")


def _kvm_obstacle() -> Probe | None:
    """Return why KVM cannot work, as far as no guest has to be booted for it; else None."""
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Probe(
            works=False,
            reason=f"there is no {_KVM}",
            hint="switch virtualisation on (VT-x, AMD-V) in the firmware, or nested virtualisation in the "
            "host of this virtual machine; then sudo modprobe kvm_intel (or kvm_amd)",
        )
    except PermissionError:
        return Probe(
            works=False,
            reason=f"no permission to open {_KVM}",
            hint=f"sudo usermod -aG kvm {user_name()}, then log in again",
        )
    except OSError as error:
        return Probe(works=False, reason=f"{_KVM} cannot be opened: {error.strerror}")
    return None


def probe_cache(cache_dir: Path | None = None) -> Path:
    """Return the file that keeps the answer, in ``kvm-compose`` in the XDG cache folder by default."""
    return (cache_dir or xdg_folder("cache")) / "kvm.json"


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # nothing is cached without it


def user_name() -> str:
    """Return the name of the user, for commands in hints; with sudo, of the user who called it."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())


def datapath_type() -> Literal["system", "netdev"]:
    """Return the datapath of OVS bridges: ``system`` if the kernel has the module, else ``netdev``."""
    modules = Path("/lib/modules", platform.release())
    loadable = any(modules.glob("kernel/net/openvswitch/openvswitch.ko*"))
    return "system" if loadable or OVS_MODULE.exists() else "netdev"
