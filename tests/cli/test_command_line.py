"""What holds for every command, and for every action of one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from kvmcompose.cli.main import _commands, add_global_options, build_parser


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return set(parser._option_string_actions)


def test_global_options_may_stand_anywhere_and_options_are_named_in_full() -> None:
    alone = argparse.ArgumentParser()
    add_global_options(alone, top=True)
    found = list(parsers(build_parser(_commands())))
    assert len(found) > 40
    for parser in found:
        assert options(parser) >= options(alone), parser.prog
        assert not parser.allow_abbrev, parser.prog


def test_who_prints_json_does_so_wherever_that_is_asked_for() -> None:
    for parser in parsers(build_parser(_commands())):
        if parser.prog.endswith((" list", " verify", " info")):
            assert "--json" in options(parser), parser.prog
