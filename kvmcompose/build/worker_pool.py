"""Many artefacts at once: batches that worker processes prepare, while this one puts them in place."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.build.base_images import image_of
from kvmcompose.build.decide import Making
from kvmcompose.build.execute import Build
from kvmcompose.build.make import Staged
from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:  # most builds are small, and need no workers
    from concurrent.futures import Future, ProcessPoolExecutor

#: From how many artefacts on batches and workers pay for themselves.
MANY = 400
_BATCH = 200
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Batch(msgspec.Struct, frozen=True):
    """Artefacts made together. Those of a later ``stage`` need those of earlier ones."""

    number: int
    stage: int
    makings: tuple[Making, ...]


def batches(makings: Sequence[Making]) -> list[Batch]:
    """One artefact each when there are few, else so many that what each task costs does not show.

    What lies on an image is not mixed with what does not: an image that cannot be had must not keep XML
    from being made.
    """
    size = 1 if len(makings) < MANY else _BATCH
    found: list[Batch] = []
    piles: dict[tuple[int, bool], list[Making]] = {}
    for making in makings:
        key = (1 if making.artefact.after else 0, image_of(making.artefact) is not None)
        piles.setdefault(key, []).append(making)
    for (stage, _), pile in sorted(piles.items()):
        for start in range(0, len(pile), size):
            found.append(Batch(len(found), stage, tuple(pile[start : start + size])))
    return found


#: What forked workers know from before they were forked: the build, and the batches by number.
_inherited: tuple[Build, dict[int, Batch]] | None = None

#: What a worker sends back of each artefact: exceptions would lose their hints on the way.
_Outcome = Staged | tuple[str, str | None]


def _enlist(parent: int) -> None:
    """A worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    # first of all: what the parent does when it is told to end is not for workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import ctypes  # noqa: PLC0415 (only workers need it)

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _stage(number: int) -> list[_Outcome]:
    if _inherited is None:
        raise RuntimeError("a worker has to be forked from a build")
    build, known = _inherited
    outcomes = build.stage(known[number].makings)
    return [(each.message, each.hint) if isinstance(each, KvmComposeError) else each for each in outcomes]


class Crew(AbstractContextManager["Crew"]):
    """Workers for one build. With one job there are none, and everything is done here."""

    def __init__(self, build: Build, work: Sequence[Batch], jobs: int) -> None:
        self._build = build
        self._work = {batch.number: batch for batch in work}
        self._jobs = min(jobs, len(work))
        self._pool: ProcessPoolExecutor | None = None
        self._futures: dict[int, Future[list[_Outcome]]] = {}

    def __exit__(self, *_exception: object) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._futures.values():  # staged, but the build ended before it was put in place
            if future.done() and not future.cancelled() and future.exception() is None:
                staged = (each for each in future.result() if isinstance(each, Staged))
                self._build.project.maker.discard(staged)

    def before(self, batch: Batch) -> list[int]:
        """The numbers of the batches that have to be in place before this one is made."""
        return [other.number for other in self._work.values() if other.stage < batch.stage]

    def make(self, batch: Batch) -> bool:
        """Have a batch made. False when one of it failed, which the build has told."""
        if self._jobs <= 1:
            return self._build.make(batch.makings)
        if batch.number not in self._futures:
            self._submit(batch.stage)
        return self._build.make(batch.makings, lambda ready: self._collect(batch, ready))

    def _submit(self, stage: int) -> None:
        """Set the workers to all batches of a stage: what it needs is in place by now.

        When a worker was killed nobody takes batches any more, which who collects them finds out.
        """
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415 (see above)

        global _inherited  # noqa: PLW0603 (the one way to hand a forked process what cannot be pickled)
        _inherited = (self._build, self._work)
        if self._pool is None:
            import multiprocessing  # noqa: PLC0415 (see above)
            from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 (see above)

            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self._jobs, context, _enlist, (os.getpid(),))
        with suppress(BrokenProcessPool):
            for batch in self._work.values():
                if batch.stage == stage:
                    self._futures[batch.number] = self._pool.submit(_stage, batch.number)

    def _collect(self, batch: Batch, ready: Sequence[Making]) -> list[Staged | KvmComposeError]:
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415 (see above)

        killed = KvmComposeError(
            "a worker process was killed", hint="there may be too little memory: try --jobs 1"
        )
        future = self._futures.pop(batch.number, None)
        if future is None:
            raise killed
        try:
            outcomes = future.result()
        except BrokenProcessPool as error:
            raise killed from error
        found = {
            making.path: KvmComposeError(each[0], hint=each[1]) if isinstance(each, tuple) else each
            for making, each in zip(batch.makings, outcomes, strict=True)
        }
        wanted = {making.path for making in ready}
        unwanted = (each for path, each in found.items() if path not in wanted)
        self._build.project.maker.discard(each for each in unwanted if isinstance(each, Staged))
        return [found[making.path] for making in ready]
