/** The JSON of the API, as `kvmcompose.core.deployment` and `deployment_event` define it. */

export type Phase = "down" | "running" | "up" | "failed";

export interface Deployment {
  name: string;
  project_location: string;
  state: Phase;
  failed_command: string | null;
  last_action_uuid: string | null;
  owner: string | null;
  condition: string | null;
  /** How much of a degraded testbed differs, as far as that is known. */
  drift: number;
}

export type ActionState = "running" | "succeeded" | "failed" | "cancelled" | "interrupted";

export interface Fault {
  step: string;
  message: string;
  guest: string | null;
  host: string | null;
  hint: string | null;
}

export interface Action {
  uuid: string;
  deployment: string;
  command: string;
  options: Record<string, unknown>;
  state: ActionState;
  started: string;
  ended: string | null;
  faults: Fault[];
  refused: boolean;
  exit_status: number | null;
  who: string | null;
  asked_by: string | null;
}

export type StepState = "running" | "done" | "skipped" | "failed" | "cancelled";

export interface Step {
  name: string;
  stage: string;
  state: StepState;
  started: string;
  ended: string | null;
  guest: string | null;
  host: string | null;
}

export interface LogLine {
  sequence: number;
  time: string;
  level: "info" | "output" | "warning" | "error";
  text: string;
  stage?: string;
  step?: string;
  guest?: string;
  host?: string;
}

export interface GuestStatus {
  name: string;
  kind: string;
  host: string;
  state: string;
  reason: string | null;
  asked: string | null;
  address: string | null;
  addresses: string[];
  golden_image: string | null;
  uptime: number | null;
  /** The share of one CPU; 1 is one busy CPU. */
  cpu: number | null;
  memory_mb: number | null;
  used_mb: number | null;
  given_mb: number | null;
  outdated: string[];
  runtime: string;
  health: string | null;
}

/** Something that has changed since a testbed was brought up. */
export interface StatusDifference {
  text: string;
  kind: string;
  host?: string;
  guest?: string;
  /** A bridge, switch or router. */
  segment?: string;
  /** Nothing in the project asks for it. */
  drift?: boolean;
}

export interface TestbedStatus {
  deployment: Deployment;
  guests: GuestStatus[];
  differing: StatusDifference[];
}

export interface ProblemDetails {
  title: string;
  status: number;
  detail: string;
  hint?: string;
}

export interface PictureInterface {
  /** The name of the node that it is connected to. */
  segment: string;
  addresses: string[];
}

export interface PictureNode {
  name: string;
  kind: string;
  host: string;
  details: string[];
  machine: string;
  labels: Record<string, string>;
  interfaces: PictureInterface[];
}

export interface PictureEdge {
  source: string;
  target: string;
  label: string;
}

/** One card for many guests. */
export interface PictureStack {
  name: string;
  title: string;
  host: string;
  guests: string[];
  is_open: boolean;
}

export interface TestbedPicture {
  hosts: string[];
  nodes: PictureNode[];
  edges: PictureEdge[];
  stacks: PictureStack[];
  width: number;
  height: number;
  svg: string;
}

interface Numbered {
  number: number;
  time: string;
}

export interface StepEvent extends Numbered {
  event: "step-started" | "step-ended";
  action: string;
  id: number;
  step: Step;
}

export interface GuestEvent extends Numbered {
  event: "guest";
  guest: string;
  host: string;
  state: string;
  before?: string;
  reason?: string;
  address?: string;
  action?: string;
}

export interface ResourceEvent extends Numbered {
  event: "resource";
  action: string;
  verb: string;
  kind: string;
  name: string;
  host?: string;
  guest?: string;
}

/** What the stream of events sends; events of types that are not known here are ignored. */
export type DeploymentEvent =
  | (Numbered & { event: "action-started" | "action-ended"; action: Action })
  | StepEvent
  | (Numbered & { event: "line"; action: string; line: LogLine })
  | GuestEvent
  | (Numbered & {
      event: "phase";
      state: Phase;
      failed_command?: string;
      action?: string;
      condition?: string;
    })
  | ResourceEvent
  | (Numbered & { event: "missed"; reason: "dropped" | "ahead"; up_to: number })
  | (Numbered & {
      event: "current";
      as_of: number;
      deployment: Deployment;
      actions?: Action[];
      steps?: StepEvent[];
      guests?: GuestEvent[];
    })
  | (Numbered & { event: "status"; status?: TestbedStatus; problem?: ProblemDetails });

export type Role = "admin" | "user" | "read-only";

/** Who is signed in, and at which server. */
export interface Session {
  name: string;
  role: Role;
  version: string;
  drivers: string;
}

/** What of a guest can be seen in a terminal and on a screen. */
export interface GuestTerminals {
  console: "input" | "output" | null;
  screen: string | null;
  /** Whether a shell can be opened in it while it runs. */
  shell: boolean;
}

/** The last message of a shell. */
export interface ShellEnded {
  exit_status: number | null;
}

/** The first message of a console. */
export interface ConsoleOpened {
  input: boolean;
  history: number;
  reason: string | null;
  hint: string | null;
  taken: boolean;
}

export interface SnapshotStatus {
  guest: string;
  name: string;
  created: string;
  state: string;
  current: boolean;
}

export interface RecipeChange {
  name: string;
  before: unknown;
  after: unknown;
}

/** What an artefact is made of, and what of that has changed since it was built. */
export interface Explanation {
  path: string;
  task: string;
  action: string;
  reasons: string[];
  recipe: string;
  built_from: string | null;
  inputs: Record<string, unknown>;
  changed: RecipeChange[];
}
