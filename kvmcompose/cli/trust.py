"""``kvm-compose trust``: shows what a project does to the host, and records the user's consent."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.core.errors import RefusedError

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "trust"
HELP = "show what the testbed does to the host, and consent to it"
EXAMPLE = """\
examples:
  kvm-compose trust             show the list, and ask
  kvm-compose trust --yes       consent without asking
  kvm-compose trust --revoke    withdraw the consent
  kvm-compose trust --json      the list as data; do not ask

The project's own templates for XML, network interfaces of the host, files outside
the project, a libvirt_uri, XML that names a program, a device or a file, images that
are built, and containers with more rights than others need your consent before `up`.
It applies to exactly this list; `up` asks again about changes. The list is that of
the last build. The status is 3 while something is not trusted. Commands that only
build or show need no trust.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    word = parser.add_mutually_exclusive_group()
    word.add_argument("-y", "--yes", action="store_true", help="consent without asking")
    word.add_argument("--revoke", action="store_true", help="withdraw the consent")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the list. Returns 0 when the user has consented to all of it."""
    from kvmcompose.build.trust import asked_by, record_consent, refuse_untrusted, revoke
    from kvmcompose.cli._trust import asks

    folder = arguments.directory
    asked = asked_by(folder, arguments.allow_path)
    if arguments.revoke:
        revoke(asked)
        asked = asked_by(folder, arguments.allow_path)
    if arguments.yes and not asked.trusted:
        record_consent(folder, asked)
        asked = asked_by(folder, arguments.allow_path)
    if arguments.json:
        console.json(
            {
                "project": asked.project,
                "trusted": asked.trusted,
                "privileges": [
                    {
                        "kind": each.kind.value, "what": each.what, "where": each.where, "why": each.why,
                        "digest": each.digest, "new": each in asked.new,
                    }
                    for each in asked.privileges
                ],
            }
        )  # fmt: skip
        return 0 if asked.trusted else RefusedError.exit_code
    for each in asked.privileges:
        console.data(f"{each}{'  (new)' if each in asked.new else ''}")
    if not asked.privileges:
        console.say(f"{asked.project} does nothing to the host that needs your consent")
    elif asked.trusted:
        console.say(f"{asked.project} is trusted")
    elif not arguments.revoke and asks(asked, console):
        record_consent(folder, asked)
        refuse_untrusted(asked_by(folder, arguments.allow_path))  # what was added during the question
        console.say(f"{asked.project} is trusted")
    else:
        console.say(f"{asked.project} is not trusted: kvm-compose trust --yes")
        return 0 if arguments.revoke else RefusedError.exit_code
    return 0
