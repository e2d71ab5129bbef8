"""``kvm-compose resume``: resume guests that are paused."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli import _power

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "resume"
HELP = "resume guests that are paused"
EXAMPLE = """\
examples:
  kvm-compose resume web            it continues where it was paused
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    _power.configure(parser, stops=False)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do it, and return the exit status."""
    from kvmcompose.core.commands import PowerVerb

    return _power.power(PowerVerb.RESUME, arguments, console)
