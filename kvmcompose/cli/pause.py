"""``kvm-compose pause``: pause guests; up leaves them paused until they are resumed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli import _power

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "pause"
HELP = "pause guests; up leaves them paused until they are resumed"
EXAMPLE = """\
examples:
  kvm-compose pause web             it stays paused until it is resumed, or named by up
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    _power.configure(parser, stops=False)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do it, and return the exit status."""
    from kvmcompose.core.commands import PowerVerb

    return _power.power(PowerVerb.PAUSE, arguments, console)
