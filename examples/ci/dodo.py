"""Build the testbed, bring it up, check it from inside and take it down, with one call of doit.

doit           all of it; the status is 0 when everything succeeded
doit up        only bring it up
doit down      take it down
"""

import os

from kvmcompose.build.dodo import doit_config, project_tasks

# in this order; a failed check ends the run, but see task_testbed
DOIT_CONFIG = doit_config() | {"default_tasks": ["check", "down", "report"]}

IN_WEB = ["kvm-compose", "exec", "web", "--"]


def task_testbed():
    """The tasks of kvm-compose: generate, up, down and the others."""
    # CI systems set CI. There the testbed is taken down when doit ends, even after a failure; at your desk
    # it stays up after a failed check, so that you can inspect it.
    yield from project_tasks(project_name="ci", down_at_end=bool(os.environ.get("CI")))


def task_check():
    """The test: each command in a guest must succeed."""
    return {
        "task_dep": ["up"],
        "actions": [
            [*IN_WEB, "cloud-init", "status", "--wait"],
            [*IN_WEB, "systemctl", "is-active", "ssh"],
        ],
        "verbosity": 2,
    }


def task_report():
    """The actions and how long they took."""
    return {
        "task_dep": ["down"],
        "actions": ["kvm-compose logs --list --json >actions.json"],
        "targets": ["actions.json"],
        "uptodate": [False],
        "clean": True,
    }
