"""Containers and their images in the engines of Debian: Docker, Podman, and a user's Podman.

All three run in one host, a second host has them behind SSH.
"""

# ruff: noqa: ASYNC240 - a scenario has its loop to itself
from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import driven
import pytest
import registry

from driver_errors import message_of
from hosts import TestHosts, cgroups, engines
from hosts.spec import Spec
from hosts.tiny_image import archive, image_id, tiny_image
from kvmcompose.cli._image_lock import digests_of
from kvmcompose.core.access import TerminalSize
from kvmcompose.core.image_build import ImageBuild, build_tag
from kvmcompose.core.image_lock import pinned
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.model import Host
from kvmcompose.guests._containers import LOG_CONFIG
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.terminal import Terminal
from kvmcompose.images.image_archives import opened_image
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.driver import HostEngine
from kvmcompose.providers.containers.interface.containers import Containers
from kvmcompose.providers.engine_survey import survey_engines
from kvmcompose.providers.real import RealDrivers

pytestmark = pytest.mark.real

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))

REQUEST = {
    "Image": "tiny:1",
    "Cmd": ["sh", "-c", "echo started; echo complaint >&2; trap 'exit 3' TERM; sleep 4444 & wait"],
    "Env": ["COLOUR=blue"],
    "HostConfig": {"NetworkMode": "none", "LogConfig": LOG_CONFIG},
}


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    hosts = TestHosts(
        2, directory=tmp_path_factory.mktemp("short"), ssh=True, docker=True, podman=True, rootless=True
    )
    with hosts:
        yield hosts
    spec = Spec(directory=str(hosts.directory), owner=(0, 0), count=2)
    groups = [target / cgroups.group_of(spec, name) for target, _ in cgroups.mounted() for name in spec.names]
    assert not [group for group in groups if group.exists()]


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


def tar_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def processes(text: str) -> list[str]:
    shown = subprocess.run(
        ["ps", "-eo", "args"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line for line in shown.splitlines() if line == text]


class Driven:
    """The drivers of an engine, and a project's container in it."""

    def __init__(self, engine: EngineConnection) -> None:
        self.engine = engine
        self.host = HostEngine(engine, LocalRunner("main"))
        self.containers, self.inside, self.images = self.host.containers, self.host.inside, self.host.images

    async def load(self, image: str) -> None:
        await self.images.load(pieces(Path(image).read_bytes()), image_id(), print)

    async def tag(self, image: str, tag: str) -> None:
        named, put = await self.engine.named(image), await self.engine.completed(tag)
        repository, _, last = put.rpartition(":")
        await self.engine.call("", lambda client: client.tag(named, repository, last))

    async def up(self, name: str = "p-a", **more: Any) -> None:
        await self.containers.create("p", name.removeprefix("p-"), name, {**REQUEST, **more}, "v1")
        await self.containers.start("p", name)

    async def run(self, *argv: str, **options: Any) -> tuple[int, list[str]]:
        lines: list[str] = []
        status = await self.inside.run("p", "p-a", argv, lines.append, **options)
        return status, lines

    async def state(self, name: str = "p-a") -> tuple[str, str | None]:
        found = (await self.containers.observe("p"))[name]
        return found.state, found.reason


@contextlib.asynccontextmanager
async def engine_at(socket: str, image: str) -> AsyncIterator[Driven]:
    driven_one = Driven(EngineConnection([Path("/nowhere.sock"), Path(socket)]))
    await driven_one.load(image)
    try:
        yield driven_one
    finally:
        for name in await driven_one.containers.observe("p"):
            await driven_one.containers.remove("p", name)
        await driven_one.engine.close()


# -- one container -----------------------------------------------------------------------------------


async def lifecycle(socket: str, image: str) -> None:
    async with engine_at(socket, image) as it:
        facts = await it.host.facts()
        assert facts.engine == ("Docker" if "docker" in socket else "Podman")
        assert facts.rootless == ("user" in socket)
        assert facts.cpus > 0
        assert facts.memory_mb > 0
        (seen,) = await survey_engines({socket: it.host}, LocalRunner("main"), socket)
        assert (seen.name, seen.ok, f" at {socket}" in seen.detail) == (facts.engine, True, True)
        assert seen.detail.startswith("rootless, ") == facts.rootless
        requests: list[str] = []

        def note(answer: Any, **_: object) -> None:
            if "/images/" not in answer.url:  # Podman is asked for the whole name of one
                requests.append(answer.url)

        await it.engine.call("", lambda client: client.hooks["response"].append(note))
        for count in (1, 2):
            identity = await it.containers.create("p", "a", "p-a", REQUEST, "v1")
            assert len(requests) == count, requests  # one that is there is looked at
            requests.clear()
        assert await it.state() == ("created", None)
        requests.clear()
        first = await it.containers.start("p", "p-a", identity)
        assert len(requests) == 2, requests
        assert (first.id, first.state) == (identity, "running")
        assert await it.containers.start("p", "p-a") == first
        (found,) = (await it.containers.observe("p")).values()
        assert (found.name, found.guest, found.made, found.image) == ("p-a", "a", "v1", image_id())
        assert found.started is not None
        assert abs(found.started - time.time()) < 60
        # Podman answers before the program of the container has taken the place of its runtime's
        await until(lambda: "sleep" in Path(f"/proc/{found.pid}/cmdline").read_text())

        await not_ours(it)
        await commands(it)
        await terminals(it)
        await files(it)
        await logs(it)
        if facts.limits:
            await limits(it)
        else:
            assert await it.containers.usage("p") == {}
            assert "cgroup" in await message_of(it.containers.pause("p", "p-a"))
        await reported(it, pauses=facts.limits)
        await ends(it)
        for _ in range(2):
            await it.containers.remove("p", "p-a")
        assert await it.containers.observe("p") == {}


async def not_ours(it: Driven) -> None:
    """Containers of others are refused, whatever the call, and stay as they are."""
    other = await it.engine.call(
        "", lambda client: client.create_container_from_config({**REQUEST, "Labels": {}}, "p-b")["Id"]
    )
    await it.containers.create("q", "c", "p-c", REQUEST)
    # of an image that was made of ours, as a snapshot is: it inherits all labels
    ours = await it.engine.call("", lambda client: client.inspect_container("p-a")["Config"]["Labels"])
    heir = await it.engine.call(
        "", lambda client: client.create_container_from_config({**REQUEST, "Labels": ours}, "p-e")["Id"]
    )
    calls, inside = it.containers, it.inside
    assert (await calls.observe("p")).keys() == {"p-a"}
    assert await calls.foreign("p", ["p-a", "p-b", "p-c", "p-d", "p-e"]) == ["p-b", "p-c", "p-e"]
    for name in ("p-b", "p-c", "p-e"):
        for call in (
            calls.create("p", "b", name, REQUEST),
            calls.start("p", name),
            calls.stop("p", name, 1),
            calls.remove("p", name),
            it.images.commit("p", name, "x:1"),
            inside.run("p", name, ["true"], print),
            inside.put("p", name, "/", pieces(tar_of(x=b""))),
            whole(inside.get("p", name, "/etc")),
        ):
            assert "this name" in await message_of(call)
    assert "no container of that name" in await message_of(calls.remove("p", other[:12]))
    assert "made from something else" in await message_of(calls.create("p", "a", "p-a", REQUEST, "v2"))
    assert "p-x" in await message_of(calls.start("p", "p-x"))
    assert list(await calls.observe("p")) == ["p-a"]
    for each in (other, heir):
        await it.engine.call("", lambda client, each=each: client.remove_container(each))
    await calls.remove("q", "p-c")


async def commands(it: Driven) -> None:
    assert await it.run("sh", "-c", "echo $COLOUR; id -un") == (0, ["blue", "root"])
    assert await it.run("id", "-un", user="user") == (0, ["user"])
    given = b"first\n" + b"x" * (1 << 20) + b"\nlast"
    status, lines = await it.run("cat", stdin=pieces(given))
    assert (status, "".join(lines)) == (0, given.decode().replace("\n", ""))
    assert max(map(len, lines)) <= 1 << 16  # however long the container's are
    status, lines = await it.run("head", "-n", "1", stdin=pieces(given))
    assert status == 0
    # with input that is not read, Podman now and then loses the output
    assert lines == ["first"] or ((await it.host.facts()).engine == "Podman" and not lines)
    assert await it.run("sh", "-c", "exit 7") == (7, [])
    with contextlib.suppress(DriverError):  # engines differ
        assert (await it.run("no-such-program"))[0] in (126, 127)

    async def broken() -> AsyncIterator[bytes]:
        yield b"something"
        raise KeyError("input")

    with pytest.raises(KeyError):
        await it.run("sh", "-c", "sleep 3331 & sleep 3331", stdin=broken())
    assert "within 0.5 s" in await message_of(it.run("sh", "-c", "sleep 3332 & sleep 3332", seconds=0.5))
    task = asyncio.create_task(it.run("sh", "-c", "trap '' TERM; sleep 3333 & sleep 3333; sleep 3333"))
    await asyncio.sleep(0.5)
    assert len(processes("sleep 3333")) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for number in (3331, 3332, 3333):
        assert not processes(f"sleep {number}")


async def terminals(it: Driven) -> None:
    """The size is known and changes, the status is the shell's, and what ends with the terminal has ended."""
    async with it.inside.terminal("p", "p-a", ["sh"], TerminalSize(columns=100, rows=30)) as terminal:
        printed = terminal.read()
        await said(printed, b"# ")
        await sized(terminal, printed, b"30 100")
        terminal.resize(TerminalSize(columns=50, rows=40))
        terminal.resize(TerminalSize(columns=70, rows=20))
        await sized(terminal, printed, b"20 70")
        await terminal.write(b"echo $TERM $COLOUR; tty; sleep 3334 & exit 5\r")
        rest = (await whole(printed)).decode()
        assert "xterm-256color blue" in rest
        assert "/dev/pts/" in rest
        assert await terminal.status() == 5
    async with it.inside.terminal("p", "p-a", ["sh"], TerminalSize(columns=80, rows=24)) as terminal:
        printed = terminal.read()
        await said(printed, b"# ")
        await terminal.write(b"trap '' TERM; sleep 3335\r")
        await until(lambda: bool(processes("sleep 3335")))
    await until(lambda: not processes("sleep 3335"))
    async with it.inside.terminal("p", "p-a", ["no-such"], TerminalSize(columns=80, rows=24)) as terminal:
        with contextlib.suppress(DriverError):  # engines differ
            await whole(terminal.read())
            assert await terminal.status() in (126, 127)


async def sized(terminal: Terminal, printed: AsyncIterator[bytes], size: bytes) -> None:
    """Wait until the terminal has a size: an engine changes it a moment after it has answered."""
    for _ in range(100):
        await terminal.write(b"stty size\r")
        if size in await said(printed, b"\r\n", b"# "):
            return
    raise AssertionError(size)


async def said(printed: AsyncIterator[bytes], *wanted: bytes) -> bytes:
    """Read until these have come in this order."""
    found = b""
    async with asyncio.timeout(30):
        while re.search(b".*".join(map(re.escape, wanted)), found, re.DOTALL) is None:
            found += await anext(printed)
    return found


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not found():  # noqa: ASYNC110 (processes of the machine)
            await asyncio.sleep(0.05)


async def files(it: Driven) -> None:
    await it.inside.put("p", "p-a", "/root", pieces(tar_of(note=b"kept", big=bytes(3 << 20))))
    with tarfile.open(fileobj=io.BytesIO(await whole(it.inside.get("p", "p-a", "/root")))) as tar:
        assert {entry.name: entry.size for entry in tar if entry.isfile()} == {
            "root/note": 4,
            "root/big": 3 << 20,
        }
    if (await it.host.facts()).engine == "Docker":
        refused = it.inside.put("p", "p-a", "/nowhere", pieces(tar_of(x=b"")))
        assert "/nowhere" in await message_of(refused)
    assert "copy files from" in await message_of(whole(it.inside.get("p", "p-a", "/elsewhere")))


async def logs(it: Driven) -> None:
    assert sorted([line async for line in it.inside.logs("p", "p-a")]) == ["complaint", "started"]
    assert len([line async for line in it.inside.logs("p", "p-a", tail=1)]) == 1
    await it.containers.create("p", "log", "p-log", {
        **REQUEST, "Cmd": ["sh", "-c", "echo one; sleep 0.5; head -c 200000 /dev/zero; echo; echo two"],
    })  # fmt: skip
    await it.containers.start("p", "p-log")
    read = [line async for line in it.inside.logs("p", "p-log", follow=True)]
    assert (read[0], read[-1], sum(map(len, read[1:-1]))) == ("one", "two", 200000)
    assert max(map(len, read)) <= 1 << 16
    assert await it.state("p-log") == ("exited", None)
    await it.containers.remove("p", "p-log")

    small = {**LOG_CONFIG, "Config": {**LOG_CONFIG["Config"], "max-size": "64k"}}
    await it.containers.create("p", "talk", "p-talk", {
        **REQUEST,
        "Cmd": ["seq", "100000", "200000"],
        "HostConfig": {**REQUEST["HostConfig"], "LogConfig": small},
    })  # fmt: skip
    await it.containers.start("p", "p-talk")
    while (await it.state("p-talk"))[0] == "running":  # noqa: ASYNC110 (nothing tells of it)
        await asyncio.sleep(0.1)
    kept = [line async for line in it.inside.logs("p", "p-talk")]
    assert kept[-1] == "200000"
    assert 10 < len(kept) < 50_000  # of 100,001
    await it.containers.remove("p", "p-talk")

    following = it.inside.logs("p", "p-a", follow=True)  # of one that goes on
    assert await anext(following)
    assert await anext(following)
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await following.aclose()


async def limits(it: Driven) -> None:
    for _ in range(2):
        await it.containers.pause("p", "p-a")
    assert await it.state() == ("paused", None)
    for _ in range(2):
        await it.containers.unpause("p", "p-a")
    assert await it.state() == ("running", None)
    engine = (await it.host.facts()).engine
    before = (await it.containers.usage("p"))["p-a"].cpu_seconds
    await it.run("timeout", "0.5", "sh", "-c", "while :; do :; done")
    assert (await it.containers.usage("p"))["p-a"].cpu_seconds > before + 0.05
    if engine != "Docker":  # Podman learns of the signal alone, without systemd's control groups
        return
    await it.up("p-big", HostConfig={**REQUEST["HostConfig"], "Memory": 8 << 20, "MemorySwap": 8 << 20}, Cmd=[
        "sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done",
    ])  # fmt: skip
    async for _ in it.inside.logs("p", "p-big", follow=True):
        pass
    assert await it.state("p-big") == ("exited", "out of memory")
    await it.containers.remove("p", "p-big")


class Followed:
    """What is reported of the project's containers."""

    def __init__(self, containers: Containers) -> None:
        self.seen: list[tuple[str, str, float | None]] = []
        self.task = asyncio.create_task(self._follow(containers))

    async def _follow(self, containers: Containers) -> None:
        async with contextlib.aclosing(containers.events("p")) as found:
            async for each in found:
                self.seen.append((each.name, each.state, each.started))

    async def sees(self, state: str, seconds: float = 30, name: str = "p-a") -> float | None:
        """Wait for the state of a container to be reported, and return its start."""
        async with asyncio.timeout(seconds):
            while not self.seen or self.seen[-1][:2] != (name, state):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
        started = self.seen[-1][2]
        self.seen.clear()
        return started

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def reported(it: Driven, *, pauses: bool) -> None:
    """What others do to a container is reported as it happens."""
    followed = Followed(it.containers)
    started = await followed.sees("running")
    assert started is not None
    await it.engine.call("", lambda client: client.restart("p-a", timeout=0))
    again = await followed.sees("running")
    assert again is not None
    assert again > started
    if pauses:
        await it.engine.call("", lambda client: client.pause("p-a"))
        await followed.sees("paused")
        await it.engine.call("", lambda client: client.unpause("p-a"))
        await followed.sees("running")
    await it.engine.call("", lambda client: client.rename("p-a", "other"))
    await followed.sees("gone")
    await it.engine.call("", lambda client: client.rename("other", "p-a"))
    await followed.sees("running")
    await it.engine.call("", lambda client: client.kill("p-a"))
    await followed.sees("exited")
    await followed.stop()
    await it.containers.start("p", "p-a")


async def ends(it: Driven) -> None:
    for _ in range(2):
        await it.containers.stop("p", "p-a", 5)
    assert await it.state() == ("exited", "exit status 3")
    assert (await it.containers.observe("p"))["p-a"].exit_code == 3
    assert "not running" in await message_of(it.run("true"))
    await it.containers.start("p", "p-a")
    await it.engine.call("", lambda client: client.kill("p-a"))
    await asyncio.sleep(0.5)
    assert await it.state() == ("exited", "killed by SIGKILL")
    await it.containers.create("p", "bad", "p-bad", {**REQUEST, "Cmd": ["/nowhere"]})
    assert "/nowhere" in await message_of(it.containers.start("p", "p-bad"))
    await it.containers.remove("p", "p-bad")


@pytest.mark.parametrize("name", list(engines.SOCKETS) if _LONG else ["docker", "podman"])
def test_a_container_lives_and_ends(two_hosts: TestHosts, name: str) -> None:
    driven.inside(two_hosts[0], lifecycle, socket=engines.SOCKETS[name], image=tiny_image())


# -- images ------------------------------------------------------------------------------------------


async def image_work(socket: str, image: str) -> None:
    async with engine_at(socket, image) as it:
        assert await it.images.image("nowhere:1") is None
        found = await it.images.image("tiny:1")
        assert found is not None
        assert (found.id, found.tags) == (image_id(), ("tiny:1",))
        # a snapshot of a container, and one started from it
        await it.up()
        await it.inside.put("p", "p-a", "/root", pieces(tar_of(note=b"kept")))
        assert "not the project's" in await message_of(it.images.commit("p", "p-a", "tiny:1"))
        snapshot = await it.images.commit("p", "p-a", "kvm-compose-p-a:s1")
        assert [(each.id, each.tags) for each in await it.images.of_project("p")] == [
            (snapshot, ("kvm-compose-p-a:s1",))
        ]
        # by whole names, so that Podman completes none by its own rules
        if "podman" in socket:
            raw = await it.engine.call("", lambda client: client.inspect_image(snapshot)["RepoTags"])
            assert raw == ["localhost/kvm-compose-p-a:s1"]
            raw = await it.engine.call("", lambda client: client.inspect_container("p-a")["Config"]["Image"])
            assert raw == "localhost/tiny:1"  # it was loaded
        await it.containers.remove("p", "p-a")
        await it.up(Image="kvm-compose-p-a:s1")
        assert await it.run("cat", "/root/note") == (0, ["kept"])
        await it.containers.remove("p", "p-a")
        # from the engine and back, as between hosts: the same content, so the same ID
        saved = await whole(it.images.save(snapshot))
        await it.images.remove_image("p", "kvm-compose-p-a:s1")
        assert await it.images.of_project("p") == []
        await it.images.load(pieces(saved), snapshot, print)
        await it.tag(snapshot, "again:2")
        assert (await it.images.image("again:2")) is not None
        for _ in range(2):
            await it.images.remove_image("p", "again:2")
        assert "not the project's" in await message_of(it.images.remove_image("p", "tiny:1"))
        assert await message_of(it.images.load(pieces(b"no archive"), image_id()[:-1] + "0", print))

        async def broken() -> AsyncIterator[bytes]:
            yield saved[: len(saved) // 2]
            raise KeyError("source")

        with pytest.raises(KeyError):
            await it.images.load(broken(), snapshot, print)
        await from_files(it, Path(image))
        await builds(it)
        assert "no.where" in await message_of(it.images.pull("no.where/image:1", print))


async def builds(it: Driven) -> None:
    """Images are built from contexts; the last lines of a step that fails are shown, and a build ends."""
    said: list[str] = []
    before = await every_image(it)

    async def build(how: ImageBuild, key: str, **files: bytes) -> str:
        return await it.images.build("p", how, key, pieces(tar_of(**files)), said.append)

    dockerfile = (
        b"FROM tiny:1 AS one\nARG WORD\nCOPY f /f\nRUN cat /f >/g && echo $WORD\nFROM one\nRUN rm /g\n"
    )
    first = ImageBuild("web", "D", args={"WORD": "working"}, target="one")
    built = await build(first, "1" * 32, D=dockerfile, f=b"content")
    assert "working" in said
    (found,) = [each for each in await it.images.of_project("p") if each.tags]
    assert (found.id, found.project, found.build) == (built, "p", "1" * 32)
    assert found.tags == (build_tag("p", "1" * 32),)
    assert await it.images.image(build_tag("p", "1" * 32)) == found
    await it.up(Image=build_tag("p", "1" * 32))
    assert await it.run("cat", "/g") == (0, ["content"])
    # no command of a build has a network, and a failed one says why
    bad = b"FROM tiny:1\nRUN echo first\nRUN echo second; ip -o link; exit 9\n"
    error = await message_of(build(ImageBuild("web"), "2" * 32, Dockerfile=bad))
    assert "exit 9" in error.splitlines()[0]
    assert "  | second" in error.splitlines()
    assert "first" not in error
    assert not [line for line in error.splitlines() if "| 2:" in line], error
    error = await message_of(build(ImageBuild("web"), "2" * 32, Dockerfile=b"FROM tiny:1\nRUNN true\n"))
    assert "RUNN" in error
    assert "nothere" in await message_of(build(ImageBuild("web"), "2" * 32, Dockerfile=b"FROM nothere:1\n"))
    await it.tag("tiny:1", build_tag("p", "3" * 32))
    assert "another image has the name" in await message_of(
        build(ImageBuild("web"), "3" * 32, Dockerfile=b"FROM tiny:1\n")
    )
    # one that is cancelled begins no further step; Podman ends the step that runs only with its command
    steps = b"FROM tiny:1\nRUN echo began; sleep 3.21\nRUN sleep 6543\n"
    building = asyncio.ensure_future(build(ImageBuild("web"), "4" * 32, Dockerfile=steps))
    while "began" not in said:
        await asyncio.sleep(0.05)
        assert not building.done()
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    await asyncio.sleep(4.5)
    assert not [*processes("sleep 3.21"), *processes("sleep 6543")]
    # what a container uses stays, and with the last name everything goes
    assert "cannot remove the image" in await message_of(
        it.images.remove_image("p", build_tag("p", "1" * 32))
    )
    await it.containers.remove("p", "p-a")
    await it.images.remove_image("p", build_tag("p", "1" * 32))
    # but for the steps that went well of builds that failed: they are the engine's cache
    while left := [each for each in await it.images.of_project("p") if each.build]:
        assert [each.tags for each in left] == [()] * len(left)
        await it.images.remove_image("p", left[0].id)
    assert await every_image(it) <= before + 1


async def every_image(it: Driven) -> int:
    """How many images the engine has, those of steps of builds included."""
    rows = await it.engine.call("list images", lambda client: client.images(all=True))
    return len(rows)


async def from_files(it: Driven, image: Path) -> None:
    """Files of others: a compressed layout; an archive that would rename an image; one that lies."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.tar")

        async def load(transport: Literal["docker-archive", "oci-archive"], content: bytes) -> str:
            file.write_bytes(content)
            with opened_image(ImageFile(transport, "image.tar"), file) as found:
                assert await it.images.image(found.image_id) is None
                await it.images.load(found.pieces(), found.image_id, print)
                return found.image_id

        await load("oci-archive", gzip.compress(oci_of(image.read_bytes())))
        renames = await load("docker-archive", archive("tiny:1", {"etc/motd": b"hello"}))
        there = await it.images.image("tiny:1")
        assert there is not None
        assert there.id == image_id()
        await it.up(Image=renames)
        assert await it.run("cat", "/etc/motd") == (0, ["hello"])
        await it.containers.remove("p", "p-a")
        lies = archive("tiny:1", {"etc/motd": b"12345"}).replace(b"12345", b"54321")
        assert await message_of(load("docker-archive", lies))


def oci_of(archive: bytes) -> bytes:
    """Return the image of an archive of Docker's, with another command, as an archive of OCI's layout."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    (listed,) = json.loads(files["manifest.json"])
    config = json.loads(files[listed["Config"]])
    config["config"]["Cmd"] = ["true"]
    blobs: dict[str, bytes] = {}

    def put(content: bytes, kind: str) -> dict[str, Any]:
        number = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{number}"] = content
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{number}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(files[layer], "layer.v1.tar") for layer in listed["Layers"]],
    }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    layout = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    return tar_of(**layout, **blobs)


async def pulled(socket: str, image: str) -> None:
    async with engine_at(socket, image) as it:
        with registry.serving(Path(image).read_bytes()) as served:
            said: list[str] = []
            assert await it.images.pull(f"{served.address}/tiny:1", said.append) == image_id()
            assert any("Pull" in line for line in said)
            found = await it.images.image(f"{served.address}/tiny:1")
            assert found is not None
            assert found.digests == (f"{served.address}/tiny@{served.digest}",)
            tag, by_digest = f"{served.address}/tiny:1", f"{served.address}/tiny@{served.digest}"
            digests = await digests_of(it.images, [tag], {}, said.append)
            assert pinned(tag, digests[tag]) == by_digest
            assert await it.images.pull(by_digest, said.append) == image_id()
            assert "tiny:2" in await message_of(it.images.pull(f"{served.address}/tiny:2", said.append))


@pytest.mark.parametrize("name", ["docker", "podman"] if _LONG else ["docker"])
def test_images_come_and_go(two_hosts: TestHosts, name: str) -> None:
    socket = engines.SOCKETS[name]
    driven.inside(two_hosts[0], image_work, socket=socket, image=tiny_image())
    if name == "docker":  # which needs no TLS on this machine
        driven.inside(two_hosts[0], pulled, socket=socket, image=tiny_image())


# -- another host, and an engine that dies -----------------------------------------------------------


async def elsewhere(address: str, key: str, host_key: str, image: str) -> None:
    """The same engine through SSH: nothing but its socket is reached."""
    drivers = RealDrivers()
    other = Host(name="two", ip=address, user="root", identity_file=key, host_key=host_key)
    host = drivers.host(other)
    containers, inside = host.engine.containers, host.engine.inside
    try:
        assert (await host.engine.facts()).engine == "Docker"
        await host.engine.images.load(pieces(Path(image).read_bytes()), image_id(), print)
        names = [f"p-{number}" for number in range(8)]
        followed = Followed(containers)
        for name in names:
            await containers.create("p", name[2:], name, REQUEST)
        async with asyncio.timeout(15):  # those of one look are in any order
            while {each[:2] for each in followed.seen} != {(name, "created") for name in names}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await followed.stop()
        await asyncio.gather(*(containers.start("p", name) for name in names))
        found = await containers.observe("p")
        assert {each.state for each in found.values()} == {"running"}
        assert sorted(found) == sorted(names)
        assert sorted(await containers.usage("p")) == sorted(names)
        lines: list[str] = []
        done = await inside.run("p", "p-3", ["cat"], lines.append, stdin=pieces(b"through\nSSH"))
        assert (done, lines) == (0, ["through", "SSH"])
        task = asyncio.create_task(inside.run("p", "p-3", ["sleep", "3334"], lines.append))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(containers.remove("p", name) for name in names))
        assert await containers.observe("p") == {}
    finally:
        await drivers.close()


async def killed(image: str) -> None:
    """An engine that does not answer, is killed, or comes back; another one is never taken for it."""
    warnings.simplefilter("ignore", ResourceWarning)  # of sockets that the SDK could not connect
    docker, podman = (str(engines.SOCKETS[name]) for name in ("docker", "podman"))
    it = Driven(EngineConnection([Path(docker), Path(podman)], come_back=2))
    await it.load(image)
    await it.up()
    pid = int(Path("/run/docker.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        asked = it.engine.call("ask", lambda client: client.info(), seconds=0.5)
        assert "has not answered within 0.5 s" in await message_of(asked)
        task = asyncio.create_task(it.containers.observe("p"))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert time.monotonic() - started < 5
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await it.state() == ("running", None)

    followed = Followed(it.containers)
    await followed.sees("running")
    follow = asyncio.create_task(whole_log(it))
    await asyncio.sleep(0.5)
    os.kill(pid, signal.SIGTERM)  # it ends the container, too
    assert "started" in await follow
    # without its socket it still answers on connections that it has
    while Path(docker).exists() or is_running(pid):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    message = await message_of(it.engine.call("ask", lambda client: client.version(), seconds=60))
    assert message == f"cannot ask: no container engine answers at {docker}"
    engines.start_docker(Path("/run"))
    engines.wait_for(["docker"])
    assert await it.state() == ("exited", "exit status 3")  # but it is known
    await followed.sees("exited", 20)
    await it.containers.start("p", "p-a")
    await followed.sees("running")
    await followed.stop()
    await it.containers.remove("p", "p-a")
    await it.engine.close()
    nobody = EngineConnection([Path("/nowhere.sock")])
    assert "no container engine answers at /nowhere.sock" in await message_of(nobody.call("ask", print))


def is_running(pid: int) -> bool:
    """Return whether a process has not ended, whether its parent knows that or not (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def whole_log(it: Driven) -> list[str]:
    return [line async for line in it.inside.logs("p", "p-a", follow=True)]


def test_the_engine_of_another_host(two_hosts: TestHosts) -> None:
    one, two = two_hosts
    key = two_hosts.identity_file
    driven.inside(one, elsewhere, address=two.address, key=key, host_key=two.host_key, image=tiny_image())
    assert two.run(["pgrep", "-f", "sleep 3334"], check=False).stdout == ""


def test_an_engine_that_dies(two_hosts: TestHosts) -> None:
    driven.inside(two_hosts[1], killed, image=tiny_image())
