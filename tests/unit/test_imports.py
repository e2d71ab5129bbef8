"""Modules import each other in one direction only, and a name of a class has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import kvmcompose


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and for type checkers count, too."""
    graph = grimp.build_graph("kvmcompose")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_two_classes_have_one_name() -> None:
    """Guest kinds' ``Definition`` is an alias, and private classes are seen in their module only."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in Path(kvmcompose.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
