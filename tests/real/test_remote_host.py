"""Another testbed host through its own sshd: programs, what is forwarded, what is sent, and how it is lost.

The scenarios run inside the first host and talk to the second one. What they cannot do themselves from there,
pulling its cable and starting its sshd, they ask the test for (``Outside``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import driven
import msgspec
import pytest

from driver_errors import error_of
from hosts import TestHosts
from kvmcompose.core.model import Host
from kvmcompose.hosts import remote_blobs
from kvmcompose.hosts.blob_store import Blob
from kvmcompose.hosts.command import SYSTEM_PATH
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.hosts.forwarding import ForwardedSocket
from kvmcompose.hosts.remote import SshRunner
from kvmcompose.hosts.remote_blobs import RemoteBlobStore

pytestmark = pytest.mark.real

SSHD = ("/usr/sbin/sshd", "-f", "/run/ssh-keys/sshd_config")
MIB = 1 << 20
#: Bytes that no text holds, and a pattern that tells if a piece is missing.
DATA = random.Random(2).randbytes(5 * MIB + 1234)  # noqa: S311
#: Users of the second host, there alone: with sudo, and without.
USERS = """\
cp -a /etc/passwd /etc/shadow /etc/group /run && mkdir -p /run/home /run/sudoers.d
for user in ann:4401 bob:4402; do
    echo "${user%:*}:x:${user#*:}:${user#*:}::/run/home/${user%:*}:/bin/sh" >>/run/passwd
    echo "${user%:*}:*:19000:0:99999:7:::" >>/run/shadow
    echo "${user%:*}:x:${user#*:}:" >>/run/group
    install -d -o "${user#*:}" -g "${user#*:}" "/run/home/${user%:*}"
done
echo 'ann ALL=(ALL) NOPASSWD: ALL' >/run/sudoers.d/ann && chmod 440 /run/sudoers.d/ann
for name in passwd shadow group sudoers.d; do mount --bind "/run/$name" "/etc/$name"; done
chmod 755 /run/ssh-keys && chmod 644 /run/ssh-keys/authorized_keys
"""


class Pair:
    """Two hosts, and a thread that does what a scenario inside the first one asks for."""

    def __init__(self, hosts: TestHosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(folder / "outside"))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection, connection.makefile("rw") as file:
                for line in file:
                    file.write(json.dumps(self._do(*json.loads(line))) + "\n")
                    file.flush()

    def _do(self, what: str, *words: str) -> str:
        try:
            match what:
                case "cut":
                    self.hosts.cut(self.hosts[1])
                case "mend":
                    self.hosts.mend(self.hosts[1])
                case "run":
                    return self.hosts[1].run(words).stdout
        except Exception as error:  # noqa: BLE001 (told to who asked)
            return f"failed: {error}"
        return ""

    def close(self) -> None:
        self._socket.close()

    def play(self, scenario: Callable[..., Coroutine[Any, Any, None]], **arguments: object) -> None:
        """Run a scenario inside the first host; it is told of the second one."""
        first, second = self.hosts
        other = Host(
            name="two",
            ip=second.address,
            user="root",
            identity_file=str(self.hosts.identity_file),
            host_key=second.host_key,
        )
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        driven.inside(
            first,
            scenario,
            folder=self.folder,
            other=msgspec.json.encode(other).decode(),
            **arguments,
        )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("pair"), ssh=True) as hosts:
        hosts[1].run(["sh", "-e", "-c", USERS])
        yield hosts


@pytest.fixture
def pair(hosts: TestHosts, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(hosts, tmp_path)
    yield pair
    pair.close()
    hosts.mend(hosts[1])


# -- what scenarios use, inside ------------------------------------------------------------------------


class Inside:
    """A scenario's view: the other host, the way to it, and the test outside."""

    def __init__(self, folder: str, other: str) -> None:
        self.folder = Path(folder)
        self.host = msgspec.json.decode(other, type=Host)
        self.connection = HostConnection(self.host)
        self.machine = SshRunner(self.connection)

    def having(self, **changes: object) -> HostConnection:
        """A connection to the host, were it another one."""
        return HostConnection(msgspec.structs.replace(self.host, **changes))

    async def outside(self, *words: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "outside"))
        writer.write(json.dumps(words).encode() + b"\n")
        answer: str = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        assert not answer.startswith("failed:"), answer
        return answer

    async def processes(self, *words: str) -> list[str]:
        """The command lines on the other host with all of these words; asked past what is tested."""
        lines = (await self.outside("run", "ps", "-e", "-o", "args=")).splitlines()
        return [line for line in lines if all(word in line for word in words) and "ps -e" not in line]

    async def until(self, what: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not await what():
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    async def listens(self) -> bool:
        """Whether sshd takes connections there."""
        try:
            _reader, writer = await asyncio.open_connection(self.host.ip, 22)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def gone(self, *words: str) -> None:
        async def none() -> bool:
            return not await self.processes(*words)

        await self.until(none)

    async def come(self, *words: str) -> None:
        async def some() -> bool:
            return bool(await self.processes(*words))

        await self.until(some)


@asynccontextmanager
async def inside(folder: str, other: str) -> AsyncIterator[Inside]:
    os.environ["HOME"] = str(Path(folder) / "home")  # asyncssh reads ~/.ssh
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 5  # who is slow is not what it is about
    this = Inside(folder, other)
    try:
        yield this
    finally:
        await this.connection.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left


# -- programs ------------------------------------------------------------------------------------------


async def programs_run(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        run = this.machine.run
        odd = [
            "two words",
            "$HOME",
            "a'b\"c",
            "",
            "*",
            "; exit 9",
            "ünï",
            "a\nb",
            "-n",
            "--",
            "~",
            "!",
            "\\",
            "\t",
        ]
        odd += ["`id`", "$(id)", "%s", "a\\nb", "\x7f\x01", "&&", "#", "{a,b}", "'", "''", '"']
        done = await run(["printf", "<%s>\\n", *odd])
        assert done.text == "".join(f"<{word}>\n" for word in odd)
        assert done.stderr == b""

        for stdin in (b"", b"two words\n", b"\0\1\2", DATA):
            done = await run(["cat"], stdin=stdin, seconds=60)
            assert done.stdout == stdin, len(stdin)
        assert (await run(["cat"])).stdout == b""  # standard input is nobody's
        assert len((await run(["head", "-c", "5000000", "/dev/zero"])).stdout) == 5_000_000
        script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; echo last >&2"
        done = await run(["sh", "-c", script])
        assert (len(done.stdout), done.stderr) == (3_000_000, b"\0" * 65_531 + b"last\n")  # as here: the end

        for status in (0, 1, 2, 77, 124, 125, 126, 127, 255):
            assert (await run(["sh", "-c", f"exit {status}"], check=False)).status == status
        assert (await run(["sh", "-c", "echo no >&2; exit 124"], check=False)).status == 124
        assert (await run(["sh", "-c", "kill -9 $$"], check=False)).status == -9
        assert (await run(["sh", "-c", "kill -TERM $$"], check=False)).status == -15

        error = await error_of(run(["ls", "/nowhere"], privileged=True))
        assert error.message.startswith("ls failed with status 2 on two: ls: cannot access '/nowhere'")
        error = await error_of(run(["no-such-program"]))
        assert error.message == "the program 'no-such-program' is not installed on two"
        error = await error_of(run(["ovs-no-such", "a"], privileged=True))
        assert error.message == "the program 'ovs-no-such' is not installed on two"
        assert (await run(["sh", "-c", "no-such"], check=False)).status == 127
        assert (await run(["sh", "-c", "echo $LC_ALL"])).text == "C\n"
        path = (await run(["sh", "-c", "echo $PATH"])).text.strip()
        assert path.endswith(SYSTEM_PATH)


def test_programs_run_as_they_do_here(pair: Pair) -> None:
    pair.play(programs_run)


async def what_is_not_read(folder: str, other: str) -> None:
    """A program may end before it has read what it is given: that is no lost host."""
    async with inside(folder, other) as this:
        for stdin in (b"x", DATA, DATA * 4):
            done = await this.machine.run(["sh", "-c", "echo no >&2; exit 3"], stdin=stdin, check=False)
            assert (done.status, done.stderr) == (3, b"no\n")
            error = await error_of(this.machine.run(["no-such-program"], stdin=stdin))
            assert "is not installed on two" in error.message, (len(stdin), error.message)
            done = await this.machine.run(["sh", "-c", "exec <&-; sleep 0.2; echo yes"], stdin=stdin)
            assert done.text == "yes\n"
        error = await error_of(this.machine.run(["dd", "of=/dev/full", "bs=1M"], stdin=DATA))
        assert "No space left on device" in error.message
        assert len(str(error.hint)) < 1000


def test_who_does_not_read_is_not_lost(pair: Pair) -> None:
    pair.play(what_is_not_read)


async def long_command_lines(folder: str, other: str) -> None:
    """sshd hands the line to a shell as one word, of 128 KiB at most (execve(2)); plans may be longer."""
    async with inside(folder, other) as this:
        words = [f"word-{number}" for number in range(20_000)]
        done = await this.machine.run(["printf", "%s\\n", *words], privileged=True)
        assert done.text.split() == words
        script = 'cat; for each; do :; done; echo "$#"'
        done = await this.machine.run(["sh", "-c", script, "sh", *words], stdin=b"read\n")
        assert done.text == "read\n20000\n"
        done = await this.machine.run(["sh", "-c", script, "sh", *words], stdin=DATA)
        assert done.stdout == DATA + b"20000\n"
        done = await this.machine.run(["sh", "-c", script, "sh", *words])
        assert done.text == "20000\n"
        assert (await this.machine.run(["sh", "-c", "exit 5", *words], check=False)).status == 5


def test_plans_may_be_long(pair: Pair) -> None:
    pair.play(long_command_lines)


async def time_limits(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        run = this.machine.run
        children = "trap '' HUP; sleep 4441 & sleep 4441"
        stubborn = "trap '' TERM INT HUP; sleep 4442 & sleep 4442; sleep 4442"
        talking = "echo working; echo trouble >&2; sleep 4443"
        for script in (children, stubborn, talking):
            error = await error_of(run(["sh", "-c", script], seconds=0.5))
            assert error.message == "sh did not end within 0.5 s on two", script
            assert not isinstance(error, HostLostError)
        await this.gone("sleep 444")
        error = await error_of(run(["sh", "-c", stubborn], seconds=0.5, privileged=True))
        assert error.message == "sh did not end within 0.5 s on two"
        await this.gone("sleep 444")
        # what ends in time is believed, whatever it says
        done = await run(["sh", "-c", "exit 124"], check=False, seconds=30)
        assert done.status == 124


def test_time_limits_end_programs_and_their_children(pair: Pair) -> None:
    pair.play(time_limits)


async def cancelled(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        scripts = {
            "sleep 4451": "sleep 4451 & sleep 4451",
            "sleep 4452": "trap '' TERM INT; sleep 4452 & sleep 4452; sleep 4452",
            "sleep 4453": "cat & sleep 4453",
        }
        for word, script in scripts.items():
            for stdin in (None, DATA):
                task = asyncio.create_task(this.machine.run(["sh", "-c", script], stdin=stdin, seconds=1000))
                await this.come(word)
                task.cancel()
                ended = (await asyncio.gather(task, return_exceptions=True))[0]
                assert isinstance(ended, asyncio.CancelledError), ended
                await this.gone(word)
        # before it has begun
        for _ in range(20):
            task = asyncio.create_task(this.machine.run(["sleep", "4454"], seconds=1000))
            for _ in range(random.randrange(12)):  # noqa: S311
                await asyncio.sleep(0)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        # while it begins: it may run already, and not have told who it is
        for moment in range(20):
            argv = ["sh", "-c", "sleep 4454; :", "x" * 120_000 * (moment % 2)]
            task = asyncio.create_task(this.machine.run(argv, seconds=1000))
            await asyncio.sleep(moment / 200)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await this.gone("sleep 4454")
        assert (await this.machine.run(["echo", "here"])).text == "here\n"


def test_what_is_cancelled_ends_there(pair: Pair) -> None:
    pair.play(cancelled)


async def many_at_once(folder: str, other: str) -> None:
    """sshd has ten sessions for each connection."""
    async with inside(folder, other) as this:
        done = await asyncio.gather(
            *(this.machine.run(["sh", "-c", f"sleep 0.2; echo {n}"]) for n in range(40))
        )
        assert [each.text for each in done] == [f"{n}\n" for n in range(40)]
        assert len(await this.processes("sshd: root@notty")) == 1
        # those that are cancelled hold theirs for a moment longer
        script = "trap '' TERM; sleep 4461 & sleep 4461; sleep 4461"
        for _ in range(3):
            tasks = [
                asyncio.create_task(this.machine.run(["sh", "-c", script], seconds=1000)) for _ in range(8)
            ]
            await this.come("sleep 4461")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            done = await asyncio.gather(*(this.machine.run(["echo", str(n)]) for n in range(8)))
            assert [each.text for each in done] == [f"{n}\n" for n in range(8)]
        await this.gone("sleep 4461")
        # all sessions are taken, by what has to end and by others
        connection = await this.connection.get()
        held = [await connection.create_process("sleep 4466") for _ in range(2)]
        tasks = [
            asyncio.create_task(this.machine.run(["sh", "-c", "sleep 4462; :"], seconds=1000))
            for _ in range(8)
        ]

        async def all_run() -> bool:
            return len([each for each in await this.processes("sleep 4462") if each == "sleep 4462"]) == len(
                tasks
            )

        await this.until(all_run)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await this.gone("sleep 4462")
        assert await this.processes("sleep 4466")
        for each in held:
            each.close()


def test_more_at_once_than_sshd_has_sessions(pair: Pair) -> None:
    pair.play(many_at_once)


async def streams(folder: str, other: str) -> None:
    async with inside(folder, other) as this:

        async def read(*argv: str) -> bytes:
            return b"".join([chunk async for chunk in this.machine.stream(argv)])

        assert await read("printf", "%s", "two words", "$HOME") == b"two words$HOME"
        assert len(await read("head", "-c", "5000000", "/dev/zero")) == 5_000_000
        assert await read("true") == b""
        error = await error_of(read("ls", "/nowhere"))
        assert error.message.startswith("ls failed with status 2 on two: ls: cannot access '/nowhere'")
        error = await error_of(read("no-such-program"))
        assert error.message == "the program 'no-such-program' is not installed on two"

        # more of them than sshd has sessions; each ends when nobody listens any more
        endless = ("sh", "-c", "while echo something; do sleep 0.01; done; sleep 4411")
        many = [this.machine.stream(endless) for _ in range(12)]
        assert all(await asyncio.gather(*(anext(each) for each in many)))
        assert len(await this.processes("while echo something")) >= 12
        assert (await this.machine.run(["echo", "here"])).text == "here\n"
        await asyncio.gather(*(each.aclose() for each in many))
        assert await this.processes("while echo something") == []
        # who does not take anything does not keep it
        stubborn = ("sh", "-c", "trap '' TERM; yes; sleep 4412 & sleep 4412")
        stream = this.machine.stream(stubborn)
        assert await anext(stream)
        await stream.aclose()
        assert await this.processes("sleep 4412") == []

        # cancelled
        async def listen() -> None:
            async for _ in this.machine.stream(("sh", "-c", "echo begun; exec sleep 4413")):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(listen())
        await begun.wait()
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await this.gone("sleep 4413")
        # lost: it ends there, and is said to be lost here
        begun.clear()
        task = asyncio.create_task(listen())
        await begun.wait()
        await this.outside("run", "sh", "-c", "pkill -9 -f '[s]shd: root@notty'")
        assert isinstance(await error_of(task), HostLostError)
        await this.gone("sleep 4413")


def test_streams_end_with_who_listens(pair: Pair) -> None:
    pair.play(streams)


# -- a host that is lost -------------------------------------------------------------------------------

#: Kills the sshd of the connection that it comes through.
SUICIDE = """\
pid=$PPID
while ! grep -q sshd /proc/$pid/comm; do pid=$(ps -o ppid= -p $pid | tr -d ' '); done
kill -9 $pid
"""


async def lost_and_found(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        run = this.machine.run
        for _ in range(3):
            sleeping = asyncio.create_task(run(["sleep", "4471"], seconds=1000))
            await this.come("sleep 4471")
            error = await error_of(run(["sh", "-c", SUICIDE], seconds=30))
            assert isinstance(error, HostLostError), error.message
            assert error.message.startswith(f"the connection to two (root@{this.host.ip}) was lost")
            assert isinstance(await error_of(sleeping), HostLostError)
            assert (await run(["echo", "back"])).text == "back\n"
        # while much is on its way
        error = await error_of(run(["sh", "-c", f"head -c 100000 >/dev/null; {SUICIDE}"], stdin=DATA * 4))
        assert isinstance(error, HostLostError), error.message
        assert (await run(["echo", "back"])).text == "back\n"
        await this.outside("run", "sh", "-c", "pkill -f '[s]leep 4471' || true")


def test_a_connection_that_was_lost_is_opened_anew(pair: Pair) -> None:
    pair.play(lost_and_found)


async def nobody_listens(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        assert (await this.machine.run(["echo", "here"])).text == "here\n"
        before = await this.connection.get()
        await this.outside("run", "sh", "-c", "kill -9 $(cat /run/sshd.pid); pkill -9 sshd || true")
        await before.wait_closed()  # it may take a moment to notice; what is sent until then breaks off
        started = time.monotonic()
        try:
            errors = await asyncio.gather(*(error_of(this.machine.run(["true"])) for _ in range(10)))
        finally:
            await this.outside("run", *SSHD)
        assert time.monotonic() - started < 8
        assert all(isinstance(error, HostLostError) for error in errors)
        last = errors[-1]
        assert last.message.startswith(f"cannot reach two (root@{this.host.ip}) by SSH: ")
        assert "refused" in last.message, last.message
        assert last.hint == f"does this work? ssh root@{this.host.ip} true"
        await this.until(this.listens)  # which sshd does not do yet when its first process has ended
        assert (await this.machine.run(["echo", "here"])).text == "here\n"


def test_nobody_listens(pair: Pair) -> None:
    pair.play(nobody_listens)


async def cut_off(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        running = [asyncio.create_task(this.machine.run(["sleep", "4481"], seconds=1000)) for _ in range(3)]
        await this.come("sleep 4481")
        await this.outside("cut")
        started = time.monotonic()
        for error in await asyncio.gather(*(error_of(each) for each in running)):
            assert isinstance(error, HostLostError), error.message
            assert "was lost" in error.message
        assert time.monotonic() - started < 90
        # it is not there: told all who ask at once, not one after the other
        started = time.monotonic()
        for error in await asyncio.gather(*(error_of(this.machine.run(["true"])) for _ in range(12))):
            assert isinstance(error, HostLostError), error.message
            assert error.message.startswith(f"cannot reach two (root@{this.host.ip}) by SSH: ")
        assert time.monotonic() - started < 60
        await this.outside("mend")

        async def back() -> bool:
            with contextlib.suppress(HostLostError):
                return (await this.machine.run(["echo", "here"])).text == "here\n"
            return False

        await this.until(back)
        await this.outside("run", "sh", "-c", "pkill -f '[s]leep 4481' || true")


def test_a_cable_that_is_pulled_is_noticed(pair: Pair) -> None:
    pair.play(cut_off)


def bytes_sent() -> int:
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())


async def sent_all_the_same(folder: str, other: str) -> None:
    """Cut off in the middle of much that is sent, for half a minute: nothing that arrived is sent again."""
    async with inside(folder, other) as this:
        size = 64 * MIB
        source = this.folder / "image"
        source.write_bytes(random.Random(3).randbytes(size))  # noqa: S311
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        argv = [
            "tc",
            "qdisc",
            "add",
            "dev",
            "eth0",
            "root",
            "tbf",
            "rate",
            "80mbit",
            "burst",
            "256k",
            "latency",
            "400ms",
        ]
        slowed = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
        assert slowed.returncode == 0, slowed.stderr
        told: list[int] = []
        half = asyncio.Event()

        def tell(count: int) -> None:
            told.append(count)
            if sum(told) >= size // 2:
                half.set()

        here = RemoteBlobStore(this.machine)
        await here.open("lab", "desk:/lab")
        before = bytes_sent()
        storing = asyncio.create_task(here.store(digest, source, tell))
        await half.wait()
        await this.outside("cut")
        await asyncio.sleep(30)  # as long as it is to last
        assert not storing.done()
        came = sum(told)
        assert came < size
        await this.outside("mend")
        await storing
        await asyncio.to_thread(subprocess.run, ["tc", "qdisc", "del", "dev", "eth0", "root"], check=True)
        assert sum(told) <= size + remote_blobs.PIECE
        # what went over the wire: the headers, and what TCP and we sent in vain
        assert bytes_sent() - before < size * 1.1 + 2 * remote_blobs.PIECE
        assert digest in (await here.inspect("lab", "desk:/lab")).stored
        done = await this.machine.run(["sha256sum", f"{remote_blobs.STORE}/{digest}"])
        assert done.text.split()[0] == digest
        await here.clear("lab")
        await this.machine.run(["rm", "-f", f"{remote_blobs.STORE}/{digest}"])


def test_a_cut_while_an_image_is_sent_is_waited_out(pair: Pair) -> None:
    pair.play(sent_all_the_same)


# -- who is who ----------------------------------------------------------------------------------------


def make_key(path: Path, *options: str, passphrase: str = "") -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path), *options],  # noqa: S607
        check=True,
        timeout=30,
        capture_output=True,
    )
    return path


async def refused(connection: HostConnection, *said: str, hint: str) -> None:
    error = await error_of(connection.get())
    assert not isinstance(error, HostLostError), error.message
    assert "two" in error.message
    assert all(each in error.message for each in said), error.message
    assert hint in str(error.hint), error.hint


async def known_or_not(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        ssh = this.folder / "home/.ssh"
        ssh.mkdir(mode=0o700)
        key = str(this.host.host_key)
        where = f"two (root@{this.host.ip})"
        # nobody has told
        hint = f'"host_key": "{key}"'
        await refused(
            this.having(host_key=None), where, "not the one in known_hosts", key, "SHA256:", hint=hint
        )
        # known_hosts tells
        known = ssh / "known_hosts"
        known.write_text(f"{this.host.ip} {key}\n")
        good = this.having(host_key=None)
        await good.get()
        await good.close()
        known.write_text(f"[{this.host.ip}]:22 {key}\n|1|bad\n")
        error = await error_of(this.having(host_key=None).get())
        assert not isinstance(error, HostLostError)
        assert "known_hosts" in error.message, error.message
        # another one than is known
        wrong = make_key(this.folder / "wrong").with_suffix(".pub").read_text()
        known.write_text(f"{this.host.ip} {wrong}\n")
        await refused(this.having(host_key=None), where, "known_hosts", key, hint=hint)
        pinned = this.having(host_key=" ".join(wrong.split()[:2]))
        await refused(pinned, where, "not the one in host_key", key, hint=hint)
        for nonsense in ("", "nonsense", "ssh-ed25519", "ssh-ed25519 AAAA", key[:-9]):
            await refused(
                this.having(host_key=nonsense),
                "host_key of two is not a valid public key",
                hint="ssh-ed25519 AAAA",
            )
        # pinned with a comment, as in a .pub file
        good = this.having(host_key=f"{key} root@two\n")
        await good.get()
        await good.close()


def test_hosts_are_who_they_are_known_as(pair: Pair) -> None:
    pair.play(known_or_not)


async def let_in_or_not(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        copied = f"ssh-copy-id -i {this.folder / 'wrong'} root@{this.host.ip}"
        wrong = make_key(this.folder / "wrong")
        where = f"two (root@{this.host.ip})"
        await refused(this.having(identity_file=str(wrong)), where, "denies access", hint=copied)
        await refused(this.having(identity_file=None), where, "denies access", hint="identity_file")
        nobody = this.having(user="nobody-there")
        await refused(nobody, f"two (nobody-there@{this.host.ip})", "denies access", hint="ssh-copy-id")
        locked = make_key(this.folder / "locked", passphrase="secret")  # noqa: S106
        missing, folder_ = this.folder / "missing", this.folder
        public = Path(str(this.host.identity_file)).with_suffix(".pub")
        for path in (locked, missing, folder_, public):
            await refused(
                this.having(identity_file=str(path)),
                f"cannot use the key {path} to log in to two",
                hint="ssh-add",
            )


def test_keys_that_open_nothing(pair: Pair) -> None:
    pair.play(let_in_or_not)


async def with_a_ssh_config(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        ssh = this.folder / "home/.ssh"
        ssh.mkdir(mode=0o700)
        config = ssh / "config"
        config.write_text(
            f"Host alias\n  HostName {this.host.ip}\n  IdentityFile {this.host.identity_file}\n  User root\n"
        )
        (ssh / "known_hosts").write_text(f"{this.host.ip} {this.host.host_key}\n")
        for changes in ({}, {"host_key": None}):
            alias = this.having(ip="alias", identity_file=None, **changes)
            await alias.get()
            await alias.close()
        # what is in it that nobody can read is said, and is no host that may come back
        said: list[str] = []
        for line in ("Port seven", "Match nonsense", "IdentityFile /nowhere/key"):
            config.write_text(f"Host *\n  {line}\n")
            try:
                broken = this.having(identity_file=None)
                await broken.get()
                await broken.close()
            except HostLostError as error:
                raise AssertionError(line) from error
            except DriverError as error:
                said.append(error.message)
        assert all(each.startswith("cannot read the SSH configuration for two") for each in said), said
        assert len(said) == 3


def test_the_users_ssh_config_counts(pair: Pair) -> None:
    pair.play(with_a_ssh_config)


def test_private_keys_stay_where_they_are(pair: Pair) -> None:
    identity = pair.hosts.identity_file
    assert identity
    pair.play(programs_run)
    secret = identity.read_text().splitlines()[4]
    for host in pair.hosts:
        found = host.run(
            ["grep", "-rlF", "--", secret, "/run", "/var/lib/kvm-compose", "/etc/ssh"], check=False
        )
        assert found.stdout == ""


async def with_sudo(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        ann = this.having(user="ann")
        machine = SshRunner(ann)
        assert (await machine.run(["id", "-un"])).text == "ann\n"
        assert (await machine.run(["id", "-un"], privileged=True)).text == "root\n"
        assert (await machine.run(["sh", "-c", "echo $LC_ALL"], privileged=True)).text == "C\n"
        done = await machine.run(["cat"], stdin=DATA, privileged=True)
        assert done.stdout == DATA
        assert (await machine.run(["sh", "-c", "kill -9 $$"], privileged=True, check=False)).status in (
            -9,
            137,
        )
        assert (await machine.run(["sh", "-c", "exit 7"], privileged=True, check=False)).status == 7
        error = await error_of(machine.run(["no-such-program"], privileged=True))
        assert error.message == "the program 'no-such-program' is not installed on two"
        for script in ("sleep 4491 & sleep 4491", "trap '' TERM INT; sleep 4491 & sleep 4491; sleep 4491"):
            error = await error_of(machine.run(["sh", "-c", script], privileged=True, seconds=0.5))
            assert error.message == "sh did not end within 0.5 s on two", script
            await this.gone("sleep 4491")
            task = asyncio.create_task(machine.run(["sh", "-c", script], privileged=True, seconds=6))
            await this.come("sleep 4491")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await this.gone("sleep 4491")
        await ann.close()


def test_a_user_with_sudo_runs_what_root_runs(pair: Pair) -> None:
    pair.play(with_sudo)


async def what_is_whose(folder: str, other: str) -> None:
    """The store and the folder of all projects are root's, a project is the user's."""
    async with inside(folder, other) as this:
        ann = this.having(user="ann")
        machine = SshRunner(ann)
        here = RemoteBlobStore(machine)
        source = this.folder / "content"
        source.write_bytes(DATA)
        digest = hashlib.sha256(DATA).hexdigest()
        told: list[int] = []
        await here.inspect("lab", "desk:/lab")
        await here.open("lab", "desk:/lab")
        await here.store(digest, source, told.append)
        await here.link("lab", {"artefacts/worker/worker.img": digest})
        seed = this.folder / "seed"
        seed.write_text("seed")
        seed.chmod(0o600)
        seeded = hashlib.sha256(b"seed").hexdigest()
        await here.put("lab", {"artefacts/web/seed.iso": Blob(seeded, seed)}, told.append)
        assert (await here.inspect("lab", "desk:/lab")).delivered == {
            "artefacts/worker/worker.img": digest, "artefacts/web/seed.iso": seeded,
        }  # fmt: skip
        at = "/var/lib/kvm-compose"
        project = f"{at}/.hosted/lab"
        belongings = {
            at: "root 755",
            f"{at}/.store": "root 755",
            f"{at}/.store/{digest}": "root 444",
            f"{at}/.hosted": "root 755",
            project: "ann 755",
            f"{project}/artefacts/web/seed.iso": "ann 600",
        }
        said = await this.outside("run", "stat", "-c", "%U %a", *belongings)
        assert dict(zip(belongings, said.splitlines(), strict=True)) == belongings
        await here.clear("lab")
        assert (await this.outside("run", "find", f"{at}/.hosted", f"{at}/.store", "-mindepth", "1")) == ""
        await ann.close()


def test_what_is_sent_belongs_to_the_user_or_to_all(pair: Pair) -> None:
    pair.play(what_is_whose)


async def without_sudo(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        bob = this.having(user="bob")
        machine = SshRunner(bob)
        assert (await machine.run(["id", "-un"])).text == "bob\n"
        for call in (
            machine.run(["id"], privileged=True),
            RemoteBlobStore(machine).inspect("lab", "desk:/lab"),
        ):
            error = await error_of(call)
            assert "has to run as root on two, but sudo requires a password" in error.message
            assert "sudo" in str(error.hint)
        assert "lab" not in await this.outside("run", "find", "/var/lib/kvm-compose")
        await bob.close()


def test_a_user_without_sudo_is_told(pair: Pair) -> None:
    pair.play(without_sudo)


# -- sockets -------------------------------------------------------------------------------------------

#: Listens at a path of the other host: says back what it is told ("echo"), or talks and closes ("talk").
SERVER = """\
import os, socket, sys, threading
path, how, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(64)
def serve(connection):
    with connection:
        if how == "talk":
            connection.sendall(b"x" * size)
            return
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b"the end")
        if how == "count":
            print("gone", flush=True)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


@asynccontextmanager
async def server(this: Inside, how: str, size: int = 0) -> AsyncIterator[str]:
    path = f"/run/test-{random.randrange(1 << 40)}.sock"  # noqa: S311
    argv = ["python3", "-c", SERVER, path, how, str(size)]
    machine = SshRunner(HostConnection(this.host))
    task = asyncio.create_task(machine.run(argv, seconds=1000))

    async def listens() -> bool:
        return (await this.outside("run", "sh", "-c", f"test -S {path} && echo yes || true")) == "yes\n"

    await this.until(listens)
    try:
        yield path
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await machine._connection.close()
        await this.outside("run", "rm", "-f", path)


async def said_back(path: Path, data: bytes) -> bytes:
    """What comes back when we have said all and listen on."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    received = asyncio.create_task(reader.read())
    writer.write(data)
    await writer.drain()
    writer.write_eof()
    back = await received
    writer.close()
    await writer.wait_closed()
    return back


async def sockets_are_forwarded(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        async with server(this, "echo") as path:
            forwarded = ForwardedSocket(this.connection, this.folder / "0.sock", ("/run/none.sock", path))
            said = [DATA[: n * 300_000] for n in range(12)]
            back = await asyncio.gather(*(said_back(forwarded.path, each) for each in said))
            assert back == [each + b"the end" for each in said]
            await forwarded.close()
            assert not forwarded.path.exists()
        async with server(this, "talk", 20 * MIB) as path:
            forwarded = ForwardedSocket(this.connection, this.folder / "1.sock", (path,))
            reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
            await asyncio.sleep(0.5)  # who reads late gets it all, too
            assert await reader.read() == b"x" * (20 * MIB)
            writer.close()
            await writer.wait_closed()
            await forwarded.close()


def test_sockets_are_forwarded_both_ways_to_the_end(pair: Pair) -> None:
    pair.play(sockets_are_forwarded)


class Said(logging.Handler):
    """What is logged, instead of printed."""

    lines: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def sockets_end(folder: str, other: str) -> None:
    async with inside(folder, other) as this:
        async with server(this, "count") as path:
            forwarded = ForwardedSocket(this.connection, this.folder / "0.sock", (path,))

            async def established() -> int:
                said = await this.outside("run", "ss", "-xH", "state", "established")
                return said.count(path)

            async def none() -> bool:
                return await established() == 0

            # who goes here is gone there
            reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert await established() == 1
            writer.close()
            await writer.wait_closed()
            await this.until(none)
            # who goes in the middle of much
            reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
            writer.write(DATA)
            assert await reader.readexactly(5) == DATA[:5]
            writer.transport.abort()
            await this.until(none)
            # the host is lost, and comes back
            reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await error_of(this.machine.run(["sh", "-c", SUICIDE]))
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
            await writer.wait_closed()
            assert await said_back(forwarded.path, b"again") == b"againthe end"
            # closed with all that is connected
            reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await forwarded.close()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            await this.until(none)
        # nobody listens there (any more)
        logging.getLogger("kvmcompose").addHandler(Said())
        forwarded = ForwardedSocket(this.connection, this.folder / "1.sock", ("/run/none.sock", path))
        reader, writer = await asyncio.open_unix_connection(str(forwarded.path))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await forwarded.close()
        assert len(Said.lines) == 1
        assert str(forwarded.path) in Said.lines[0]


def test_sockets_end_when_either_side_does(pair: Pair) -> None:
    pair.play(sockets_end)


async def sockets_without_a_host(folder: str, other: str) -> None:
    """What waits for a host that is away lets go at once when it is closed."""
    async with inside(folder, other) as this:
        await this.outside("cut")
        forwarded = ForwardedSocket(this.connection, this.folder / "0.sock", ("/run/none.sock",))
        both = [await asyncio.open_unix_connection(str(forwarded.path)) for _ in range(3)]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await forwarded.close()
        assert time.monotonic() - started < 10
        for reader, writer in both:
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await this.outside("mend")


def test_sockets_without_a_host(pair: Pair) -> None:
    pair.play(sockets_without_a_host)
