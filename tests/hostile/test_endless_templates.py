"""Templates of a lab that never end, or that ask for more memory than there is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from memory import growth_below

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import golden_bench
from kvmcompose.build import confined_templates
from kvmcompose.build.confined_templates import ConfinedTemplates

_DOUBLED = (
    "{% set a0 = 'a' * 64 %}"
    + "".join(f"{{% set a{n + 1} = a{n} ~ a{n} %}}" for n in range(60))
    + "{{ a60 }}"
)
_LAUGHS = (
    "{% set a0 = [1, 1] %}" + "".join(f"{{% set a{n + 1} = [a{n}, a{n}] %}}" for n in range(60)) + "{{ a60 }}"
)

ENDLESS = {
    "range": "{% for i in range(10**12) %}x{% endfor %}",
    "loops": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(90000) %}{% for b in range(90000) %}xxxxxxxx{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "macro for ever": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive": "{% for x in [1] recursive %}{% if loop.depth<60 %}{{ loop([1, 1]) }}{%endif%}{%endfor%}",
    "times": "{{ 'a' * 10**10 }}",
    "list": "{{ ([1] * 10**10)|length }}",
    "power": "{{ 9**(9**9) % 7 }}",
    "join": "{{ range(99999)|join('a' * 10**6) }}",
    "format": "{{ '%010000000000d' % 1 }}",
    "format filter": "{{ '%0*d'|format(10000000000, 1) }}",
    "format method": "{{ '{:>10000000000}'.format(1) }}",
    "format_map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'a'|center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "indent": "{{ ('a\n' * 9999)|indent(10000000) }}",
    "batch": "{{ [1]|batch(10000000000, 'x')|list }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 1000000) }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "doubled": _DOUBLED,
    "laughs": _LAUGHS,
    "namespace": "{% set n=namespace(a='aa') %}{% for i in range(99) %}{% set n.a=n.a~n.a %}{% endfor %}",
    "include": "{% include 'domain.xml.j2' %}",
    "include pair": "{% include 'other.j2' %}",
    "extends": "{% extends 'domain.xml.j2' %}",
    "import": "{% import 'domain.xml.j2' as it %}",
    "number": "{% include 'x' %}{{ " + "1" * 10000 + " }}",
    "deep": "{{ " + "(" * 50000 + ")" * 50000 + " }}",
    "cycler": "{% for i in range(99999) %}{{ range(99999)|list|string|length }}{% endfor %}",
}


@pytest.fixture
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end in one second of processor time does not in five, which only one test waits for."""
    monkeypatch.setattr(confined_templates, "CPU_SECONDS", 1)


@pytest.mark.usefixtures("sooner")
@pytest.mark.parametrize("name", ENDLESS)
def test_ends_with_an_error_within_seconds_and_memory(tmp_path: Path, name: str) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    folder = bench.folder / "templates"
    folder.mkdir()
    (folder / "domain.xml.j2").write_text(ENDLESS[name])
    (folder / "other.j2").write_text("{% include 'domain.xml.j2' %}")
    began = time.monotonic()
    with growth_below(400):
        ran = bench.run("generate")
    assert time.monotonic() - began < 40  # on a machine that may have others to serve
    assert ran.status == 1
    assert "templates/domain.xml.j2" in ran.err
    assert "Traceback" not in ran.said


def test_a_template_that_does_not_end_is_tried_once(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    (bench.folder / "templates").mkdir()
    (bench.folder / "templates" / "domain.xml.j2").write_text(ENDLESS["loops"])
    began = time.monotonic()
    ran = bench.run("generate", "--keep-going")
    assert ran.err.count("takes more than 5 s") > 1  # of several guests
    assert time.monotonic() - began < 40


@pytest.mark.usefixtures("sooner")
@pytest.mark.parametrize("command", ["plan", "validate", "list"])
def test_looking_ends_too(tmp_path: Path, command: str) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    (bench.folder / "templates").mkdir()
    (bench.folder / "templates" / "domain.xml.j2").write_text(ENDLESS["power"])
    began = time.monotonic()
    ran = bench.run(command)
    assert time.monotonic() - began < 40
    assert "Traceback" not in ran.said


def test_a_peaceful_template_of_ones_own_makes_the_same(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    bench.generate()
    ours = {path.name: path.read_bytes() for path in (bench.folder / "artefacts").glob("*.xml")}
    shipped = Path(__file__).parents[2] / "templates"
    (bench.folder / "templates").mkdir()
    for name in ("domain.xml.j2", "user-data.j2"):
        (bench.folder / "templates" / name).write_text((shipped / name).read_text() + "{# mine #}")
    bench.generate()
    assert ours == {path.name: path.read_bytes() for path in (bench.folder / "artefacts").glob("*.xml")}


def test_workers_do_not_read_each_others_answers(tmp_path: Path) -> None:
    templates = ConfinedTemplates({"domain.xml.j2": "<{{ name }}/>"}, frozenset({"domain.xml.j2"}))
    assert templates.xml("domain.xml.j2", {"name": "parent"}).strip() == "<parent/>"
    workers = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            name = f"worker{number}"
            same = all(
                templates.xml("domain.xml.j2", {"name": name}).strip() == f"<{name}/>" for _ in range(300)
            )
            os._exit(0 if same else 1)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0, 0, 0]
