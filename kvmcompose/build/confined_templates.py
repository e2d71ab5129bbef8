"""Templates of a project folder, rendered in a process that has limits.

A template can ask for endless work or memory in more ways than can be counted beforehand: loops in loops,
macros that call each other, ``'a' * 10**10``, ``9**(9**9)``, widths of formats, values doubled line by line.
The kernel bounds them all. Our own templates and those of plug-ins are rendered in place.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import IO, Any

import msgspec

from kvmcompose.build.steady_templates import SteadyTemplates
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.process import Coprocess
from kvmcompose.render.templates import OWN_HINT, Templates, refers

#: Processor time for one text, in seconds; one of ours takes a thousandth.
CPU_SECONDS = 5.0
#: Address space of the process, and the size of a text, in bytes.
_MEMORY = 512 << 20
_TEXT_LIMIT = 32 << 20
_LENGTH = struct.Struct(">I")


class _Answer(msgspec.Struct, frozen=True):
    """A response: the result, or an error."""

    text: str = ""
    names: tuple[str, ...] = ()
    trouble: str | None = None


class ConfinedTemplates(SteadyTemplates):
    """All templates; those named ``own`` come from the project folder. Safe to share between threads."""

    def __init__(self, texts: Mapping[str, str], own: frozenset[str]) -> None:
        super().__init__(texts)
        self._own = own
        self._guard = threading.Lock()
        self._process: Coprocess | None = None
        self._pid = os.getpid()
        self._refused: dict[str, str] = {}

    def xml(self, name: str, values: Mapping[str, Any]) -> str:
        """See ``Templates.xml``. Also raises KvmComposeError for a template that does not end."""
        return self._asked("xml", name, values).text if self._is_own(name) else super().xml(name, values)

    def yaml(self, name: str, values: Mapping[str, Any]) -> str:
        """See ``Templates.yaml``. Also raises KvmComposeError for a template that does not end."""
        return self._asked("yaml", name, values).text if self._is_own(name) else super().yaml(name, values)

    def closure(self, name: str) -> set[str]:
        """See ``Templates.closure``."""
        return set(self._asked("closure", name, {}).names) if self._is_own(name) else super().closure(name)

    def _is_own(self, name: str) -> bool:
        return name in self._own or refers(self._texts.get(name, ""))

    def _asked(self, what: str, name: str, values: Mapping[str, Any]) -> _Answer:
        with self._guard:
            # one that does not end for one guest does not for the next thousand
            answer = _Answer(trouble=self._refused[name]) if name in self._refused else None
            if answer is None:
                answer = self._answer(name, msgspec.msgpack.encode((what, name, values)))
        if answer.trouble is not None:
            raise KvmComposeError(answer.trouble, hint=OWN_HINT)
        return answer

    def _answer(self, name: str, request: bytes) -> _Answer:
        if self._pid != os.getpid():  # forked: two of us would read each other's answers
            self._process, self._pid = None, os.getpid()
        process = self._process or self._start()
        try:
            _send(process.stdin, request)
            return msgspec.msgpack.decode(_receive(process.stdout), type=_Answer)
        except (OSError, EOFError, msgspec.MsgspecError):
            status = process.end()
            self._process = None
            why = (
                f"it takes more than {CPU_SECONDS:g} s"
                if status == -signal.SIGPROF
                else "it cannot be rendered"
            )
            if status not in (-signal.SIGPROF, -signal.SIGKILL):
                why += f": the process ended with status {status}"
            self._refused[name] = f"templates/{name}: {why}"
            return _Answer(trouble=self._refused[name])

    def _start(self) -> Coprocess:
        process = Coprocess([sys.executable, "-P", "-m", __name__, str(CPU_SECONDS)])
        weakref.finalize(self, process.end)
        _send(process.stdin, msgspec.msgpack.encode(self._texts))
        self._process = process
        return process


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > 2 * _TEXT_LIMIT:
        raise EOFError
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) != length:
        raise EOFError
    return data


# -- in the process with limits --------------------------------------------------------------------------


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        least = 16 if limit == resource.RLIMIT_NOFILE else 0
        resource.setrlimit(limit, (least, least))


def _serve(seconds: float) -> None:
    """Answer requests until there are none; each may take so much processor time."""
    inlet, outlet = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    texts = msgspec.msgpack.decode(
        _exactly(inlet, _LENGTH.unpack(_exactly(inlet, 4))[0]), type=dict[str, str]
    )
    templates = SteadyTemplates(texts)
    templates.warm()  # nothing is imported once files cannot be opened
    _confine()
    while True:
        try:
            request = _exactly(inlet, _LENGTH.unpack(_exactly(inlet, 4))[0])
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal is not caught
        answer = _work(templates, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(outlet, msgspec.msgpack.encode(answer))


def _work(templates: Templates, request: bytes) -> _Answer:
    what, name, values = msgspec.msgpack.decode(request)
    try:
        if what == "closure":
            return _Answer(names=tuple(templates.closure(name)))
        text = templates.xml(name, values) if what == "xml" else templates.yaml(name, values)
    except KvmComposeError as error:
        if isinstance(error.__cause__, MemoryError):
            return _Answer(trouble=f"templates/{name}: it takes more than {_MEMORY >> 20} MiB of memory")
        return _Answer(trouble=error.message[:4096])
    except MemoryError:
        return _Answer(trouble=f"templates/{name}: it takes more than {_MEMORY >> 20} MiB of memory")
    if len(text) > _TEXT_LIMIT:
        return _Answer(trouble=f"templates/{name}: its output is larger than {_TEXT_LIMIT >> 20} MiB")
    return _Answer(text)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
