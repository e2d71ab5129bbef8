"""Reads parts of the streams of events from the database, once for all readers at the same place."""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakKeyDictionary

import msgspec

from kvmcompose.core.deployment import TestbedStatus
from kvmcompose.core.deployment_event import StatusReport
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import details_of
from kvmcompose.server.api.streaming import text_frame
from kvmcompose.server.clock import now
from kvmcompose.server.event_channel import Channel
from kvmcompose.server.guest_watch import GuestWatch
from kvmcompose.server.store import Store

#: How many parts are kept, of at most 256 KiB each: readers that keep up are all at the same place.
_KEPT = 16


class StreamPart(msgspec.Struct, frozen=True):
    """Events as WebSocket frames, up to number ``up_to``; none if ``frames`` is empty.

    ``dropped`` is the highest number of an event that is no longer kept, ``last`` that of the last event of
    the deployment when this was read.
    """

    up_to: int
    frames: bytes
    dropped: int
    last: int


class _Report(msgspec.Struct, frozen=True):
    look: int
    number: int
    frame: bytes


class EventParts:
    """The parts that were read last. Fifty readers cost one query and one encoding, and fifty writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # by channel: another deployment of the same name, perhaps of another user, has one of its own
        self._parts: OrderedDict[tuple[Channel, str | None, int], StreamPart] = OrderedDict()
        self._reports: WeakKeyDictionary[GuestWatch, _Report] = WeakKeyDictionary()

    def after(self, name: str, number: int, action: str | None) -> StreamPart:
        """Return events of a deployment, or of one action, after a number: some of them, ask again."""
        key, last = (self._store.channel(name), action, number), self._store.last_number(name)
        part = self._parts.get(key)
        if part is None or not (part.frames or part.last == last):
            dropped = self._store.dropped(name, action)
            found = self._store.events(name, after=number, action=action)
            frames = b"".join(text_frame(document) for _, document in found)
            part = self._parts[key] = StreamPart(found[-1][0] if found else number, frames, dropped, last)
            if len(self._parts) > _KEPT:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return part

    def _as_of_now(self, seen: TestbedStatus | None) -> TestbedStatus | None:
        """Return a status with the state of the deployment as it is now: an action may have begun since."""
        found = self._store.deployment(seen.deployment.name) if seen is not None else None
        if seen is None or found is None or found.state is seen.deployment.state:
            return seen
        return msgspec.structs.replace(seen, deployment=found)

    def report(self, watch: GuestWatch, number: int) -> bytes:
        """Return what a watch has seen last as a frame, for a reader that has read up to a number."""
        report = self._reports.get(watch)
        if report is None or (report.look, report.number) != (watch.looks, number):
            seen = watch.seen
            if isinstance(seen, KvmComposeError):
                event = StatusReport(number=number, time=now(), problem=details_of(seen))
            else:
                event = StatusReport(number=number, time=now(), status=self._as_of_now(seen))
            report = _Report(watch.looks, number, text_frame(msgspec.json.encode(event)))
            self._reports[watch] = report
        return report.frame
