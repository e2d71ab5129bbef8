"""The replacements for parts of the OVSDB library."""

from __future__ import annotations

import os
import resource
from random import Random
from typing import Any

import msgspec
import pytest
from ovs.poller import Poller

from kvmcompose.providers.ovn.wire import Parser, install

VALUES: list[Any] = [
    {},
    [],
    {"a": [1, -2.5, True, None, {"b": "x"}]},
    {'quotes "} ]': 'back\\slash " { [ \\\\"', "ü": "\\"},
    {"method": "update3", "params": [["monid", "x"], {"T": {"u": {"insert": {"name": 'a\\"'}}}}], "id": None},
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_the_same_in_whatever_pieces_it_comes(value: Any) -> None:
    text = msgspec.json.encode(value).decode()
    random = Random(7)  # noqa: S311 (pieces, not secrets)
    for _ in range(200):
        rest = text + text
        for _ in range(2):
            parser = Parser()
            while not parser.is_done():
                size = random.randint(1, 8)
                taken = parser.feed(rest[:size])
                assert taken > 0
                rest = rest[taken:]
            assert parser.finish() == value
        assert rest == ""


def test_what_is_no_json_is_said() -> None:
    parser = Parser()
    parser.feed("{what}")
    assert parser.is_done()
    assert "malformed" in parser.finish()
    whole = Parser(check_trailer=True)
    whole.feed("{} {}")
    assert isinstance(whole.finish(), str)


def test_descriptors_above_1023_are_waited_for() -> None:
    install()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    reading, writing = os.pipe()
    high = os.dup2(reading, 1500)
    try:
        poller = Poller()
        poller.fd_wait(high, 1)
        poller.fd_wait(high, 4)  # for another kind of event, too
        os.write(writing, b"x")
        poller.timer_wait(10_000)
        poller.block()
        assert os.read(high, 1) == b"x"
    finally:
        for each in (reading, writing, high):
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
