/** One action: its stages and steps, its log, and what went wrong; live, or as it was. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, pathOf } from "../../api";
import type { Tone } from "../../marks";
import { faultWord, spokenOf, stepWord } from "../../said";
import { attempt } from "../../shell/notices";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { Testbed } from "../../testbed";
import type { Action, ActionState, LogLine, Step } from "../../types";
import { duration, type Stage, stages } from "./steps";

const TONES: Record<ActionState, Tone> = {
  running: "busy",
  succeeded: "good",
  failed: "bad",
  cancelled: "off",
  interrupted: "bad",
};
/** How many lines are shown: the newest. */
const MOST_LINES = 2000;
/** How many lines a request returns. */
const PART = 1000;

export function actionTone(state: ActionState): Tone {
  return TONES[state] ?? "off";
}

interface Stored {
  action: Action;
  steps: Step[];
  lines: LogLine[];
}

export function ActionReport({ testbed, uuid }: { testbed: Testbed; uuid: string }) {
  const live = testbed.actions.value.get(uuid);
  void live?.version.value;
  const liveAction = live?.action.value ?? null;
  const stored = useSignal<Stored | null>(null);
  useEffect(() => {
    let wanted = true;
    attempt(async () => {
      const path = (...parts: string[]) => pathOf(testbed.name, "actions", uuid, ...parts);
      const action = await call<Action>("GET", path());
      if (action.state === "running" && testbed.actions.peek().has(uuid)) return;
      const steps = await call<Step[]>("GET", path("steps"));
      const lines: LogLine[] = [];
      for (;;) {
        const after = lines.at(-1)?.sequence ?? 0;
        const part = await call<LogLine[]>("GET", `${path("lines")}?after=${after}`);
        lines.push(...part);
        if (part.length < PART) break;
      }
      if (wanted) stored.value = { action, steps, lines };
    });
    return () => {
      wanted = false;
    };
  }, [uuid]);

  const found = stored.value;
  const action = liveAction ?? found?.action ?? null;
  if (action === null) return <p class="quiet">…</p>;
  const known = found?.lines ?? [];
  const last = known.at(-1)?.sequence ?? 0;
  const lines = [...known, ...(live?.lines ?? []).filter((line) => line.sequence > last)];
  const steps = found !== null && action.ended !== null ? found.steps : [...(live?.steps.values() ?? [])];
  return (
    <section aria-label={`Action ${spokenOf(action)}`}>
      <h2>
        {spokenOf(action)} <Badge tone={actionTone(action.state)}>{action.state}</Badge>{" "}
        <span class="quiet">
          {by(action)} {new Date(action.started).toLocaleString()}
          {action.ended !== null && `, took ${duration(action.started, action.ended)}`}
        </span>
      </h2>
      <Faults testbed={testbed} action={action} />
      <ol class="stages">
        {stages(steps.length > 0 ? steps : (found?.steps ?? [])).map((stage) => (
          <StageReport key={stage.name} stage={stage} />
        ))}
      </ol>
      <Log
        lines={lines.slice(-MOST_LINES)}
        dropped={Math.max(0, lines.length - MOST_LINES)}
        isGrowing={action.ended === null}
      />
    </section>
  );
}

export function by(action: Action): string {
  const who = action.asked_by ?? action.who;
  return who === null ? "" : `by ${who},`;
}

export function Faults({ testbed, action }: { testbed: Testbed; action: Action }) {
  return (
    <>
      {action.faults.map((fault) => (
        <div key={`${fault.step} ${fault.guest} ${fault.message}`} class="problem">
          <p>
            {faultWord(fault)}
            {fault.host !== null && <span class="quiet"> (on {fault.host})</span>}{" "}
            {fault.guest !== null && (
              <a href={linkTo(testbed.name, "guests", fault.guest)}>About {fault.guest}</a>
            )}
          </p>
          {fault.hint !== null && <p class="hint">{fault.hint}</p>}
        </div>
      ))}
    </>
  );
}

function StageReport({ stage }: { stage: Stage }) {
  const { name, running, failed, cancelled, done, skipped } = stage;
  const tone: Tone = failed.length > 0 ? "bad" : running.length > 0 ? "busy" : cancelled > 0 ? "off" : "good";
  const counts = [
    ...(done > 0 ? [`${done} done`] : []),
    ...(skipped > 0 ? [`${skipped} unchanged`] : []),
    ...(failed.length > 0 ? [`${failed.length} failed`] : []),
    ...(cancelled > 0 ? [`${cancelled} cancelled`] : []),
  ];
  const names = running
    .slice(0, 3)
    .map(stepWord)
    .filter((each) => each !== name);
  const more = running.length > 3 ? ` and ${running.length - 3} more` : "";
  return (
    <li>
      <Badge tone={tone}>{name}</Badge> <span class="quiet">{counts.join(", ")}</span>
      {names.length > 0 && (
        <div>
          {names.join(", ")}
          {more}
        </div>
      )}
    </li>
  );
}

function Log({ lines, dropped, isGrowing }: { lines: LogLine[]; dropped: number; isGrowing: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const last = lines.at(-1)?.sequence;
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const left = element.scrollHeight - element.scrollTop - element.clientHeight;
    if (left < 200) element.scrollTop = element.scrollHeight;
  }, [last]);
  if (lines.length === 0) return <p class="quiet">It has logged nothing{isGrowing && " yet"}.</p>;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls
    <div class="log" role="log" aria-label="Log" tabIndex={0} ref={place}>
      {dropped > 0 && <div class="quiet">{dropped} earlier lines are not shown</div>}
      {lines.map((line) => (
        <div key={line.sequence} class={line.level}>
          <time dateTime={line.time}>{new Date(line.time).toLocaleTimeString()}</time>
          {line.guest !== undefined && <strong>{line.guest}</strong>}
          <span>
            {line.level === "error" || line.level === "warning" ? `${line.level}: ` : ""}
            {line.text}
          </span>
        </div>
      ))}
    </div>
  );
}
