"""What shows that a guest which was started can be used: ``ready``."""

from __future__ import annotations

import msgspec

#: The HTTP statuses of a service that works, as for probes of Kubernetes.
GOOD_STATUSES = range(200, 400)


class HttpReady(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A request (GET) that an HTTP server in the guest answers. ``status`` is the one it has to answer with.

    None: any of ``GOOD_STATUSES``.
    """

    port: int = 80
    path: str = "/"
    status: int | None = None

    def accepts(self, status: int) -> bool:
        """Return whether an answer with this status is one of a service that works."""
        return status in GOOD_STATUSES if self.status is None else status == self.status


class Ready(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What ``up`` waits for after it has started a guest. One of these is set, or none: it does not wait.

    ``tcp`` is a port that accepts connections. ``console`` is a text that the guest prints on its serial
    line. ``agent``: the QEMU guest agent answers.
    """

    tcp: int | None = None
    http: HttpReady | None = None
    console: str | None = None
    agent: bool = False

    @property
    def port(self) -> int | None:
        """The port that the main host connects to, None where it does not."""
        return self.http.port if self.http is not None else self.tcp

    @property
    def is_anything(self) -> bool:
        """Whether ``up`` waits at all."""
        return self != Ready()
