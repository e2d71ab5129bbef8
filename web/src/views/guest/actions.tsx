/** Buttons that start, stop, restart, pause and resume a guest. */

import { call, pathOf } from "../../api";
import { mayChange } from "../../session";
import { confirm } from "../../shell/dialog";
import { attempt, say } from "../../shell/notices";
import type { Guest, Testbed } from "../../testbed";
import { type Verb, verbsFor } from "./words";

const LABELS: Record<Verb, string> = {
  start: "Start",
  stop: "Stop",
  restart: "Restart",
  pause: "Pause",
  resume: "Resume",
};
const BEGUN: Record<Verb, string> = {
  start: "is being started",
  stop: "is being stopped",
  restart: "is being restarted",
  pause: "is being paused",
  resume: "is being resumed",
};
/** What is lost meanwhile, where something is. */
const LOSSES: Partial<Record<Verb, string>> = {
  stop: "What runs in it ends; its disk stays. It has a minute to shut down, then it is switched off.",
  restart: "What runs in it ends; its disk stays. It has a minute to shut down, then it is switched off.",
  pause: "It stands still, and nothing in it answers, until it is resumed.",
};

/** What can be done with a guest now; nothing for those who only read, or while nothing of the testbed is up. */
export function GuestActions({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const verbs = mayChange() && testbed.deployment.value?.state !== "down" ? verbsFor(guest.status.value) : [];
  if (verbs.length === 0) return null;
  return (
    <div class="actions">
      {verbs.map((verb) => (
        <button key={verb} type="button" onClick={() => act(testbed, guest, verb)}>
          {LABELS[verb]}
        </button>
      ))}
    </div>
  );
}

async function act(testbed: Testbed, guest: Guest, verb: Verb): Promise<void> {
  const loss = LOSSES[verb];
  if (loss !== undefined) {
    const danger = verb !== "pause";
    if (!(await confirm(`${LABELS[verb]} ${guest.name}?`, <p>{loss}</p>, LABELS[verb], { danger }))) return;
  }
  const done = await attempt(() =>
    call("POST", pathOf(testbed.name, "action"), { command: "power", verb, guests: [guest.name] }),
  );
  if (done) say(`${guest.name} ${BEGUN[verb]}`);
}
