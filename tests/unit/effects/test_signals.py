"""Signals reach whoever waits for them, wherever they arrive."""

from __future__ import annotations

import signal
import sys
import threading
import weakref
from collections.abc import Callable

import pytest

from kvmcompose.effects.signals import insistent_interrupts, on_signals


class Thing:
    """Something with a finalizer."""


def in_a_finalizer(act: Callable[[], None]) -> None:
    """Call ``act`` where Python drops exceptions."""
    thing = Thing()
    weakref.finalize(thing, act)
    del thing


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_in_a_finalizer_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = threading.Event()
    with insistent_interrupts():
        in_a_finalizer(interrupt)
        with pytest.raises(KeyboardInterrupt):
            waiting.wait(20)
    assert "Traceback" not in capsys.readouterr().err


def test_it_reaches_the_handler_that_is_there_by_then() -> None:
    stop = threading.Event()
    with insistent_interrupts():
        in_a_finalizer(interrupt)
        with on_signals(stop.set, signal.SIGINT):
            assert stop.wait(20)


def test_other_dropped_exceptions_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    before = sys.unraisablehook

    def fail() -> None:
        raise ValueError

    with insistent_interrupts():
        in_a_finalizer(fail)
    assert seen == [ValueError]
    assert sys.unraisablehook is before
