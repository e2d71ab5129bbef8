/** The steps of an action by stage, as the terminal shows them. */

import type { Step } from "../../types";

export interface Stage {
  name: string;
  running: Step[];
  failed: Step[];
  cancelled: number;
  done: number;
  skipped: number;
}

/** Return the stages of an action in the order in which they began. */
export function stages(steps: Iterable<Step>): Stage[] {
  const found = new Map<string, Stage>();
  for (const step of steps) {
    let stage = found.get(step.stage);
    if (stage === undefined) {
      stage = { name: step.stage, running: [], failed: [], cancelled: 0, done: 0, skipped: 0 };
      found.set(step.stage, stage);
    }
    if (step.state === "running") stage.running.push(step);
    else if (step.state === "failed") stage.failed.push(step);
    else if (step.state === "cancelled") stage.cancelled++;
    else if (step.state === "skipped") stage.skipped++;
    else stage.done++;
  }
  return [...found.values()];
}

/** Return the time between two moments in RFC 3339 format, in words. */
export function duration(from: string, to: string): string {
  const seconds = (Date.parse(to) - Date.parse(from)) / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
