"""The name under which ``dodo.py`` files written by version 0.1 import ``kvmcompose.build.dodo``."""

from kvmcompose.build.dodo import doit_config, project_tasks, take_down

__all__ = ["doit_config", "project_tasks", "take_down"]
