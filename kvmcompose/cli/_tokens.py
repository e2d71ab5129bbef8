"""``kvm-compose server token``: manages the tokens of clients that connect by TCP."""

from __future__ import annotations

import argparse
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import RefusedError

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console
    from kvmcompose.server.people import Role
    from kvmcompose.server.tokens import Tokens

_ROLES = ("admin", "user", "read-only")
_EXAMPLE = """\
examples:
  kvm-compose server token create laptop --role admin
  sudo kvm-compose server token create ci --role user --user alice --expires 30d
  kvm-compose server token list
  kvm-compose server token revoke ci

create prints the token once; only its digest is stored. The holder of a token with the
role user or read-only acts as --user, with that user's deployments. The role admin may
do everything, which on a server that runs as root means root. All changes take effect at
once, also on a running server.
"""


def add_token_action(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli.main import add_global_options

    actions = parser.add_subparsers(dest="server_action", metavar="ACTION", title="actions (default: run)")
    token = actions.add_parser(
        "token", help="create, list and revoke tokens for TCP clients", allow_abbrev=False,
        description="Create, list and revoke tokens for TCP clients.", epilog=_EXAMPLE,
    )  # fmt: skip
    verbs = token.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    create = verbs.add_parser("create", help="create a token and print it", allow_abbrev=False)
    create.add_argument("name", metavar="NAME")
    create.add_argument("--role", choices=_ROLES, required=True, help="the rights of the token")
    create.add_argument("--user", metavar="NAME", help="the local user as whom its holder acts")
    create.add_argument(
        "--expires", metavar="TIME", default="90d", help="30d, 12h, 15m or never (default: 90d)"
    )
    listing = verbs.add_parser("list", help="list all tokens", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="print JSON")
    revoke = verbs.add_parser("revoke", help="revoke a token, with immediate effect", allow_abbrev=False)
    revoke.add_argument("name", metavar="NAME")
    add_global_options(token, top=False)
    for child in verbs.choices.values():
        child.add_argument(
            "--state-dir",
            metavar="DIR",
            type=Path,
            default=argparse.SUPPRESS,
            help="the state folder of the server",
        )
        add_global_options(child, top=False)


def run_token(arguments: argparse.Namespace, console: Console) -> int:
    """Run a verb, and return the exit status."""
    from kvmcompose.effects.server_places import state_dir
    from kvmcompose.server.audit import Audit, AuditRecord
    from kvmcompose.server.clock import now
    from kvmcompose.server.people import Role, login_name
    from kvmcompose.server.tokens import Tokens, expiry

    folder = arguments.state_dir.absolute() if arguments.state_dir else state_dir()
    _check_owner(folder)
    tokens = Tokens(folder)
    if arguments.verb == "list":
        return _list(tokens, arguments, console)
    user = None
    role = None
    if arguments.verb == "create":
        role = Role(arguments.role)
        user = _user(arguments.user, role)
        console.verbatim(tokens.create(arguments.name, role, user, expiry(arguments.expires)))
        console.say("store it in a file that only its user can read; it is not shown again")
    else:
        tokens.revoke(arguments.name)
        console.say(f"{arguments.name} is revoked")
    Audit(folder).write(
        AuditRecord(
            time=now(),
            event="token",
            outcome="created" if role is not None else "revoked",
            token=arguments.name,
            role=role,
            person=user[0] if user else None,
            uid=user[1] if user else None,
            peer_uid=os.getuid(),
            remark=os.environ.get("SUDO_USER") or login_name(os.getuid()),
        )
    )
    return 0


def _check_owner(folder: Path) -> None:
    """Raise RefusedError for another user's folder: the server could not read a file written there."""
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        from kvmcompose.server.people import login_name

        name = login_name(owner)
        raise RefusedError(
            f"{folder} and its server belong to {name}",
            hint=f"sudo -u {name} kvm-compose server token …",
        )


def _user(name: str | None, role: Role) -> tuple[str, int] | None:
    """Return the local user whose rights a token grants. Raises RefusedError."""
    own = os.geteuid()
    if role == "admin":
        if name is not None:
            raise RefusedError("--role admin grants access to all deployments and takes no --user")
        return None
    if name is None:
        if own == 0:
            raise RefusedError(f"a token with the role {role} needs a user", hint="--user NAME")
        return pwd.getpwuid(own).pw_name, own
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise RefusedError(f"no such user: {name!r}", hint="`getent passwd` lists all users") from error
    if own not in (0, uid):
        raise RefusedError(f"a server that does not run as root cannot act with the rights of {name}")
    if own == uid == 0 and role == "user":
        raise RefusedError(
            "a token that can bring up deployments of root grants the rights of an administrator",
            hint="use --role admin, or another --user",
        )
    return name, uid


def _list(tokens: Tokens, arguments: argparse.Namespace, console: Console) -> int:
    import msgspec

    from kvmcompose.client.formatting import date

    used = tokens.last_used()
    if arguments.json:
        known = []
        for each in tokens.all():
            shown = msgspec.to_builtins(each)
            del shown["sha256"]
            known.append({**shown, "last_used": used.get(each.name)})
        console.json(known)
        return 0
    rows = [
        [
            each.name, each.role, each.user or "-", date(each.created),
            "expired" if each.expired else date(each.expires) if each.expires else "never",
            date(used[each.name]) if each.name in used else "-",
        ]
        for each in tokens.all()
    ]  # fmt: skip
    if rows:
        console.table(rows, ["NAME", "ROLE", "USER", "CREATED", "EXPIRES", "LAST USED"])
    else:
        console.say("no named tokens")
    return 0
