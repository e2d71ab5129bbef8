"""The command line: finds the subcommand, runs it, and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import gc
import importlib.util
import itertools
import logging
import os
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import kvmcompose.cli
from kvmcompose import __version__
from kvmcompose.cli._meanings import LEVELS, MEANINGS, OPTIONS, VERBS
from kvmcompose.cli._reports import report
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.plain import plain
from kvmcompose.effects.environment import is_on
from kvmcompose.effects.signals import insistent_interrupts
from kvmcompose.monitor.console import Console, ConsoleHandler
from kvmcompose.monitor.wrapping import wrapped

INTERRUPTED = 130
#: The most choices to list when none is similar to a wrong word.
_FEW = 8

_EPILOG = """\
files:
  kvm-compose.yaml           the testbed: machines, networks, options
  kvm-compose-config.json    the testbed hosts (without it: this machine)

examples:
  kvm-compose init my-testbed && cd my-testbed && kvm-compose generate
  kvm-compose -C examples/two-guests plan

exit status: 0 success, 1 something failed, 2 invalid input, 3 refused before
anything was changed, 130 interrupted. KVM_COMPOSE_<OPTION> in the environment
sets a global option (KVM_COMPOSE_DIRECTORY, KVM_COMPOSE_INPUT, ...).
"""


class Command(Protocol):
    """The interface of a subcommand's module."""

    NAME: str
    HELP: str
    EXAMPLE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare its options."""

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        """Run the command, and return the exit status."""


def _commands() -> dict[str, Command]:
    found = {}
    for module in pkgutil.iter_modules(kvmcompose.cli.__path__):
        if module.name.startswith("_") or module.name == "main":
            continue
        command = cast(Command, importlib.import_module(f"kvmcompose.cli.{module.name}"))
        found[command.NAME] = command
    return dict(sorted(found.items()))


def _only(name: str | None) -> dict[str, Command] | None:
    """Return the command of that name alone, if it exists: importing the others takes time."""
    module = (name or "").replace("-", "_")
    if not module.isidentifier() or module == "main" or module.startswith("_"):
        return None
    if importlib.util.find_spec(f"kvmcompose.cli.{module}") is None:
        return None
    command = cast(Command, importlib.import_module(f"kvmcompose.cli.{module}"))
    return {command.NAME: command}


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else int(is_on(name))


def add_global_options(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Add the options that every command has; they may precede the command or follow it."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    env = os.environ.get
    group = parser.add_argument_group("global options")
    group.add_argument(
        "-C",
        "--directory",
        metavar="DIR",
        type=Path,
        default=default(Path(env("KVM_COMPOSE_DIRECTORY", "."))),
        help="project folder (default: the current folder)",
    )
    group.add_argument(
        "--input",
        metavar="FILE",
        default=default(env("KVM_COMPOSE_INPUT")),
        help="the testbed (default: kvm-compose.yaml)",
    )
    group.add_argument(
        "--config", metavar="FILE", default=default(env("KVM_COMPOSE_CONFIG")),
        help="the testbed hosts (default: kvm-compose-config.json)",
    )  # fmt: skip
    group.add_argument(
        "--project-name", metavar="NAME", default=default(env("KVM_COMPOSE_PROJECT_NAME")),
        help="the project name (default: the name of the folder)",
    )  # fmt: skip
    allowed = [path for path in env("KVM_COMPOSE_ALLOW_PATH", "").split(os.pathsep) if path]
    group.add_argument(
        "--allow-path", metavar="DIR", action="append", dest="allow_path", default=default(allowed),
        help="a folder outside the project from which scripts and contexts are allowed",
    )  # fmt: skip
    group.add_argument(
        "-v", "--verbose", action="count", default=default(_number("KVM_COMPOSE_VERBOSE")), help="print more"
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", default=default(is_on("KVM_COMPOSE_QUIET")),
        help="print errors only",
    )  # fmt: skip
    group.add_argument(
        "--no-color", action="store_true", default=default(is_on("KVM_COMPOSE_NO_COLOR")),
        help="do not use colours (as with NO_COLOR in the environment)",
    )  # fmt: skip
    group.add_argument(
        "--message-format", choices=("text", "json"),
        default=default(env("KVM_COMPOSE_MESSAGE_FORMAT", "text")),
        help="print messages and errors (standard error) as text, or as lines of JSON (default: text)",
    )  # fmt: skip


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that fits the terminal, broken between words only: argparse breaks at hyphens as well."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[str] = []
        for is_prose, group in itertools.groupby(text.split("\n"), lambda line: line[:1] not in ("", " ")):
            lines = list(group)
            parts += self._split_lines("\n".join(lines), width) if is_prose else lines
        return wrapped("\n".join(indent + line for line in parts), width)


class _Parser(argparse.ArgumentParser):
    """A parser that suggests corrections. Its results hold the ``parser`` of the command."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **options})
        self.set_defaults(parser=self)

    def first_word(self, words: Iterable[str]) -> str | None:
        """Return the first word that is neither an option nor its value; None if that is unclear."""
        rest = iter(words)
        for word in rest:
            if not word.startswith("-"):
                return word
            name, given, _ = word.partition("=")
            option = self._option_string_actions.get(name)
            if option is None and name.startswith("--"):
                self._refuse_before_command(name)
            if option is None:
                return None
            if option.nargs is None and not given:
                next(rest, None)
        return None

    def _refuse_before_command(self, name: str) -> NoReturn:
        near = difflib.get_close_matches(name, self._option_string_actions, 1)
        if near or name in OPTIONS:
            self.refuse(name)
        self._end(f"unknown option {name!r}; options of a command follow it: kvm-compose COMMAND {name}")

    def error(self, message: str) -> NoReturn:
        found = re.fullmatch(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found is None:
            self._end(message)
        known = re.findall(r"[\w-]+", found[3])
        also = ", ".join(known) if len(known) <= _FEW else ""
        if found[1].startswith("-"):
            what = f"{found[1]}: invalid value"
        else:
            what = "unknown command" if found[1] == "COMMAND" else f"unknown {found[1].lower()}"
        if found[1] == "COMMAND" and found[2] in LEVELS:
            self._end(f"{what} {found[2]!r}; {OPTIONS['--verbosity']}")
        if found[1] == "VERB" and self.prog.endswith(" deployments") and found[2] in VERBS:
            self._end(f"{what} {found[2]!r}: {VERBS[found[2]]}")
        meant = MEANINGS.get(found[2].lower()) if found[1] == "COMMAND" else None
        if meant is not None:
            self._end(f"{what} {found[2]!r}; did you mean {meant!r}?")
        self._unknown(f"{what} {found[2]!r}", found[2], known, also)

    def refuse(self, word: str) -> NoReturn:
        """Exit with an error for an unexpected word."""
        if word.startswith("-"):
            name = word.partition("=")[0]
            hint = OPTIONS.get("--reapply-acl" if self.prog.endswith(" up") and name == "-a" else name)
            if hint is not None:
                self._end(f"unknown option {name!r}: {hint}")
            self._unknown(f"unknown option {name!r}", name, [])
        self._end(f"unexpected argument {word!r}")

    def _unknown(self, message: str, word: str, known: Iterable[str], also: str = "") -> NoReturn:
        # without hyphens: all options have these two in common
        names = {name.lstrip("-"): name for name in [*known, *self._option_string_actions]}
        near = difflib.get_close_matches(word.lstrip("-"), names, 1)
        if near:
            message += f"; did you mean {names[near[0]]!r}?"
        elif also:
            message += f"; expected one of: {also}"
        self._end(message)

    def _end(self, message: str) -> NoReturn:
        super().error(plain(message, lines=True))  # words may be names of files that the shell expanded


def build_parser(commands: dict[str, Command]) -> _Parser:
    """Return the parser for these commands."""
    parser = _Parser(
        prog="kvm-compose",
        description="Build and run virtual testbeds: libvirt, cloud-init and network artefacts.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvm-compose {__version__}")
    add_global_options(parser, top=True)
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in commands.items():
        child = choices.add_parser(
            name,
            aliases=getattr(command, "ALIASES", ()),
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            epilog=command.EXAMPLE,
            allow_abbrev=False,
        )
        command.configure(child)
        add_global_options(child, top=False)
        child.set_defaults(run=command.run)
    return parser


def _is_level(words: Sequence[str]) -> bool:
    """Return whether the word ``info`` is TestbedOS's level, as in ``-v info up``, and not our command."""
    place = words.index("info")
    return (
        place > 0
        and words[place - 1] == "-v"
        and words[place + 1 : place + 2] in [[name] for name in _commands()]
    )


def _offers_options() -> bool:
    """Return whether options are completed before a ``-`` is typed: not where there is something to name.

    The line is in ``COMP_LINE``, as the shell gives it.
    """
    parser = build_parser({})
    command = parser.first_word(os.environ.get("COMP_LINE", "").split()[1:])
    found = _only(command)
    if found is None:
        return False
    child = _Parser(add_help=False)
    next(iter(found.values())).configure(child)
    return not any(not action.option_strings for action in child._actions)  # noqa: SLF001


def _parse(words: Sequence[str]) -> argparse.Namespace:
    completing = "_ARGCOMPLETE" in os.environ
    command = None if completing else build_parser({}).first_word(words)
    parser = build_parser(_only(command) or _commands())
    if command == "info" and _is_level(words):
        parser.error(f"argument COMMAND: invalid choice: 'info' (choose from {', '.join(_commands())})")
    if completing:
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=_offers_options())

    def usage(_arguments: argparse.Namespace, _console: Console) -> int:
        parser.print_help()
        return InputError.exit_code

    parser.set_defaults(run=usage)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.refuse(unknown[0])
    return arguments


def _console(arguments: argparse.Namespace) -> Console:
    verbosity = -1 if arguments.quiet else arguments.verbose
    console = Console(
        verbosity=verbosity,
        colour=False if arguments.no_color else None,
        json_messages=arguments.message_format == "json",
    )
    logging.basicConfig(handlers=[ConsoleHandler(console)], level=logging.INFO, force=True)
    if verbosity > 1:
        logging.getLogger("kvmcompose").setLevel(logging.DEBUG)  # every command that is run
    return console


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    if argv is None:
        # the process ends before cycles pile up, and the collector would take half of the time
        gc.disable()
        # nor does it pay to look for them when all memory is given back anyway
        atexit.register(gc.freeze)
    console = Console()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        console = _console(arguments)
        with insistent_interrupts():
            status: int = arguments.run(arguments, console)
        sys.stdout.flush()
    except KvmComposeError as error:
        report(error, console)
        return error.exit_code
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader closed the pipe; Python would report that again at shutdown
        _discard_output()
        return 1
    except OSError as error:
        if not _report(error, console):
            raise
        return 1
    return status


def _report(error: OSError, console: Console) -> bool:
    """Print a message about a failed system call. Returns False when it would not help anybody."""
    why = (error.strerror or str(error)).lower()
    if error.filename is not None:
        console.error(f"{os.fsdecode(error.filename)}: {why}")
        return True
    if _output_is_lost():
        _discard_output()
        console.error(f"cannot write to standard output: {why}")
        return True
    return False


def _output_is_lost() -> bool:
    """Return whether standard output cannot be written. The exception does not say which file it is about."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    try:
        sys.stdout.flush()
        os.write(descriptor, b"\n")
    except OSError:
        return True
    return False


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
