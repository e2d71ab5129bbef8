"""Guests from inside: how they are waited for, how commands run and end there, whose keys are believed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import driven
import msgspec
import pytest
from driven import Up, brought_up

from driver_errors import error_of
from hosts import TestHost, TestHosts
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.providers.guest.driver import SshShell
from kvmcompose.providers.guest.entrance import SshEntrance
from kvmcompose.providers.guest.interface import Login

pytestmark = pytest.mark.real


@pytest.fixture
def project(tmp_path: Path, micro_image: Path, ssh_key: Path) -> Path:
    """One guest on one bridge."""
    return driven.make_project(tmp_path / "inside", micro_image, ssh_key, {"one": "br0"})


DOMAIN = "inside-one"


async def processes(up: Up, opening: str) -> list[str]:
    """The command lines in the guest that begin so, with or without a path."""
    _, lines = await up.run("one", "ps", "-o", "args")
    return [line for line in lines if re.match(rf"(\S*/)?{re.escape(opening)}", line)]


async def appear(up: Up, opening: str, count: int = 1) -> None:
    """Wait until so many of them run."""
    deadline = time.monotonic() + 30
    while len(await processes(up, opening)) < count:
        assert time.monotonic() < deadline


async def input_arrives(up: Up) -> None:
    """Input is bytes, comes to its end, is sent no faster than it is read, and may stay unread."""
    login, printed = up.login("one"), list[str]()
    data = bytes(range(256)) * 2000
    sent = 0

    async def pieces(fault: Exception | None = None) -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(data), 4096):
            sent = start
            yield data[start : start + 4096]
        if fault is not None:
            raise fault

    assert await up.shell.run(login, ["md5sum"], printed.append, stdin=pieces()) == 0
    assert printed == [f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  -"]
    # who does not read is not sent everything, and may end
    data *= 40
    assert await up.shell.run(login, ["sh", "-c", "sleep 3; exit 5"], str, stdin=pieces()) == 5
    assert sent < 8 << 20
    assert await up.shell.run(login, ["head", "-c", "1"], str, stdin=pieces()) == 0
    # what breaks off ends the command
    data = b"half"
    broken = pieces(KvmComposeError("it broke off"))
    with pytest.raises(KvmComposeError, match="broke off"):
        await up.shell.run(login, ["sh", "-c", "cat; sleep 3210"], str, stdin=broken)
    assert await processes(up, "sleep 3210") == []


async def commands_run(up: Up) -> None:
    # words arrive as they are
    odd = ["two words", "$HOME", "a'b\"c", "", "*", "; exit 9", "ünï", "a\nb"]
    status, lines = await up.run("one", "printf", "<%s>\\n", *odd)
    assert status == 0
    assert "\n".join(lines) == "\n".join(f"<{word}>" for word in odd)

    script = "echo out; echo err >&2; printf 'no end'; exit 7"
    assert await up.run("one", "sh", "-c", script) == (7, ["out", "err", "no end"])
    assert await up.run("one", "sh", "-c", "printf '\\377\\n'") == (0, ["\ufffd"])
    assert (await up.run("one", "sh", "-c", "kill -9 $$"))[0] == 137
    assert (await up.run("one", "no-such-program"))[0] == 127
    assert await up.run("one", "cat") == (0, [])  # nothing is read from anywhere
    await input_arrives(up)
    entry = "echo 'eve:x:1234:1234::/tmp:/bin/sh' >>/etc/passwd"
    assert await up.run("one", "sudo", "-n", "sh", "-c", entry) == (0, [])
    entrance = SshEntrance(up.shell, up.login("one"))
    for user in ("root", "eve"):
        printed: list[str] = []
        assert await entrance.run(["sh", "-c", "id -un; exit 7"], printed.append, user=user) == 7
        assert printed == [user]
    await error_of(entrance.check_user("no-such-user"))
    status, lines = await up.run("one", "sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x")
    assert status == 0
    assert [len(line) for line in lines] == [65536, 65536, 65536, 3392]
    status, lines = await up.run("one", "seq", "1", "20000")
    assert (status, len(lines), lines[-1]) == (0, 20000, "20000")

    # lines come as they are printed, not at the end
    seen: list[float] = []
    login = up.login("one")
    started = time.monotonic()
    script = "echo 1; sleep 2; echo 2"
    await up.shell.run(login, ["sh", "-c", script], lambda _: seen.append(time.monotonic() - started))
    assert seen[1] - seen[0] > 1.5

    # what a command leaves running does not hold it up
    started = time.monotonic()
    assert await up.run("one", "sh", "-c", "sleep 4321 & echo started") == (0, ["started"])
    assert time.monotonic() - started < 60
    assert await processes(up, "sleep 4321")

    # many at once, on one connection
    many = await asyncio.gather(*(up.run("one", "echo", str(number)) for number in range(20)))
    assert many == [(0, [str(number)]) for number in range(20)]


async def commands_end(up: Up) -> None:
    login = up.login("one")
    told: list[str] = []
    started_there = asyncio.Event()
    # a tree with a root's child, one that left its parent, and one that does not want to go
    script = (
        "sudo -n sleep 5001 & (sleep 5002 &) ; trap '' TERM; echo started; "
        "sh -c 'trap \"\" TERM; while :; do sleep 5003; done'"
    )
    task = asyncio.create_task(up.shell.run(login, ["sh", "-c", script], lambda _: started_there.set()))
    await started_there.wait()
    await appear(up, "sleep 500", 3)
    started = time.monotonic()
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    assert time.monotonic() - started < 60
    left = await processes(up, "sleep 500")
    assert left == [], left

    # a simple one goes quickly
    task = asyncio.create_task(up.shell.run(login, ["sleep", "1000"], told.append))
    await appear(up, "sleep 1000")
    started = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert time.monotonic() - started < 60
    assert await processes(up, "sleep 1000") == []

    # cancelled before it has begun
    for pause in (0, 0.01, 0.02, 0.05):
        task = asyncio.create_task(up.shell.run(login, ["sleep", "2000"], told.append))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(1)
    assert await processes(up, "sleep 2000") == []

    error = await error_of(up.shell.run(login, ["sleep", "3000"], told.append, seconds=1))
    assert error.message == "sleep 3000 did not end within 1 s on one"
    assert await processes(up, "sleep 3000") == []

    def refuse(_: str) -> None:
        raise ZeroDivisionError

    try:
        await up.shell.run(login, ["sh", "-c", "echo; sleep 6000"], refuse)
    except ZeroDivisionError:
        assert await processes(up, "sleep 6000") == []
    else:
        raise AssertionError("what a listener raises was lost")


async def how_far(up: Up) -> None:
    login = up.login("one")
    error = await error_of(up.shell.wait_ready(login, 4))
    assert error.message == (
        f"one was not ready within 4 s: nothing answers at {login.address} port 22"
        " (no route to it, or it has not booted)"
    )
    gateway = msgspec.structs.replace(login, address=up.testbed.state.network["libvirt_network_gateway"])
    error = await error_of(up.shell.wait_ready(gateway, 1))
    assert error.message.endswith(f"{gateway.address} is up, but nothing listens on port 22 (no SSH server)")

    await up.start("one")
    lines = login.known_hosts.read_text().splitlines()
    assert [line.split()[0] for line in lines] == [DOMAIN]
    assert login.known_hosts.stat().st_mode & 0o777 == 0o600

    # ssh(1) agrees
    argv = [
        "ssh", "-F", "none", "-i", str(login.identity_file), "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={login.known_hosts}",
        "-o", f"HostKeyAlias={login.alias}", f"tester@{login.address}", "hostname",
    ]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{DOMAIN}\n", done.stderr

    other = up.testbed.folder / "other-key"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)]
    await asyncio.to_thread(subprocess.run, make, check=True, timeout=60)
    stranger = msgspec.structs.replace(login, identity_file=other)
    error = await error_of(up.shell.wait_ready(stranger, 3))
    assert error.message.endswith(f"{login.address} port 22 answers, but refuses the key {other} for tester")
    error = await error_of(up.shell.run(stranger, ["true"], print))
    assert error.message.startswith("cannot reach one: ")
    lost = msgspec.structs.replace(login, identity_file=Path("/no/key"))
    assert "cannot use the key /no/key" in (await error_of(up.shell.wait_ready(lost, 60))).message

    # set up, then not
    assert (await up.run("one", "sudo", "-n", "mv", "/etc/nocloud/ready", "/etc/nocloud/unready"))[0] == 0
    error = await error_of(up.shell.wait_ready(login, 2))
    assert error.message.endswith("login works, but the first-boot set-up (cloud-init) is not complete")
    waiting = asyncio.create_task(up.shell.wait_ready(login, 60))
    await asyncio.sleep(1)
    assert not waiting.done()
    assert (await up.run("one", "sudo", "-n", "mv", "/etc/nocloud/unready", "/etc/nocloud/ready"))[0] == 0
    await asyncio.wait_for(waiting, 5)


async def keys_are_pinned(up: Up) -> None:
    login = up.login("one")
    known = login.known_hosts
    noted = known.read_text()

    # the guest is replaced behind our back, and has another host key
    hypervisor = up.host.hypervisor
    await hypervisor.domains.destroy(DOMAIN)
    await up.host.disks.reset_overlay(up.testbed.folder / "artefacts/one-cloud-init.img")
    run = up.testbed.guests["one"].run
    assert run
    await hypervisor.domains.start(up.testbed.read(run.domain_xml))
    started = time.monotonic()
    error = await error_of(up.shell.wait_ready(login, 120))
    assert time.monotonic() - started < 60
    assert error.message.startswith(f"{login.address} has another host key than one had at first contact")
    assert f"ssh-keygen -R {DOMAIN} -f {known}" in str(error.hint)
    assert known.read_text() == noted

    await up.shell.forget(login)
    assert known.read_text() == ""
    await up.shell.forget(login)
    await up.shell.wait_ready(login, 120)
    assert known.read_text() not in ("", noted)

    # a reboot is the same guest, and the connection comes back by itself
    assert await hypervisor.domains.shut_down(DOMAIN, 60)
    await up.start("one")
    assert (await up.run("one", "hostname")) == (0, [DOMAIN])

    # killed in the middle of a command
    pid = int(await asyncio.to_thread(Path(f"/run/libvirt/qemu/{DOMAIN}.pid").read_text))
    asyncio.get_running_loop().call_later(1, os.kill, pid, signal.SIGKILL)
    started = time.monotonic()
    error = await error_of(up.shell.run(login, ["sleep", "1000"], print))
    assert time.monotonic() - started < 30
    assert error.message.startswith("the connection to one was lost while sleep was running: ")


async def guest_is_entered(folder: str) -> None:
    """One guest for all: an emulated one takes seconds to boot."""
    async with brought_up(folder) as up:
        await how_far(up)
        await commands_run(up)
        await commands_end(up)
        await keys_are_pinned(up)


def test_a_guest_is_waited_for_obeys_and_has_its_key_pinned(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, guest_is_entered, folder=project, timeout=1500)


async def openssh_is_used(folder: str, address: str, key: str) -> None:
    shell = SshShell()
    login = Login(
        guest="host",
        alias="host",
        address=address,
        user="root",
        identity_file=Path(key),
        known_hosts=Path(folder, "known_hosts"),
    )
    # more at once than sshd gives sessions to a connection
    script = ["sh", "-c", "sleep 1; exit 5"]
    assert await asyncio.gather(*(shell.run(login, script, print) for _ in range(25))) == [5] * 25

    def asleep() -> list[str]:
        argv = ["ps", "-e", "-o", "args"]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
        return [line for line in done.stdout.splitlines() if line.startswith(("sleep", "/usr/bin/sleep"))]

    begun = asyncio.Event()
    script = ["sh", "-c", "(sleep 5001 &); sleep 5002 & trap '' TERM; echo; sleep 5003; sleep 5004"]
    task = asyncio.create_task(shell.run(login, script, lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert asleep() == []
    assert await shell.run(login, ["sh", "-c", "sleep 6000 >/dev/null 2>&1 & kill -TERM $$"], str) == 143
    assert asleep() == ["sleep 6000"]
    await shell.close()


def test_openssh_serves_as_well(tmp_path: Path) -> None:
    with TestHosts(1, directory=tmp_path, ssh=True) as hosts:
        arguments = {"folder": tmp_path, "address": hosts[0].address, "key": hosts.identity_file}
        driven.inside(hosts[0], openssh_is_used, **arguments)
