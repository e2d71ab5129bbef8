/** The live model of one testbed, from its stream of events. Views read its signals. */

import { batch, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { follow, pathOf } from "./api";
import type {
  Action,
  Deployment,
  DeploymentEvent,
  GuestEvent,
  GuestStatus,
  LogLine,
  ProblemDetails,
  StatusDifference,
  Step,
  StepEvent,
} from "./types";

/** The CPU and memory of a guest at a moment. */
export interface Sample {
  /** Seconds since the epoch. */
  time: number;
  cpu: number | null;
  memory_mb: number | null;
  used_mb: number | null;
}

/** For how long samples are kept, in seconds. */
export const KEPT_SECONDS = 600;
/** How many lines of an action's log, steps of an action and changes of a guest are kept. */
const MOST_LINES = 5000;
/** Old lines are dropped so many at a time. */
const SLACK = 1000;
const MOST_ACTIONS = 20;
const MOST_CHANGES = 50;
/** How long events are applied before the browser may paint, in milliseconds. */
const SLICE_MS = 12;
/** How often new events are applied: what follows at once is collected, as each time costs a look at all. */
const COLLECT_MS = 100;
/** The same after so many events at a time, when the testbed as a whole changes. */
const COLLECT_MANY_MS = 400;
const MANY = 100;
/** How often events are applied while nobody sees the page, in milliseconds. */
const HIDDEN_MS = 1000;

export interface Guest {
  readonly name: string;
  readonly status: Signal<GuestStatus>;
  /** The last changes of its state, the newest first. */
  readonly changes: Signal<readonly GuestEvent[]>;
  /** Grows at the end; a new array at each change. */
  readonly samples: Signal<readonly Sample[]>;
}

export interface NumberedStep extends Step {
  readonly id: number;
}

/** What is known of an action. Its collections grow in place; `version` changes with them. */
export interface ActionLog {
  readonly uuid: string;
  readonly action: Signal<Action | null>;
  readonly version: Signal<number>;
  readonly steps: ReadonlyMap<number, NumberedStep>;
  /** The newest lines, without `droppedLines` older ones. */
  readonly lines: readonly LogLine[];
  readonly droppedLines: number;
}

class Growing implements ActionLog {
  readonly uuid: string;
  readonly action = signal<Action | null>(null);
  readonly version = signal(0);
  readonly steps = new Map<number, NumberedStep>();
  lines: LogLine[] = [];
  droppedLines = 0;

  constructor(uuid: string) {
    this.uuid = uuid;
  }

  add(line: LogLine): void {
    const last = this.lines.at(-1);
    if (last !== undefined && last.sequence >= line.sequence) return;
    this.lines.push(line);
    if (this.lines.length > MOST_LINES + SLACK) {
      this.lines = this.lines.slice(-MOST_LINES);
      this.droppedLines += SLACK + 1;
    }
  }
}

type Connection = "connecting" | "live" | "lost" | "ended";

export class Testbed {
  readonly name: string;
  readonly connection: ReadonlySignal<Connection>;
  readonly deployment: ReadonlySignal<Deployment | null>;
  /** By name, in the order of the status. A new map when guests come and go, not when they change. */
  readonly guests: ReadonlySignal<ReadonlyMap<string, Guest>>;
  /** What is not as it was brought up. */
  readonly differing: ReadonlySignal<readonly StatusDifference[]>;
  /** Why the live status is not known. */
  readonly problem: ReadonlySignal<ProblemDetails | null>;
  /** The actions that were seen to run since the page was opened, the newest last. */
  readonly actions: ReadonlySignal<ReadonlyMap<string, ActionLog>>;
  /** Counts the changes of what the picture of the topology is made of. */
  readonly topologyVersion: ReadonlySignal<number>;

  readonly #connection = signal<Connection>("connecting");
  readonly #deployment = signal<Deployment | null>(null);
  readonly #guests = signal<ReadonlyMap<string, Guest>>(new Map());
  readonly #differing = signal<readonly StatusDifference[]>([]);
  readonly #problem = signal<ProblemDetails | null>(null);
  readonly #actions = signal<ReadonlyMap<string, Growing>>(new Map());
  readonly #topologyVersion = signal(0);
  readonly #waiting: string[] = [];
  #next = 0;
  #scheduled = false;
  /** From when on events are applied again, in milliseconds. */
  #due = 0;
  #after: number | null = null;
  readonly #stop: () => void;

  constructor(name: string) {
    this.name = name;
    this.connection = this.#connection;
    this.deployment = this.#deployment;
    this.guests = this.#guests;
    this.differing = this.#differing;
    this.problem = this.#problem;
    this.actions = this.#actions;
    this.topologyVersion = this.#topologyVersion;
    this.#stop = follow(() => this.#path(), {
      message: (data) => this.#receive(data),
      connected: (is) => {
        this.#connection.value = is ? "live" : "lost";
      },
      ended: () => {
        this.#connection.value = "ended";
      },
    });
  }

  /** Stop to follow the events. */
  close(): void {
    this.#stop();
  }

  /** Return what differs of a guest; not that its set-up is out of date, which its status says. */
  differingOf(guest: string): StatusDifference[] {
    return this.#differing.value.filter((each) => each.guest === guest && each.kind !== "set-up");
  }

  /** The action that runs, the newest of them if there are several. */
  get running(): ActionLog | null {
    const running = [...this.#actions.value.values()].filter(
      (each) => each.action.value?.state === "running",
    );
    return running.at(-1) ?? null;
  }

  #path(): string {
    const after = this.#after === null ? "" : `&after=${this.#after}`;
    return `${pathOf(this.name, "events")}?status=true${after}`;
  }

  // -- events are applied in slices, so that thousands of them never keep the browser from painting

  #receive(data: string): void {
    this.#waiting.push(data);
    if (!this.#scheduled) this.#schedule(this.#due - performance.now());
  }

  /** Apply events in the next frame, after so many milliseconds. */
  #schedule(wait = 0): void {
    this.#scheduled = true;
    if (document.visibilityState === "hidden") setTimeout(() => this.#applySome(), HIDDEN_MS);
    else if (wait > 0) setTimeout(() => this.#schedule(), wait);
    else requestAnimationFrame(() => this.#applySome());
  }

  #applySome(): void {
    const end = performance.now() + SLICE_MS;
    this.#scheduled = false;
    batch(() => {
      while (this.#next < this.#waiting.length && performance.now() < end) {
        const data = this.#waiting[this.#next++];
        if (data !== undefined) this.apply(JSON.parse(data) as DeploymentEvent);
      }
    });
    if (this.#next < this.#waiting.length) {
      this.#schedule();
    } else {
      this.#due = performance.now() + (this.#next > MANY ? COLLECT_MANY_MS : COLLECT_MS);
      this.#waiting.length = 0;
      this.#next = 0;
    }
  }

  /** Apply one event. */
  apply(event: DeploymentEvent): void {
    this.#after = Math.max(this.#after ?? 0, event.number);
    switch (event.event) {
      case "current":
        this.#deployment.value = event.deployment;
        for (const action of event.actions ?? []) this.#action(action.uuid).action.value = action;
        for (const step of event.steps ?? []) this.#step(step);
        for (const guest of event.guests ?? []) this.#guest(guest);
        this.#topologyVersion.value++;
        break;
      case "phase":
        this.#phase(event);
        break;
      case "guest":
        this.#guest(event);
        break;
      case "status":
        this.#status(event);
        break;
      case "action-started":
      case "action-ended":
        this.#action(event.action.uuid).action.value = event.action;
        if (event.event === "action-ended") this.#topologyVersion.value++;
        break;
      case "step-started":
      case "step-ended":
        this.#step(event);
        break;
      case "line":
        this.#line(event.action, event.line);
        break;
    }
  }

  #phase(event: DeploymentEvent & { event: "phase" }): void {
    const known = this.#deployment.value;
    if (known === null) return;
    this.#deployment.value = {
      ...known,
      state: event.state,
      failed_command: event.failed_command ?? null,
      condition: event.condition ?? null,
      drift: 0,
    };
  }

  #guest(event: GuestEvent): void {
    if (event.state === "removed") {
      this.#keepGuests((name) => name !== event.guest);
      return;
    }
    const guest = this.#known(event.guest, () => unknownStatus(event));
    guest.status.value = {
      ...guest.status.peek(),
      host: event.host,
      state: event.state,
      reason: event.reason ?? null,
      address: event.address ?? guest.status.peek().address,
    };
    if (event.before !== undefined)
      guest.changes.value = [event, ...guest.changes.peek()].slice(0, MOST_CHANGES);
  }

  #status(event: DeploymentEvent & { event: "status" }): void {
    this.#problem.value = event.problem ?? null;
    if (event.status === undefined) return;
    const { deployment, differing, guests } = event.status;
    this.#deployment.value = deployment;
    if (!same(this.#differing.peek(), differing)) this.#differing.value = differing;
    const time = Date.parse(event.time) / 1000;
    const present = new Set(guests.map((each) => each.name));
    this.#keepGuests((name) => present.has(name));
    for (const status of guests) {
      const guest = this.#known(status.name, () => status);
      if (!same(guest.status.peek(), status)) guest.status.value = status;
      guest.samples.value = sampled(guest.samples.peek(), status, time);
    }
  }

  #known(name: string, make: () => GuestStatus): Guest {
    const found = this.#guests.peek().get(name);
    if (found !== undefined) return found;
    const made = { name, status: signal(make()), changes: signal([]), samples: signal([]) };
    this.#guests.value = new Map(this.#guests.peek()).set(name, made);
    return made;
  }

  #keepGuests(wanted: (name: string) => boolean): void {
    const known = [...this.#guests.peek()];
    const kept = known.filter(([name]) => wanted(name));
    if (kept.length < known.length) this.#guests.value = new Map(kept);
  }

  #action(uuid: string): Growing {
    const known = this.#actions.peek();
    const found = known.get(uuid);
    if (found !== undefined) return found;
    const made = new Growing(uuid);
    this.#actions.value = new Map([...known, [uuid, made] as const].slice(-MOST_ACTIONS));
    return made;
  }

  #step(event: StepEvent): void {
    const log = this.#action(event.action);
    log.steps.set(event.id, { ...event.step, id: event.id });
    log.version.value++;
  }

  #line(uuid: string, line: LogLine): void {
    const log = this.#action(uuid);
    log.add(line);
    log.version.value++;
  }
}

function unknownStatus(event: GuestEvent): GuestStatus {
  return {
    name: event.guest,
    kind: "",
    host: event.host,
    state: event.state,
    reason: null,
    asked: null,
    address: null,
    addresses: [],
    golden_image: null,
    uptime: null,
    cpu: null,
    memory_mb: null,
    used_mb: null,
    given_mb: null,
    outdated: [],
    runtime: "",
    health: null,
  };
}

/** Whether two parts of a status are the same. */
function same<T>(one: T, other: T): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** Return the samples with a new one, without those that are too old. */
export function sampled(
  samples: readonly Sample[],
  status: Pick<GuestStatus, "cpu" | "memory_mb" | "used_mb">,
  time: number,
): readonly Sample[] {
  if (status.cpu === null && status.memory_mb === null) return samples;
  const { cpu, memory_mb, used_mb } = status;
  const first = samples.findIndex((each) => each.time > time - KEPT_SECONDS);
  return [...(first < 0 ? [] : samples.slice(first)), { time, cpu, memory_mb, used_mb }];
}
