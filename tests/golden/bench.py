"""A bench for tests: a project folder, an image store, and the kvm-compose command that uses them.

Commands run in this process unless a test needs a process; either way nothing but the command line
and the files that it leaves behind is looked at.
"""

from __future__ import annotations

import atexit
import functools
import gc
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmcompose.build.ledger import close_ledgers
from kvmcompose.cli._entry import main  # what the installed command calls

GOLDEN = Path(__file__).resolve().parent

#: The name of every catalogue image that golden projects use. All are the same small image.
CATALOGUE_NAMES = ("debian_12", "ubuntu_20_04", "ubuntu_22_04")

PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f kvm-compose-tests\n"
)

#: Runs kvm-compose with the interpreter and the code that run the test.
COMMAND = (sys.executable, "-c", "import sys; from kvmcompose.cli._entry import main; sys.exit(main())")

_DONE = re.compile(r"^(?P<action>[a-z]+( [a-z]+)?) +(?P<path>\S+)(  \(.*\))?$", re.MULTILINE)
_CLUSTER = 65536
_MIB = 2**20


def tiny_qcow2(size: int = 8 * _MIB, backing: str | None = None, data_file: str | None = None) -> bytes:
    """Return an empty qcow2 image with the same bytes for every version of qemu-img.

    Header, refcount table, refcount block, L1 table: a cluster each (QEMU's docs/interop/qcow2.rst).
    """
    extensions = b""
    if backing is not None:
        extensions += struct.pack(">II8s", 0xE2792ACA, 3, b"raw")
    if data_file is not None:
        name = data_file.encode()
        extensions += struct.pack(">II", 0x44415441, len(name)) + name.ljust((len(name) + 7) & ~7, b"\0")
    extensions += struct.pack(">II", 0, 0)
    name = (backing or "").encode()
    incompatible = 4 if data_file is not None else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 104 + len(extensions) if backing else 0, len(name), 16, size, 0,
        1, 3 * _CLUSTER, _CLUSTER, 1, 0, 0, incompatible, 0, 0, 4, 104,
    )  # fmt: skip
    clusters = [
        header + extensions + name,
        struct.pack(">Q", 2 * _CLUSTER),
        struct.pack(">4H", 1, 1, 1, 1),
        b"",
    ]
    return b"".join(cluster.ljust(_CLUSTER, b"\0") for cluster in clusters)


def tiny_raw(size: int = _MIB) -> bytes:
    """Return an empty disk with the signature of a boot sector."""
    return (bytes(510) + b"\x55\xaa").ljust(size, b"\0")


def lay_out(folder: Path) -> None:
    """Write the files that every project on the bench can use: disk images and a public key."""
    for name, data in {
        "disks/base.qcow2": tiny_qcow2(),
        "disks/base.raw": tiny_raw(),
        "disks/install.iso": tiny_raw(2 * _MIB),
        "keys/id_ed25519.pub": PUBLIC_KEY.encode(),
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def environment(root: Path) -> dict[str, str]:
    """Return the environment for kvm-compose: no settings of the user, and all folders below ``root``."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("KVM_COMPOSE", "XDG_"))}
    kept.pop("SOURCE_DATE_EPOCH", None)
    return kept | {
        "KVM_COMPOSE_STORE": str(root / "store"),
        "XDG_DATA_HOME": str(root / "data"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "KVM_COMPOSE_STATE_DIR": str(root / "state"),
        "NO_COLOR": "1",
    }


@dataclass(frozen=True)
class Ran:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Bench:
    """A project folder below ``root``, which also contains its image store."""

    root: Path
    folder: Path
    words: tuple[str, ...] = field(default=())

    @property
    def yaml(self) -> Path:
        return self.folder / "kvm-compose.yaml"

    @property
    def config(self) -> Path:
        return self.folder / "kvm-compose-config.json"

    def run(self, *words: str, **env: str) -> Ran:
        """Run a command in this process, as if it were a separate one."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        before = dict(os.environ), sys.argv
        os.environ.clear()
        os.environ.update(environment(self.root) | env)
        sys.argv = ["kvm-compose", "-C", str(self.folder), *self.words, *words]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    status = main()
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else 1
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            sys.argv = before[1]
            close_ledgers()
            gc.enable()  # the command switches it off: its own process would end now
        said = [stream.detach().getvalue().decode() for stream in (out, err)]
        return Ran(status, *said)

    def spawn(self, *words: str, cwd: Path | None = None, seconds: float = 120, **env: str) -> Ran:
        """Run a command in a separate process, for at most so many seconds."""
        done = subprocess.run(
            self.argv(*words),
            env=environment(self.root) | env,
            cwd=cwd or self.root,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def argv(self, *words: str) -> list[str]:
        return [*COMMAND, "-C", str(self.folder), *self.words, *words]

    def generate(self, *words: str, status: int = 0, **env: str) -> dict[str, str]:
        """Build, and return the action for each path. Fails when the exit status is another one."""
        # without other options, because --json, for example, would not use the build stamp
        ran = self.run("generate", *words, **env)
        assert ran.status == status, ran.said
        return {match["path"]: match["action"] for match in _DONE.finditer(ran.out)}

    def plan(self, *words: str) -> dict[str, str]:
        """Return what a build would do with each path that it would not keep."""
        ran = self.run("plan", "--json", *words)
        assert ran.status == 0, ran.said
        return {row["path"]: row["action"] for row in ran.json["files"] if row["action"] != "keep"}

    def problems(self) -> list[tuple[str, str, str]]:
        """Return the problems that ``validate`` finds: (code, line:column, path), in order."""
        ran = self.run("validate", "--json")
        assert ran.status in (0, 2), ran.said
        found = ran.json["problems"]
        assert ran.json["valid"] == (ran.status == 0)
        return [
            (each["code"], f"{each['location']['line']}:{each['location']['column']}", each["path"])
            for each in found
        ]

    def edit(self, before: str, after: str, name: str = "kvm-compose.yaml") -> None:
        """Replace a part of a text file that occurs exactly once."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{before!r} occurs {text.count(before)} times in {name}"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def write(self, name: str, text: str, *, mode: int | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if mode is not None:
            path.chmod(mode)
        return path

    def path(self, name: str) -> Path:
        return self.folder / "artefacts" / name

    def state(self) -> Any:
        return json.loads((self.folder / "state.json").read_bytes())

    def use(self, disk: str) -> None:
        """Change a disk as a running guest does."""
        program = shutil.which("qemu-io")
        assert program is not None
        path = self.path(disk)
        before = path.read_bytes()
        subprocess.run([program, "-c", "write -P 7 0 64k", str(path)], check=True, capture_output=True)
        assert path.read_bytes() != before

    def artefacts(self) -> dict[str, bytes | str]:
        """Return everything that a build made, by path: the bytes of files, the targets of links."""
        return dict(_tree(self.folder))


def _tree(folder: Path) -> Iterator[tuple[str, bytes | str]]:
    for path in sorted([folder / "state.json", *(folder / "artefacts").rglob("*")]):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield name, str(path.readlink())
        elif path.is_file():
            yield name, path.read_bytes()


def new_bench(root: Path, name: str, files: Mapping[str, str] | None = None) -> Bench:
    """Create a bench with an empty project ``name``, and catalogue images in its store."""
    bench = Bench(root, root / name)
    lay_out(bench.folder)
    for file, text in (files or {}).items():
        bench.write(file, text)
    if not (root / "store").exists():
        shutil.copytree(_filled_store(), root / "store")
    # whether KVM works is found out by a guest, which would take seconds of a processor for each bench
    known = Path.home() / ".cache/kvm-compose/kvm.json"
    if known.exists() and not (root / "cache").exists():
        (root / "cache/kvm-compose").mkdir(parents=True)
        shutil.copy(known, root / "cache/kvm-compose/kvm.json")
    return bench


@functools.cache
def _filled_store() -> Path:
    """Return a store with the catalogue's images, for benches to copy: there are thousands of them."""
    root = Path(tempfile.mkdtemp(prefix="bench"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    image = root / "catalogue.qcow2"
    image.write_bytes(tiny_qcow2())
    for each in CATALOGUE_NAMES:
        added = Bench(root, root / "none").run("cloud-images", "add", each, str(image))
        assert added.status == 0, added.said
    return root / "store"


def golden_bench(root: Path, case: str, name: str | None = None) -> Bench:
    """Create a bench with a copy of a golden project. Its default name is that of the case."""
    bench = new_bench(root, name or case)
    for path in inputs_of(case):
        goal = bench.folder / path.relative_to(GOLDEN / case)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal, follow_symlinks=False)
    return bench


def cases() -> list[str]:
    """Return the names of all golden projects."""
    return sorted(path.parent.name for path in GOLDEN.glob("*/kvm-compose.yaml"))


def inputs_of(case: str) -> list[Path]:
    """Return the files of a golden project that a user would write."""
    root = GOLDEN / case
    return sorted(
        path
        for path in root.rglob("*")
        if (path.is_file() or path.is_symlink()) and "expected" not in path.relative_to(root).parts
    )


def settle() -> None:
    """Wait for the file system's clock to tick, so that files written before count as older."""
    time.sleep(0.03)
