"""Words of other programs, each with the command that is near to it in meaning.

The programs are docker compose, Terraform, Vagrant, containerlab, virsh, kubectl and make. A word whose
command does the same is an alias of that command instead.
"""

from __future__ import annotations

#: Options of TestbedOS's kvm-compose, each with what to do instead.
OPTIONS = {
    "--reapply-acl": "not needed: up applies changed rules, and only those",
    "--verbosity": "use -v, which takes no level: -v and -vv print more, -q prints errors only",
    "--server-connection": "use --server ADDRESS, after the command",
    "-V": "use --version",
    "--no-ask": "nothing is asked where there is no terminal",
}
#: Verbs of its ``deployment``, which do not exist here.
VERBS = {
    "create": "not needed: kvm-compose up registers a project",
    "reset-state": "not needed: after a crash both up and down continue from there",
}
#: The levels of its ``-v LEVEL``.
LEVELS = ("error", "warn", "info", "debug", "trace")

MEANINGS = {
    "attach": "console",
    "add": "init",
    "analysis-tools": "capture",
    "boot": "start",
    "box": "cloud-images",
    "build": "generate",
    "compile": "generate",
    "connect": "ssh",
    "copy": "cp",
    "create": "up",
    "define": "generate",
    "delete": "down",
    "diff": "plan --diff",
    "domifaddr": "status",
    "env": "config",
    "events": "logs -f",
    "fmt": "validate",
    "export": "inventory",
    "fetch": "pull",
    "halt": "stop",
    "help": "--help",
    "history": "logs --list",
    "image": "cloud-images",
    "images": "cloud-images",
    "inspect": "config",
    "kill": "down --timeout 0",
    "launch": "up",
    "lint": "validate",
    "login": "ssh",
    "ls": "deployments",
    "make": "generate",
    "new": "init",
    "output": "inventory",
    "pcap": "capture",
    "port": "status",
    "poweroff": "stop",
    "preview": "plan",
    "provision": "up --rerun-scripts",
    "purge": "down --purge",
    "reboot": "restart",
    "reload": "restart",
    "remove": "down",
    "revert": "snapshot restore",
    "reset-state": "up",
    "restore": "snapshot restore",
    "rm": "down",
    "rollback": "snapshot restore",
    "rsync": "cp",
    "run": "exec",
    "save": "snapshot create",
    "scale": "plan",
    "scp": "cp",
    "setup-config": "init",
    "sh": "ssh",
    "shell": "ssh",
    "show": "status",
    "shutdown": "stop",
    "sniff": "capture",
    "ssh-config": "inventory --format ssh_config",
    "state": "config",
    "stats": "status --watch",
    "suspend": "pause",
    "taint": "up --provision",
    "tcpdump": "capture",
    "teardown": "down",
    "testbed-snapshot": "snapshot create",
    "top": "status --watch",
    "undefine": "down",
    "undeploy": "down",
    "version": "--version",
    "watch": "status --watch",
}
