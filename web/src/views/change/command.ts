/** A command that the server runs, `up`: what it prints, line by line. */

import type { Problem } from "../file/problems";
import type { ConsentRequest } from "./plan";

export type CommandEvent =
  | {
      event: "message";
      level: string;
      message: string;
      hint?: string;
      status?: number;
      problem?: Problem;
      consent?: ConsentRequest;
    }
  | { event: "started"; total: number }
  | { event: "done"; path: string; task: string; action: string; reasons?: string[] }
  | { event: "failed"; task: string; message: string; hint?: string }
  | { event: "noticed"; message: string }
  | { event: "transferred"; label: string; done: number; total?: number }
  | { event: "finished"; made: number; removed: number; kept: number; failed: number; untried: number }
  | { event: "action"; uuid: string }
  | { event: "ended"; status: number | null };

/** Yield the documents of a stream of lines of JSON. */
export async function* documents<T>(stream: ReadableStream<Uint8Array>): AsyncGenerator<T> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.trim() !== "") yield JSON.parse(line) as T;
      if (done) break;
    }
    if (rest.trim() !== "") yield JSON.parse(rest) as T;
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** What is known of a build, from its events. */
export interface Build {
  total: number | null;
  done: number;
  /** What it did and said, the newest last. */
  lines: readonly BuildLine[];
  transfer: { label: string; done: number; total: number | null } | null;
  consent: ConsentRequest | null;
  action: string | null;
  /** Undefined while it runs; null for one that was killed. */
  status: number | null | undefined;
}

export interface BuildLine {
  level: string;
  text: string;
  hint?: string;
}

export const NO_BUILD: Build = {
  total: null,
  done: 0,
  lines: [],
  transfer: null,
  consent: null,
  action: null,
  status: undefined,
};
const MOST_LINES = 500;

/** Return what is known of a build after one more event. */
export function after(build: Build, event: CommandEvent): Build {
  switch (event.event) {
    case "started":
      return { ...build, total: event.total };
    case "done": {
      const why = event.reasons === undefined ? "" : ` (${event.reasons.join("; ")})`;
      const made = event.action !== "keep customised" && event.action !== "left over";
      const next = made ? { ...build, done: build.done + 1 } : build;
      return withLine(next, { level: "info", text: `${event.action} ${event.path}${why}` });
    }
    case "failed":
      return withLine(build, lineOf("error", `${event.task}: ${event.message}`, event.hint));
    case "noticed":
      return withLine(build, lineOf("warning", event.message));
    case "transferred":
      return {
        ...build,
        transfer: { label: event.label, done: event.done, total: event.total ?? null },
      };
    case "message": {
      const place = event.problem === undefined ? "" : `${placeOf(event.problem)}: `;
      const hint = event.hint ?? event.problem?.hint ?? undefined;
      const next = { ...build, consent: event.consent ?? build.consent };
      return withLine(next, lineOf(event.level, `${place}${event.message}`, hint));
    }
    case "action":
      return { ...build, action: event.uuid };
    case "ended":
      return { ...build, transfer: null, status: event.status };
    default:
      return { ...build, transfer: null };
  }
}

function lineOf(level: string, text: string, hint?: string): BuildLine {
  return hint === undefined ? { level, text } : { level, text, hint };
}

function withLine(build: Build, line: BuildLine): Build {
  return { ...build, lines: [...build.lines, line].slice(-MOST_LINES) };
}

function placeOf({ location: { file, line, column } }: Problem): string {
  return line > 0 ? `${file}:${line}:${column}` : file;
}
