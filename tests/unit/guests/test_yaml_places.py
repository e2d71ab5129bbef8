"""YAML files of the user's are understood as cloud-init does: merge keys and aliases, and no further."""

from __future__ import annotations

import time

import pytest
import yaml

from kvmcompose.guests._yaml_places import yaml_places, yaml_value

KINDS = {dict: "mapping", list: "list"}


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {runcmd: ls}\n<<: *x\n",
        "x: &x {runcmd: ls}\n<<: [{runcmd: [date]}, *x]\n",
        "x: &x {runcmd: [date]}\n<<: [{runcmd: ls}, *x]\n",
        "x: &x {runcmd: ls}\n<<: *x\n<<: {runcmd: [date]}\n",
        "x: &x {runcmd: ls}\nruncmd: [date]\n<<: *x\n",
        "x: &x {runcmd: ls}\ny: &y {<<: *x, users: []}\n<<: *y\n",
        "x: &x {<<: {runcmd: {}}, runcmd: []}\n<<: [{users: ''}, *x]\n",
        "k: &k runcmd\n*k : ls\n",
        "runcmd: ls\nruncmd: [date]\n",
        "'<<': {runcmd: ls}\n",
        "x: &x\n  <<: *x\n  runcmd: []\n<<: *x\n",
    ],
)
def test_the_kinds_at_the_top_are_those_that_cloud_init_reads(text: str) -> None:
    expected = {key: KINDS.get(type(value), "value") for key, value in yaml.safe_load(text).items()}
    assert yaml_places(text, "f").keys == expected
    assert {key: KINDS.get(type(value), "value") for key, value in yaml_value(text).items()} == expected


def test_a_merged_key_is_where_it_is_written() -> None:
    found = yaml_places("x: &x\n  runcmd: ls\n<<: *x\n", "f")
    assert str(found.near(("runcmd",))) == "f:2:3"
    assert found.aliases == 1


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("a: 1\n<<: [date]\n", ("'<<' takes a mapping or a list of mappings", "2:6")),
        ("a:\n  b: {<<: 1}\n", ("'<<' takes a mapping or a list of mappings", "2:11")),
        ("a: *nothing\n", ("found undefined alias 'nothing'", "1:4")),
        ("a: &x 1\nb: &x 2\n", ("found duplicate anchor 'x'", "2:4")),
        (
            "a: 1\n---\nb: 2\n",
            ("expected a single document in the stream, but found another document", "2:1"),
        ),
        ("a: !vault x\n", ("no tag that cloud-init knows: '!vault'", "1:4")),
        ("? [a]\n: 1\n", ("a key is a single word or text, no list or mapping", "1:3")),
        ("[" * 200, ("nested deeper than 100 levels", "1:102")),
    ],
)
def test_what_cloud_init_does_not_read_has_its_place(text: str, flaw: tuple[str, str]) -> None:
    message, place = yaml_places(text, "f").flaw or ("", "")
    assert (message, str(place)) == (f"not valid YAML: {flaw[0]}", f"f:{flaw[1]}")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)


def test_scalars_are_text() -> None:
    assert yaml_value("a: !!bool x\nb: yes\nc: !!int ''\nd: 1:59\ne: 2026-99-99\n") == {
        "a": "x", "b": "yes", "c": "", "d": "1:59", "e": "2026-99-99"
    }  # fmt: skip


def test_chains_of_merges_take_no_time_of_the_square_of_their_length() -> None:
    chain = "".join(f"k{n}: &k{n} {{a{n}: 1, <<: [*k{n - 1}, *k{n - 1}]}}\n" for n in range(1, 3000))
    began = time.process_time()
    found = yaml_places(f"k0: &k0 {{}}\n{chain}<<: *k2999\n", "f")
    assert len(found.keys) == 3000 + 2999
    assert time.process_time() - began < 10


def test_keys_that_are_not_read_are_named() -> None:
    found = yaml_places("a: &a {x: 1}\nruncmd: [one]\nb: 1\nruncmd: [two]\n<<: *a\n", "f")
    assert [(name, place.line) for name, place in found.hidden] == [("runcmd", 2)]
    assert found.keys == {"a": "mapping", "b": "value", "runcmd": "list", "x": "value"}
