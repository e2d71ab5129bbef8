"""Builds of many artefacts: worker processes prepare batches, and this process puts them in place."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent import futures
from contextlib import AbstractContextManager, suppress

import msgspec

from kvmcompose.build.base_images import image_of
from kvmcompose.build.decision import Making
from kvmcompose.build.execute import Build
from kvmcompose.build.make import Staged
from kvmcompose.core.errors import KvmComposeError

#: The number of artefacts from which batches and workers are worth their start-up time.
MANY = 400
_BATCH = 200
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Batch(msgspec.Struct, frozen=True):
    """Artefacts made together. Those of a later ``stage`` need those of earlier ones."""

    number: int
    stage: int
    makings: tuple[Making, ...]


def batches(makings: Sequence[Making]) -> list[Batch]:
    """Batches of one artefact each if there are few, otherwise large enough to hide the cost of a task.

    Artefacts that need an image are kept apart from the others: a missing image must not prevent XML from
    being made.
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


#: What forked workers inherit: the build, and the batches by number.
_inherited: tuple[Build, dict[int, Batch]] | None = None

#: What a worker returns for each artefact: exceptions would lose their hints when pickled.
_Outcome = Staged | tuple[str, str | None]


def _start_worker(parent: int) -> None:
    """Make a worker end with its parent, however that ends, and ignore Ctrl-C."""
    # first of all: the parent's handler for SIGTERM is not meant for workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _stage(number: int) -> list[_Outcome]:
    if _inherited is None:
        raise RuntimeError("a worker has to be forked from a build")
    build, known = _inherited
    outcomes = build.stage(known[number].makings)
    return [(each.message, each.hint) if isinstance(each, KvmComposeError) else each for each in outcomes]


class WorkerPool(AbstractContextManager["WorkerPool"]):
    """Worker processes for one build. With one job there are none, and everything is done here."""

    def __init__(self, build: Build, work: Sequence[Batch], jobs: int) -> None:
        self._build = build
        self._work = {batch.number: batch for batch in work}
        self._jobs = min(jobs, len(work))
        self._pool: futures.ProcessPoolExecutor | None = None
        self._futures: dict[int, futures.Future[list[_Outcome]]] = {}

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
        """Make a batch. Returns False if an artefact failed (already reported)."""
        if self._jobs <= 1:
            return self._build.make(batch.makings)
        if batch.number not in self._futures:
            self._submit(batch.stage)
        return self._build.make(batch.makings, lambda ready: self._collect(batch, ready))

    def _submit(self, stage: int) -> None:
        """Submit all batches of a stage: the artefacts that they need are in place by now.

        A pool that lost a worker accepts no batches any more; ``_collect`` reports that.
        """
        global _inherited  # noqa: PLW0603 (the one way to hand a forked process what cannot be pickled)
        _inherited = (self._build, self._work)
        if self._pool is None:
            artefacts = (making.artefact for batch in self._work.values() for making in batch.makings)
            self._build.project.maker.pack_contexts(artefacts)
            context = multiprocessing.get_context("fork")
            self._pool = futures.ProcessPoolExecutor(self._jobs, context, _start_worker, (os.getpid(),))
        with suppress(futures.BrokenExecutor):
            for batch in self._work.values():
                if batch.stage == stage:
                    self._futures[batch.number] = self._pool.submit(_stage, batch.number)

    def _collect(self, batch: Batch, ready: Sequence[Making]) -> list[Staged | KvmComposeError]:
        killed = KvmComposeError(
            "a worker process was killed", hint="there may be too little memory: try --jobs 1"
        )
        future = self._futures.pop(batch.number, None)
        if future is None:
            raise killed
        try:
            outcomes = future.result()
        except futures.BrokenExecutor as error:
            raise killed from error
        found = {
            making.path: KvmComposeError(each[0], hint=each[1]) if isinstance(each, tuple) else each
            for making, each in zip(batch.makings, outcomes, strict=True)
        }
        wanted = {making.path for making in ready}
        unwanted = (each for path, each in found.items() if path not in wanted)
        self._build.project.maker.discard(each for each in unwanted if isinstance(each, Staged))
        return [found[making.path] for making in ready]
