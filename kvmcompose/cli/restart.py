"""``kvm-compose restart``: shut guests down and start them again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli import _power

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "restart"
HELP = "shut guests down and start them again"
EXAMPLE = """\
examples:
  kvm-compose restart web           and its run scripts run again
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    _power.configure(parser, stops=True)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do it, and return the exit status."""
    from kvmcompose.core.commands import PowerVerb

    return _power.power(PowerVerb.RESTART, arguments, console)
