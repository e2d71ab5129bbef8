/** What is wrong with a testbed and why, in a line with the rest below it, and where it is mended. */

import { useEffect, useState } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../api";
import { failureWord, faultWord, spokenOf } from "../said";
import type { Testbed } from "../testbed";
import type { Action } from "../types";
import { linkTo } from "./router";
import { phaseWord } from "./state";

/** How many lines are shown below the first. */
const MOST_LINES = 100;

export function Trouble({ testbed }: { testbed: Testbed }) {
  const deployment = testbed.deployment.value;
  const failed = useFailed(testbed);
  if (deployment === null || testbed.running !== null) return null;
  const isDegraded = phaseWord(deployment) === "degraded";
  if (!isDegraded && deployment.state !== "failed") return null;
  const causes = failed === null ? [] : causesOf(failed);
  const lines: Line[] = [...causes.map((text) => ({ text })), ...testbed.differing.value];
  if (lines.length === 0) return null;
  const [first, ...others] = lines;
  return (
    <section class="strip bad trouble" aria-label="What is wrong">
      {others.length === 0 ? (
        <p>
          <Text testbed={testbed} line={first} />
        </p>
      ) : (
        <details>
          <summary>
            {first?.text} <span class="quiet">and {others.length} more</span>
          </summary>
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls */}
          <ul tabIndex={0}>
            {others.slice(0, MOST_LINES).map((line) => (
              <li key={line.text}>
                <Text testbed={testbed} line={line} />
              </li>
            ))}
            {others.length > MOST_LINES && <li>and {others.length - MOST_LINES} more</li>}
          </ul>
        </details>
      )}
      {failed !== null && (
        <a href={linkTo(testbed.name, "change", failed.uuid)}>What {spokenOf(failed)} did</a>
      )}
      <a href={linkTo(testbed.name, "change", isDegraded ? "plan" : "")}>
        {isDegraded ? "Plan a repair" : "Plan and up"}
      </a>
    </section>
  );
}

interface Line {
  text: string;
  guest?: string;
}

/** A line, which leads to the guest that it is of. */
function Text({ testbed, line }: { testbed: Testbed; line: Line | undefined }) {
  if (line?.guest === undefined || !testbed.guests.value.has(line.guest)) return <>{line?.text}</>;
  return <a href={linkTo(testbed.name, "guests", line.guest)}>{line.text}</a>;
}

/** Return why an action did not succeed: its faults, or that it was cancelled. */
function causesOf(action: Action): string[] {
  return action.faults.length > 0 ? action.faults.map(faultWord) : [failureWord(action)];
}

/** Return the last action that did not succeed where it left a testbed half-way. */
function useFailed(testbed: Testbed): Action | null {
  const [stored, setStored] = useState<Action | null>(null);
  const deployment = testbed.deployment.value;
  const isFailed = deployment !== null && deployment.state === "failed";
  const uuid = isFailed ? deployment.last_action_uuid : null;
  const version = testbed.topologyVersion.value;
  useEffect(() => {
    if (!isFailed) return;
    const stop = new AbortController();
    call<Action[]>("GET", pathOf(testbed.name, "actions"), undefined, stop.signal).then(
      (actions) => setStored(actions.find((each) => !each.refused && failureWord(each) !== "") ?? null),
      (error: unknown) => {
        if (!(error instanceof ApiProblem) && !stop.signal.aborted) throw error;
      },
    );
    return () => stop.abort();
  }, [testbed, isFailed, uuid, version]);
  return isFailed ? stored : null;
}
