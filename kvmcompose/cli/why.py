"""``kvm-compose why``: shows what an artefact or a guest is made of, and what has changed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.cli._project import complete_artefacts, open_project
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.core.explained import Explanation

NAME = "why"
HELP = "show the inputs of an artefact, and which of them changed since it was built"
EXAMPLE = """\
examples:
  kvm-compose why artefacts/server-domain.xml
  kvm-compose why seed-iso:server
  kvm-compose why server                 all that this guest is made of
  kvm-compose why --json state.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    artefact = parser.add_argument(
        "artefact",
        metavar="ARTEFACT",
        help="path of an artefact, or its task; or a guest, for all of its own",
    )
    artefact.completer = complete_artefacts  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument("--json", action="store_true", help="print JSON: for a guest a list")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the explanation."""
    from kvmcompose.build.explain import explain, explain_guest

    project = open_project(arguments, console)
    answers = explain_guest(project, arguments.artefact)
    if answers is None:
        answer = explain(project, arguments.artefact)
        if arguments.json:
            console.json(answer)
        else:
            _show(answer, console)
        return 0
    if arguments.json:
        console.json(answers)
        return 0
    for number, answer in enumerate(answers):
        if number:
            console.data("")
        _show(answer, console)
    return 0


def _show(answer: Explanation, console: Console) -> None:
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
