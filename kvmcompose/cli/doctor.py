"""``kvm-compose doctor``: check the requirements on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import argparse

    from kvmcompose.effects.survey import Finding
    from kvmcompose.monitor.console import Console

NAME = "doctor"
HELP = "check what this machine can do, and say how to install what is missing"
EXAMPLE = """\
examples:
  kvm-compose doctor           a table, then a fix for each missing requirement
  kvm-compose doctor --json    the same for scripts

Exits with status 1 if a requirement for building artefacts (generate) is missing.
The first run boots a small guest to find out whether KVM works: up to 10 seconds.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the survey; return the exit status."""
    from kvmcompose.effects.survey import survey
    from kvmcompose.images.store import default_store

    findings = survey(default_store().root)
    can_generate = _lacks_nothing(findings, "generate")
    can_up = can_generate and _lacks_nothing(findings, "up")
    if arguments.json:
        console.json(
            {
                "can_generate": can_generate,
                "can_up": can_up,
                "findings": [msgspec.to_builtins(finding) for finding in findings],
            }
        )
        return 0 if can_generate else 1
    console.table(
        [[_word(finding), finding.name, finding.needed_for, finding.detail] for finding in findings],
        ["", "WHAT", "NEEDED FOR", "FOUND"],
    )
    for finding in findings:
        if not finding.ok and finding.mend:
            console.data(f"{finding.name}: {finding.mend}")
    if can_up:
        console.data("this machine can build testbeds and bring them up")
    elif can_generate:
        console.data("this machine can build artefacts (generate), but not bring testbeds up")
    else:
        console.data("this machine cannot build artefacts yet")
    return 0 if can_generate else 1


def _lacks_nothing(findings: list[Finding], purpose: str) -> bool:
    return all(finding.ok for finding in findings if finding.needed_for == purpose)


def _word(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "none" if finding.needed_for == "extras" else "LACKS"
