/** Actions, steps and faults in words, as the command line has them (`kvmcompose.client.formatting`). */

import type { Action, Fault, Step } from "./types";

/** Of how many guests an action is named with. */
const MOST_NAMES = 3;

/** Return what the command of an action is called on the command line. */
export function spoken({ command, options }: Pick<Action, "command" | "options">): string {
  const verb = options["verb"];
  if (typeof verb !== "string") return command;
  return command === "snapshot" ? `snapshot ${verb}` : verb;
}

/** Return what an action does, with the guests that it was asked for: `start web`. */
export function spokenOf(action: Pick<Action, "command" | "options">): string {
  const guests = action.options["guests"];
  if (!Array.isArray(guests) || guests.length === 0) return spoken(action);
  const more = guests.length > MOST_NAMES ? ` and ${guests.length - MOST_NAMES} more` : "";
  return `${spoken(action)} ${guests.slice(0, MOST_NAMES).join(", ")}${more}`;
}

/** Return guest and step; the name of a step may contain the guest already, as in `start:web`. */
function about(guest: string | null, step: string): string[] {
  const parts = step.split(":");
  const words = step === "" ? [] : [parts.join(" ")];
  return guest === null || parts.includes(guest) ? words : [guest, ...words];
}

/** Return the name of a step with its guest; without one, with its host. */
export function stepWord({ name, guest, host }: Pick<Step, "name" | "guest" | "host">): string {
  const words = about(guest, name).join(": ");
  return guest === null && host !== null ? `${words} (${host})` : words;
}

/** Return a fault: step, guest and cause. */
export function faultWord({ guest, step, message }: Pick<Fault, "guest" | "step" | "message">): string {
  return [...about(guest, step), message].join(": ");
}

/** Return a sentence about an action that did not succeed; empty for one that did. */
export function failureWord(action: Pick<Action, "command" | "options" | "state" | "refused">): string {
  const word = spokenOf(action);
  switch (action.state) {
    case "failed":
      return `${word} ${action.refused ? "was refused: the testbed was not changed" : "failed"}`;
    case "cancelled":
      return `${word} was cancelled`;
    case "interrupted":
      return `${word} was interrupted: the server ended while it ran`;
    default:
      return "";
  }
}

/** Return a number of things in words: `1 step`, `2 steps`. */
export function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** Whether an action had to do with a guest: those that name none have to do with all. */
export function concerns({ command, options }: Pick<Action, "command" | "options">, guest: string): boolean {
  const guests = options["guests"];
  if (Array.isArray(guests) && guests.length > 0) return guests.includes(guest);
  return command === "up" || command === "down" || command === "power";
}
