"""Reading YAML and JSON to located nodes."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.core.document import Document, Mapping, Mark, Node, Scalar, Sequence
from kvmcompose.core.errors import InputError, Location, Problem
from kvmcompose.pipeline.read import read_document, read_json, read_yaml

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def yaml(text: str | bytes) -> Document:
    return read_yaml(text if isinstance(text, bytes) else text.encode(), "kvm-compose.yaml")


def plain(node: Node | None) -> Any:
    """Texts only, so that trees compare at a glance."""
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(value) for key, value in node.entries.items()}
    return None


def problems_of(data: str | bytes, name: str = "kvm-compose.yaml") -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        read_document(data if isinstance(data, bytes) else data.encode(), name)
    return caught.value.problems


def problem_of(data: str | bytes, name: str = "kvm-compose.yaml") -> Problem:
    [problem] = problems_of(data, name)
    return problem


# What is read from YAML


def test_every_value_and_key_knows_its_place() -> None:
    document = yaml("a: 1\nb:\n  - c: 'x'\n")
    assert document.locate(("a",)) == Location("kvm-compose.yaml", 1, 4)
    assert document.locate(("b", 0, "c")) == Location("kvm-compose.yaml", 3, 8)
    assert document.locate(("b", 0, "c"), key=True) == Location("kvm-compose.yaml", 3, 5)


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:12:34:56",
        "on",
        "010",
        "0x10",
        "0o10",
        "1e3",
        "~",
        "null",
        "2020-01-01",
        "12:30:45",
        ".inf",
        "=",
    ],
)
def test_a_plain_scalar_keeps_its_text(text: str) -> None:
    [scalar] = scalars(yaml(f"- {text}").root)
    assert (scalar.text, scalar.quoted) == (text, False)


@pytest.mark.parametrize("text", ["'a'", '"a"', "|-\n  a", ">-\n  a", "!!str a", "! a"])
def test_quoted_block_and_str_tagged_scalars_are_text(text: str) -> None:
    root = yaml(f"k: {text}").root
    assert isinstance(root, Mapping)
    value = root.entries["k"]
    assert isinstance(value, Scalar)
    assert (value.text, value.quoted) == ("a", True)


def test_a_number_tag_takes_the_quotes_away() -> None:
    [scalar] = scalars(yaml("- !!int '5'").root)
    assert (scalar.text, scalar.quoted) == ("5", False)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "~", "\ufeff"])
def test_a_file_with_nothing_in_it_has_no_root(text: str) -> None:
    assert yaml(text).root is None


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert plain(yaml(b"\xef\xbb\xbfa: 1").root) == {"a": "1"}


def test_an_alias_is_the_node_of_its_anchor() -> None:
    root = yaml("a: &x {k: v}\nb: *x\n").root
    assert isinstance(root, Mapping)
    assert root.entries["b"] is root.entries["a"]


def test_an_anchor_may_be_given_again() -> None:
    assert plain(yaml("[&a 1, *a, &a 2, *a]").root) == ["1", "1", "2", "2"]


def test_keys_may_be_aliases_of_scalars() -> None:
    assert plain(yaml("{&k a: 1, b: {*k : 2}}").root) == {"a": "1", "b": {"a": "2"}}


def test_keys_are_the_text_of_their_scalars() -> None:
    assert plain(yaml('1: a\non: b\n"q": c\n"\\x41": d\n').root) == {"1": "a", "on": "b", "q": "c", "A": "d"}


def test_merged_keys_yield_to_own_ones_wherever_these_stand() -> None:
    text = "d: &d {a: d, b: d}\nx: {a: own, <<: *d}\ny: {<<: *d, a: own}\n"
    assert plain(yaml(text).root) == {
        "d": {"a": "d", "b": "d"},
        "x": {"a": "own", "b": "d"},
        "y": {"a": "own", "b": "d"},
    }


def test_of_several_merged_mappings_the_earlier_wins() -> None:
    text = "- &a {k: a, only_a: 1}\n- &b {k: b, only_b: 2}\n- <<: [*a, *b]\n"
    root = yaml(text).root
    assert plain(root)[2] == {"k": "a", "only_a": "1", "only_b": "2"}


def test_a_merged_value_is_located_where_it_was_written() -> None:
    document = yaml("- &a {k: v}\n- <<: *a\n")
    assert document.locate((1, "k")) == Location("kvm-compose.yaml", 1, 10)
    assert document.locate((1, "k"), key=True) == Location("kvm-compose.yaml", 1, 7)


def test_a_merge_of_a_merge_carries_on() -> None:
    root = yaml("- &a {x: 1}\n- &b {<<: *a, y: 2}\n- {<<: *b, z: 3}\n").root
    assert plain(root)[2] == {"z": "3", "y": "2", "x": "1"}


def test_a_quoted_merge_key_is_a_key_like_any_other() -> None:
    assert plain(yaml('"<<": 1').root) == {"<<": "1"}


def test_the_garbage_collector_is_left_as_it_was_found() -> None:
    gc.enable()
    yaml("a: 1")
    problems_of("a: [")
    assert gc.isenabled()
    gc.disable()
    try:
        yaml("a: 1")
        assert not gc.isenabled()
    finally:
        gc.enable()


# What is refused in YAML


def test_a_duplicate_key_names_both_places() -> None:
    assert str(problem_of("a: 1\nb: 2\na: 3\n")) == (
        "kvm-compose.yaml:3:1: error: "
        "the key 'a' is given twice, first at kvm-compose.yaml:1:1 [duplicate-key]"
    )


def test_all_duplicate_keys_are_reported_at_once() -> None:
    found = problems_of("a: {x: 1, x: 2}\na: 3\nb: !foo 1\n")
    assert [(each.code, each.location.line) for each in found] == [
        ("duplicate-key", 1),
        ("duplicate-key", 2),
        ("bad-tag", 3),
    ]


def test_a_tab_in_the_indentation_gets_its_own_hint() -> None:
    problem = problem_of("machines:\n\t- name: a\n")
    assert problem.code == "yaml-syntax"
    assert problem.location == Location("kvm-compose.yaml", 2, 1)
    assert problem.hint == "indent with spaces: YAML does not allow tabs there"


def test_an_open_quote_is_reported_where_it_opens() -> None:
    assert str(problem_of("a: 1\nb: 'x\nc: 2\n")) == (
        "kvm-compose.yaml:2:4: error: not valid YAML: found unexpected end of stream [yaml-syntax]\n"
        "    hint: a quote is not closed"
    )


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: b: c", "yaml-syntax", 1, 5),
        ("a: [1, 2\nb: 3", "yaml-syntax", 2, 2),
        ("x: {{ name }}", "bad-key", 1, 5),
        ("? [a, b]\n: 1", "bad-key", 1, 3),
        ("a: &x [*x]", "recursive-alias", 1, 8),
        ("a: &x {b: {<<: *x}}", "recursive-alias", 1, 16),
        ("a: *nowhere", "unknown-alias", 1, 4),
        ("a: 1\n---\nb: 2", "several-documents", 2, 1),
        ("a: !!binary aGk=", "bad-tag", 1, 4),
        ("a: !!python/object:os.system x", "bad-tag", 1, 4),
        ("a: !env HOME", "bad-tag", 1, 4),
        ("<<: 1", "bad-merge", 1, 5),
        ("a: {<<: [{b: 1}, 2]}", "bad-merge", 1, 18),
        ("a: 1\nb: \x07", "control-character", 2, 4),
        ('a: "\\0"', "control-character", 1, 4),
        (b"a: 1\nb: \xc3\xa4\xff", "not-utf8", 2, 5),
        (b"\xff\xfea\x00", "not-utf8", 1, 1),
        ("[" * 101, "too-deep", 1, 101),
        ("x:\n" + "".join(" " * n + "- \n" for n in range(101)), "too-deep", 101, 100),
    ],
)
def test_refused_with_a_place(text: str | bytes, code: str, line: int, column: int) -> None:
    problem = problem_of(text)
    assert (problem.code, problem.location) == (code, Location("kvm-compose.yaml", line, column))


def test_nesting_counts_through_aliases() -> None:
    deep = "[" * 60 + "x" + "]" * 60
    assert problem_of(f"- &a {deep}\n- {deep.replace('x', '*a')}\n").code == "too-deep"


def test_a_hundred_levels_are_read() -> None:
    yaml("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, LAUGHS.replace("[lol, lol]", "{k: [lol]}"), "- &a [" + "x, " * 1000 + "]\n" + "- *a\n" * 1000],
)
def test_aliases_that_stand_for_too_much_are_refused(text: str) -> None:
    assert problem_of(text).code == "alias-bomb"


def test_a_bomb_of_merges_is_refused() -> None:
    big = "- &a {" + ", ".join(f"k{n}: v" for n in range(1000)) + "}\n"
    assert problem_of(big + "- {<<: *a}\n" * 1000).code == "alias-bomb"


def test_a_file_without_aliases_may_have_any_number_of_nodes() -> None:
    root = yaml("[" + "a," * 1_100_000 + "]").root
    assert isinstance(root, Sequence)
    assert len(root.items) == 1_100_000


def test_sixteen_mebibytes_are_read() -> None:
    entry = "  - name: guest-{:07}\n    note: {}\n"
    text = "machines:\n" + "".join(entry.format(n, "x" * 400) for n in range(39_000))
    assert len(text) > 16 * 1024 * 1024
    root = yaml(text).root
    assert isinstance(root, Mapping)
    machines = root.entries["machines"]
    assert isinstance(machines, Sequence)
    assert len(machines.items) == 39_000


def test_more_than_sixty_four_mebibytes_are_refused() -> None:
    problem = problem_of(b"#" * (64 * 1024 * 1024 + 1))
    assert (problem.code, problem.location) == ("too-large", Location("kvm-compose.yaml"))


# What JSON adds


def test_json_has_the_same_nodes() -> None:
    document = read_json(b'{"a": [1, "1"],\n "b": null}', "c.json")
    assert document.root == Mapping(
        Mark(0, 0),
        {
            "a": Sequence(Mark(0, 6), [Scalar("1", Mark(0, 7)), Scalar("1", Mark(0, 10), quoted=True)]),
            "b": Scalar("null", Mark(1, 6)),
        },
        {"a": Mark(0, 1), "b": Mark(1, 1)},
    )


def test_json_numbers_keep_their_text() -> None:
    assert plain(read_json(b"[-0, 1.50, 1e+3, 12345678901234567890]", "c.json").root) == [
        "-0",
        "1.50",
        "1e+3",
        "12345678901234567890",
    ]


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf"])
def test_json_with_nothing_in_it_has_no_root(data: bytes) -> None:
    assert read_json(data, "c.json").root is None


def test_json_may_start_with_a_byte_order_mark() -> None:
    assert plain(read_json(b'\xef\xbb\xbf{"a": 1}', "c.json").root) == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ('{"a": 1,\n "a": 2}', "duplicate-key", 2, 2),
        ('{"a": 1,}', "json-syntax", 1, 9),
        ("[1 2]", "json-syntax", 1, 4),
        ("{a: 1}", "json-syntax", 1, 2),
        ('{"a" 1}', "json-syntax", 1, 6),
        ("[01]", "json-syntax", 1, 3),
        ("[NaN]", "json-syntax", 1, 2),
        ("[+1]", "json-syntax", 1, 2),
        ("[1", "json-syntax", 1, 3),
        ("[]\n[]", "json-syntax", 2, 1),
        ('["a', "json-syntax", 1, 2),
        ('["\\x"]', "json-syntax", 1, 3),
        ("// no\n{}", "json-syntax", 1, 1),
        ('["\\u0000"]', "control-character", 1, 2),
        ('["\\ud800"]', "control-character", 1, 2),
        ("[" * 101, "too-deep", 1, 101),
    ],
)
def test_json_refused_with_a_place(text: str, code: str, line: int, column: int) -> None:
    problem = problem_of(text, "c.json")
    assert (problem.code, problem.location) == (code, Location("c.json", line, column))


def test_a_comma_too_many_gets_a_hint() -> None:
    assert str(problem_of("[1, ]", "c.json")) == (
        "c.json:1:5: error: not valid JSON: a value is missing (found ']') [json-syntax]\n"
        "    hint: remove the comma before it: JSON allows no trailing comma"
    )


def test_the_name_tells_json_from_yaml() -> None:
    assert plain(read_document(b"a: 1", "a.yaml").root) == {"a": "1"}
    assert problem_of("a: 1", "a.JSON").code == "json-syntax"


# For any input

PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=20,
)
SNIPPETS = st.one_of(
    st.sampled_from(
        ["a: 1\n", "- ", "  ", "\t", "&a ", "*a", "<<: ", "!!str ", "!x ", "? ", ": ", "|\n", "\n"]
    ),
    st.sampled_from(
        ["{", "}", "[", "]", "'", '"', "#", "\\", ",", "---\n", "...\n", "%YAML 1.1\n", "b: [x]\n"]
    ),
    st.sampled_from(["\x00", "\x85", "\ufeff", "é"]),
)


def scalars(node: Node | None) -> list[Scalar]:
    match node:
        case Scalar():
            return [node]
        case Sequence():
            return [scalar for item in node.items for scalar in scalars(item)]
        case Mapping():
            return [scalar for value in node.entries.values() for scalar in scalars(value)]
    return []


def leaves(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value]


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_json_scalar_keeps_its_text_and_place(value: Any, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    lines = text.split("\n")
    found = scalars(read_json(text.encode(), "x.json").root)
    assert len(found) == len(leaves(value))
    for scalar, leaf in zip(found, leaves(value), strict=True):
        written = json.dumps(leaf, ensure_ascii=ascii_only)
        assert lines[scalar.place.line].startswith(written, scalar.place.column)
        assert scalar.quoted == isinstance(leaf, str)
        assert scalar.text == (leaf if isinstance(leaf, str) else written)


@given(st.binary() | st.lists(SNIPPETS, max_size=30).map(lambda parts: "".join(parts).encode()))
def test_whatever_the_bytes_nothing_but_an_input_error_is_raised(data: bytes) -> None:
    for name in ("x.yaml", "x.json"):
        problems: tuple[Problem, ...] = ()
        try:
            read_document(data, name)
        except InputError as error:
            problems = error.problems
        assert all(each.location.line >= 1 and each.location.column >= 1 for each in problems)
