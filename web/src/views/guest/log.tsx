/** What actions and scripts said of a guest: live, and of earlier actions when asked for. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, pathOf } from "../../api";
import { attempt } from "../../shell/notices";
import { linkTo } from "../../shell/router";
import type { Guest, Testbed } from "../../testbed";
import type { Action, LogLine } from "../../types";

/** How many lines are shown, and of how many earlier actions. */
const MOST_LINES = 400;
const EARLIER_ACTIONS = 5;

interface Line extends LogLine {
  action: string;
}

export function GuestLog({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const earlier = useSignal<readonly Line[] | null>(null);
  const place = useRef<HTMLDivElement>(null);
  const live = linesOf(testbed, guest.name);
  const known = new Set(live.map((each) => `${each.action} ${each.sequence}`));
  const before = (earlier.value ?? []).filter((each) => !known.has(`${each.action} ${each.sequence}`));
  const lines = [...before, ...live]
    .sort((one, other) => (one.time < other.time ? -1 : 1))
    .slice(-MOST_LINES);

  const last = lines.at(-1);
  // at each new line
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const left = element.scrollHeight - element.scrollTop - element.clientHeight;
    if (left < 200) element.scrollTop = element.scrollHeight;
  }, [last?.action, last?.sequence]);

  const show = () =>
    attempt(async () => {
      const actions = await call<Action[]>("GET", pathOf(testbed.name, "actions"));
      const found: Line[] = [];
      for (const action of actions.slice(0, EARLIER_ACTIONS)) {
        const path = `${pathOf(testbed.name, "actions", action.uuid, "lines")}`;
        for (const line of await call<LogLine[]>("GET", path))
          if (line.guest === guest.name) found.push({ ...line, action: action.uuid });
      }
      earlier.value = found;
    });

  return (
    <section>
      <h2>Log</h2>
      {lines.length === 0 && (
        <p class="quiet">{earlier.value === null ? "Nothing since this page was opened." : "Nothing."}</p>
      )}
      {lines.length > 0 && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls
        <div class="guestlog" role="log" aria-label={`Log of ${guest.name}`} tabIndex={0} ref={place}>
          {lines.map((line) => (
            <div key={`${line.action} ${line.sequence}`} class={line.level}>
              <time dateTime={line.time}>{new Date(line.time).toLocaleTimeString()}</time>
              <span>
                {line.level === "error" || line.level === "warning" ? `${line.level}: ` : ""}
                {line.text}
              </span>
            </div>
          ))}
        </div>
      )}
      <div class="actions">
        {earlier.value === null && (
          <button type="button" onClick={show}>
            Show the last actions, too
          </button>
        )}
        <a href={linkTo(testbed.name, "change")}>All actions</a>
      </div>
    </section>
  );
}

/** Return the lines of a guest in the actions that were seen to run. */
function linesOf(testbed: Testbed, name: string): Line[] {
  const found: Line[] = [];
  for (const log of testbed.actions.value.values()) {
    void log.version.value;
    for (const line of log.lines) if (line.guest === name) found.push({ ...line, action: log.uuid });
  }
  return found;
}
