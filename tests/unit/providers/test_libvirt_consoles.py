"""Consoles and screens of domains: what waits for a user, and what the XML of a domain says of its screen."""

from __future__ import annotations

import pytest

from kvmcompose.providers.libvirt.consoles import KEPT, MOST_WAITING, WaitingOutput, screen, screen_of
from kvmcompose.providers.libvirt.interface.consoles import Screen


def read(output: WaitingOutput) -> bytes:
    found = b""
    while output:
        part = output.part()
        found += part
        output.sent(len(part))
    return found


def test_what_is_read_in_time_is_complete() -> None:
    output = WaitingOutput()
    for _ in range(8):
        output.add(b"x" * (MOST_WAITING // 8))
    assert read(output) == b"x" * MOST_WAITING


def test_of_what_is_not_read_the_newest_lines_stay() -> None:
    output = WaitingOutput()
    line = b"0123456789abcdef" * 4 + b"\r\n"
    count = 4 * MOST_WAITING // len(line)
    for number in range(count):
        output.add(b"%06d" % number + line)
    found = read(output)
    note, _, rest = found.partition(b"]\r\n")
    assert b"bytes left out" in note
    assert len(found) <= MOST_WAITING
    assert len(rest) >= KEPT - len(line) - 6
    first, last = rest.splitlines()[0], rest.splitlines()[-1]
    assert len(first) == len(line) + 6 - 2
    assert last.startswith(b"%06d" % (count - 1))


def test_one_line_without_an_end_is_bounded_too() -> None:
    output = WaitingOutput()
    for _ in range(100):
        output.add(b"x" * (MOST_WAITING // 4))
    assert len(read(output)) <= MOST_WAITING


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ("", None),
        ('<graphics type="vnc" port="5901" listen="127.0.0.1"/>', Screen(kind="vnc", port=5901)),
        ('<graphics type="vnc" port="-1" autoport="yes"/>', Screen(kind="vnc")),
        (
            '<graphics type="vnc" port="5901"><listen type="address" address="0.0.0.0"/></graphics>',
            Screen(kind="vnc", port=5901),
        ),
        (
            '<graphics type="vnc" port="5901"><listen type="address" address="::"/></graphics>',
            Screen(kind="vnc", address="::1", port=5901),
        ),
        (
            '<graphics type="vnc" port="5901"><listen type="socket" socket="/x"/></graphics>',
            Screen(kind="vnc"),
        ),
        (
            '<graphics type="spice" port="5900"/><graphics type="vnc" port="5901" listen="192.0.2.1"/>',
            Screen(kind="vnc", address="192.0.2.1", port=5901),
        ),
        ('<graphics type="spice" port="5900"/>', Screen(kind="spice", port=5900)),
    ],
)
def test_the_screen_of_a_domain(devices: str, found: Screen | None) -> None:
    assert screen_of(f"<domain><name>x</name><devices>{devices}</devices></domain>") == found


class Domain:
    """A domain whose XML has a fixed port, as its owner may write it."""

    def __init__(self, *, active: bool) -> None:
        self._active = active

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 (libvirt's name)
        listen = '<listen type="address" address="192.0.2.7"/>'
        graphics = f'<graphics type="vnc" port="6641" autoport="no">{listen}</graphics>'
        return f"<domain><devices>{graphics}</devices></domain>"

    def isActive(self) -> bool:  # noqa: N802 (libvirt's name)
        return self._active


def test_the_screen_of_a_domain_that_is_off_leads_to_no_port() -> None:
    assert screen(Domain(active=True)) == Screen(kind="vnc", address="192.0.2.7", port=6641)
    assert screen(Domain(active=False)) == Screen(kind="vnc")
