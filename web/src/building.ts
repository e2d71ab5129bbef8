/** What each `up` of this page builds, by testbed: it goes on while its reader looks at something else. */

import { signal } from "@preact/signals";
import type { Build } from "./views/change/command";

export interface Building {
  build: Build;
  /** End it. */
  stop(): void;
}

export const builds = signal<ReadonlyMap<string, Building>>(new Map());

/** Note what is known of the build of a testbed; null when it is of no interest any more. */
export function setBuilding(lab: string, building: Building | null): void {
  const next = new Map(builds.peek());
  if (building === null) next.delete(lab);
  else next.set(lab, building);
  builds.value = next;
}

/** Whether a build goes on. */
export function isGoing(building: Building | undefined): building is Building {
  return building !== undefined && building.build.status === undefined;
}
