"""The doit tasks ``expect`` and ``expect_running``: prove the lines of ``expect``, offline and by packets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from doit.exceptions import TaskFailed

from kvmcompose.build.project import Project
from kvmcompose.build.testbed_tasks import StderrReport, failed, outcome
from kvmcompose.client.connect import connect
from kvmcompose.client.testing import NotTestedError, run_tests
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.plain import plain
from kvmcompose.core.tested import Verdict
from kvmcompose.reachability.check import check
from kvmcompose.reachability.junit import traffic_text
from kvmcompose.reachability.tested import broken_lines

TaskDict = dict[str, Any]


def expectation_tasks(project: Project) -> Iterator[TaskDict]:
    """Yield the tasks, if the project expects anything: a ``dodo.py`` may have had one of that name before.

    ``expect_running`` brings the testbed up first.
    """
    if not project.compiled.placed.logical.expectations:
        return
    yield _task("expect", lambda: _check(project), "prove what the YAML expects, before anything boots")
    yield {
        **_task("expect_running", lambda: _test(project), "prove what the YAML expects, by packets"),
        "task_dep": ["up"],
    }


def _task(name: str, act: Callable[[], TaskFailed | None], doc: str) -> TaskDict:
    return {
        "basename": name,
        "actions": [act],
        "uptodate": [False],
        "verbosity": 2,
        "io": {"capture": False},
        "doc": doc,
    }


def _check(project: Project) -> TaskFailed | None:
    try:
        found = check(project.compiled, project.testbed)
    except KvmComposeError as error:
        return failed(error)
    lines = [
        f"{each.at}: broken: {each.text}\n" + "".join(f"    {traffic_text(one)}\n" for one in each.broken)
        for each in found.expectations
        if not each.holds
    ]
    return _broken(lines, len(found.expectations))


def _test(project: Project) -> TaskFailed | None:
    name = project.compiled.state.project_name
    try:
        found = run_tests(connect(), name, project.compiled, project.testbed, StderrReport())
    except NotTestedError as error:
        return outcome(error.action)
    except KvmComposeError as error:
        return failed(error)
    lines = [
        f"{each.at}: {each.verdict}: {each.text}\n" + "".join(f"    {one}\n" for one in broken_lines(each))
        for each in found.expectations
        if each.verdict in (Verdict.BROKEN, Verdict.UNKNOWN)
    ]
    return _broken(lines, len(found.expectations))


def _broken(lines: Sequence[str], total: int) -> TaskFailed | None:
    sys.stderr.write(plain("".join(lines), lines=True))
    return TaskFailed(f"{len(lines)} of {total} expectations broken") if lines else None
