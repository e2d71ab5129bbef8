/** What the view of a guest says in words, and which actions make sense. Pure. */

import type { GuestStatus } from "../../types";

// the names of snapshots that the server accepts: SNAPSHOT_PATTERN of kvmcompose.core.commands
const HIDDEN = String.raw`\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff`;
const SPACES = String.raw`\u0020\u00a0\u2000-\u200d\u202f\u205f-\u2065\u206a-\u206f\u3000`;
const SNAPSHOT_NAME = new RegExp(
  String.raw`^[^${HIDDEN}${SPACES}/"\\.-]([^${HIDDEN}/"\\]{0,61}[^${HIDDEN}${SPACES}/"\\])?$`,
  "u",
);

/** Return why a snapshot cannot have a name; empty where it can. */
export function wrongSnapshotName(name: string, taken: readonly string[]): string {
  if (taken.includes(name)) return "there is a snapshot of this name already";
  if (SNAPSHOT_NAME.test(name)) return "";
  return "at most 63 printable characters, without / \\ and double quotes, and neither a dot nor a hyphen first";
}

export type Verb = "start" | "stop" | "restart" | "pause" | "resume";

/** States in which a guest uses its host. */
const ON = new Set(["running", "paused", "pmsuspended", "in shutdown", "no state"]);
const OFF = new Set(["shut off", "crashed", "absent"]);

type Shown = Pick<GuestStatus, "state" | "runtime" | "kind">;

/** Return whether a guest is on: it has a console that takes input, and figures. */
export function isOn({ state }: Shown): boolean {
  return ON.has(state);
}

/** Return what can be done with a guest in its state. */
export function verbsFor({ state }: Shown): Verb[] {
  if (OFF.has(state)) return ["start"];
  if (state === "running") return ["restart", "pause", "stop"];
  if (state === "paused" || state === "pmsuspended") return ["resume", "stop"];
  return ON.has(state) ? ["stop"] : [];
}

/** Return what to do about a guest that is not as it should be; empty where nothing is to do. */
export function advice(guest: GuestStatus): string {
  const { state, reason, health, asked, outdated } = guest;
  if (state === "unknown")
    return "Its host does not answer: see what the page says of the host, and whether it is on.";
  if (state === "unsupported") return "No runtime of this server runs guests of this kind.";
  if (state === "golden") return "A golden image: clones are made of it, and it is off meanwhile.";
  if (asked === state) {
    const back = state === "paused" ? "Resume lets it run on" : "Start starts it";
    return `It was asked to be so, and up leaves it: ${back}.`;
  }
  if (state === "paused") {
    return reason?.includes("I/O error")
      ? "Its disk could not be written: make room on its host, then resume it."
      : "Resume lets it run on where it is.";
  }
  if (state === "pmsuspended") return "It sleeps: Resume wakes it up.";
  if (state === "crashed") return "Its console has what it printed last; Start starts it again.";
  if (state === "absent") return "Its host does not have it: up makes it again, from the disk that it had.";
  if (state === "shut off") return "Start starts it; its console has what it printed last.";
  if (health === "unhealthy") return "Its healthcheck fails: look at its console and at its log.";
  if (health === "starting") return "Its healthcheck has not passed yet.";
  if (outdated.length > 0) return "up applies what changed; Plan and up shows what that would do.";
  return "";
}

/** Return a time span in words: `3 d 4 h`, `12 min`, `40 s`. */
export function duration(seconds: number): string {
  const units: [string, number][] = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  let rest = Math.max(0, Math.floor(seconds));
  const parts: string[] = [];
  for (const [unit, size] of units) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count} ${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

/** Return a number of MiB in words. */
export function memory(mib: number): string {
  return mib < 1024 ? `${mib} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}

/** Return a share of one CPU in words. */
export function share(cpu: number): string {
  return `${Math.round(cpu * 100)} %`;
}

/** Split bytes that a client sends into messages that the server accepts. */
export function messages(bytes: Uint8Array, most = 4096): Uint8Array[] {
  const found: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += most) found.push(bytes.subarray(at, at + most));
  return found;
}
