"""The doit task ``expect``: proves the lines of ``expect``, as ``kvm-compose check`` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from doit.exceptions import TaskFailed

from kvmcompose.build.project import Project
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.plain import plain
from kvmcompose.reachability.check import check
from kvmcompose.reachability.junit import traffic_text

TaskDict = dict[str, Any]


def expectation_tasks(project: Project) -> Iterator[TaskDict]:
    """Yield the task, if the project expects anything: a ``dodo.py`` may have had one of that name before."""
    if not project.compiled.placed.logical.expectations:
        return

    def act() -> TaskFailed | None:
        try:
            found = check(project.compiled, project.testbed)
        except KvmComposeError as error:
            hint = f"\nhint: {error.hint}" if error.hint else ""
            return TaskFailed(plain(f"{error.message}{hint}", lines=True))
        lines = [
            f"{each.at}: broken: {each.text}\n" + "".join(f"    {traffic_text(one)}\n" for one in each.broken)
            for each in found.expectations
            if not each.holds
        ]
        sys.stderr.write(plain("".join(lines), lines=True))
        total = len(found.expectations)
        return TaskFailed(f"{len(lines)} of {total} expectations broken") if lines else None

    yield {
        "basename": "expect",
        "actions": [act],
        "uptodate": [False],
        "verbosity": 2,
        "io": {"capture": False},
        "doc": "prove what the YAML expects, before anything boots",
    }
