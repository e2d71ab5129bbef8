/** What the picture says of a guest: its state, what an action does with it, what a plan would do. */

import { computed, type ReadonlySignal } from "@preact/signals";
import { type Mark, marks } from "../../marks";
import { guestTone, guestWord } from "../../shell/state";
import type { ActionLog, Testbed } from "../../testbed";
import type { Action, GuestStatus, StatusDifference } from "../../types";

/** What commands do with a guest while a step of theirs works on it. */
const DOING: Record<string, string> = {
  up: "starting",
  down: "stopping",
  start: "starting",
  stop: "stopping",
  restart: "restarting",
  pause: "pausing",
  resume: "resuming",
};

/** Return what an action does with a guest while one of its steps runs. */
export function doing(action: Action | null): string {
  const verb = action?.options["verb"];
  const word = action?.command === "power" && typeof verb === "string" ? verb : action?.command;
  return DOING[word ?? ""] ?? "busy";
}

interface About {
  /** What an action does with it. */
  busy?: string | undefined;
  /** How it differs from what was brought up. */
  drift?: string | undefined;
  /** Whether it is to run: the testbed is up, or was left half-way. */
  isWanted: boolean;
}

/** Whether the guests of a testbed are to run: it is up, or was left half-way. */
export function isWanted(testbed: Testbed): boolean {
  return ["up", "failed"].includes(testbed.deployment.value?.state ?? "");
}

/** Return what is shown of a guest. */
export function shownState(status: GuestStatus, { busy, drift, isWanted }: About): Mark {
  const word = guestWord(status);
  const tone = !isWanted && status.state === "absent" ? "off" : guestTone(status);
  if (busy !== undefined) {
    // what is there already stays as it is while other things of it are changed
    return { tone: "busy", word: tone === "good" && busy === "starting" ? "setting up" : busy };
  }
  if (drift !== undefined && tone === "good") return { tone: "bad", word: "degraded" };
  return { tone, word };
}

/** Return what running steps do with guests. */
export function busyGuests(logs: Iterable<ActionLog>): Map<string, string> {
  const found = new Map<string, string>();
  for (const log of logs) {
    if (log.action.value?.state !== "running") continue;
    void log.version.value;
    const word = doing(log.action.value);
    for (const step of log.steps.values()) {
      if (step.state === "running" && step.guest !== null) found.set(step.guest, word);
    }
  }
  return found;
}

/** Return the lines of what differs, by the names of what it is of; without a name it is left out. */
export function linesBy(
  differing: readonly StatusDifference[],
  name: (each: StatusDifference) => string | undefined,
): Map<string, string> {
  const found = new Map<string, string>();
  for (const each of differing) {
    const of = name(each);
    if (of !== undefined) found.set(of, [found.get(of) ?? [], each.text].flat().join("\n"));
  }
  return found;
}

/** What the picture says of all guests, hosts and segments. */
export interface States {
  readonly guests: ReadonlySignal<ReadonlyMap<string, Mark>>;
  readonly hosts: ReadonlySignal<ReadonlyMap<string, string>>;
  /** What is wrong with bridges and the like; only of what differs from what was brought up. */
  readonly segments: ReadonlySignal<ReadonlyMap<string, string>>;
}

/** Return what is shown of a testbed. The maps are new at each change. */
export function statesOf(testbed: Testbed): States {
  // what differs because the project was edited since is no fault
  const drift = computed(() => {
    const { condition } = testbed.deployment.value ?? {};
    return condition === "degraded" ? testbed.differing.value.filter((each) => each.drift) : [];
  });
  const ofGuests = computed(() => linesBy(drift.value, (each) => each.guest));
  const wanted = computed(() => isWanted(testbed));
  const busy = computed(() => busyGuests(testbed.actions.value.values()));
  return {
    guests: computed(() => {
      const planned = marks.value;
      const found = new Map<string, Mark>();
      for (const [name, guest] of testbed.guests.value) {
        const mark = planned?.get(name);
        const about = {
          busy: busy.value.get(name),
          drift: ofGuests.value.get(name),
          isWanted: wanted.value,
        };
        found.set(name, mark ?? shownState(guest.status.value, about));
      }
      for (const [name, mark] of planned ?? []) found.set(name, mark);
      return found;
    }),
    hosts: computed(() =>
      linesBy(testbed.differing.value, (each) => (each.kind === "host" ? each.host : undefined)),
    ),
    segments: computed(() => linesBy(drift.value, (each) => each.segment)),
  };
}
