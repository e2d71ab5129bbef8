"""``kvm-compose capture``: captures packets of a guest, a bridge, or a logical switch or port."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmcompose.cli._server import add_server_options, complete_guests, open_target, usage_error
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from kvmcompose.client.byte_stream import ByteStream
    from kvmcompose.core.commands import Capture
    from kvmcompose.monitor.console import Console

NAME = "capture"
HELP = "capture the packets of a guest, a bridge or a logical switch, on any host"
EXAMPLE = """\
examples:
  kvm-compose capture server                                print packets
  kvm-compose capture server --filter 'tcp port 80'
  kvm-compose capture server --interface br1 -w server.pcap
  kvm-compose capture br0 -w - | wireshark -k -i -          everything that passes a bridge
  kvm-compose capture br0 --count 100 --snaplen 96 -w heads.pcap
  kvm-compose capture sw0 -w sw0.pcap                       a logical switch, on all hosts
  kvm-compose capture sw0-server-0                          a logical port

Ctrl-C ends the capture, with status 0 and a complete file.
"""

#: The program that prints packets: unbuffered, without resolving names.
_PRINTER = ("tcpdump", "-l", "-n", "-r", "-")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_server_options(parser)
    target = parser.add_argument(
        "target",
        metavar="GUEST|BRIDGE|SWITCH|PORT",
        help="a guest, a bridge, a logical switch or port, or the NAT network (PROJECT-network)",
    )
    target.completer = _complete  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument(
        "-i",
        "--interface",
        metavar="N|BRIDGE|SWITCH",
        help="the interface, for a guest with several: its number, from 0, or its bridge or switch",
    )
    parser.add_argument("--filter", metavar="EXPRESSION", help="a pcap-filter(7) expression, as for tcpdump")
    parser.add_argument(
        "-w",
        "--write",
        metavar="FILE",
        help="write the packets to a file, or to stdout with - (default: print them)",
    )
    parser.add_argument(
        "-s",
        "--snaplen",
        type=_snaplen,
        metavar="BYTES",
        help="capture only the first BYTES of each packet (default: 262144)",
    )
    parser.add_argument("-c", "--count", type=_count, metavar="N", help="stop after this number of packets")


def _complete(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Return the names of guests, bridges and logical switches, for the shell."""
    from kvmcompose.client.built_project import segments_of

    return [*complete_guests(parsed_args), *segments_of(parsed_args.directory)]


def _snaplen(text: str) -> int:
    from kvmcompose.core.commands import MAX_SNAPLEN

    return _number(text, MAX_SNAPLEN)


def _count(text: str) -> int:
    from kvmcompose.core.commands import MAX_PACKETS

    return _number(text, MAX_PACKETS)


def _number(text: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,12}", text) or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
    return int(text)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Capture until Ctrl-C, or until the captured interface disappears."""
    from kvmcompose.client.packets import Cutter
    from kvmcompose.effects.process import find_program

    wanted = _wanted(arguments)
    if arguments.write is None:
        find_program(_PRINTER[0])
    if arguments.write == "-" and sys.stdout.isatty():
        raise usage_error(
            "refusing to write binary data to the terminal",
            "omit -w to print packets, use -w FILE, or pipe them: -w - | wireshark -k -i -",
        )
    target = open_target(arguments)
    cutter = Cutter()
    with (
        target.server.capture(target.name, wanted) as stream,
        on_signals(lambda: _end(stream), signal.SIGINT, signal.SIGTERM),
    ):
        console.say(f"capturing packets of {wanted.target}; Ctrl-C ends the capture")
        try:
            with _output(arguments.write) as output:
                for chunk in stream:
                    output.write(cutter.whole(chunk))
                    output.flush()
        finally:
            console.say(f"{cutter.packets} packet{'' if cutter.packets == 1 else 's'} captured")
        if not stream.stopped and cutter.packets != wanted.count:
            raise KvmComposeError(
                f"the capture ended early: {wanted.target} disappeared",
                hint="was the guest switched off, or the testbed taken down? kvm-compose status",
            )
    return 0


def _wanted(arguments: argparse.Namespace) -> Capture:
    """Return the request. Raises InputError for invalid arguments."""
    from kvmcompose.core.commands import FILTER_PATTERN, MAX_SNAPLEN, TARGET_PATTERN, Capture

    for what, name in (
        ("a guest, bridge or logical switch", arguments.target),
        ("an interface", arguments.interface),
    ):
        if name is not None and not re.match(TARGET_PATTERN, name):
            raise usage_error(f"{name!r} is not a valid name of {what}")
    if arguments.filter and not re.match(FILTER_PATTERN, arguments.filter):
        raise usage_error("invalid filter: at most 1024 ASCII characters are allowed")
    return Capture(
        target=arguments.target,
        interface=arguments.interface,
        filter=arguments.filter or None,
        snaplen=arguments.snaplen or MAX_SNAPLEN,
        count=arguments.count,
    )


@contextmanager
def _output(path: str | None) -> Iterator[IO[bytes]]:
    """Open the output. Raises KvmComposeError for a file that cannot be written."""
    from kvmcompose.effects.process import feed

    if path is None:
        with feed(_PRINTER) as printer:
            yield printer
    elif path == "-":
        yield sys.stdout.buffer
    else:
        try:
            with open(path, "wb") as file:  # noqa: PTH123 (as it was typed)
                yield file
        except OSError as error:
            raise KvmComposeError(f"cannot write {path}: {error.strerror}") from error


def _end(stream: ByteStream) -> None:
    """Stop the capture; the second time without waiting for pending output."""
    if stream.stopped:
        raise KeyboardInterrupt
    stream.stop()
