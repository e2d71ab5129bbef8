"""``kvm-compose start``: start guests that are off."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli import _power

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "start"
HELP = "start guests that are off"
EXAMPLE = """\
examples:
  kvm-compose start web             it also ends a stop or a pause of it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    _power.configure(parser, stops=False)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do it, and return the exit status."""
    from kvmcompose.core.commands import PowerVerb

    return _power.power(PowerVerb.START, arguments, console)
