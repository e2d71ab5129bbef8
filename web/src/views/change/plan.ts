/** A plan as data: what the API sends, and how it is grouped and coloured. */

import type { Mark, Tone } from "../../marks";
import type { Deployment } from "../../types";

/** The options of `up` that the page offers; the API has defaults for all. */
export interface UpOptions {
  command: "up";
  guests?: string[];
  recreate?: string[];
  no_restart?: boolean;
  restart?: boolean;
  no_repair?: boolean;
  provision?: boolean;
  reset_clones?: boolean;
  rerun_scripts?: boolean;
  keep_going?: boolean;
}

export interface PlannedFile {
  action: string;
  path: string;
  task: string;
  reasons: string[];
  diff?: string;
}

export interface PlannedChange {
  verb: string;
  kind: string;
  name: string;
  host: string;
  guest: string | null;
  subject: string;
  pending: boolean;
  follows: boolean;
  because: string[];
  touches: string[];
  waits_for: string | null;
  loses: string | null;
}

export interface PlannedHost {
  name: string;
  memory_mb: number | null;
  cpus: number | null;
  memory_mb_before: number;
  memory_mb_after: number;
  cpus_before: number;
  cpus_after: number;
  boots: number;
  bytes_to_send: number;
  disk_bytes: number;
  disk_free: number | null;
}

export interface TestbedPlan {
  deployment: Deployment;
  changes: PlannedChange[];
  refusals: { message: string; hint: string | null }[];
  warnings: string[];
  hosts: PlannedHost[];
  seconds: number | null;
  unseen: string[];
  digest: string;
}

export interface ConsentRequest {
  digest: string;
  privileges: { kind: string; what: string; where: string; why: string; digest?: string }[];
}

export interface PlanDocument {
  version: number;
  project: string;
  options: UpOptions;
  allow_moves: boolean;
  recipes: string;
  files: PlannedFile[];
  testbed: TestbedPlan | null;
  unseen: string | null;
  consent: ConsentRequest | null;
}

const FILE_TONES: Record<string, Tone> = {
  create: "good",
  grow: "good",
  rebuild: "busy",
  remove: "bad",
  conflict: "bad",
  refuse: "bad",
  blocked: "bad",
};
const VERB_TONES: Record<string, Tone> = {
  create: "new",
  update: "busy",
  restart: "busy",
  replace: "busy",
  move: "busy",
  remove: "bad",
  repair: "busy",
};
/** Of the changes to one guest the first of these is the one that is shown for it. */
const WEIGHT = ["remove", "replace", "move", "restart", "create", "repair", "update"];
const SETTLED = new Set(["keep", "adopt", "keep customised", "left over"]);
const FAILING = new Set(["conflict", "refuse", "blocked"]);

export function fileTone(action: string): Tone {
  return FILE_TONES[action] ?? "off";
}

export function verbTone(verb: string): Tone {
  return VERB_TONES[verb] ?? "busy";
}

/** Return the files that a build does something with, or would fail at. */
export function notable(files: readonly PlannedFile[]): PlannedFile[] {
  return files.filter(({ action }) => action !== "keep" && action !== "adopt");
}

/** Return how many files a build does what with, in words. */
export function filesWord(files: readonly PlannedFile[]): string {
  const counts = new Map<string, number>();
  for (const { action } of files) counts.set(action, (counts.get(action) ?? 0) + 1);
  const parts: string[] = [];
  let failing = 0;
  for (const [action, count] of counts) {
    if (FAILING.has(action)) failing += count;
    else if (!SETTLED.has(action)) parts.push(`${count} to ${action}`);
  }
  if (failing > 0) parts.push(`${failing} would fail`);
  const kept = (counts.get("keep") ?? 0) + (counts.get("adopt") ?? 0);
  return [...(parts.length > 0 ? parts : ["nothing to do"]), `${kept} up to date`].join(", ");
}

export interface Group {
  title: string;
  guest: string | null;
  changes: PlannedChange[];
}

/**
 * Return changes by what they belong to, a guest or a host, in the order of the plan: what others need comes
 * first, as the bridge of which guests have lost their ports.
 *
 * What follows from other changes, as that a guest is ready again, is left out, as `plan` does.
 */
export function grouped(changes: readonly PlannedChange[]): Group[] {
  const groups = new Map<string, Group>();
  for (const change of changes.filter((each) => !each.follows)) {
    const title = change.guest ?? change.host;
    const key = `${change.guest === null ? "host" : "guest"} ${title}`;
    const known = groups.get(key);
    if (known !== undefined) known.changes.push(change);
    else groups.set(key, { title, guest: change.guest, changes: [change] });
  }
  return [...groups.values()];
}

/** Return what would become of guests, for the picture of the topology. */
export function marksOf(plan: TestbedPlan): Map<string, Mark> {
  const found = new Map<string, Mark>();
  const weights = new Map<string, number>();
  for (const change of plan.changes) {
    // what follows from other changes, as that it is set up, says less than these
    const weight = WEIGHT.indexOf(change.verb) + (change.follows ? 100 : 0) + (change.pending ? 1000 : 0);
    if (change.guest === null || weight >= (weights.get(change.guest) ?? Number.POSITIVE_INFINITY)) continue;
    weights.set(change.guest, weight);
    const tone = change.pending ? "off" : verbTone(change.verb);
    found.set(change.guest, { tone, word: change.pending ? `${change.verb} pending` : change.verb });
  }
  return found;
}

/** Return what a plan does on hosts, in words. */
export function testbedWord(plan: TestbedPlan): string {
  const due = plan.changes.filter((each) => !each.pending && !each.follows);
  const counts = new Map<string, number>();
  for (const { verb } of due) counts.set(verb, (counts.get(verb) ?? 0) + 1);
  const parts = [...counts].map(([verb, count]) => `${count} to ${verb}`);
  const pending = plan.changes.filter((each) => each.pending).length;
  if (pending > 0) parts.push(`${pending} pending`);
  const boots = plan.hosts.reduce((sum, host) => sum + host.boots, 0);
  if (boots > 0) parts.push(boots === 1 ? "1 guest boots" : `${boots} guests boot`);
  if (boots > 0 && plan.seconds !== null && plan.seconds >= 1)
    parts.push(`about ${Math.round(plan.seconds)} s`);
  if (plan.unseen.length > 0) parts.push(`not all is known of ${plan.unseen.join(", ")}`);
  return parts.join(", ") || "nothing to do";
}

/** Return what a host has to spare before and after, in words; empty for one without a change. */
export function hostWord(host: PlannedHost): string {
  const parts: string[] = [];
  if (host.memory_mb_before !== host.memory_mb_after) {
    const of = host.memory_mb === null ? "" : ` of ${host.memory_mb}`;
    parts.push(`memory ${host.memory_mb_before} → ${host.memory_mb_after}${of} MiB`);
  }
  if (host.cpus_before !== host.cpus_after) {
    const of = host.cpus === null ? "" : ` of ${host.cpus}`;
    parts.push(`CPUs ${host.cpus_before} → ${host.cpus_after}${of}`);
  }
  if (host.bytes_to_send > 0) parts.push(`${size(host.bytes_to_send)} to send`);
  if (host.disk_bytes > 0) {
    const of = host.disk_free === null ? "" : ` of ${size(host.disk_free)} free`;
    parts.push(`disk ${size(host.disk_bytes)}${of}`);
  }
  return parts.join(", ");
}

/** Return whether `up` would do anything at all. */
export function isEmpty(plan: PlanDocument): boolean {
  const files = plan.files.some(({ action }) => !SETTLED.has(action));
  return !files && plan.testbed !== null && plan.testbed.changes.every((each) => each.pending);
}

function size(bytes: number): string {
  const mib = bytes / (1 << 20);
  return mib < 1024 ? `${mib.toFixed(1)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}
