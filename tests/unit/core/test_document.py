"""Finding the place of a value."""

from __future__ import annotations

import pytest

from kvmcompose.core.document import Document, Mapping, Mark, Scalar, Sequence, show_path
from kvmcompose.core.errors import InputError, Location, Problem

DOCUMENT = Document(
    "x.yaml",
    Mapping(
        Mark(0, 0),
        {
            "a": Sequence(
                Mark(1, 2),
                [
                    Scalar("1", Mark(1, 4)),
                    Mapping(Mark(2, 4), {"b": Scalar("2", Mark(2, 7))}, {"b": Mark(2, 4)}),
                ],
            )
        },
        {"a": Mark(0, 0)},
    ),
)


@pytest.mark.parametrize(
    ("path", "key", "line", "column"),
    [
        ((), False, 1, 1),
        (("a",), False, 2, 3),
        (("a",), True, 1, 1),
        (("a", 0), False, 2, 5),
        (("a", 1, "b"), False, 3, 8),
        (("a", 1, "b"), True, 3, 5),
        (("a", 1, "c"), False, 3, 5),
        (("a", 9), False, 2, 3),
        (("a", "x"), False, 2, 3),
        (("z", "y"), True, 1, 1),
        (("a", 0, "deeper"), False, 2, 5),
    ],
)
def test_a_path_leads_to_its_value_or_what_encloses_it(
    path: tuple[str | int, ...], key: bool, line: int, column: int
) -> None:
    assert DOCUMENT.locate(path, key=key) == Location("x.yaml", line, column)


def test_an_empty_file_has_one_place() -> None:
    assert Document("x.yaml", None).locate(("a", 0)) == Location("x.yaml", 1, 1)


def test_paths_are_shown_as_people_write_them() -> None:
    assert (
        show_path(("machines", 2, "libvirt", "scaling", "clones", 0))
        == "machines[2].libvirt.scaling.clones[0]"
    )
    assert show_path(()) == ""


def test_a_problem_is_shown_with_all_that_is_known_of_it() -> None:
    problem = Problem(
        code="x", message="m", location=Location("f", 1, 2), path="a.b", found="1", wanted="2", hint="h"
    )
    assert str(problem) == "f:1:2: a.b: error: m (found 1, wanted 2) [x]\n    hint: h"
    assert str(Problem(code="x", message="m", location=Location("f"))) == "f: error: m [x]"


def test_problems_come_in_the_order_of_the_file() -> None:
    problems = [Problem(code=str(line), message="", location=Location("f", line, 1)) for line in (10, 2, 1)]
    assert [problem.code for problem in InputError(problems).problems] == ["1", "2", "10"]
