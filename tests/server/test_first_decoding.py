"""Threads may be the first to decode a struct, several at the same moment (msgspec 0.22 crashes then)."""

from __future__ import annotations

import sys

from kvmcompose.effects import process

_PROGRAM = """
import asyncio, sys, threading
import msgspec
from kvmcompose.effects.threads import in_thread

sys.setswitchinterval(1e-6)
kinds = []
for number in range(300):  # the fields of the outer one wait for those of the inner one
    inner = msgspec.defstruct(f"Inner{number}", [("number", int)])
    kinds.append(msgspec.defstruct(f"Outer{number}", [("inner", inner)]))
together = threading.Barrier(4)

def decode():
    for kind in kinds:
        together.wait()
        msgspec.convert({"inner": {"number": 1}}, kind)

async def run():
    await asyncio.gather(*(in_thread(decode) for _ in range(4)))

asyncio.run(run())
"""


def test_threads_that_decode_a_struct_first_do_not_end_the_process() -> None:
    process.run([sys.executable, "-c", _PROGRAM])
