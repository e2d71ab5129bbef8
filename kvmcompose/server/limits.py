"""The limits of what clients can use of the server, in one place, including uvicorn's settings.

Sizes in bytes, times in seconds.
"""

from __future__ import annotations

#: Connections at a time: on one listener, and of one peer (a user on a Unix socket, an address by TCP).
PER_LISTENER, PER_PEER = 256, 128
#: Connections that wait to be accepted.
BACKLOG = 128

#: The head of a request: the target, the headers together, and the time for all of it.
TARGET_BYTES, HEADER_BYTES, HEAD_SECONDS = 4 * 1024, 16 * 1024, 15
#: The body of a request; that of one with a testbed in it, which is not built yet.
BODY_BYTES, BODY_SECONDS = 1024 * 1024, 30
TESTBED_BYTES = 64 * 1024 * 1024
#: The body of a request with a YAML, whose text is escaped in JSON.
TEXT_BYTES = 8 * 1024 * 1024
#: The body of a request with files for a guest: it is passed on, and may be slow as long as it goes on.
ARCHIVE_BYTES = 1 << 42
#: How much is read of a body that is refused, so that its sender receives the answer.
DISCARD_BYTES, DISCARD_SECONDS = 8 * BODY_BYTES, 2
#: How long a connection is kept for the next request.
KEEP_ALIVE_SECONDS = 5
#: How long requests may still take when the server stops.
GRACE_SECONDS = 5

#: A message on a WebSocket, and how often its client is asked for a sign of life.
MESSAGE_BYTES, PING_SECONDS = 4096, 20
