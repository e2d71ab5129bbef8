"""A start of a domain that no libvirtd will ever finish.

libvirt records that it starts a domain some milliseconds before it records the process ID of the domain's
QEMU. A libvirtd (9.0) that is killed between the two finds after its restart the record of a start in
progress without a process. It waits for the end of that start before any other operation on the domain, and
the start never ends. No request helps, nor another restart, while the record exists.

The domain's taps ended with that libvirtd; their ports in Open vSwitch did not. Its datapath in userspace
would not read from a new tap under the same name: libvirt replaces a port in one transaction, which Open
vSwitch takes for no change.
"""

from __future__ import annotations

from kvmcompose.hosts.command import CommandRunner

#: Removes such records and ports, and restarts libvirtd without them; prints what it removed. A record older
#: than the daemon is not of a start of its own. libvirtd finishes its current operations first; guests keep
#: running.
_SCRIPT = r"""
cd /run/libvirt/qemu
daemon=$(cat driver.pid) || exit 0
found=$(find . -maxdepth 1 -name '*.xml' ! -newer driver.pid \
    -exec grep -q "^<domstatus .*'starting up' pid='0'>" {} \; \
    -exec sed -n "s/.*<target dev='\([^' ]*\)'\/>.*/\1/p" {} \; -delete -print)
[ "$found" ] || exit 0
printf '%s\n' "$found"
for tap in $(printf '%s\n' "$found" | grep -v /); do
    ovs-vsctl --timeout=10 --if-exists del-port "$tap" || true
done
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
#: libvirtd takes up to 30 s to finish its current operations.
_SECONDS = 90


async def clear(runner: CommandRunner) -> bool:
    """Clear all such starts on a host; return whether there were any."""
    # in a session of its own: a cancellation meanwhile must not leave the host without libvirtd
    argv = ["setsid", "--wait", "sh", "-ec", _SCRIPT]
    done = await runner.run(argv, seconds=_SECONDS, privileged=True)
    return bool(done.stdout)
