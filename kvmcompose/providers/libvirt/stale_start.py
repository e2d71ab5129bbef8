"""A start of a domain that no libvirtd will ever end.

libvirt notes that it starts a domain some milliseconds before it notes which process the domain's QEMU is. A
libvirtd (9.0) that is killed between the two, and comes back, finds in its notes a start that goes on, of no
process: it waits for its end before it does anything to the domain, and nobody ends it. No request helps, nor
another libvirtd, as long as the notes are there.
"""

from __future__ import annotations

from kvmcompose.hosts.command import CommandRunner

#: Removes such notes, and has libvirtd begin anew, without them; prints what it removed. Notes older than the
#: daemon are not of a start of its own. Told to end, it first ends what it is doing; guests go on running.
_SCRIPT = r"""
cd /run/libvirt/qemu
daemon=$(cat driver.pid) || exit 0
find . -maxdepth 1 -name '*.xml' ! -newer driver.pid \
    -exec grep -q "^<domstatus .*'starting up' pid='0'>" {} \; -delete -print | grep . || exit 0
unit=$(ps -o unit= -p "$daemon")
case $unit in
*.service)
    systemctl restart "$unit"
    ;;
*)
    command=$(ps -ww -o args= -p "$daemon")
    kill "$daemon"
    while [ -e "/proc/$daemon/exe" ]; do sleep 0.1; done
    $command --daemon
    ;;
esac
"""
#: libvirtd takes up to 30 s to end what it is doing.
_SECONDS = 90


async def clear(machine: CommandRunner) -> bool:
    """End all such starts on a host; True when there were any."""
    # in a session of its own: whoever is cancelled meanwhile must not leave a host without libvirtd
    argv = ["setsid", "--wait", "sh", "-ec", _SCRIPT]
    done = await machine.run(argv, seconds=_SECONDS, privileged=True)
    return bool(done.stdout)
