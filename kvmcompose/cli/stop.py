"""``kvm-compose stop``: shut guests down; up leaves them off until they are started."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli import _power

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "stop"
HELP = "shut guests down; up leaves them off until they are started"
EXAMPLE = """\
examples:
  kvm-compose stop web db           they stay off until they are started, or named by up
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    _power.configure(parser, stops=True)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do it, and return the exit status."""
    from kvmcompose.core.commands import PowerVerb

    return _power.power(PowerVerb.STOP, arguments, console)
