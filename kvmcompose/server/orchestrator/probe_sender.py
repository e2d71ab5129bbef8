"""Sends probes from inside a guest, with what a small guest has: ping, and bash, nc or python3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from kvmcompose.core.expectation import Traffic
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.guest.interface import Entrance

#: How many probes a guest sends at once: each is a process or two.
AT_ONCE = 8
#: For the processes of a batch to start in a guest that is emulated, in seconds.
_SLACK_SECONDS = 20.0
#: The payload of echo requests in bytes: probes differ in it, so that no two of a guest are alike.
_LEAST_PAYLOAD, _PAYLOADS = 24, 1000
_DONE = "done"

#: Reads a probe per line: its number, protocol, address, port, token and size of the payload. Whether it
#: arrives is observed elsewhere; printed is only what went wrong here. A connection request that nothing
#: answers is repeated by the kernel until its time is up. Programs that would wait for longer are ended.
#: Where bash is, it runs all of this, and sends without starting another program: a small guest that is
#: emulated takes seconds to start a dozen.
SENDER = """\
seconds=$1
export LC_ALL=C
have() { command -v "$1" >/dev/null 2>&1; }
limited() {
    "$@" </dev/null & job=$!
    (sleep "$seconds"; kill "$job") >/dev/null 2>&1 & guard=$!
    wait "$job"; status=$?
    kill "$guard" 2>/dev/null
    return $status
}
pause() { sleep 0.6 2>/dev/null || sleep 1; }
with=
if [ -n "$BASH_VERSION" ] && (: >/dev/udp/127.0.0.1/9) 2>/dev/null; then with=bash
elif have python3; then with=python
elif have nc; then with=nc; fi
icmp() {
    have ping || { echo "there is no ping"; return 1; }
    program=ping six=
    case "$1" in *:*) if have ping6; then program=ping6; else six=-6; fi ;; esac
    tries=0
    while [ $tries -lt "$seconds" ]; do
        limited $program $six -c 1 -W 1 -s "$2" "$1" && return
        tries=$((tries + 1))
    done
    return 1
}
connect() { exec 3<>"/dev/tcp/$1/$2"; }
tcp() {
    case "$with" in
        bash) limited connect "$1" "$2" ;;
        python) limited python3 -c 'import socket, sys
try: socket.create_connection(sys.argv[1:3])
except OSError as error: sys.exit(error.strerror or str(error))' "$1" "$2" ;;
        nc) limited nc "$1" "$2" ;;
        *) echo "there is none of bash, python3 and nc"; return 1 ;;
    esac
}
udp() {
    for try in 1 2 3; do
        [ $try = 1 ] || pause
        case "$with" in
            bash) printf %s "$3" >"/dev/udp/$1/$2" || return ;;
            python) python3 -c 'import socket, sys
host, port, token = sys.argv[1:]
try: socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM).sendto(
    token.encode(), (host, int(port)))
except OSError as error: sys.exit(error.strerror or str(error))' "$1" "$2" "$3" || return ;;
            nc) printf %s "$3" | nc -u -w 1 "$1" "$2" || return ;;
            *) echo "there is none of bash, python3 and nc"; return 1 ;;
        esac
    done
}
one() {
    said=$("$2" "$3" "$4" "$5" "$6" 2>&1) || printf '%s %s\\n' "$1" "$(echo "$said" | tail -n 1)"
}
count=0
while read -r number protocol address port token size; do
    case "$protocol" in
        icmp) one "$number" icmp "$address" "$size" & ;;
        tcp | udp) one "$number" "$protocol" "$address" "$port" "$token" & ;;
    esac
    count=$((count + 1))
    if [ $count -ge AT_ONCE ]; then wait; count=0; fi
done
wait
echo DONE
""".replace("AT_ONCE", str(AT_ONCE)).replace("DONE", _DONE)
#: Runs it by bash, or else by sh.
_BEGIN = """\
if command -v bash >/dev/null 2>&1; then exec bash -c "$1" kvm-compose "$2"; fi
exec sh -c "$1" kvm-compose "$2"
"""


class SentProbe(msgspec.Struct, frozen=True):
    """A probe: its number among all of an action, what is sent, and to which address."""

    number: int
    traffic: Traffic
    address: str

    def line(self, token: str) -> str:
        """Return it for the sender. ``token`` is what it sends by UDP."""
        size = _LEAST_PAYLOAD + self.number % _PAYLOADS
        what = self.traffic
        return f"{self.number} {what.protocol} {self.address} {what.port} {token}{self.number} {size}\n"


async def send(entrance: Entrance, probes: Sequence[SentProbe], token: str, seconds: int) -> dict[int, str]:
    """Send probes from a guest, for ``seconds`` each; return what it said about those that went wrong.

    ``token`` distinguishes datagrams from those of other actions. Raises DriverError when the guest could not
    be entered, or the sender did not come to its end.
    """
    printed: list[str] = []
    most = 4 * len(probes) + 100

    def keep(line: str) -> None:
        if len(printed) < most:
            printed.append(line[:300])

    async def lines() -> AsyncIterator[bytes]:
        yield "".join(probe.line(token) for probe in probes).encode()

    rounds = 1 + len(probes) // AT_ONCE
    status = await entrance.run(
        ["sh", "-c", _BEGIN, "kvm-compose", SENDER, str(seconds)],
        keep,
        user="root",
        seconds=rounds * (seconds + _SLACK_SECONDS),
        stdin=lines(),
    )
    if status != 0 or _DONE not in printed:
        why = printed[-1] if printed else "no reason given"
        raise DriverError(f"{entrance.guest} cannot send packets: {why}")
    # a guest speaks for its own probes only
    own = {str(probe.number): probe.number for probe in probes}
    found: dict[int, str] = {}
    for line in printed:
        number, _, said = line.partition(" ")
        if number in own and said:
            found[own[number]] = said.strip()
    return found
