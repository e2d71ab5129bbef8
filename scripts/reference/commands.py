"""The reference of the command line, from its parsers."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator

from markdown_text import document, prose, table

from kvmcompose.cli import main
from kvmcompose.cli.main import _commands, build_parser

_INTRO = """\
# Commands

`kvm-compose COMMAND --help` prints the same text. Data go to stdout, everything else to stderr.

Global options may precede or follow the command. Options take precedence over environment variables.
"""

_SERVER_INTRO = """\
Commands that use a testbed server have these options. By default they use the server of the current user,
which they start if it does not run.
"""
_SERVER_GROUP = "server options"

_SOURCE = inspect.getsource(main)


def page() -> str:
    """Return the whole page."""
    parser = build_parser(_commands())
    subparsers = next(
        each
        for each in parser._actions  # noqa: SLF001
        if isinstance(each, argparse._SubParsersAction)  # noqa: SLF001
    )
    helps = {each.dest: each.help or "" for each in subparsers._choices_actions}  # noqa: SLF001
    shared = {each.dest for each in parser._actions}  # noqa: SLF001
    parts = [_INTRO, "## Global options", _global_options(parser)]
    parts += ["## Server options", _SERVER_INTRO, _server_options(subparsers.choices["up"])]
    seen: list[argparse.ArgumentParser] = []
    for name, child in subparsers.choices.items():
        if child in seen:
            continue
        seen.append(child)
        aliases = [other for other, same in subparsers.choices.items() if same is child and other != name]
        parts += _command(f"kvm-compose {name}", child, shared, aliases)
    assert len(helps) == len(seen)  # noqa: S101 (a command without help is not in the list)
    return document(parts)


def _global_options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in _options(parser):
        variable = f"KVM_COMPOSE_{action.dest.upper()}"
        has_variable = variable in _SOURCE
        rows.append([_flags(action), prose(action.help or ""), f"`{variable}`" if has_variable else ""])
    return table(["option", "", "in the environment"], rows)


def _server_group(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    groups = [each for each in parser._action_groups if each.title == _SERVER_GROUP]  # noqa: SLF001
    return groups[0]._group_actions if groups else []  # noqa: SLF001


def _server_options(parser: argparse.ArgumentParser) -> str:
    rows = [
        [_flags(each), prose(each.help or ""), f"`KVM_COMPOSE_{each.dest.upper()}`"]
        for each in _server_group(parser)
    ]
    return table(["option", "", "in the environment"], rows)


def _command(
    name: str, parser: argparse.ArgumentParser, shared: set[str], aliases: list[str], level: int = 2
) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    if parser.description:
        yield prose(parser.description)
    if aliases:
        yield f"Also: {', '.join(f'`{each}`' for each in aliases)}."
    positionals = [
        action
        for action in parser._actions  # noqa: SLF001
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    ]
    nested = [
        each
        for each in parser._actions  # noqa: SLF001
        if isinstance(each, argparse._SubParsersAction)  # noqa: SLF001
    ]
    talks = _server_group(parser)
    options = [action for action in _options(parser) if action.dest not in shared and action not in talks]
    words = [name, *(["[options]"] if options or talks else []), *map(_positional, positionals)]
    words += ["[ACTION …]"] if nested else []
    yield f"```text\n{' '.join(words)}\n```"
    rows = [[f"`{_metavar(each)}`", prose(each.help or "")] for each in positionals if each.help]
    yield table(
        ["argument or option", ""], rows + [[_flags(each), prose(each.help or "")] for each in options]
    )
    if talks:
        yield "The [server options](#server-options), too."
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```"
    for action in nested:
        helps = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
        for inner, text in helps.items():
            child = action.choices[inner]
            child.description = f"{text[:1].upper()}{text[1:]}."
            also = [other for other, same in action.choices.items() if same is child and other != inner]
            yield from _command(f"{name} {inner}", child, shared, also, level + 1)


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        each
        for each in parser._actions  # noqa: SLF001
        if each.option_strings
        and each.help is not argparse.SUPPRESS
        and not isinstance(each, argparse._HelpAction)  # noqa: SLF001
    ]


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _positional(action: argparse.Action) -> str:
    shown = _metavar(action)
    return {"*": f"[{shown} …]", "+": f"{shown} …", "?": f"[{shown}]"}.get(str(action.nargs), shown)


def _flags(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_metavar(action)}"
    return ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
