"""What a ``dodo.py`` imports: three lines make ``doit generate`` work in a project folder.

    from kvmcompose.build.dodo import doit_config, project_tasks
    DOIT_CONFIG = doit_config()
    def task_testbed(): yield from project_tasks()

Tasks of the user's own may name our targets (``artefacts/<guest>-domain.xml``) as their ``file_dep`` or
our tasks (``generate``, ``disk:<guest>``, ``up``, ``down``) as their ``task_dep``, and ``take_down`` as an
action or a teardown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from kvmcompose.build.doit_store import errors_for_doit
from kvmcompose.build.doit_tasks import Session, TaskDict
from kvmcompose.build.expectation_task import expectation_tasks
from kvmcompose.build.overview import GROUP
from kvmcompose.build.project import Project, ledger_path
from kvmcompose.build.project_inputs import Where
from kvmcompose.build.testbed_tasks import TestbedTasks, testbed_in
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.event import Event, Noticed
from kvmcompose.core.plain import plain
from kvmcompose.effects.text_encoding import lose_no_output, names_are_utf8, use_utf8_names


def doit_config(project: str = ".") -> dict[str, Any]:
    """The ``DOIT_CONFIG`` of a ``dodo.py``: doit's records are kept in the project's ledger.

    Where the locale's encoding is not UTF-8, the program ``doit`` starts again in Python's UTF-8 mode.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if Path(sys.argv[0]).name == "doit" or getattr(program, "name", "") == "doit.__main__":
        use_utf8_names()
    lose_no_output()
    return {
        "backend": "kvm-compose",
        "dep_file": str(ledger_path(Path(project))),
        "default_tasks": [GROUP],
        # workers that are processes could not share the ledger
        "par_type": "thread",
    }


def project_tasks(
    project: str = ".",
    *,
    input: str | None = None,  # noqa: A002 (the name of the option)
    config: str | None = None,
    project_name: str | None = None,
    allow_paths: Sequence[str] = (),
    down_at_end: bool = False,
) -> Iterator[TaskDict]:
    """Yield all tasks of a project, for a task creator. Paths are relative to the folder where doit runs.

    ``down_at_end``: when ``up`` was tried, the testbed is taken down before doit ends, whatever happened.
    """
    where = Where(Path(project), input, config, project_name, tuple(allow_paths))
    with errors_for_doit():
        if not names_are_utf8():  # doit as a part of another program, which is not ours to start again
            raise KvmComposeError(
                f"names of files would be read as {sys.getfilesystemencoding()}", hint="set PYTHONUTF8=1"
            )
        session = Session(Project(where), _to_stderr)
        yield from session.all_tasks()
        yield from expectation_tasks(session.project)
        name = session.project.compiled.state.project_name
        yield from TestbedTasks(name, session.project.folder, session.release, allow_paths).tasks(
            GROUP, down_at_end=down_at_end
        )


def take_down(project: str = ".") -> TaskFailed | None:
    """An action for a task or a teardown of the user's own: take the testbed of this folder down.

    Nothing happens when it is down. The YAML is not read.
    """
    return testbed_in(Path(project)).take_down()


def _to_stderr(event: Event) -> None:
    """Write notices; doit itself reports which task ran or failed."""
    if isinstance(event, Noticed):
        sys.stderr.write(f"kvm-compose: {plain(event.message, lines=True)}\n")
