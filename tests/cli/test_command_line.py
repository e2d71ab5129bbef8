"""What holds for every command, and for every action of one."""

from __future__ import annotations

import argparse
import itertools
import subprocess
from collections.abc import Iterator

import pytest

from golden.bench import COMMAND, Bench, environment
from kvmcompose.cli import plan
from kvmcompose.cli._meanings import MEANINGS
from kvmcompose.cli.main import _commands, add_global_options, build_parser, main


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


LEVEL = ": -v and -vv print more, -q prints errors only"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("upp", "kvm-compose: error: unknown command 'upp'; did you mean 'up'?"),
        ("help", "kvm-compose: error: unknown command 'help'; did you mean '--help'?"),
        ("snapshot lst", "kvm-compose snapshot: error: unknown verb 'lst'; did you mean 'list'?"),
        (
            "snapshot x",
            "snapshot: error: unknown verb 'x'; expected one of: create, restore, delete, list, info",
        ),
        (
            "graph --format pdf",
            "error: --format: invalid value 'pdf'; expected one of: dot, mermaid, json, svg, png, html",
        ),
        ("down --puge", "kvm-compose down: error: unknown option '--puge'; did you mean '--purge'?"),
        ("up --hidden=x", "kvm-compose up: error: unknown option '--hidden'"),
        ("cloud-images pull --refesh x", "did you mean '--refresh'?"),
        ("launch", "kvm-compose: error: unknown command 'launch'; did you mean 'up'?"),
        ("Halt", "unknown command 'Halt'; did you mean 'stop'?"),
        ("up -a", "unknown option '-a': not needed: up applies changed rules, and only those"),
        ("status -a", "kvm-compose status: error: unknown option '-a'"),
        ("--server x status", "options of a command follow it: kvm-compose COMMAND --server"),
        ("--projct-name x up", "unknown option '--projct-name'; did you mean '--project-name'?"),
        ("-v trace up", "unknown command 'trace'; use -v, which takes no level" + LEVEL),
        ("-v info up", "unknown command 'info'; use -v, which takes no level" + LEVEL),
        ("--verbosity info up", "unknown option '--verbosity': use -v, which takes no level" + LEVEL),
        ("up --verbosity info", "unknown option '--verbosity': use -v, which takes no level" + LEVEL),
        ("setup-config", "unknown command 'setup-config'; did you mean 'init'?"),
        ("analysis-tools tcp-dump x y", "unknown command 'analysis-tools'; did you mean 'capture'?"),
        ("deployment create x", "unknown verb 'create': not needed: kvm-compose up registers a project"),
        ("deployments reset-state x", "not needed: after a crash both up and down continue from there"),
        ("-V", "unknown option '-V': use --version"),
        ("suspend", "unknown command 'suspend'; did you mean 'pause'?"),
        ("ssh --label role=web", "kvm-compose ssh: error: unknown option '--label'"),
        ("lint --json", "unknown command 'lint'; did you mean 'validate'?"),
        ("reboot", "unknown command 'reboot'; did you mean 'restart'?"),
        ("trust all", "kvm-compose trust: error: unexpected argument 'all'"),
    ],
)
def test_what_was_mistyped_is_named_where_it_was_with_what_is_near(
    capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["-C", "server", "plan"],
        ["--directory", "server", "plan"],
        ["--directory=server", "plan"],
        ["-vC", "server", "plan"],
        ["-q", "--project-name", "up", "-C", "server", "plan"],
    ],
)
def test_a_project_may_be_called_what_a_command_is(bench: Bench, words: list[str]) -> None:
    bench.folder.rename(bench.folder.with_name("server"))
    ran = subprocess.run(
        [*COMMAND, *words], cwd=bench.root, env=environment(bench.root), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "create   state.json" in ran.stdout


def test_config_shows_guests_and_clones_by_name(bench: Bench) -> None:
    (bench.folder / "kvm-compose.yaml").write_text(
        "defaults: {docker: {image: nginx, user: one}, interfaces: [{bridge: br0}]}\n"
        "machines:\n"
        "- name: web\n"
        "  interfaces:\n"
        "  docker: {scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}}\n"
        "- {name: db, docker: {user: two}}\n"
        "network: {bridges: [{name: br0}]}\n"
    )
    whole = bench.run("config", "--json").json["testbed_guests"]
    assert bench.run("config", "--json", "db").json == {"db": whole["db"]}
    assert whole["db"]["docker"] == {"image": "nginx", "user": "two"}
    assert list(bench.run("config", "--json", "db", "web").json) == ["web-0", "web-1", "db"]
    assert "user: one" in bench.run("config", "web-1").out
    ran = bench.run("config", "dbb")
    assert ran.status == 2
    assert "there is no guest 'dbb'" in ran.err
    assert "did you mean db?" in ran.err


def test_a_file_that_the_system_refuses_is_named_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(5, "Input/output error", "some/file")

    monkeypatch.setattr(plan, "run", refuse)
    assert main(["plan"]) == 1
    assert capfd.readouterr() == ("", "error: some/file: input/output error\n")


def test_words_of_other_programs_mean_commands_that_there_are() -> None:
    parser = build_parser(_commands())
    known = {name for each in _commands().values() for name in (each.NAME, *getattr(each, "ALIASES", ()))}
    assert not known & set(MEANINGS)
    lacking = {"ssh": ["x"], "console": ["x"], "cp": ["x", "y"], "capture": ["x"], "exec": ["x", "y"]}
    for meant in MEANINGS.values():
        for words in map(str.split, meant.split(" && kvm-compose ")):
            if not words[0].startswith("-"):
                parser.parse_args([*words, *lacking.get(words[0], [])])


@pytest.mark.parametrize(
    ("alias", "command"), [("ps", "status"), ("apply", "up"), ("deploy", "up"), ("destroy", "down")]
)
def test_aliases_do_what_their_commands_do(alias: str, command: str) -> None:
    parser = build_parser(_commands())
    assert parser.parse_args([alias]).run is parser.parse_args([command]).run


def test_help_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in parsers(build_parser(_commands())):
        monkeypatch.setenv("COLUMNS", "10000")
        words = set(parser.format_help().split())
        monkeypatch.setenv("COLUMNS", "80")
        text = parser.format_help()
        assert set(text.split()) <= words | {"usage:"}, parser.prog
        long = [line for line in text.splitlines() if len(line) > 80 and len(line.split()) > 1]
        assert not long, (parser.prog, long)


def test_paragraphs_of_help_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is too long takes the following one with it, instead of leaving single words."""
    monkeypatch.setenv("COLUMNS", "80")
    for parser in parsers(build_parser(_commands())):
        lines = (parser.epilog and parser.format_help().splitlines()) or []
        for line, following in itertools.pairwise(lines[lines.index("examples:") + 1 :] if lines else []):
            if line[:1] not in ("", " ") and following[:1] not in ("", " "):
                assert len(line) + 1 + len(following.split()[0]) > 78, (parser.prog, line)
