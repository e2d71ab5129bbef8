/** States in a word and a tone. A tone is a colour; the word says the same to those who do not see it. */

import type { Tone } from "../marks";
import type { Deployment, GuestStatus } from "../types";

const PHASES: Record<string, Tone> = {
  up: "good",
  down: "off",
  failed: "bad",
  cancelled: "busy",
  interrupted: "bad",
  degraded: "bad",
};

/** States in which a guest does not run, as it should be. */
const QUIET = new Set(["golden", "unsupported"]);

/** Return the state of a deployment in a word. */
export function phaseWord(deployment: Deployment): string {
  return deployment.condition ?? deployment.state;
}

/** Return the state of a deployment with the command that failed, or how much differs: `failed (up)`, `degraded (3)`. */
function phaseText(deployment: Deployment): string {
  const word = phaseWord(deployment);
  const more = deployment.failed_command ?? (deployment.drift > 0 ? deployment.drift : null);
  return more === null ? word : `${word} (${more})`;
}

/** Return the tone of a deployment. */
export function phaseTone(deployment: Deployment): Tone {
  return PHASES[phaseWord(deployment)] ?? "busy";
}

/** What `stop`, `pause` and `down` asked of guests, as `status` says it. */
const ASKED: Record<string, string> = {
  "shut off": "stopped (stop)",
  paused: "paused (pause)",
  absent: "absent (down)",
};
/** Reasons of libvirt that say little by themselves. */
const REASONS: Record<string, string> = {
  shutdown: "it shut down",
  destroyed: "switched off",
  failed: "it did not start",
};

type Shown = Pick<GuestStatus, "state" | "health" | "asked" | "reason">;

/** Return the state of a guest and why, as `status` says it: `paused: I/O error`, `stopped (stop)`. */
export function guestWord({ state, health, asked, reason }: Shown): string {
  if (state === "running" && health !== null) return health;
  if (asked === state && ASKED[state] !== undefined) return ASKED[state];
  return reason === null ? state : `${state}: ${reasonWord(reason)}`;
}

/** Return why a guest is in its state in words. */
export function reasonWord(reason: string): string {
  return REASONS[reason] ?? reason;
}

/** Return the tone of a guest: one that does not run is bad, unless somebody asked for that. */
export function guestTone({ state, health, asked }: Shown): Tone {
  if (state === "running") {
    if (health === "unhealthy") return "bad";
    return health === "starting" ? "busy" : "good";
  }
  return asked === state || QUIET.has(state) ? "off" : "bad";
}

export function Badge({ tone, children }: { tone: Tone; children: string }) {
  return (
    <span class={`badge ${tone}`}>
      <span class="dot" aria-hidden="true" />
      {children}
    </span>
  );
}

export function PhaseBadge({ deployment }: { deployment: Deployment }) {
  return <Badge tone={phaseTone(deployment)}>{phaseText(deployment)}</Badge>;
}
