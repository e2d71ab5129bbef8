"""``kvm-compose server``: runs the daemon that brings testbeds up."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.plain import plain
from kvmcompose.effects.environment import is_on

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console
    from kvmcompose.server.settings import ServerSettings

NAME = "server"
HELP = "run the testbed server"
EXAMPLE = """\
examples:
  kvm-compose server                        listen on the user's Unix socket, until Ctrl-C
  kvm-compose server --port 5040            also listen on 127.0.0.1, with a token
  kvm-compose server --fake --fail 'start_domain:*=1'   simulate a host, on which that fails once
  kvm-compose server --socket-group libvirt --project-root /srv/testbeds

Commands such as `up` start a server when none answers; that server exits by itself.
TCP clients need a token. The administrators' token is created at the first start, in
the state folder; create others with `kvm-compose server token create`. Projects must
be in a --project-root, by default your home folder.
On a server that runs as root, members of --socket-group use their own deployments and
see only that others exist. Root, the members of --admin-group and the holders of the
administrators' token administer all deployments: an administrator of a root server is
root, and so would be every member of --socket-group without this restriction.
KVM_COMPOSE_SERVER_FAKE, _FAIL and _DELAY in the environment set --fake and its options.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli._tokens import add_token_action

    env = os.environ.get
    where = parser.add_argument_group("listening")
    where.add_argument(
        "--socket", metavar="PATH", type=Path, help="the Unix socket (default: one in the runtime folder)"
    )
    where.add_argument("--socket-group", metavar="GROUP", help="a group whose members may connect")
    where.add_argument(
        "--admin-group", metavar="GROUP",
        help="a group whose members administer all deployments; on a root server this makes them root",
    )  # fmt: skip
    where.add_argument(
        "--host", metavar="ADDRESS", help="also listen by TCP (default with --port: 127.0.0.1)"
    )
    where.add_argument("--port", type=int, metavar="N", help="the TCP port (default: 5040)")
    where.add_argument("--tls-cert", metavar="FILE", type=Path, help="the certificate chain (PEM)")
    where.add_argument("--tls-key", metavar="FILE", type=Path, help="its key (PEM)")
    where.add_argument(
        "--token-file", metavar="FILE", type=Path, help="the file with the token of TCP clients"
    )
    where.add_argument(
        "--insecure",
        action="store_true",
        help="permit an address that other machines reach without TLS; only for trusted networks",
    )
    what = parser.add_argument_group("operation")
    what.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="the state folder (KVM_COMPOSE_STATE_DIR in the environment)",
    )
    what.add_argument(
        "--project-root", metavar="DIR", type=Path, action="append", dest="project_roots",
        help="a folder with projects, may be repeated (default: the home folder)",
    )  # fmt: skip
    what.add_argument(
        "--fake", action="store_true", default=is_on("KVM_COMPOSE_SERVER_FAKE"),
        help="simulate a host",
    )  # fmt: skip
    what.add_argument(
        "--fail", metavar="PATTERN", action="append",
        default=[each for each in env("KVM_COMPOSE_SERVER_FAIL", "").split(",") if each],
        help="with --fake: an operation that fails (a pattern with *), may be repeated",
    )  # fmt: skip
    what.add_argument(
        "--delay", metavar="SECONDS", type=float, default=env("KVM_COMPOSE_SERVER_DELAY") or "0",
        help="with --fake: the duration of each operation",
    )  # fmt: skip
    what.add_argument("--embedded", action="store_true", help=argparse.SUPPRESS)
    what.add_argument(
        "--idle", type=float, default=env("KVM_COMPOSE_SERVER_IDLE") or "3", help=argparse.SUPPRESS
    )
    add_token_action(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the server until it is stopped, and return the exit status."""
    from kvmcompose.effects.server_places import missing_modules

    if arguments.server_action == "token":
        from kvmcompose.cli._tokens import run_token

        return run_token(arguments, console)
    missing = missing_modules(fake=arguments.fake)
    if missing:
        raise RefusedError(
            f"the server is not installed ({', '.join(missing)} is missing)",
            hint="pip install 'kvmcompose[server]'",
        )
    from kvmcompose.server.listen import HeldError
    from kvmcompose.server.run import serve

    _log_plainly(console.verbosity)
    settings = _settings(arguments, access_log=console.verbosity > 0)
    if settings.embedded:
        os.chdir("/")  # do not keep the project's file system busy
    try:
        serve(settings)
    except HeldError:
        if not settings.embedded:
            raise
        # the client that started this server uses the other one
    return 0


def _settings(arguments: argparse.Namespace, *, access_log: bool) -> ServerSettings:
    from kvmcompose.effects.server_places import socket_path, state_dir
    from kvmcompose.server.settings import DEFAULT_PORT, ServerSettings, Simulation

    state = arguments.state_dir.absolute() if arguments.state_dir else state_dir()
    host = arguments.host
    if host is None and any((arguments.port is not None, arguments.tls_cert, arguments.token_file)):
        host = "127.0.0.1"
    # only its own user can connect to an embedded server, so it needs no restriction
    roots = [Path("/")] if arguments.embedded else arguments.project_roots or [Path.home()]
    fake = Simulation(failures=tuple(arguments.fail), delay=arguments.delay) if arguments.fake else None
    return ServerSettings(
        state_dir=state,
        socket=arguments.socket.absolute() if arguments.socket else socket_path(state),
        socket_group=arguments.socket_group,
        admin_group=arguments.admin_group,
        host=host,
        port=DEFAULT_PORT if arguments.port is None else arguments.port,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        token_file=arguments.token_file,
        project_roots=tuple(root.absolute() for root in roots),
        insecure=arguments.insecure,
        fake=fake,
        embedded=arguments.embedded,
        idle=arguments.idle,
        access_log=access_log,
    )


class _PlainFormatter(logging.Formatter):
    """Escapes control characters as ``Console`` does: records contain names from clients and hosts."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), lines=True)


def _log_plainly(verbosity: int) -> None:
    """Log to stderr, with times; uvicorn's own messages only if verbose."""
    level = logging.ERROR if verbosity < 0 else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("uvicorn").setLevel(logging.INFO if verbosity > 0 else logging.WARNING)
    for noisy in ("asyncssh", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
