"""Prints errors for people: the only place that turns one into text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.command_output import Message
from kvmcompose.core.consent import ConsentError
from kvmcompose.core.errors import InputError, KvmComposeError

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console


def report(error: KvmComposeError, console: Console) -> None:
    """Print an error: all problems of an input, or the message and the hint."""
    if isinstance(error, InputError):
        for problem in error.problems:
            console.problem(problem)
        return
    if console.json_messages:
        asked = error.request if isinstance(error, ConsentError) else None
        console.message(
            Message(
                level="error", message=error.message, hint=error.hint, status=error.exit_code, consent=asked
            )
        )
        return
    console.error(error.message)
    if error.hint:
        console.say(hint_line(error.message, error.hint))


def hint_line(message: str, hint: str) -> str:
    """Return the line below a message, set apart from one that ends with YAML, but not from a list."""
    is_list = all(line.startswith("  ") for line in message.splitlines()[1:])
    apart = "" if is_list else "\n"
    return f"{apart}    hint: {hint}"
