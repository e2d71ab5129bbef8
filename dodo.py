"""Builds the example with doit: ``doit generate``, or another project: ``doit project=DIR generate``."""

from collections.abc import Iterator
from typing import Any

from doit import get_var

from kvmcompose.build.dodo import doit_config, project_tasks

PROJECT = get_var("project", "examples/two-guests")
DOIT_CONFIG = doit_config(PROJECT)


def task_testbed() -> Iterator[dict[str, Any]]:
    """All tasks of the project."""
    yield from project_tasks(PROJECT)
