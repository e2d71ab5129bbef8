/** What the picture of the topology says of nodes beside their states: what a plan would do with them. */

import { signal } from "@preact/signals";

export type Tone = "good" | "busy" | "bad" | "off" | "new";

export interface Mark {
  tone: Tone;
  word: string;
}

/** By the names of nodes; null while no plan is shown. */
export const marks = signal<ReadonlyMap<string, Mark> | null>(null);
