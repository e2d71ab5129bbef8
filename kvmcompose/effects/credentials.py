"""Which process is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct

#: struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """Return the process ID and the user ID of the peer of a connected Unix socket. Raises OSError."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(data)
    return pid, uid
