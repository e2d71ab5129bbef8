"""Builds the testbed, brings it up, checks it from inside and takes it down: one call of doit.

doit           all of it; the status is 0 when every part of it went well
doit up        only bring it up, to look around
doit down      and away with it
"""

import os

from kvmcompose.build.dodo import doit_config, project_tasks

# in this order; a check that fails ends it, but see task_testbed
DOIT_CONFIG = doit_config() | {"default_tasks": ["check", "down", "report"]}

IN_WEB = ["kvm-compose", "exec", "web", "--"]


def task_testbed():
    """What kvm-compose has: generate, up, down and the rest."""
    # A CI system sets CI. There the testbed goes when doit ends, whatever happened since up was tried;
    # at your desk a check that failed leaves it up, to look into.
    yield from project_tasks(project_name="ci", down_at_end=bool(os.environ.get("CI")))


def task_check():
    """What the testbed is for: each command in a guest has to succeed."""
    return {
        "task_dep": ["up"],
        "actions": [
            [*IN_WEB, "cloud-init", "status", "--wait"],
            [*IN_WEB, "systemctl", "is-active", "ssh"],
        ],
        "verbosity": 2,
    }


def task_report():
    """What was done and how long it took."""
    return {
        "task_dep": ["down"],
        "actions": ["kvm-compose logs --list --json >actions.json"],
        "targets": ["actions.json"],
        "uptodate": [False],
        "clean": True,
    }
