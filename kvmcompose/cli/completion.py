"""``kvm-compose completion``: prints the code for completion in a shell."""

from __future__ import annotations

import argparse

from kvmcompose.monitor.console import Console

NAME = "completion"
HELP = "print a completion script for the shell"
EXAMPLE = """\
examples:
  eval "$(kvm-compose completion bash)"     in ~/.bashrc
  eval "$(kvm-compose completion zsh)"      in ~/.zshrc
  kvm-compose completion fish | source      in config.fish
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the code."""
    from argcomplete.shell_integration import shellcode

    console.verbatim(shellcode(["kvm-compose"], shell=arguments.shell))
    return 0
