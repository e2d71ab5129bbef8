"""``kvm-compose why``: shows the inputs of an artefact, and what has changed."""

from __future__ import annotations

import argparse

import msgspec

from kvmcompose.cli._project import complete_artefacts, open_project
from kvmcompose.monitor.console import Console

NAME = "why"
HELP = "show the inputs of an artefact, and which of them changed since it was built"
EXAMPLE = """\
examples:
  kvm-compose why artefacts/server-domain.xml
  kvm-compose why seed-iso:server
  kvm-compose why --json state.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    artefact = parser.add_argument("artefact", metavar="ARTEFACT", help="path of an artefact, or its task")
    artefact.completer = complete_artefacts  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the explanation."""
    from kvmcompose.build.explain import explain

    answer = explain(open_project(arguments, console), arguments.artefact)
    if arguments.json:
        console.json(answer)
        return 0
    console.data(f"{answer.path} ({answer.task})")
    # what has changed follows, if it is known; what becomes of a disk with data does not follow from it
    shown = answer.reasons if not answer.changed or answer.action == "grow" else ()
    reasons = f": {'; '.join(shown)}" if shown else ""
    console.data(f"generate would {answer.action} it{reasons}")
    if answer.changed:
        console.data("\nchanged since the last build:")
        for change in answer.changed:
            console.data(console.paint(f"  {change}", "yellow"))
    console.data(f"\ninputs (SHA-256 {answer.recipe}):")
    changed = {change.name for change in answer.changed}
    for name, value in answer.inputs.items():
        text = msgspec.json.encode(value).decode()
        console.data(f"{'*' if name in changed else ' '} {name} = {text}")
    return 0
