"""What this machine can do: whether KVM really runs guests, and what is installed.

That /dev/kvm exists, opens and even boots a few instructions does not mean that it is of use: on
some machines it is emulated at a few million instructions a second, and a guest's kernel seems to hang
for ever. So the probe gives a guest work that takes real KVM a moment, and a time limit.
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.process import ProcessError, find_program, run
from kvmcompose.effects.server_places import missing_modules

if TYPE_CHECKING:
    from collections.abc import Iterable

_KVM = Path("/dev/kvm")
log = logging.getLogger(__name__)

_OVS_MODULE = Path("/sys/module/openvswitch")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_QEMU = "qemu-system-x86_64"
_PROBE_SECONDS = 10.0
_ENGLISH = {"LC_ALL": "C"}  # for messages that are read here
_ENOUGH_SPACE = 10 * 2**30  # bytes: a handful of cloud images and what guests write

#: isa-debug-exit ends QEMU with this status when the guest writes _EXIT_VALUE to its port: value * 2 + 1.
_EXIT_STATUS = 33
#: A boot sector (Intel SDM volume 3A, section 10.8.5: the way into 64-bit mode). Loaded at 0x7c00.
_BOOT_SECTOR = bytes.fromhex(
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
    """Whether KVM works here, why (not), and what would mend it."""

    works: bool
    reason: str
    hint: str | None = None


class _Remembered(msgspec.Struct, frozen=True):
    """An answer and what it holds for: this boot of the machine, and this QEMU."""

    boot_id: str
    qemu: str
    qemu_mtime_ns: int
    probe: Probe


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at. ``mend`` is the command (or deed) that mends it.

    ``needed_for``: ``generate`` builds artefacts, ``up`` brings testbeds up, ``extras`` is for comfort.
    """

    name: str
    ok: bool
    detail: str
    needed_for: Literal["generate", "up", "extras"]
    mend: str | None = None


def kvm_works(cache_dir: Path | None = None) -> Probe:
    """Whether guests run under KVM here. Boots one, once per boot of the machine, and remembers.

    The memory is ``kvm.json`` in ``cache_dir`` (default: ``kvm-compose`` in the XDG cache folder).
    """
    obstacle = _kvm_obstacle()
    if obstacle is not None:
        return obstacle
    try:
        qemu = find_program(_QEMU)
    except RefusedError as error:
        return Probe(works=False, reason=error.message, hint=error.hint)
    memory = (cache_dir or _cache_dir()) / "kvm.json"
    key = (_boot_id(), qemu, Path(qemu).stat().st_mtime_ns)
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        known = msgspec.json.decode(memory.read_bytes(), type=_Remembered)
        if key[0] and (known.boot_id, known.qemu, known.qemu_mtime_ns) == key:
            return known.probe
    log.warning("finding out whether KVM works: once per boot of this machine, up to %d s", _PROBE_SECONDS)
    probe = boot_probe("kvm")
    with contextlib.suppress(OSError):  # without a memory the next call asks again
        data = msgspec.json.format(msgspec.json.encode(_Remembered(*key, probe)))
        write_atomic(memory, data + b"\n")
    return probe


def virt_type(cache_dir: Path | None = None) -> tuple[Literal["kvm", "qemu"], str]:
    """How guests are best run here, and why: the answer for ``virt_type: auto``."""
    probe = kvm_works(cache_dir)
    return ("kvm" if probe.works else "qemu"), probe.reason


def boot_probe(accelerator: Literal["kvm", "tcg"], *, seconds: float = _PROBE_SECONDS) -> Probe:
    """Boot a guest that enters 64-bit mode, counts to 2**27 and ends; killed after ``seconds``."""
    with tempfile.TemporaryDirectory(prefix="kvm-compose-") as folder:
        disk = Path(folder, "probe.img")
        disk.write_bytes(_BOOT_SECTOR)
        argv = [
            _QEMU,
            "-accel",
            accelerator,
            "-m",
            "16",
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
        ]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", f"file={disk},format=raw"]
        try:
            done = run(argv, timeout=seconds, check=False)
        except ProcessError:
            return Probe(
                works=False,
                reason=f"{accelerator} starts, but a guest did not finish within {seconds:g} s what takes "
                "a working one a moment",
                hint="if this is itself a virtual machine, switch nested virtualisation on in its host",
            )
        except KvmComposeError as error:
            return Probe(works=False, reason=error.message, hint=error.hint)
    if done.returncode == _EXIT_STATUS:
        return Probe(works=True, reason=f"a guest was booted under {accelerator}")
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return Probe(works=False, reason=f"QEMU cannot run a guest under {accelerator}: {said[0]}")


def _kvm_obstacle() -> Probe | None:
    """Why nothing needs to be booted to know that KVM does not work."""
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
            hint=f"sudo usermod -aG kvm {_user()}, then log in again",
        )
    except OSError as error:
        return Probe(works=False, reason=f"{_KVM} cannot be opened: {error.strerror}")
    return None


def probe_cache() -> Path:
    """The file that remembers whether KVM works."""
    return _cache_dir() / "kvm.json"


def _cache_dir() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "kvm-compose"


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # nothing is remembered without it


def _user() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())


def survey(store: Path, cache_dir: Path | None = None) -> list[Finding]:
    """Everything that kvm-compose needs of this machine, looked at; ``store`` is the image store's folder."""
    return [
        _python(),
        _server_modules(),
        _libyaml(),
        _program("qemu-img", "generate", "qemu-utils", version="--version"),
        _program(_QEMU, "up", "qemu-system-x86", version="--version"),
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
        _program("tcpdump", "extras", "tcpdump", version="--version"),
        _program("dot", "extras", "graphviz", version="-V"),
    ]


def _python() -> Finding:
    return Finding(
        name="Python", ok=True, detail=platform.python_version(), needed_for="generate"
    )  # an older one does not get here


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
    # daemons lie in folders that are not in every user's PATH
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
    where = (cache_dir or _cache_dir()) / "kvm.json"
    return Finding(
        name="KVM",
        ok=probe.works,
        detail=probe.reason if probe.works else f"{probe.reason}; guests are emulated, which is slower",
        needed_for="extras",
        mend=None if probe.works else f"{probe.hint or 'see QEMU above'} (to look again: rm -f {where})",
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
            mend=f"sudo usermod -aG libvirt {_user()}, then log in again"
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
        mend=f"sudo usermod -aG {','.join(lacking)} {_user()}, then log in again" if lacking else None,
    )


def _rights() -> Finding:
    """Bridges and network interfaces are root's to make."""
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
            mend="its database wants root: run the server with sudo"
            if denied
            else "sudo systemctl enable --now openvswitch-switch",
        )
    return Finding(name="Open vSwitch", ok=True, detail="its database answers", needed_for="up")


def datapath_type() -> Literal["system", "netdev"]:
    """What Open vSwitch bridges can be here: of the kernel, when it has the module, or of userspace."""
    modules = Path("/lib/modules", platform.release())
    loadable = any(modules.glob("kernel/net/openvswitch/openvswitch.ko*"))
    return "system" if loadable or _OVS_MODULE.exists() else "netdev"


def _datapath() -> Finding:
    release = platform.release()
    loaded = _OVS_MODULE.exists()
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
    """The folder, or the nearest above it that exists."""
    return next(above for above in (folder, *folder.parents) if os.access(above, os.F_OK))


def _space(store: Path) -> Finding:
    free = shutil.disk_usage(_existing(store)).free
    return Finding(
        name="disk space",
        ok=free >= _ENOUGH_SPACE,
        detail=f"{free / 2**30:.1f} GiB free for images in {store}",
        needed_for="up",
        mend=None if free >= _ENOUGH_SPACE else "kvm-compose cloud-images prune, or set KVM_COMPOSE_STORE",
    )


def _passage(store: Path) -> Finding:
    """Whether QEMU, which libvirt runs as its own user, gets to the images."""
    shut = _shut_folders((store, *store.parents))
    return Finding(
        name="image access",
        ok=not shut,
        detail=f"other users (libvirt's QEMU) cannot enter {', '.join(map(str, shut))}"
        if shut
        else "other users (libvirt's QEMU) can enter the store",
        needed_for="up",
        mend=f"chmod o+x {' '.join(map(str, shut))}" if shut else None,
    )


def _shut_folders(folders: Iterable[Path]) -> list[Path]:
    return [folder for folder in folders if os.access(folder, os.F_OK) and not folder.stat().st_mode & 0o001]
