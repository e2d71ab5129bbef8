"""Handle signals while a block runs."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: After how many seconds a dropped interrupt is raised again: the finalizer has ended by then.
_AGAIN_SECONDS = 0.05


@contextmanager
def on_signals(act: Callable[[], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call ``act`` on any of the signals. Does nothing outside the main thread, which gets no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda _number, _frame: act()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Have a KeyboardInterrupt that Python drops raised again in this thread, a moment later.

    It drops one where no exception can leave: in a finalizer or a callback of a weak reference, which run
    anywhere. The first Ctrl-C would have no effect but a traceback. It drops others silently (of a file that
    is closed because nobody has it any more): what runs until Ctrl-C needs a flag as well.
    """
    before = sys.unraisablehook
    ours = threading.get_ident()
    timers: list[threading.Timer] = []

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            timers.append(threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (ours, signal.SIGINT)))
            timers[-1].daemon = True
            timers[-1].start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
