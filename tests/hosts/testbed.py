"""Real testbed hosts on one machine, for tests: each has its own libvirtd, Open vSwitch, /run and network.

    with TestHosts(count=2, directory=tmp_path) as hosts:
        hosts[0].run(["ping", "-c1", hosts[1].address])
        hosts[0].virsh("list", "--all")

A host is a set of namespaces held by one process, not by names: when the test process ends, the hosts
end with all that runs in them, whatever way it ended.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from hosts import prerequisites
from hosts.agent import Call
from hosts.daemons import SSH_KEYS
from hosts.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_SECONDS = 90
END_SECONDS = 30
STEP_SECONDS = 10
# the folder of one of the processes of scripts/test
TEST_PROCESS = Path("/tmp/tmp.0123456789/pytest-of-root/pytest-0/popen-gw0")  # noqa: S108
SOCKET_PATH_BYTES = 107  # unix(7): sun_path holds 108 bytes with the closing zero
PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class HostError(Exception):
    """The hosts did not start, or did not stop."""


class CommandError(subprocess.CalledProcessError):
    """A command in a host failed; unlike the parent class, it shows the command's output."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout}{self.stderr}"


class TestHost:
    """One testbed host."""

    __test__ = False  # not a test class, whatever its name

    def __init__(self, spec: Spec, name: str) -> None:
        self._spec = spec
        self.name = name
        self.folder = spec.folder(name)
        self.address = spec.address(name)
        self.libvirt_uri = f"qemu+unix:///system?socket={self.folder / 'libvirt-sock'}"

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = 60,
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
        input: str = "",  # noqa: A002 - as subprocess.run calls it
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the host, as root, and wait for its end.

        Raises CommandError when it fails, subprocess.TimeoutExpired when ``timeout`` seconds have
        passed (the command is killed then), NoAgent when the host is gone.
        """
        words = [str(word) for word in argv]
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            stdin.write(input.encode())
            stdin.seek(0)
            files = (stdin.fileno(), out.fileno(), err.fileno())
            with self._call(words, files, cwd=cwd, env=env) as call:
                try:
                    status = call.wait(timeout)
                except TimeoutError:
                    raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err).encode()) from None
            if check and status != 0:
                raise CommandError(status, words, _text(out), _text(err))
            return subprocess.CompletedProcess(words, status, _text(out), _text(err))

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the argv that, started outside, runs ``argv`` inside the host."""
        return [
            "env", f"PYTHONPATH={PACKAGE_PARENT}", sys.executable, "-m", "hosts", "exec",
            "--directory", self._spec.directory, self.name, "--", *map(str, argv),
        ]  # fmt: skip

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command inside the host in the background. SIGTERM, SIGINT and SIGHUP are passed to it."""
        return subprocess.Popen(self.command(argv), **options)

    def virsh(
        self, *argv: str | Path, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return self.run(["virsh", "-q", "-c", "qemu:///system", *argv], check=check, timeout=timeout)

    def add_bridge(self, name: str, *, address: str | None = None) -> None:
        """Create an Open vSwitch bridge with the userspace datapath; ``address`` as in 192.0.2.1/24."""
        self.run([
            "ovs-vsctl", "--", "--may-exist", "add-br", name,
            "--", "set", "bridge", name, "datapath_type=netdev",
        ])  # fmt: skip
        if address:
            self.run(["ip", "address", "replace", address, "dev", name])
        self.run(["ip", "link", "set", name, "up"])

    def link_project(self, name: str, folder: Path) -> Path:
        """Make /var/lib/kvm-compose/<name> in the host a link to the project's folder."""
        link = Path("/var/lib/kvm-compose") / name
        self.run(["ln", "-sfn", folder.resolve(), link])
        return link

    @property
    def host_key(self) -> str:
        """Return the host key of its sshd: type and key."""
        return " ".join(self.run(["cat", SSH_KEYS / "host_key.pub"]).stdout.split()[:2])

    def reboot(self) -> None:
        """Kill all processes in it, discard what is in memory, and start its daemons again."""
        self.run(
            [sys.executable, "-m", "hosts.reboot", self.name, self._spec.write()],
            env={"PYTHONPATH": str(PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def namespaces(self) -> dict[str, str]:
        """Return the identities of the host's namespaces, by kind, to find remaining processes."""
        kinds = ("net", "mnt", "pid", "uts", "ipc")
        lines = self.run(["readlink", *(f"/proc/self/ns/{kind}" for kind in kinds)]).stdout.split()
        return dict(zip(kinds, lines, strict=True))

    def _call(
        self,
        argv: list[str],
        files: tuple[int, int, int],
        *,
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
    ) -> Call:
        return Call(self.folder / "control", argv, files, cwd=str(cwd), env=dict(env or {}))


class TestHosts:
    """A run of hosts h1, h2, … on one wire. Use it as a context manager, or call start() and stop()."""

    __test__ = False

    def __init__(
        self,
        count: int = 1,
        *,
        directory: Path,
        ssh: bool = False,
        tunnels: bool = False,
        ovn: bool = False,
        docker: bool = False,
        podman: bool = False,
        rootless: bool = False,
        stay: bool = False,
    ) -> None:
        """Describe the run.

        ``directory``: for sockets, keys and logs; a short path, not below /run or /var/lib/libvirt.
        ``ssh``: an sshd in each host, for root and the key ``identity_file``.
        ``tunnels``: the underlay address lies on an Open vSwitch bridge, as userspace tunnels need it.
        ``ovn``: OVN's central part on the first host, ovn-controller on each; needs ``tunnels``.
        ``docker``, ``podman``: a container engine, at its default socket; ``rootless``: a Podman of the
        user ``hosts.engines.USER``.
        ``stay``: the hosts outlive this process, until `down` (python -m hosts).
        """
        self.directory = directory.resolve()
        self.identity_file = self.directory / "id_ed25519" if ssh else None
        self._count, self._tunnels, self._ovn, self._stay = count, tunnels, ovn, stay
        wanted = {"docker": docker, "podman": podman, "rootless": rootless}
        self._engines = tuple(name for name, is_wanted in wanted.items() if is_wanted)
        self._launcher: subprocess.Popen[str] | None = None
        self._hosts: list[TestHost] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, index: int) -> TestHost:
        return self._hosts[index]

    def __iter__(self) -> Iterator[TestHost]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def start(self) -> None:
        """Start the hosts. Raises HostError or MissingPrograms, after cleaning up."""
        programs = dict(prerequisites.OVN_PROGRAMS if self._ovn else {})
        for engine in self._engines:
            programs |= prerequisites.ENGINE_PROGRAMS[engine]
        prerequisites.require({**prerequisites.HOST_PROGRAMS, **programs})
        spec = self._prepare()
        try:
            self._launch(spec)
        except BaseException:
            self.stop()
            raise
        self._hosts = [TestHost(spec, name) for name in spec.names]

    def stop(self) -> None:
        """End the hosts and all processes in them. Raises HostError when some remain."""
        launcher, self._launcher, self._hosts = self._launcher, None, []
        (self.directory / "hosts.json").unlink(missing_ok=True)
        if launcher is None:
            return
        assert launcher.stdin
        assert launcher.stdout
        launcher.stdin.close()
        try:
            launcher.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise HostError(f"process {launcher.pid} did not end its hosts in {END_SECONDS} s") from None
        finally:
            launcher.stdout.close()

    def cut(self, host: TestHost) -> None:
        """Disconnect a host: packets are dropped silently."""
        self._tell("cut", host)

    def mend(self, host: TestHost) -> None:
        """Reconnect a host."""
        self._tell("mend", host)

    def _tell(self, word: str, host: TestHost) -> None:
        launcher = self._launcher
        assert launcher
        assert launcher.stdin
        assert launcher.stdout
        launcher.stdin.write(f"{word} {host.name}\n")
        launcher.stdin.flush()
        answer = _line(launcher.stdout, STEP_SECONDS)
        if answer != "done":
            raise HostError(f"cannot {word} the wire of {host.name}: {answer}")

    def _prepare(self) -> Spec:
        authorized_key = None
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.identity_file:
            authorized_key = make_key(self.identity_file)
        owner = (os.getuid(), os.getgid())
        spec = Spec(
            directory=str(self.directory),
            owner=owner,
            count=self._count,
            authorized_key=authorized_key,
            tunnels=self._tunnels,
            ovn=self._ovn,
            engines=self._engines,
            stay=self._stay,
        )
        for name in spec.names:
            shutil.rmtree(spec.folder(name), ignore_errors=True)
            spec.folder(name).mkdir()
        _require_short(spec.folder(spec.names[-1]) / "libvirt-admin-sock")
        spec.note.write_text(spec.write())
        return spec

    def _launch(self, spec: Spec) -> None:
        log = self.directory / "launcher.log"
        with log.open("wb") as errors:
            self._launcher = subprocess.Popen(
                prerequisites.as_root([
                    "env", f"PYTHONPATH={PACKAGE_PARENT}", "PYTHONDONTWRITEBYTECODE=1",
                    "unshare", "--net", sys.executable, "-m", "hosts.launcher", spec.write(),
                ]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that Ctrl-C reaches only the test process, which ends the hosts
                text=True,
            )  # fmt: skip
        assert self._launcher.stdout
        answer = _line(self._launcher.stdout, START_SECONDS)
        if answer != "up":
            raise HostError(f"the hosts did not come up: {answer} {log.read_text()}; logs: {self.directory}")


def _require_short(socket: Path) -> None:
    """Raise HostError when a socket cannot have that path, here or in a process of scripts/test.

    A test must not pass alone and fail with the others because its name is long.
    """
    size = len(os.fsencode(socket))
    temporary = Path(tempfile.gettempdir()).resolve()
    if socket.is_relative_to(temporary):
        parts = [p for p in socket.relative_to(temporary).parts if not p.startswith(("pytest-", "popen-gw"))]
        size = len(os.fsencode(TEST_PROCESS.joinpath(*parts)))
    if size > SOCKET_PATH_BYTES:
        raise HostError(f"the path is too long for a socket: {socket}; choose a shorter directory")


def make_key(identity_file: Path) -> str:
    """Make an SSH key pair unless it exists; return the public key's line."""
    public = identity_file.with_suffix(".pub")
    if not identity_file.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(identity_file)],  # noqa: S607
            check=True,
            timeout=30,
        )
    return public.read_text()


def _line(stream: IO[str], timeout: float) -> str:
    """Return the first line of a program's output, which must be complete within ``timeout`` seconds."""
    readable, _, _ = select.select([stream], [], [], timeout)
    return stream.readline().strip() if readable else f"no answer within {timeout:g} s"


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
