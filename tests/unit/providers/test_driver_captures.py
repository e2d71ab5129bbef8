"""What is asked of tcpdump and ovs-vsctl for a capture, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from recorder import Recorder

from kvmcompose.core.commands import Capture
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.providers.capture.driver import TcpdumpCaptures, arguments
from kvmcompose.providers.ovs import mirrors as mirrors_module
from kvmcompose.providers.ovs.mirrors import OvsMirrors, mirror_arguments

WANTED = Capture(target="web")


def mirrors(*names: str) -> tuple[str, int, bytes, bytes]:
    rows = [[name, ["uuid", f"uuid-of-{name}"]] for name in names]
    table = {"data": rows, "headings": ["name", "_uuid"]}
    return ("find Mirror", 0, json.dumps(table).encode(), b"")


def captures_of(machine: Recorder) -> TcpdumpCaptures:
    return TcpdumpCaptures(machine, OvsMirrors(machine))


def collect(machine: Recorder, *, bridge: bool = True, wanted: Capture = WANTED) -> list[bytes]:
    async def run() -> list[bytes]:
        captures = captures_of(machine)
        packets = captures.bridge("p", "p-br0", wanted) if bridge else captures.interface("p-web-0", wanted)
        return [chunk async for chunk in packets]

    return asyncio.run(run())


def test_a_filter_is_words_of_the_command_and_never_options() -> None:
    wanted = Capture(target="web", filter="-w /etc/passwd; id", snaplen=96, count=3)
    assert arguments("p-web-0", wanted) == [
        "tcpdump", "-i", "p-web-0", "-U", "--immediate-mode", "-s", "96", "-w", "-", "-c", "3",
        "--", "-w /etc/passwd; id",
    ]  # fmt: skip
    assert arguments("cap-1", WANTED, mirrored=True)[-2:] == ["-Q", "in"]


def test_port_and_mirror_are_one_transaction_and_marked() -> None:
    words = " ".join(mirror_arguments("p", "p-br0", "cap-1"))
    mark = 'external_ids:kvm-compose-capture="p-br0"'
    assert words.split("-- ")[1:] == [
        "--id=@interface create Interface name=cap-1 type=internal ",
        f"--id=@port create Port name=cap-1 interfaces=@interface external_ids:kvm-compose-project=p {mark} ",
        f"--id=@mirror create Mirror name=cap-1 select_all=true output_port=@port {mark} ",
        "add Bridge p-br0 ports @port ",
        "add Bridge p-br0 mirrors @mirror",
    ]


@pytest.mark.parametrize(
    ("stderr", "complaint"),
    [
        (
            b"Warning: assuming Ethernet\ntcpdump: can't parse filter expression: syntax error\n",
            "syntax error",
        ),
        (b"tcpdump: unknown host 'nowhere'\n", "unknown host 'nowhere'"),
    ],
)
def test_what_tcpdump_says_of_a_filter(stderr: bytes, complaint: str) -> None:
    machine = Recorder(("tcpdump -d", 1, b"", stderr))
    assert asyncio.run(captures_of(machine).check_filter("tcp prot 80")) == complaint
    assert machine.commands == [["tcpdump", "-d", "--", "tcp prot 80"]]
    assert machine.privileged == [False]


def test_a_filter_that_is_good_or_could_not_be_looked_at() -> None:
    assert asyncio.run(captures_of(Recorder()).check_filter("tcp")) is None
    with pytest.raises(DriverError, match="not installed"):
        asyncio.run(
            captures_of(
                Recorder(("tcpdump", 127, b"", b"env: 'tcpdump': No such file or directory\n"))
            ).check_filter("tcp")
        )


def test_an_interface_is_captured_as_root() -> None:
    machine = Recorder(("tcpdump", 0, b"packets", b""))
    assert collect(machine, bridge=False) == [b"packets"]
    assert machine.privileged == [True]


def test_a_mirror_goes_whatever_happens() -> None:
    class Machine(Recorder):
        rest: tuple[tuple[str, int, bytes, bytes], ...] = ()

        @property
        def port(self) -> str:
            return next(word[5:] for each in self.commands for word in each if word.startswith("name=cap-"))

        async def run(self, argv: Sequence[str], **options: Any) -> Completed:
            made = any("create" in each for each in self.commands)
            self.answers = (mirrors(self.port), *self.rest) if made else (mirrors(), *self.rest)
            return await super().run(argv, **options)

    for rest, fails in (
        ((), False),
        ((("tcpdump", 1, b"", b"tcpdump: p: No such device exists\n"),), True),
        ((("dev", 1, b"", b"Cannot find device\n"),), True),
        (
            (("tcpdump", 1, b"", b"tcpdump: pcap_loop: The interface disappeared\n2 packets captured\n"),),
            False,
        ),
    ):
        machine = Machine()
        machine.rest = rest
        if fails:
            with pytest.raises(DriverError):
                collect(machine)
        else:
            collect(machine)
        port = machine.port
        assert " ".join(machine.commands[-1]).endswith(
            f"--if-exists remove Bridge p-br0 mirrors uuid-of-{port} -- --if-exists del-port {port}"
        )


class LosingMachine(Recorder):
    """A machine that is lost with the capture, at so many of the commands after it."""

    def __init__(self, losses: float) -> None:
        super().__init__(mirrors())
        self.losses = losses
        self.lost = 0
        self.ended = False

    async def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if self.ended and self.lost < self.losses:
            self.lost += 1
            raise HostLostError("the connection to main was lost")
        if "create" in argv:
            port = next(word[5:] for word in argv if word.startswith("name=cap-"))
            self.answers = (mirrors(port),)
        if "tcpdump" in argv:
            self.ended = True
            raise HostLostError("the connection to main was lost")
        return await super().run(argv, **options)

    @property
    def removals(self) -> int:
        return sum("del-port" in each for each in self.commands)


def test_a_mirror_goes_though_the_connection_is_lost_with_the_capture() -> None:
    """The one for commands may be lost at the same moment, which shows only when it is used."""
    machine = LosingMachine(losses=2)
    with pytest.raises(HostLostError):
        collect(machine)
    assert (machine.lost, machine.removals) == (2, 1)


def test_a_capture_ends_though_its_host_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mirror goes when the host is back; after a while nobody waits for that."""
    monkeypatch.setattr(mirrors_module, "_END_SECONDS", 0.01)
    monkeypatch.setattr(mirrors_module, "_PAUSE", 0.01)
    machine = LosingMachine(losses=math.inf)

    async def run(captures: TcpdumpCaptures) -> None:
        with pytest.raises(HostLostError):
            await anext(captures.bridge("p", "p-br0", WANTED))

    async def comes_back() -> None:
        await run(captures_of(machine))
        assert machine.removals == 0
        machine.losses = 0
        while machine.removals == 0:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(comes_back(), 20))

    async def stays_away() -> None:
        monkeypatch.setattr(mirrors_module, "_END_TRIES_SECONDS", 0)
        monkeypatch.setattr(mirrors_module, "_END_SECONDS", 20)
        await run(captures_of(LosingMachine(losses=math.inf)))

    asyncio.run(asyncio.wait_for(stays_away(), 10))


def test_leftovers_are_those_that_nobody_listens_to() -> None:
    used = b"tcpdump -i cap-used -U -w -\n"
    machine = Recorder(mirrors("cap-used", "cap-left"), ("ps -C tcpdump", 0, used, b""))
    collect(machine)
    removals = [" ".join(each) for each in machine.commands if "remove" in each]
    assert len(removals) == 1
    assert removals[0].endswith("mirrors uuid-of-cap-left -- --if-exists del-port cap-left")


def test_a_capture_that_begins_takes_no_mirror_from_another() -> None:
    """Whose tcpdump has not begun yet, so that it looks like one that was left behind."""

    async def run() -> None:
        machine = Recorder(mirrors())
        made = OvsMirrors(machine)
        async with made.open("p", "p-br0") as port:
            machine.answers = (mirrors(port, "cap-left"),)
            async with made.open("p", "p-br0"):
                pass
            removed = [" ".join(each) for each in machine.commands if "remove" in each]
            assert any("uuid-of-cap-left" in each for each in removed)
            assert not any(port in each for each in removed)
        assert f"del-port {port}" in " ".join(machine.commands[-1])

    asyncio.run(run())


def test_an_answer_that_is_no_table_is_an_error() -> None:
    with pytest.raises(DriverError, match="invalid output"):
        collect(Recorder(("find Mirror", 0, b"nothing", b"")))
